/* Training on kept features ends where training on the images ends. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "support/scratch.h"
#include "support/toy.h"
#include "train/model.h"

enum { CLASSES = 3 };

static char *folder, *images;
static hl_dataset *data;
static int kept, found, replaced; /* lines that said so, in the last run */
static const char *cache;         /* folder for files of features, or NULL */

static void start(void)
{
    folder = scratch_make();
    images = scratch_path(folder, "images");
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, CLASSES, 9, 3, 2);
    data = toy_data(images);
    cache = NULL;
}

static void stop(void)
{
    hl_dataset_destroy(data);
    free(images);
    scratch_remove(folder);
}

TestSuite(features, .init = start, .fini = stop);

static void note(void *user, hl_log_level level, const char *line)
{
    (void)user;
    (void)level;
    kept += strncmp(line, "what reaches the first trained layer is kept", 44) == 0;
    found += strstr(line, "split found") != NULL;
    replaced += strstr(line, "it will be replaced") != NULL;
}

static hl_train_result train(const char *run, const char *model, const char *method, hl_train_options o)
{
    static const hl_log log = {.write = note};
    hl_train_result result;
    char *out = scratch_path(folder, run);
    hl_model *m = toy_model(model, CLASSES, method, HL_NORM_FROZEN);
    m->log = log;
    o.out = out;
    o.feature_cache = cache;
    o.compute.log = &log;
    kept = found = replaced = 0;
    cr_assert_eq(hl_train(m, data, &o, &result), HL_OK, "%s", hl_last_error());
    hl_model_destroy(m);
    free(out);
    return result;
}

static hl_train_options plain_options(void)
{
    hl_train_options o = toy_options(NULL);
    o.augment = HL_AUGMENT_NONE;
    o.epochs = 3;
    o.batch_size = 6;
    o.accumulate = 2;
    o.lr = 0.01;
    return o;
}

static void expect_near(double got, double want, const char *what)
{
    cr_assert_float_eq(got, want, 1e-4 * want, "%s: %g, not %g", what, got, want);
}

Test(features, end_where_images_end)
{
    static const char *const cases[][2] = {
        {"resnet18", "linear"}, {"mobilenet_v2", "linear"}, {"resnet18", "projection:scope=layer4.1.conv2"}};
    for (int i = 0; i < 3; i++) {
        char name[32];
        hl_train_options o = plain_options();
        snprintf(name, sizeof name, "features%d", i);
        hl_train_result with = train(name, cases[i][0], cases[i][1], o);
        cr_assert_eq(kept, 1, "%s", cases[i][0]);
        o.feature_bytes = 0;
        snprintf(name, sizeof name, "images%d", i);
        hl_train_result without = train(name, cases[i][0], cases[i][1], o);
        cr_assert_eq(kept, 0);
        cr_assert_eq(with.steps, without.steps);
        expect_near(with.last.loss, without.last.loss, cases[i][0]);
        expect_near(with.test.loss, without.test.loss, cases[i][0]);
        cr_assert_eq(with.test.count, without.test.count);
    }
}

Test(features, are_not_kept_where_images_change_or_memory_is_short_or_nothing_is_saved)
{
    hl_train_options o = plain_options();
    o.max_steps = 1;
    o.augment = HL_AUGMENT_FLIP;
    train("flipped", "resnet18", "linear", o);
    cr_assert_eq(kept, 0);
    o.augment = HL_AUGMENT_NONE;
    /* 27 + 9 images of 512 floats. */
    o.feature_bytes = 36 * 512 * 4 - 1;
    train("short", "resnet18", "linear", o);
    cr_assert_eq(kept, 0);
    o.feature_bytes++;
    train("enough", "resnet18", "linear", o);
    cr_assert_eq(kept, 1);
    o.feature_bytes = INT64_MAX;
    train("all", "resnet18", "projection", o);
    cr_assert_eq(kept, 0);
}

static int steps_left;

static hl_request stop_soon(void *user)
{
    (void)user;
    return --steps_left == 0 ? HL_STOP : HL_GO_ON;
}

/* Interrupted while features are made (12 polls), and in the middle of an epoch. */
Test(features, a_resumed_run_ends_bit_for_bit_as_an_unbroken_one)
{
    hl_train_options o = plain_options();
    hl_train_result whole = train("whole", "resnet18", "linear", o);
    static const int stops[] = {2, 9};
    for (int i = 0; i < 2; i++) {
        char name[32];
        snprintf(name, sizeof name, "broken%d", i);
        o.poll = stop_soon;
        o.resume = false;
        steps_left = stops[i];
        cr_assert(train(name, "resnet18", "linear", o).interrupted);
        o.poll = NULL;
        o.resume = true;
        hl_train_result resumed = train(name, "resnet18", "linear", o);
        cr_assert_eq(kept, 1);
        cr_assert_eq(resumed.last.loss, whole.last.loss);
        cr_assert_eq(resumed.test.loss, whole.test.loss);
    }
}

/* The run's result with features in files there, and what it should have found and left. */
static hl_train_result train_cached(const char *run, const char *method, int want_found, int want_files)
{
    hl_train_result r = train(run, "resnet18", method, plain_options());
    cr_assert_eq(kept, 1);
    cr_assert_eq(found, want_found, "%s: %d found", run, found);
    cr_assert_eq(scratch_count(cache), want_files, "%s: %d files", run, scratch_count(cache));
    return r;
}

static void expect_same(hl_train_result got, hl_train_result want)
{
    cr_assert_eq(got.last.loss, want.last.loss);
    cr_assert_eq(got.test.loss, want.test.loss);
}

static char *feature_file(const char *start)
{
    char command[4096];
    snprintf(command, sizeof command, "%s/%s", cache, start);
    glob_t found_paths;
    cr_assert_eq(glob(command, 0, NULL, &found_paths), 0);
    cr_assert_eq(found_paths.gl_pathc, 1);
    char *path = strdup(found_paths.gl_pathv[0]);
    globfree(&found_paths);
    return path;
}

Test(features, in_files_are_shared_by_runs)
{
    hl_train_result memory = train("memory", "resnet18", "linear", plain_options());
    char *inner = scratch_path(folder, "cache/inner");
    cache = inner;
    expect_same(train_cached("first", "linear", 0, 3), memory);
    expect_same(train_cached("second", "linear", 3, 3), memory);
    /* Another frontier, other files. */
    train_cached("late", "projection:scope=layer4.1.conv2", 0, 6);
    /* A changed image, other files for its split. */
    char *image = scratch_path(images, "val/class00/000.png");
    struct timespec times[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
    cr_assert_eq(utimensat(AT_FDCWD, image, times, 0), 0, "%s", image);
    train_cached("touched", "linear", 2, 7);
    free(image);
    free(inner);
}

Test(features, in_damaged_files_are_made_again)
{
    char *inner = scratch_path(folder, "cache");
    cache = inner;
    hl_train_result whole = train_cached("first", "linear", 0, 3);
    char *path = feature_file("*-train-*"), *other = feature_file("*-val-*");
    size_t size, other_size;
    uint8_t *bytes = scratch_read(path, &size), *other_bytes = scratch_read(other, &other_size);
    scratch_write(path, bytes, size - 1);
    expect_same(train_cached("cut", "linear", 2, 3), whole);
    cr_assert_eq(replaced, 1);
    scratch_write(path, other_bytes, other_size); /* a good file of something else */
    expect_same(train_cached("wrong", "linear", 2, 3), whole);
    cr_assert_eq(replaced, 1);
    size_t made_size;
    uint8_t *made = scratch_read(path, &made_size);
    cr_assert_eq(made_size, size);
    free(made);
    free(bytes);
    free(other_bytes);
    free(path);
    free(other);
    free(inner);
}

Test(features, interrupted_leave_no_file)
{
    char *inner = scratch_path(folder, "cache");
    cache = inner;
    hl_train_options o = plain_options();
    o.poll = stop_soon;
    steps_left = 1;
    cr_assert(train("broken", "resnet18", "linear", o).interrupted);
    cr_assert_eq(scratch_count(cache), 0);
    free(inner);
}
