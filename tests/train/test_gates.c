/* Learned gates: their statistics, and networks without the small ones. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <heirloom/heirloom.h>

#include "base/philox.h"
#include "support/device.h"
#include "support/scratch.h"
#include "support/toy.h"
#include "train/model.h"

static char *folder;

static void start(void)
{
    folder = scratch_make();
    toy_images(folder, 2, 0, 0, 3);
}

static void stop(void)
{
    scratch_remove(folder);
}

TestSuite(gates, .init = start, .fini = stop);

/* A run folder whose gates are 1 + factor * normal(0, 0.1), but for every fourth row of a layer: `dead`. */
static char *run(const char *name, const char *model, const char *method, float factor, float dead)
{
    hl_model *m = toy_model(model, 2, method, HL_NORM_DEFAULT);
    char *path = scratch_path(folder, name), file[600];
    for (size_t i = 0; i < m->graph->param_count; i++) {
        hl_param *p = m->graph->params[i];
        hl_rng rng = hl_rng_make(5, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; p->role == HL_PARAM_GATE && k < p->count; k++)
            p->host[k] = k / p->shape[1] % 4 == 1 ? dead - 1.0f : factor * 0.1f * hl_rng_normal(&rng);
        /* Statistics of a fresh network say nothing; a constant is to be one that shows. */
        for (int64_t k = 0; p->role == HL_PARAM_NORM_SHIFT && k < p->count; k++)
            p->host[k] = 0.3f * hl_rng_normal(&rng);
    }
    cr_assert_eq(mkdir(path, 0777), 0);
    snprintf(file, sizeof file, "%s/adapter.safetensors", path);
    cr_assert_eq(hl_model_save_adapter(m, file), HL_OK, "%s", hl_last_error());
    hl_model_destroy(m);
    return path;
}

static hl_gates *opened(const char *path)
{
    hl_gates *gates;
    cr_assert_eq(hl_gates_open(path, &gates), HL_OK, "%s", hl_last_error());
    return gates;
}

Test(gates, statistics_are_those_of_the_numbers)
{
    char *path = run("run", "squeezenet1_1", "projection:scope=spatial", 1.0f, 0.02f);
    hl_gates *gates = opened(path);
    hl_gate_stats all, s;
    int64_t count = 0, small = 0;
    cr_assert_eq(hl_gates_layer_count(gates), 9);
    for (int l = 0; l < 9; l++) {
        hl_gate_layer layer;
        double sum = 0.0, squares = 0.0, least = INFINITY, most = -INFINITY;
        int64_t n, below = 0, bins[7], binned = 0;
        hl_gates_layer(gates, l, &layer);
        n = layer.outputs * layer.inputs;
        cr_assert_eq(hl_gates_measure(gates, l, 0.05, &s), HL_OK);
        for (int64_t k = 0; k < n; k++) {
            double a = 1.0 + (double)layer.delta[k];
            sum += a / (double)n;
            least = fmin(least, a);
            most = fmax(most, a);
            below += a <= s.quantiles[3];
            small += fabs(a) <= 0.05;
        }
        for (int64_t k = 0; k < n; k++)
            squares += pow(1.0 + (double)layer.delta[k] - sum, 2.0) / (double)n;
        cr_expect(s.count == n && fabs(s.mean - sum) < 1e-9 && fabs(s.deviation - sqrt(squares)) < 1e-7, "%s",
                  layer.name);
        cr_expect(s.least == least && s.most == most, "%s", layer.name);
        cr_expect(below >= 0.75 * (double)n &&
                  below <= 0.75 * (double)n + (double)(layer.inputs * layer.outputs) / 4.0);
        hl_gates_histogram(gates, l, 0.5, 1.2, 7, bins);
        for (int b = 0; b < 7; b++)
            binned += bins[b];
        cr_expect_eq(binned, n, "%s", layer.name);
        count += n;
    }
    cr_assert_eq(hl_gates_measure(gates, -1, 0.05, &all), HL_OK);
    cr_expect(all.count == count && all.small == small && small >= count / 4 - 200, "%lld of %lld",
              (long long)small, (long long)count);
    /* By number, not by letter: features.3 stands before features.10. */
    hl_gate_layer second, eighth;
    hl_gates_layer(gates, 1, &second);
    hl_gates_layer(gates, 6, &eighth);
    cr_expect_str_eq(second.name, "features.3.expand3x3");
    cr_expect_str_eq(eighth.name, "features.10.expand3x3");
    hl_gates_destroy(gates);
    free(path);
}

Test(gates, the_largest_changes_come_first)
{
    char *path = run("run", "squeezenet1_1", "projection:scope=spatial", 1.0f, 1.0f);
    hl_gates *gates = opened(path);
    hl_gate_change top[50];
    cr_assert_eq(hl_gates_largest(gates, -1, 50, top), 50);
    for (int i = 0; i < 50; i++) {
        hl_gate_layer layer;
        hl_gates_layer(gates, top[i].layer, &layer);
        cr_expect_eq(1.0 + (double)layer.delta[top[i].output * layer.inputs + top[i].input], top[i].gate);
        cr_expect(i == 0 || fabs(top[i].gate - 1.0) <= fabs(top[i - 1].gate - 1.0));
    }
    int64_t farther = 0;
    for (int l = 0; l < hl_gates_layer_count(gates); l++) {
        hl_gate_layer layer;
        hl_gates_layer(gates, l, &layer);
        for (int64_t k = 0; k < layer.outputs * layer.inputs; k++)
            farther += fabs((double)layer.delta[k]) > fabs(top[49].gate - 1.0);
    }
    cr_expect_leq(farther, 49);
    cr_expect_eq(hl_gates_largest(gates, 0, 50, top), 50);
    cr_expect_eq(hl_gates_largest(gates, 0, 0, top), 0);
    hl_gates_destroy(gates);
    free(path);
}

Test(gates, runs_are_compared_by_direction)
{
    static const struct {
        float factor;
        double cosine, sign;
    } cases[] = {{2.0f, 1.0, 1.0}, {-1.0f, -1.0, 0.0}};
    char *path = run("a", "squeezenet1_1", "projection:scope=spatial", 1.0f, 1.0f);
    hl_gates *a = opened(path);
    for (int i = 0; i < 2; i++) {
        char name[8] = {(char)('b' + i)},
             *other = run(name, "squeezenet1_1", "projection:scope=spatial", cases[i].factor, 1.0f);
        hl_gates *b = opened(other);
        for (int l = -1; l < 9; l++) {
            hl_gate_similarity s;
            bool found;
            hl_gates_compare(a, b, l, &found, &s);
            cr_expect(found && fabs(s.cosine - cases[i].cosine) < 1e-6 &&
                          fabs(s.correlation - cases[i].cosine) < 1e-5 && s.sign == cases[i].sign,
                      "layer %d: %g %g %g", l, s.cosine, s.correlation, s.sign);
        }
        hl_gates_destroy(b);
        free(other);
    }
    char *still = run("still", "squeezenet1_1", "projection:scope=features.0", 0.0f, 1.0f);
    hl_gates *b = opened(still);
    hl_gate_similarity s;
    bool found;
    hl_gates_compare(a, b, 0, &found, &s);
    cr_expect(found && isnan(s.cosine) && isnan(s.correlation) && isnan(s.sign));
    hl_gates_compare(a, b, 1, &found, &s);
    cr_expect_not(found);
    hl_gates_destroy(a);
    hl_gates_destroy(b);
    free(still);
    free(path);
}

Test(gates, a_run_without_gates_is_refused)
{
    hl_gates *gates;
    char *path = run("run", "squeezenet1_1", "linear", 1.0f, 1.0f);
    cr_expect_eq(hl_gates_open(path, &gates), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "no gates"));
    cr_expect_eq(hl_gates_open(folder, &gates), HL_E_NOT_FOUND, "%s", hl_last_error());
    free(path);
}

static void predict(hl_model *model, float *logits)
{
    const hl_compute compute = {.device = test_device(), .threads = 1};
    char *image = scratch_path(folder, "test/class01/000.png"),
         *second = scratch_path(folder, "test/class00/001.png");
    const char *const paths[] = {image, second};
    cr_assert_eq(hl_predict(model, paths, 2, 2, &compute, logits, NULL), HL_OK, "%s", hl_last_error());
    free(image);
    free(second);
}

/* An inverted bottleneck's dead channels go: as ONNX the network is read again, smaller, and says the same.
 * In 52 layers of f32 with sums in another order, as the comparison with onnxruntime (test_onnx.c): 1e-4 of
 * the largest logit. */
Test(gates, a_pruned_network_is_written_smaller_and_says_the_same)
{
    float want[4], have[4];
    int64_t pruned, total;
    hl_model *model;
    hl_model_counts before, after;
    hl_shrink_report report;
    char *path = run("run", "mnasnet0_5", "projection", 0.5f, 0.02f),
         *out = scratch_path(folder, "small.onnx"), *tensors = scratch_path(folder, "small.safetensors");
    for (int pass = 0; pass < 2; pass++) {
        cr_assert_eq(hl_model_open_run(path, NULL, false, NULL, &model), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_model_prune(model, 0.05, &pruned, &total), HL_OK);
        cr_expect(pruned > total / 5 && pruned < total / 3, "%lld of %lld", (long long)pruned,
                  (long long)total);
        hl_model_count_params(model, &before);
        if (pass == 0) {
            cr_assert_eq(hl_model_export_shrunk(model, out, &report), HL_OK, "%s", hl_last_error());
            cr_assert_eq(hl_model_export_shrunk(model, tensors, &report), HL_OK, "%s", hl_last_error());
        } else {
            predict(model, want);
            cr_expect_eq(hl_model_export_shrunk(model, out, &report), HL_E_ARG);
        }
        hl_model_destroy(model);
    }
    cr_assert_eq(hl_model_create(&(hl_model_options){.name = out}, &model), HL_OK, "%s", hl_last_error());
    hl_model_count_params(model, &after);
    cr_expect(after.macs < before.macs / 10 * 9 && after.conv < before.conv / 10 * 9, "%lld MACs of %lld",
              (long long)after.macs, (long long)before.macs);
    predict(model, have);
    hl_model_destroy(model);
    for (int i = 0; i < 4; i++)
        cr_expect(fabsf(have[i] - want[i]) <= 1e-4f * fmaxf(fabsf(want[0]), fabsf(want[1])),
                  "logit %d is %g, not %g", i, (double)have[i], (double)want[i]);
    free(path);
    free(out);
    free(tensors);
}
