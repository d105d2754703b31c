/* Whole training runs on a toy data set. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "graph/params.h"
#include "io/json.h"
#include "support/scratch.h"
#include "support/toy.h"
#include "train/model.h"

enum { CLASSES = 3 };

static char *folder, *images, *run;
static hl_dataset *data;

static void start(void)
{
    folder = scratch_make();
    images = scratch_path(folder, "images");
    run = scratch_path(folder, "run");
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, CLASSES, 9, 4, 4);
    data = toy_data(images);
}

static void stop(void)
{
    hl_dataset_destroy(data);
    free(images);
    free(run);
    if (getenv("KEEP") == NULL)
        scratch_remove(folder);
    else
        fprintf(stderr, "%s\n", folder);
}

TestSuite(trainer, .init = start, .fini = stop);

static bool exists(const char *name)
{
    char *path = scratch_path(run, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static json_t *summary(void)
{
    json_t *document;
    char *path = scratch_path(run, "summary.json");
    cr_assert_eq(hl_json_read(path, 1 << 20, &document), HL_OK, "%s", hl_last_error());
    free(path);
    return document;
}

Test(trainer, learns_colours_and_writes_the_run_folder)
{
    hl_model *model = toy_model("resnet18", CLASSES, "full", HL_NORM_DEFAULT);
    hl_train_options options = toy_options(run);
    options.epochs = 8;
    options.lr = 2e-3;
    options.log_every = 1;
    options.augment = HL_AUGMENT_NONE;
    options.config = "model: mobilenet_v2\n";
    hl_train_result result;
    cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
    cr_assert_not(result.interrupted);
    cr_assert_eq(result.epochs, 8);
    cr_assert_eq(result.steps, 8 * 7);
    cr_assert_gt(result.best.acc1, 0.9, "accuracy %g", result.best.acc1);
    cr_assert_eq(result.test.count, 4 * CLASSES);
    cr_assert_gt(result.images_per_second, 0.0);
    static const char *const files[] = {"config.yaml",         "log.jsonl",        "metrics.csv",
                                        "adapter.safetensors", "last.safetensors", "state.safetensors",
                                        "summary.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        cr_assert(exists(files[i]), "%s", files[i]);
    json_t *document = summary();
    cr_assert_eq(json_integer_value(json_object_get(document, "steps")), 56);
    cr_assert_str_eq(json_string_value(json_object_get(document, "model")), "mobilenet_v2");
    json_t *best = json_object_get(document, "best");
    cr_assert_float_eq(json_real_value(json_object_get(best, "val_acc1")), result.best.acc1, 1e-12);
    json_decref(document);
    hl_model_destroy(model);
}
