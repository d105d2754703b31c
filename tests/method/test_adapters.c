/* Methods that act on what layers give: gradients, the start, merging, on a small network with every kind of
 * convolution. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/fuse.h"
#include "graph/params.h"
#include "graph/program.h"
#include "io/safetensors.h"
#include "method/method.h"
#include "models/weights.h"
#include "support/device.h"
#include "support/scratch.h"
#include "train/model.h"

enum { BATCH = 3, SIZE = 10, CLASSES = 5 };

/* start: is it the pretrained network at first? merges: does nothing stay behind? part: another one has all
 * it has. */
typedef struct method_case {
    const char *text;
    bool start, merges, part;
} method_case;

static const method_case cases[] = {
    {"bitfit", true, true, false},
    {"ia3", true, true, true},
    {"ssf", false, true, true},
    {"ssf:norms=1", false, true, false},
    {"ssf:norms=1,init-noise=0", true, true, false},
    {"conv-adapter", true, false, false},
    {"conv-adapter:gamma=8", true, false, true},
    {"conv-adapter:form=sequential", true, false, false},
    {"conv-adapter:form=residual-parallel", true, false, false},
    {"conv-adapter:form=residual-sequential", true, false, false},
    {"residual-adapter", true, true, false},
    {"residual-adapter:series=1", true, true, false},
    {"repadapter", true, true, true},
    {"repadapter:r=3,s=0.5", true, true, false},
};
enum { CASES = sizeof cases / sizeof *cases };

static hl_backend *backend;
static hl_run_state run_state;

static void start(void)
{
    backend = test_backend(2);
    run_state = (hl_run_state){.seed = 5, .grad_scale = 1.0f};
}

static void stop(void)
{
    hl_backend_close(backend);
}

TestSuite(adapters, .init = start, .fini = stop);

static hl_value norm_act(hl_graph *g, const char *name, hl_value x, hl_act act)
{
    x = hl_graph_norm(g, hl_graph_name(g, "%s_bn", name), x, 1e-5f, 0.1f);
    return act == HL_ACT_NONE ? x : hl_graph_act(g, hl_graph_name(g, "%s_act", name), x, act);
}

/* A stem; a bottleneck with a grouped, strided convolution that is padded more on one side, and a shortcut; a
 * residual block with a dilated depthwise convolution, and one of 1x1 and 3x3 alone; two convolutions side by
 * side whose norm is behind the concatenation (DenseNet), one of them behind a pooling; a convolution with a
 * bias and no norm. */
/* With `smooth` activations without kinks, some of them such that are fused. */
static hl_graph *build(bool smooth)
{
    hl_act relu = smooth ? HL_ACT_SILU : HL_ACT_RELU, relu6 = smooth ? HL_ACT_SIGMOID : HL_ACT_RELU6,
           last = smooth ? HL_ACT_SIGMOID : HL_ACT_RELU;
    static const hl_window uneven = {3, 3, 2, 2, 1, 1, 0, 1, 1, 1};
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, SIZE, SIZE, 3), y, shortcut;
    x = hl_graph_conv(g, "conv1", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1});
    x = norm_act(g, "conv1", x, relu);
    y = norm_act(g, "layer1.0.conv1", hl_graph_conv(g, "layer1.0.conv1", x, (hl_conv_spec){.out = 12}), relu);
    y = hl_graph_conv(g, "layer1.0.conv2", y, (hl_conv_spec){.out = 8, .groups = 2, .window = &uneven});
    y = norm_act(g, "layer1.0.conv2", y, HL_ACT_SILU);
    y = norm_act(g, "layer1.0.conv3", hl_graph_conv(g, "layer1.0.conv3", y, (hl_conv_spec){.out = 16}),
                 HL_ACT_NONE);
    shortcut = hl_graph_conv(g, "layer1.0.downsample", x, (hl_conv_spec){.out = 16, .stride = 2});
    shortcut = norm_act(g, "layer1.0.downsample", shortcut, HL_ACT_NONE);
    if (hl_graph_node(g, y)->shape.h != hl_graph_node(g, shortcut)->shape.h)
        cr_assert_fail("the block's sides differ");
    x = hl_graph_act(g, "layer1.0.relu", hl_graph_add(g, "layer1.0.add", y, shortcut), last);
    y = norm_act(g, "layer1.1.conv1", hl_graph_conv(g, "layer1.1.conv1", x, (hl_conv_spec){.out = 16}),
                 relu6);
    y = hl_graph_conv(
        g, "layer1.1.conv2", y,
        (hl_conv_spec){.out = 16, .kernel = 3, .padding = 2, .dilation = 2, .groups = 16, .bias = true});
    y = norm_act(g, "layer1.1.conv2", y, relu);
    y = norm_act(g, "layer1.1.conv3", hl_graph_conv(g, "layer1.1.conv3", y, (hl_conv_spec){.out = 16}),
                 HL_ACT_NONE);
    x = hl_graph_add(g, "layer1.1.add", y, x);
    y = norm_act(g, "layer1.2.conv1", hl_graph_conv(g, "layer1.2.conv1", x, (hl_conv_spec){.out = 12}), relu);
    y = hl_graph_conv(g, "layer1.2.conv2", y, (hl_conv_spec){.out = 16, .kernel = 3, .padding = 1});
    y = norm_act(g, "layer1.2.conv2", y, HL_ACT_NONE);
    x = hl_graph_act(g, "layer1.2.relu", hl_graph_add(g, "layer1.2.add", y, x), last);
    const hl_value both[2] = {
        hl_graph_pool(g, "pool0", hl_graph_conv(g, "left", x, (hl_conv_spec){.out = 6}),
                      (hl_pool_spec){.kernel = 3, .stride = 1, .padding = 1}),
        hl_graph_conv(g, "right", x, (hl_conv_spec){.out = 7, .kernel = 3, .padding = 1})};
    x = norm_act(g, "both", hl_graph_concat(g, "concat", both, 2), relu);
    x = hl_graph_conv(g, "last", x, (hl_conv_spec){.out = 10, .kernel = 3, .bias = true});
    x = hl_graph_head(g, "head", hl_graph_global_pool(g, "pool", x), CLASSES);
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    hl_graph_init(g, 11);
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        hl_rng rng = hl_rng_make(3, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; k < p->count; k++) {
            if (p->role == HL_PARAM_NORM_SCALE || p->role == HL_PARAM_NORM_VAR)
                p->host[k] = 0.5f + hl_rng_uniform(&rng);
            else if (p->role != HL_PARAM_WEIGHT)
                p->host[k] = 0.2f * hl_rng_normal(&rng);
            else if (p->ndim == 2)
                p->host[k] *= 30.0f;
        }
    }
    return g;
}

/* With `stray` what the method trains is away from its start, by 0.2 times normal numbers. */
static hl_graph *adapted_as(const char *text, bool stray, bool smooth)
{
    hl_graph *g = build(smooth);
    hl_method method;
    cr_assert_eq(hl_method_parse(text, &method), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_method_apply(g, &method, HL_NORM_DEFAULT, 7), HL_OK, "%s", hl_last_error());
    for (size_t v = 0; smooth && v < g->node_count; v++)
        if (g->nodes[v]->op == HL_OP_ACT && g->nodes[v]->act == HL_ACT_RELU)
            g->nodes[v]->act = HL_ACT_SIGMOID; /* that of a bottleneck */
    for (size_t i = 0; stray && i < g->param_count; i++) {
        hl_param *p = g->params[i];
        hl_rng rng = hl_rng_make(4, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; hl_param_is_adapted(p) && !p->head && k < p->count; k++) {
            float off = 0.2f * hl_rng_normal(&rng);
            p->host[k] += strstr(p->name, "running_var") != NULL ? fabsf(off) : off;
        }
    }
    return g;
}

static hl_graph *adapted(const char *text, bool stray)
{
    return adapted_as(text, stray, false);
}

static hl_program *compile(hl_graph *g, bool training, hl_elem elem)
{
    hl_program *p;
    const hl_compile_options options = {.batch = BATCH,
                                        .training = training,
                                        .raw_input = true,
                                        .elem = elem,
                                        .smoothing = 0.1f,
                                        .run = &run_state};
    if (g->placement == NULL)
        cr_assert_eq(hl_graph_place(g, backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_compile(g, backend, &options, &p), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK);
    float *x = hl_program_images(p);
    int64_t pixels = hl_shape_count(hl_graph_node(g, g->input)->shape);
    hl_rng rng = hl_rng_make(9, HL_STREAM_TEST, 0, 0);
    for (int64_t i = 0; i < BATCH * pixels; i++)
        x[i] = hl_rng_normal(&rng);
    for (int n = 0; n < BATCH; n++)
        hl_program_labels(p)[n] = (2 * n + 1) % CLASSES;
    return p;
}

static double loss(hl_program *p)
{
    double sum = 0;
    cr_assert_eq(hl_program_refresh(p), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_forward(p), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
    for (int n = 0; n < BATCH; n++)
        sum += (double)hl_program_losses(p)[n];
    return sum / BATCH;
}

static void run_backward(hl_program *p)
{
    cr_assert_eq(hl_program_backward(p), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
}

/* ---- gradients ---- */

static double loss_at(hl_program *p, hl_param *param, const float *start_at, const float *direction,
                      float step)
{
    for (int64_t i = 0; i < param->count; i++)
        param->value[i] = start_at[i] + step * direction[i];
    return loss(p);
}

/* Central differences along a random unit direction. The losses are of order one and rounded to 2^-24 a few
 * times over: with e = 0.01 that is 4e-7 / 0.02 = 2e-5 if only their last bit were wrong, hence 2e-4; 1 % for
 * e^2 / 6 times the third derivative. */
static void check_gradient(const char *text, hl_program *p, hl_param *param, const float *grad,
                           uint32_t index)
{
    const float e = 0.01f;
    float *start_at = malloc((size_t)param->count * sizeof(float)),
          *direction = malloc((size_t)param->count * sizeof(float));
    double norm = 0, derived = 0;
    hl_rng rng = hl_rng_make(21, HL_STREAM_TEST, index, 0);
    for (int64_t i = 0; i < param->count; i++) {
        direction[i] = hl_rng_normal(&rng);
        norm += (double)direction[i] * (double)direction[i];
    }
    for (int64_t i = 0; i < param->count; i++) {
        start_at[i] = param->value[i];
        direction[i] = (float)((double)direction[i] / sqrt(norm));
        derived += (double)direction[i] * (double)grad[i];
    }
    double up = loss_at(p, param, start_at, direction, e), down = loss_at(p, param, start_at, direction, -e);
    double measured = (up - down) / (2.0 * (double)e);
    loss_at(p, param, start_at, direction, 0.0f);
    cr_expect(isfinite(derived) && fabs(measured - derived) <= 2e-4 + 0.01 * fabs(derived),
              "%s, %s: measured %g, derived %g", text, param->name, measured, derived);
    free(start_at);
    free(direction);
}

Test(adapters, gradients_are_those_of_finite_differences)
{
    for (int c = 0; c < CASES; c++) {
        if (cases[c].part)
            continue;
        hl_graph *g = adapted_as(cases[c].text, true, true);
        hl_program *p = compile(g, true, HL_ELEM_F32);
        const hl_placement *placed = g->placement;
        float *grads = malloc((size_t)placed->count * sizeof(float));
        for (int64_t i = 0; i < placed->count; i++)
            placed->grads[i] = NAN; /* overwritten, never read */
        loss(p);
        run_backward(p);
        memcpy(grads, placed->grads, (size_t)placed->count * sizeof(float));
        cr_assert_gt(placed->trained_count, 2);
        for (int t = 0; t < placed->trained_count; t++)
            check_gradient(cases[c].text, p, placed->trained[t], grads + placed->first[t], (uint32_t)t);
        run_state.grad_keep = 1.0f;
        run_backward(p);
        run_state.grad_keep = 0.0f;
        for (int t = 0; t < placed->trained_count; t++)
            for (int64_t i = placed->first[t]; i < placed->first[t] + placed->trained[t]->count; i++)
                cr_assert_float_eq(placed->grads[i], 2.0f * grads[i], 1e-5f * fabsf(grads[i]) + 1e-7f, "%s",
                                   placed->trained[t]->name);
        free(grads);
        hl_program_destroy(p);
        hl_graph_destroy(g);
    }
}

/* bf16 has 8 bits: each of some 20 layers rounds values and gradients by up to 2^-9 of themselves, at random,
 * which is 20 * 2 * 2^-9 = 8 % in the norm at most. */
Test(adapters, bf16_gradients_are_near_those_of_fp32)
{
    if (!backend->ops->computes(backend, HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    for (int c = 0; c < CASES; c++) {
        if (cases[c].part)
            continue;
        hl_graph *g = adapted(cases[c].text, true);
        hl_program *full = compile(g, true, HL_ELEM_F32), *half = compile(g, true, HL_ELEM_BF16);
        const hl_placement *placed = g->placement;
        float *grads = malloc((size_t)placed->count * sizeof(float));
        double loss_full = loss(full), norm = 0, difference = 0;
        run_backward(full);
        memcpy(grads, placed->grads, (size_t)placed->count * sizeof(float));
        double loss_half = loss(half);
        run_backward(half);
        for (int t = 0; t < placed->trained_count; t++)
            for (int64_t i = placed->first[t]; i < placed->first[t] + placed->trained[t]->count; i++) {
                double d = (double)placed->grads[i] - (double)grads[i];
                norm += (double)grads[i] * (double)grads[i];
                difference += d * d;
            }
        cr_expect(fabs(loss_half - loss_full) <= 0.05 * loss_full, "%s: %g, in fp32 %g", cases[c].text,
                  loss_half, loss_full);
        cr_expect(sqrt(difference) <= 0.08 * sqrt(norm), "%s: %g of %g", cases[c].text, sqrt(difference),
                  sqrt(norm));
        free(grads);
        hl_program_destroy(full);
        hl_program_destroy(half);
        hl_graph_destroy(g);
    }
}

/* ---- the function ---- */

/* Destroys the graph. */
static void logits_of(hl_graph *g, bool training, float out[BATCH * CLASSES])
{
    hl_program *p = compile(g, training, HL_ELEM_F32);
    loss(p);
    memcpy(out, hl_program_logits(p), BATCH * CLASSES * sizeof *out);
    hl_program_destroy(p);
    hl_graph_destroy(g);
}

/* Some 20 layers of sums of up to 150 products, each in another order or folded with other roundings: 150 *
 * 2^-24 of the largest a layer at most, at random over all. */
static void expect_near(const char *text, const float *a, const float *b)
{
    float scale = 0.0f;
    for (int i = 0; i < BATCH * CLASSES; i++)
        scale = fmaxf(scale, fabsf(b[i]));
    cr_assert_gt(scale, 0.0f);
    for (int i = 0; i < BATCH * CLASSES; i++)
        cr_expect(fabsf(a[i] - b[i]) <= 2e-5f * scale, "%s: logit %d is %g, not %g", text, i, (double)a[i],
                  (double)b[i]);
}

Test(adapters, step_0_is_the_pretrained_network)
{
    float plain[BATCH * CLASSES], got[BATCH * CLASSES];
    logits_of(build(false), false, plain);
    for (int c = 0; c < CASES; c++) {
        if (!cases[c].start)
            continue;
        logits_of(adapted(cases[c].text, false), true, got);
        expect_near(cases[c].text, got, plain);
    }
}

/* Training normalises with the batch then, and gives something else. */
static bool has_batch_statistics(const char *text)
{
    hl_graph *g = adapted(text, false);
    bool has = false;
    for (size_t v = 0; v < g->node_count; v++)
        has = has || g->nodes[v]->batch_statistics;
    hl_graph_destroy(g);
    return has;
}

Test(adapters, training_inference_and_the_merged_network_agree)
{
    float training[BATCH * CLASSES], inference[BATCH * CLASSES], got[BATCH * CLASSES], plain[BATCH * CLASSES];
    logits_of(build(false), false, plain);
    for (int c = 0; c < CASES; c++) {
        logits_of(adapted(cases[c].text, true), true, training);
        cr_expect(fabsf(training[0] - plain[0]) > 1e-3f, "%s changes nothing", cases[c].text);
        logits_of(adapted(cases[c].text, true), false, inference);
        if (!has_batch_statistics(cases[c].text))
            expect_near(cases[c].text, inference, training);
        hl_graph *merged = adapted(cases[c].text, true);
        cr_assert_eq(hl_method_merge(merged), HL_OK, "%s", hl_last_error());
        bool left = false;
        for (size_t i = 0; i < merged->param_count; i++)
            left = left || !hl_param_is_base(merged->params[i]);
        cr_expect_eq(left, !cases[c].merges, "%s", cases[c].text);
        logits_of(merged, false, got);
        expect_near(cases[c].text, got, inference);
    }
}

/* ---- what a step consists of ---- */

static int units_of(hl_graph *g, hl_op op)
{
    hl_units units;
    const hl_compile_options options = {.batch = BATCH, .training = true};
    int count = 0;
    cr_assert_eq(hl_units_form(g, &options, g->arena, &units), HL_OK);
    for (int k = 0; k < units.count; k++)
        count += !units.items[k].removed && units.items[k].node->op == op;
    return count;
}

/* Norms stay in their convolutions, but the one behind the concatenation; sums with what stands beside a
 * convolution are residuals. */
Test(adapters, frozen_norms_stay_folded)
{
    static const char *const texts[] = {"linear", "bitfit", "ia3", "ssf", "conv-adapter", "residual-adapter"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        hl_graph *g = adapted(texts[i], false);
        cr_expect_eq(units_of(g, HL_OP_NORM), 1, "%s: %d norms", texts[i], units_of(g, HL_OP_NORM));
        cr_expect_eq(units_of(g, HL_OP_ADD), 0, "%s: %d sums", texts[i], units_of(g, HL_OP_ADD));
        hl_graph_destroy(g);
    }
}

/* ---- what cannot be merged ---- */

static void export_logits(hl_graph *g, float out[BATCH * CLASSES])
{
    hl_program *p = compile(g, false, HL_ELEM_F32);
    loss(p);
    memcpy(out, hl_program_logits(p), BATCH * CLASSES * sizeof *out);
    hl_program_destroy(p);
    hl_placement_destroy(g);
}

/* A bottleneck stays behind, and so do repadapters in front of what is padded, as in ShuffleNet's depthwise
 * convolutions. */
Test(adapters, that_cannot_be_merged_are_exported_as_onnx_alone)
{
    static const char *const texts[] = {"conv-adapter", "repadapter"};
    char *folder = scratch_make(), path[4096];
    for (int i = 0; i < 2; i++) {
        float want[BATCH * CLASSES], got[BATCH * CLASSES];
        const hl_model_options options = {
            .name = "shufflenet_v2_x0_5", .classes = CLASSES, .image_size = 32, .seed = 1};
        hl_model *model, *again;
        cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_model_apply_method(model, texts[i], HL_NORM_DEFAULT, 1), HL_OK, "%s",
                     hl_last_error());
        for (size_t k = 0; k < model->graph->param_count; k++)
            for (int64_t j = 0;
                 model->graph->params[k]->role == HL_PARAM_ADAPTER && j < model->graph->params[k]->count; j++)
                model->graph->params[k]->host[j] += 0.01f * (float)(j % 7 - 3);
        snprintf(path, sizeof path, "%s/adapter.safetensors", folder);
        cr_assert_eq(hl_model_save_adapter(model, path), HL_OK, "%s", hl_last_error());
        const hl_model_options from_run = {.init_from = folder};
        cr_assert_eq(hl_model_create(&from_run, &again), HL_E_ARG);
        cr_assert_not_null(strstr(hl_last_error(), "cannot be merged"), "%s", hl_last_error());
        cr_assert_eq(hl_method_merge(model->graph), HL_OK, "%s", hl_last_error());
        snprintf(path, sizeof path, "%s/a.safetensors", folder);
        cr_assert_eq(hl_model_export(model, path), HL_E_UNSUPPORTED);
        cr_assert_not_null(strstr(hl_last_error(), "cannot be merged"), "%s", hl_last_error());
        cr_assert_not_null(strstr(hl_last_error(), ".onnx"), "%s", hl_last_error());
        snprintf(path, sizeof path, "%s/a.onnx", folder);
        cr_assert_eq(hl_model_export(model, path), HL_OK, "%s", hl_last_error());
        const hl_model_options from_file = {.name = path, .image_size = 32};
        cr_assert_eq(hl_model_create(&from_file, &again), HL_OK, "%s", hl_last_error());
        export_logits(model->graph, want);
        export_logits(again->graph, got);
        expect_near(texts[i], got, want);
        hl_model_destroy(model);
        hl_model_destroy(again);
    }
    scratch_remove(folder);
}
