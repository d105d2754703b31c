/* train --then: two runs, the control, and going on after an interruption. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "support/program.h"
#include "support/scratch.h"
#include "support/toy.h"

static char *folder;

static void start(void)
{
    folder = scratch_make();
    toy_folder(folder, "data", 2, 6, 3, 2);
}

static void stop(void)
{
    scratch_remove(folder);
}

TestSuite(train_then, .init = start, .fini = stop);

#define TRAIN                                                                                                \
    "train --model resnet18 --image-size 32 --data @/data --method projection --epochs 2 --batch-size 4 "    \
    "--precision fp32 --threads 1 --augment none --quiet --out @/run "

static void refused(const char *line, const char *part)
{
    program_fails(folder, line, 2, part);
}

static uint8_t *read_file(const char *name, size_t *size)
{
    char *path = scratch_path(folder, name);
    uint8_t *bytes = scratch_read(path, size);
    free(path);
    return bytes;
}

static bool config_says(const char *name, const char *text)
{
    size_t size;
    uint8_t *bytes = read_file(name, &size);
    char *copy = strndup((const char *)bytes, size);
    bool found = strstr(copy, text) != NULL;
    free(copy);
    free(bytes);
    return found;
}

static json_int_t epochs_of(const json_t *run)
{
    return json_integer_value(json_object_get(json_object_get(run, "summary"), "epochs"));
}

Test(train_then, makes_both_runs_and_the_control)
{
    char *out = program_succeeds(folder, TRAIN
                                 "--lr 0.002 --then full:epochs=1,lr=1e-4,norm=frozen --compare --json");
    json_t *whole = json_loads(out, JSON_REJECT_DUPLICATES, NULL), *phases = json_object_get(whole, "phases"),
           *control = json_object_get(whole, "control");
    cr_assert_eq(json_array_size(phases), 2, "%s", out);
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(phases, 0), "folder")), "1-projection");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(phases, 1), "folder")), "2-full");
    cr_assert_str_eq(json_string_value(json_object_get(control, "folder")), "3-full");
    cr_assert_eq(epochs_of(json_array_get(phases, 0)), 2);
    cr_assert_eq(epochs_of(json_array_get(phases, 1)), 1);
    cr_assert_eq(epochs_of(control), 3);
    json_decref(whole);
    free(out);
    cr_assert(config_says("run/1-projection/config.yaml", "\nlr: 0.002\n"));
    cr_assert(config_says("run/2-full/config.yaml", "\nlr: 1e-4\n"));
    cr_assert(config_says("run/2-full/config.yaml", "\nnorm: frozen\n"));
    cr_assert(config_says("run/2-full/config.yaml", "/run/1-projection\""));
    cr_assert_not(config_says("run/3-full/config.yaml", "init-from"));

    /* As after an interruption before the second run. */
    size_t size, again;
    uint8_t *before = read_file("run/2-full/adapter.safetensors", &size);
    char *second = scratch_path(folder, "run/2-full"), *summary = scratch_path(folder, "run/summary.json");
    scratch_remove(second); /* which frees it */
    cr_assert_eq(remove(summary), 0);
    free(summary);
    out = program_succeeds(folder, "train --out @/run --resume --quiet");
    cr_assert_not_null(strstr(out, "3-full"), "%s", out);
    cr_assert_not_null(strstr(out, "(control)"), "%s", out);
    free(out);
    uint8_t *after = read_file("run/2-full/adapter.safetensors", &again);
    cr_assert(size == again && memcmp(before, after, size) == 0);
    free(before);
    free(after);
    refused(TRAIN "--then full", "--resume");
}

Test(train_then, what_makes_no_sense_is_refused_before_anything_is_trained)
{
    refused(TRAIN "--compare", "--then");
    refused(TRAIN "--then ful", "full");
    refused(TRAIN "--then full:epochs=0", "--epochs");
    refused(TRAIN "--then full:epoch=1", "epoch");
    refused(TRAIN "--then full:norm=froze", "frozen");
    char *run = scratch_path(folder, "run");
    struct stat info;
    cr_assert_neq(stat(run, &info), 0);
    free(run);
}
