/* Whole training runs on a toy data set. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "graph/params.h"
#include "io/json.h"
#include "support/device.h"
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
    scratch_remove(folder);
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
    options.config = "model: resnet18\n";
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
    cr_assert_str_eq(json_string_value(json_object_get(document, "model")), "resnet18");
    json_t *best = json_object_get(document, "best");
    cr_assert_float_eq(json_real_value(json_object_get(best, "val_acc1")), result.best.acc1, 1e-12);
    json_decref(document);
    hl_model_destroy(model);
}

/* ---- which epoch is the best ---- */

/* Validation as the progress reports had it. */
static struct {
    double value[16];
    int epochs;
    hl_monitor monitor;
} seen;

static void note_epoch(void *user, const hl_progress *progress)
{
    (void)user;
    if (progress->val == NULL)
        return;
    const hl_metrics *m = progress->val;
    const double values[] = {m->acc1, -m->loss, m->acc_class, m->auroc};
    cr_assert_lt(seen.epochs, 16);
    seen.value[seen.epochs++] = values[seen.monitor];
}

static hl_status train(hl_train_options *options, const char *method, hl_norm_mode norm,
                       hl_train_result *result)
{
    hl_model *model = toy_model("mobilenet_v2", hl_dataset_class_count(data), method, norm);
    hl_status status = hl_train(model, data, options, result);
    hl_model_destroy(model);
    return status;
}

Test(trainer, the_best_epoch_is_the_first_of_the_largest)
{
    for (hl_monitor monitor = HL_MONITOR_ACC1; monitor <= HL_MONITOR_ACC_CLASS; monitor++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, (int)monitor);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        memset(&seen, 0, sizeof seen);
        seen.monitor = options.monitor = monitor;
        options.epochs = 5;
        options.lr = 0.02;
        options.progress = note_epoch;
        cr_assert_eq(train(&options, "linear", HL_NORM_DEFAULT, &result), HL_OK, "%s", hl_last_error());
        int best = 0;
        for (int e = 1; e < 5; e++)
            best = seen.value[e] > seen.value[best] ? e : best;
        cr_assert_eq(seen.epochs, 5);
        cr_assert_eq(result.best_epoch, best, "%lld, not %d", (long long)result.best_epoch, best);
        const double values[] = {result.best.acc1, -result.best.loss, result.best.acc_class};
        cr_assert_float_eq(values[monitor], seen.value[best], 0.0);
    }
}

Test(trainer, afterwards_the_model_is_that_of_the_best_epoch)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    hl_metrics now, opened;
    options.epochs = 4;
    options.lr = 0.05;
    options.monitor = HL_MONITOR_LOSS;
    hl_model *model = toy_model("mobilenet_v2", CLASSES, "projection", HL_NORM_FULL), *merged;
    cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
    const hl_compute one = {.threads = 1, .device = test_device()};
    int64_t confusion[CLASSES * CLASSES], sum = 0;
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_VAL, 5, 1, &one, &now, confusion), HL_OK, "%s",
                 hl_last_error());
    cr_assert_float_eq(now.loss, result.best.loss, 1e-5 * result.best.loss);
    for (int i = 0; i < CLASSES * CLASSES; i++)
        sum += confusion[i];
    cr_assert_eq(sum, now.count);
    /* And so is the run folder, opened and merged. */
    cr_assert_eq(hl_model_open_run(run, NULL, true, NULL, &merged), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_evaluate(merged, data, HL_SPLIT_VAL, 64, 1, &one, &opened, NULL), HL_OK);
    cr_assert_float_eq(opened.loss, now.loss, 1e-4 * now.loss);
    cr_assert_eq(opened.acc1, now.acc1);
    cr_assert_str_eq(hl_model_class_name(merged, 1), "class01");
    hl_model_destroy(merged);
    hl_model_destroy(model);
}

Test(trainer, stops_early_when_nothing_improves)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    options.epochs = 12;
    options.lr = 1e-12;
    options.early_stop = 2;
    cr_assert_eq(train(&options, "linear", HL_NORM_DEFAULT, &result), HL_OK, "%s", hl_last_error());
    cr_assert_eq(result.epochs, 3, "%lld", (long long)result.epochs);
    cr_assert_eq(result.best_epoch, 0);
    cr_assert_not(result.interrupted);
}

Test(trainer, steps_can_be_limited_within_an_epoch)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    options.epochs = 0;
    options.max_steps = 10; /* 7 in an epoch */
    cr_assert_eq(train(&options, "linear", HL_NORM_DEFAULT, &result), HL_OK, "%s", hl_last_error());
    cr_assert_eq(result.steps, 10);
    cr_assert_eq(result.epochs, 2);
}

static void note_first_loss(void *user, const hl_progress *progress)
{
    if (progress->val == NULL)
        *(double *)user = progress->loss;
}

/* What the first step trains is the network as it came: gates and norms are in its filters by then. */
Test(trainer, the_first_step_sees_the_network_that_evaluation_sees)
{
    static const char *const methods[] = {"linear", "projection", "full"};
    for (int k = 0; k < 3; k++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, k);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        hl_metrics before;
        double first = NAN;
        options.batch_size = hl_dataset_count(data, HL_SPLIT_TRAIN);
        options.max_steps = 1;
        options.augment = HL_AUGMENT_NONE;
        options.progress = note_first_loss;
        options.user = &first;
        hl_model *model = toy_model("resnet18", CLASSES, methods[k], HL_NORM_FROZEN);
        cr_assert_eq(
            hl_evaluate(model, data, HL_SPLIT_TRAIN, options.batch_size, 1, &options.compute, &before, NULL),
            HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        cr_assert_float_eq(first, before.loss, 1e-4 * before.loss, "%s: %g, not %g", methods[k], first,
                           before.loss);
        hl_model_destroy(model);
    }
}

/* ---- what does not depend on how batches are cut ---- */

Test(trainer, accumulating_is_the_same_as_a_larger_batch)
{
    float weights[2][64];
    for (int k = 0; k < 2; k++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, k);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        options.batch_size = k == 0 ? 9 : 3;
        options.accumulate = k == 0 ? 1 : 3;
        options.optimizer = HL_SGD;
        options.lr = 0.01;
        options.no_shuffle = true;
        options.max_steps = 3;
        hl_model *model = toy_model("resnet18", CLASSES, "projection", HL_NORM_DEFAULT);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        cr_assert_eq(result.steps, 3);
        memcpy(weights[k], hl_graph_find_param(model->graph, "layer1.0.conv1.gate")->host, sizeof weights[k]);
        hl_model_destroy(model);
    }
    double largest = 0.0;
    for (int i = 0; i < 64; i++)
        largest = fmax(largest, fabs((double)weights[0][i]));
    cr_assert_gt(largest, 1e-6);
    for (int i = 0; i < 64; i++)
        cr_assert_float_eq(weights[0][i], weights[1][i], 1e-3 * largest, "%d: %g and %g", i,
                           (double)weights[0][i], (double)weights[1][i]);
}

Test(trainer, frozen_norms_do_not_move_and_updated_ones_do)
{
    for (int k = 0; k < 2; k++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, k);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        options.max_steps = 2;
        hl_model *model =
            toy_model("mobilenet_v2", CLASSES, "projection", k == 0 ? HL_NORM_FROZEN : HL_NORM_UPDATE);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_graph_find_param(model->graph, "features.0.1.running_mean")->host[0] == 0.0f, k == 0);
        cr_assert_eq(hl_graph_find_param(model->graph, "features.0.1.running_var")->host[0] == 1.0f, k == 0);
        cr_assert_eq(hl_graph_find_param(model->graph, "features.0.1.weight")->host[0], 1.0f);
        hl_model_destroy(model);
    }
}

Test(trainer, bf16_trains_much_as_fp32_does)
{
    double loss[2];
    for (int k = 0; k < 2; k++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, k);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        options.compute.precision = k == 0 ? HL_PRECISION_FP32 : HL_PRECISION_BF16;
        options.lr = 1e-3;
        hl_model *model = toy_model("resnet18", CLASSES, "projection", HL_NORM_DEFAULT);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        loss[k] = result.best.loss;
        hl_model_destroy(model);
    }
    cr_assert_float_eq(loss[1], loss[0], 0.05 * loss[0], "%g and %g", loss[0], loss[1]);
    cr_assert_neq(loss[1], loss[0], "bf16 rounds differently");
}

/* 2^-24 times some twenty a layer (tests/backend/test_conv.c), through 17 layers. */
Test(trainer, winograd_trains_as_direct_convolutions_do_and_resumes_with_its_like_only)
{
    double loss[2];
    char out[512];
    for (int winograd = 0; winograd < 2; winograd++) {
        snprintf(out, sizeof out, "%s%d", run, winograd);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        options.compute.device = "cpu";
        options.compute.winograd = winograd == 1;
        options.max_steps = 3;
        hl_model *model = toy_model("resnet18", CLASSES, "projection", HL_NORM_FROZEN);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        loss[winograd] = result.last.loss;
        hl_model_destroy(model);
    }
    cr_assert_float_eq(loss[0], loss[1], 1e-4 * loss[0], "%.9g and %.9g", loss[0], loss[1]);
    hl_train_options options = toy_options(out);
    hl_train_result result;
    options.compute.device = "cpu";
    options.max_steps = 3;
    options.resume = true;
    hl_model *model = toy_model("resnet18", CLASSES, "projection", HL_NORM_FROZEN);
    cr_assert_neq(hl_train(model, data, &options, &result), HL_OK);
    cr_assert_not_null(strstr(hl_last_error(), "fp32 winograd"), "%s", hl_last_error());
    hl_model_destroy(model);
}

Test(trainer, projection_and_linear_begin_with_the_same_loss)
{
    double loss[2];
    for (int k = 0; k < 2; k++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, k);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        options.max_steps = 1;
        options.lr = 1e-12;
        hl_model *model = toy_model("resnet18", CLASSES, k == 0 ? "linear" : "projection", HL_NORM_DEFAULT);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        loss[k] = result.best.loss;
        hl_model_destroy(model);
    }
    cr_assert_float_eq(loss[1], loss[0], 1e-5 * loss[0]);
}

/* ---- what goes wrong ---- */

static int warnings_of_guessing;

static void note_line(void *user, hl_log_level level, const char *line)
{
    (void)user;
    warnings_of_guessing += level == HL_LOG_WARNING && strstr(line, "guessing by class frequency") != NULL;
}

Test(trainer, a_loss_that_does_not_fall_is_pointed_out_once)
{
    static const hl_log log = {.write = note_line};
    for (int learns = 0; learns < 2; learns++) {
        char out[512];
        snprintf(out, sizeof out, "%s%d", run, learns);
        hl_train_options options = toy_options(out);
        hl_train_result result;
        warnings_of_guessing = 0;
        options.epochs = 6;
        options.lr = learns ? 1e-3 : 1e-12;
        options.warmup_epochs = 0.0;
        options.compute.log = &log;
        hl_model *model = toy_model("resnet18", CLASSES, "full", HL_NORM_FULL);
        cr_assert_eq(hl_train(model, data, &options, &result), HL_OK, "%s", hl_last_error());
        cr_assert_eq(warnings_of_guessing, learns ? 0 : 1, "%d", warnings_of_guessing);
        hl_model_destroy(model);
    }
}

Test(trainer, a_loss_that_is_not_finite_names_the_layer)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    hl_model *model = toy_model("mobilenet_v2", CLASSES, "projection", HL_NORM_DEFAULT);
    hl_graph_find_param(model->graph, "features.4.conv.2.weight")->host[5] = INFINITY;
    cr_assert_eq(hl_train(model, data, &options, &result), HL_E_NONFINITE);
    cr_assert_not_null(strstr(hl_last_error(), "features.4.conv.2"), "%s", hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "epoch 0"), "%s", hl_last_error());
    hl_model_destroy(model);
}

Test(trainer, a_learning_rate_that_diverges_stops_the_run)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    options.epochs = 20;
    options.lr = 1e6;
    options.optimizer = HL_SGD;
    options.warmup_epochs = 0.0;
    cr_assert_eq(train(&options, "full", HL_NORM_FROZEN, &result), HL_E_NONFINITE);
    cr_assert_not_null(strstr(hl_last_error(), "--lr"), "%s", hl_last_error());
}

static void refused(hl_train_options options, hl_status status, const char *part)
{
    hl_train_result result;
    cr_assert_eq(train(&options, "linear", HL_NORM_DEFAULT, &result), status, "%s", part);
    cr_assert_not_null(strstr(hl_last_error(), part), "'%s' does not say '%s'", hl_last_error(), part);
}

Test(trainer, wrong_options_are_refused_before_anything_is_written)
{
    const hl_train_options good = toy_options(run);
    hl_train_options o = good;
    o.out = NULL;
    refused(o, HL_E_ARG, "--out");
    o = good;
    o.epochs = 0;
    refused(o, HL_E_ARG, "--epochs");
    o = good;
    o.batch_size = 0;
    refused(o, HL_E_ARG, "--batch-size");
    o.batch_size = 9 * CLASSES + 1;
    refused(o, HL_E_ARG, "27 training images");
    o = good;
    o.lr = NAN;
    refused(o, HL_E_ARG, "--lr");
    o = good;
    o.label_smoothing = 1.0;
    refused(o, HL_E_ARG, "--label-smoothing");
    o = good;
    o.momentum = 1.0;
    refused(o, HL_E_ARG, "--momentum");
    o = good;
    o.monitor = HL_MONITOR_AUROC; /* three classes */
    refused(o, HL_E_ARG, "val_auroc");
    cr_assert_neq(access(run, F_OK), 0, "a refused run left its folder behind");
    o = good;
    o.resume = true;
    refused(o, HL_E_NOT_FOUND, "--resume");
    o = good;
    o.out = images;
    refused(o, HL_E_ARG, "not empty");
}

Test(trainer, a_model_for_other_classes_is_refused)
{
    hl_train_options options = toy_options(run);
    hl_train_result result;
    hl_model *model = toy_model("mobilenet_v2", CLASSES + 1, "linear", HL_NORM_DEFAULT);
    cr_assert_eq(hl_train(model, data, &options, &result), HL_E_ARG);
    hl_model_destroy(model);
    model = toy_model("mobilenet_v2", CLASSES, NULL, HL_NORM_DEFAULT);
    cr_assert_eq(hl_train(model, data, &options, &result), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "--method"), "%s", hl_last_error());
    hl_model_destroy(model);
}

Test(trainer, a_bad_image_is_named_or_skipped)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/train/class01/004.png", images);
    scratch_write(path, "no picture", 10);
    hl_train_options options = toy_options(run);
    refused(options, HL_E_INPUT, "class01/004.png");
    char out[512];
    snprintf(out, sizeof out, "%s2", run);
    hl_train_result result;
    options.out = out;
    options.skip_bad_images = true;
    cr_assert_eq(train(&options, "linear", HL_NORM_DEFAULT, &result), HL_OK, "%s", hl_last_error());
}
