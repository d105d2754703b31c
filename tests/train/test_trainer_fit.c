/* Whole runs of linear:solver=lbfgs. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "graph/params.h"
#include "io/json.h"
#include "support/scratch.h"
#include "support/toy.h"
#include "train/model.h"

enum { CLASSES = 3 };

static char *folder, *images;
static hl_dataset *data;

static void start(void)
{
    folder = scratch_make();
    images = scratch_path(folder, "images");
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, CLASSES, 9, 4, 3);
    data = toy_data(images);
}

static void stop(void)
{
    hl_dataset_destroy(data);
    free(images);
    scratch_remove(folder);
}

TestSuite(trainer_fit, .init = start, .fini = stop);

static hl_train_options options_of(const char *out)
{
    hl_train_options o = toy_options(out);
    o.augment = HL_AUGMENT_NONE;
    return o;
}

/* The head's weights afterwards, into `head`; NULL: not wanted. */
static hl_status train(hl_train_options *o, const char *method, hl_train_result *result,
                       float head[CLASSES * 512])
{
    hl_model *model = toy_model("resnet18", CLASSES, method, HL_NORM_DEFAULT);
    hl_status status = hl_train(model, data, o, result);
    if (status == HL_OK && head != NULL) {
        cr_assert_eq(hl_graph_download(model->graph), HL_OK);
        memcpy(head, hl_graph_find_param(model->graph, "fc.weight")->host, CLASSES * 512 * sizeof *head);
    }
    hl_model_destroy(model);
    return status;
}

Test(trainer_fit, tries_every_lambda_and_keeps_the_best)
{
    char *run = scratch_path(folder, "run"), *again = scratch_path(folder, "again"),
         *cache = scratch_path(folder, "cache");
    hl_train_options o = options_of(run);
    hl_train_result result, second;
    static float head[CLASSES * 512], other[CLASSES * 512];
    o.feature_cache = cache;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &result, head), HL_OK, "%s", hl_last_error());
    cr_assert_not(result.interrupted);
    cr_assert_eq(result.epochs, 45);
    cr_assert_eq(scratch_count_lines(run, "metrics.csv"), 46);
    cr_assert_gt(result.best.acc1, 0.9, "%g", result.best.acc1);
    cr_assert_eq(result.test.count, 3 * CLASSES);
    cr_assert_gt(result.test.acc1, 0.7, "%g", result.test.acc1);
    /* What is in the folder is what the model ended with. */
    hl_model *opened;
    cr_assert_eq(hl_model_open_run(run, NULL, false, NULL, &opened), HL_OK, "%s", hl_last_error());
    cr_assert_eq(memcmp(hl_graph_find_param(opened->graph, "fc.weight")->host, head, sizeof head), 0);
    hl_model_destroy(opened);
    /* From files of features: the same; and a finished run that is resumed stays as it is. */
    o.out = again;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &second, other), HL_OK, "%s", hl_last_error());
    cr_assert_eq(memcmp(head, other, sizeof head), 0);
    cr_assert_eq(second.best_epoch, result.best_epoch);
    o.resume = true;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &second, other), HL_OK, "%s", hl_last_error());
    cr_assert_eq(memcmp(head, other, sizeof head), 0);
    cr_assert_eq(scratch_count_lines(again, "metrics.csv"), 46);
    free(run);
    free(again);
    free(cache);
}

Test(trainer_fit, refitting_uses_the_validation_images_too)
{
    char *run = scratch_path(folder, "run"), *refit = scratch_path(folder, "refit");
    hl_train_options o = options_of(run);
    hl_train_result plain, more;
    static float head[CLASSES * 512], other[CLASSES * 512];
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &plain, head), HL_OK, "%s", hl_last_error());
    o.out = refit;
    cr_assert_eq(train(&o, "linear:solver=lbfgs,refit=1", &more, other), HL_OK, "%s", hl_last_error());
    cr_assert_eq(more.best_epoch, plain.best_epoch);
    cr_assert_neq(memcmp(head, other, sizeof head), 0);
    free(run);
    free(refit);
}

static hl_request ask_to_stop(void *user)
{
    int *left = user;
    return (*left)-- > 0 ? HL_GO_ON : HL_STOP;
}

Test(trainer_fit, an_interrupted_run_begins_anew)
{
    char *run = scratch_path(folder, "run"), *whole = scratch_path(folder, "whole");
    hl_train_options o = options_of(whole);
    hl_train_result result;
    static float head[CLASSES * 512], other[CLASSES * 512];
    int left = 12;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &result, head), HL_OK, "%s", hl_last_error());
    o.out = run;
    o.poll = ask_to_stop;
    o.user = &left;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &result, NULL), HL_OK, "%s", hl_last_error());
    cr_assert(result.interrupted);
    o.poll = NULL;
    o.resume = true;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &result, other), HL_OK, "%s", hl_last_error());
    cr_assert_not(result.interrupted);
    cr_assert_eq(memcmp(head, other, sizeof head), 0);
    cr_assert_eq(scratch_count_lines(run, "metrics.csv"), 46);
    free(run);
    free(whole);
}

Test(trainer_fit, what_it_cannot_do_is_refused)
{
    char *run = scratch_path(folder, "run");
    hl_train_options o = options_of(run);
    hl_train_result result;
    o.augment = HL_AUGMENT_FLIP;
    cr_assert_eq(train(&o, "linear:solver=lbfgs", &result, NULL), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "--augment none"), "%s", hl_last_error());
    free(run);
}
