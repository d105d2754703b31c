/* Whole programs on a backend: gradients against finite differences, fold against cache, fusion against
 * none. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/dropout_mask.h"
#include "base/philox.h"
#include "graph/params.h"
#include "graph/program.h"
#include "support/device.h"

enum { BATCH = 3, SIZE = 9, CLASSES = 5 };

static hl_graph *graph;
static hl_backend *backend;
static hl_run_state run_state;
static hl_compile_options options;

static void start(void)
{
    backend = test_backend(2);
    cr_assert_eq(hl_graph_create(&graph), HL_OK);
    run_state = (hl_run_state){.seed = 5, .grad_scale = 1.0f};
    options = (hl_compile_options){
        .batch = BATCH, .training = true, .raw_input = true, .smoothing = 0.1f, .run = &run_state};
}

static void stop(void)
{
    hl_graph_destroy(graph);
    hl_backend_close(backend);
}

TestSuite(program, .init = start, .fini = stop);

static hl_value conv_norm_act(const char *name, hl_value x, hl_conv_spec spec, hl_act act)
{
    x = hl_graph_conv(graph, name, x, spec);
    x = hl_graph_norm(graph, hl_graph_name(graph, "%s.bn", name), x, 1e-5f, 0.1f);
    return act == HL_ACT_NONE ? x : hl_graph_act(graph, hl_graph_name(graph, "%s.act", name), x, act);
}

/* Norms and layer scales away from the identity. */
static void stray(void)
{
    for (size_t i = 0; i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        hl_rng rng = hl_rng_make(3, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; k < p->count; k++) {
            if (p->role == HL_PARAM_NORM_SCALE || p->role == HL_PARAM_NORM_VAR || p->role == HL_PARAM_SCALE)
                p->host[k] = 0.5f + hl_rng_uniform(&rng);
            else if (p->role != HL_PARAM_WEIGHT)
                p->host[k] = 0.2f * hl_rng_normal(&rng);
            else if (p->ndim == 2)
                p->host[k] *= 30.0f;
        }
    }
}

/* Every operation at least once: stem, inverted bottleneck with depthwise and squeeze-excite, a grouped
 * strided branch with SAME padding beside a max-pooled one, concatenation, average pooling, dropout, head. */
static void build(hl_act act, float drop)
{
    hl_value x = hl_graph_input(graph, SIZE, SIZE, 3);
    x = conv_norm_act("stem", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1}, act);
    hl_value skip = x;
    x = conv_norm_act("expand", x, (hl_conv_spec){.out = 16}, act);
    x = conv_norm_act("depthwise", x, (hl_conv_spec){.out = 16, .kernel = 3, .padding = 1, .groups = 16},
                      act);
    hl_value se = hl_graph_global_pool(graph, "se.pool", x);
    se =
        hl_graph_act(graph, "se.act",
                     hl_graph_conv(graph, "se.fc1", se, (hl_conv_spec){.out = 4, .bias = true}), HL_ACT_SILU);
    se = hl_graph_act(graph, "se.gate",
                      hl_graph_conv(graph, "se.fc2", se, (hl_conv_spec){.out = 16, .bias = true}),
                      HL_ACT_SIGMOID);
    x = hl_graph_mul(graph, "se.mul", x, se);
    x = conv_norm_act("project", x, (hl_conv_spec){.out = 8}, HL_ACT_NONE);
    x = hl_graph_act(graph, "block.act", hl_graph_add(graph, "block.add", x, skip), act);
    hl_value a = conv_norm_act(
        "grouped", x, (hl_conv_spec){.out = 12, .kernel = 5, .stride = 2, .groups = 4, .padding_same = true},
        act);
    hl_value b = hl_graph_pool(graph, "maxpool", x,
                               (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .padding = 1});
    const hl_value both[2] = {a, b};
    x = hl_graph_concat(graph, "concat", both, 2);
    x = hl_graph_pool(graph, "avgpool", x, (hl_pool_spec){.kernel = 2, .stride = 1});
    x = conv_norm_act("dilated", x,
                      (hl_conv_spec){.out = 10, .kernel = 3, .padding = 2, .dilation = 2, .bias = true}, act);
    x = hl_graph_dropout(graph, "drop", hl_graph_global_pool(graph, "pool", x), drop);
    x = hl_graph_head(graph, "head", x, CLASSES);
    cr_assert_eq(hl_graph_finish(graph, x), HL_OK, "%s", hl_last_error());
    hl_graph_init(graph, 11);
    stray();
}

/* Gates on every convolution, with values away from one. */
static void project(void)
{
    size_t nodes = graph->node_count;
    for (size_t v = 0; v < nodes; v++) {
        hl_node *node = graph->nodes[v];
        if (node->op != HL_OP_CONV)
            continue;
        hl_param *gate = hl_graph_add_param(graph, hl_graph_name(graph, "%s.gate", node->name), HL_PARAM_GATE,
                                            2, node->expr.weight->shape);
        hl_rng rng = hl_rng_make(4, HL_STREAM_TEST, (uint32_t)v, 0);
        for (int64_t k = 0; k < gate->count; k++)
            gate->host[k] = 0.3f * hl_rng_normal(&rng);
        gate->trained = true;
        node->expr.kind = HL_WEIGHT_GATED;
        node->expr.gate = gate;
    }
}

static void train_everything(void)
{
    for (size_t i = 0; i < graph->param_count; i++)
        graph->params[i]->trained =
            !hl_param_is_statistic(graph->params[i]) && graph->params[i]->role != HL_PARAM_GATE;
}

static void place(void)
{
    cr_assert_eq(hl_graph_place(graph, backend), HL_OK, "%s", hl_last_error());
}

static void finish(void)
{
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
}

static hl_program *compile(void)
{
    hl_program *p;
    cr_assert_eq(hl_program_compile(graph, backend, &options, &p), HL_OK, "%s", hl_last_error());
    finish(); /* its memory is cleared */
    float *x = hl_program_images(p);
    hl_rng rng = hl_rng_make(9, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < BATCH * SIZE * SIZE * 3; i++)
        x[i] = hl_rng_normal(&rng);
    for (int n = 0; n < BATCH; n++)
        hl_program_labels(p)[n] = (2 * n + 1) % CLASSES;
    return p;
}

static double loss(hl_program *p)
{
    cr_assert_eq(hl_program_refresh(p), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_forward(p), HL_OK, "%s", hl_last_error());
    finish();
    double sum = 0;
    for (int n = 0; n < BATCH; n++)
        sum += (double)hl_program_losses(p)[n];
    return sum / BATCH;
}

static void run_backward(hl_program *p)
{
    cr_assert_eq(hl_program_backward(p), HL_OK, "%s", hl_last_error());
    finish();
}

/* Along a random unit direction of each trained parameter: central differences with steps e and 2e,
 * extrapolated to (4 D(e) - D(2e)) / 3, against <grad, d>. Steps are small because max pooling has kinks:
 * with e = 0.0025 the rounding of two f32 losses of order one, 2e-7 each, gives 4e-7 / (2 * 0.0025) * 5/3
 * = 1.3e-4 if they were exact but for their last bit; the layers before add a few more, hence 1e-3 + 1 %. */
static double loss_at(hl_program *p, hl_param *param, const float *start, const float *direction, float step)
{
    for (int64_t i = 0; i < param->count; i++)
        param->value[i] = start[i] + step * direction[i];
    return loss(p);
}

static double slope(hl_program *p, hl_param *param, const float *start, const float *direction)
{
    const float e = 0.0025f;
    double near = (loss_at(p, param, start, direction, e) - loss_at(p, param, start, direction, -e)) /
                  (2.0 * (double)e);
    double far = (loss_at(p, param, start, direction, 2 * e) - loss_at(p, param, start, direction, -2 * e)) /
                 (4.0 * (double)e);
    loss_at(p, param, start, direction, 0.0f);
    return (4.0 * near - far) / 3.0;
}

static void check_gradients(hl_program *p)
{
    loss(p);
    run_backward(p);
    const hl_placement *placed = graph->placement;
    size_t bytes = (size_t)placed->count * sizeof(float);
    float *grads = malloc(bytes), *start = malloc(bytes), *direction = malloc(bytes);
    memcpy(grads, placed->grads, bytes);
    memcpy(start, placed->values, bytes);
    cr_assert_gt(placed->trained_count, 0);
    for (int t = 0; t < placed->trained_count; t++) {
        hl_param *param = placed->trained[t];
        hl_rng rng = hl_rng_make(21, HL_STREAM_TEST, (uint32_t)t, 0);
        double norm = 0, expected = 0;
        for (int64_t i = 0; i < param->count; i++) {
            direction[i] = hl_rng_normal(&rng);
            norm += (double)direction[i] * (double)direction[i];
        }
        norm = sqrt(norm);
        for (int64_t i = 0; i < param->count; i++) {
            direction[i] = (float)((double)direction[i] / norm);
            expected += (double)direction[i] * (double)grads[placed->first[t] + i];
        }
        double measured = slope(p, param, start + placed->first[t], direction);
        cr_assert(isfinite(expected) && fabs(measured - expected) <= 1e-3 + 0.01 * fabs(expected),
                  "%s: measured %g, derived %g", param->name, measured, expected);
    }
    free(grads);
    free(start);
    free(direction);
}

Test(program, gradients_of_all_weights_are_those_of_finite_differences)
{
    build(HL_ACT_SILU, 0.0f);
    train_everything();
    place();
    hl_program *p = compile();
    check_gradients(p);
    hl_program_destroy(p);
}

Test(program, gradients_with_batch_statistics_are_those_of_finite_differences)
{
    build(HL_ACT_GELU, 0.3f);
    train_everything();
    for (size_t v = 0; v < graph->node_count; v++)
        graph->nodes[v]->batch_statistics = graph->nodes[v]->op == HL_OP_NORM;
    place();
    hl_program *p = compile();
    check_gradients(p);
    hl_program_destroy(p);
}

Test(program, gate_gradients_are_those_of_finite_differences_in_every_way_of_computing)
{
    build(HL_ACT_SILU, 0.0f);
    project();
    place();
    for (int exec = HL_PROJECTION_AUTO; exec <= HL_PROJECTION_CACHE; exec++) {
        options.projection = (hl_projection_exec)exec;
        hl_program *p = compile();
        check_gradients(p);
        hl_program_destroy(p);
    }
}

static float largest(const float *values, int64_t count)
{
    float most = 0.0f;
    for (int64_t i = 0; i < count; i++) {
        cr_assert(isfinite(values[i]));
        most = fabsf(values[i]) > most ? fabsf(values[i]) : most;
    }
    return most;
}

/* Sums of at most 400 products of order one in f32, reordered: 400 * 2^-24 = 2.4e-5 of the largest. */
static void assert_close(const float *a, const float *b, int64_t count, const char *what)
{
    float scale = largest(b, count);
    for (int64_t i = 0; i < count; i++)
        cr_assert(fabsf(a[i] - b[i]) <= 5e-5f * scale, "%s[%lld]: %g against %g", what, (long long)i,
                  (double)a[i], (double)b[i]);
}

Test(program, fold_and_cache_agree_on_logits_and_gate_gradients)
{
    build(HL_ACT_RELU6, 0.0f);
    project();
    place();
    const hl_placement *placed = graph->placement;
    size_t bytes = (size_t)placed->count * sizeof(float);
    float logits[BATCH * CLASSES], *grads = malloc(bytes);
    options.projection = HL_PROJECTION_FOLD;
    hl_program *p = compile();
    loss(p);
    run_backward(p);
    memcpy(logits, hl_program_logits(p), sizeof logits);
    memcpy(grads, placed->grads, bytes);
    hl_program_destroy(p);
    options.projection = HL_PROJECTION_CACHE;
    p = compile();
    memset(placed->grads, 0, bytes);
    loss(p);
    run_backward(p);
    assert_close(hl_program_logits(p), logits, BATCH * CLASSES, "logits");
    for (int t = 0; t < placed->trained_count; t++)
        assert_close(placed->grads + placed->first[t], grads + placed->first[t], placed->trained[t]->count,
                     placed->trained[t]->name);
    hl_program_destroy(p);
    free(grads);
}

/* 1 * w is w. (Recombination of cached layers adds the bias after the sum instead of before it.) */
Test(program, folded_gates_of_one_change_nothing_at_all)
{
    build(HL_ACT_RELU, 0.0f);
    options.training = false;
    place();
    hl_program *p = compile();
    float logits[BATCH * CLASSES];
    loss(p);
    memcpy(logits, hl_program_logits(p), sizeof logits);
    hl_program_destroy(p);
    hl_placement_destroy(graph);
    for (size_t i = 0; i < graph->param_count; i++)
        graph->params[i]->value = graph->params[i]->host;
    project();
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i]->role == HL_PARAM_GATE)
            memset(graph->params[i]->host, 0, (size_t)graph->params[i]->count * sizeof(float));
    place();
    p = compile();
    loss(p);
    cr_assert_arr_eq(logits, hl_program_logits(p), sizeof logits);
    hl_program_destroy(p);
}

Test(program, gradients_accumulate_when_asked_to)
{
    build(HL_ACT_RELU, 0.0f);
    train_everything();
    project();
    place();
    hl_program *p = compile();
    const hl_placement *placed = graph->placement;
    size_t bytes = (size_t)placed->count * sizeof(float);
    float *once = malloc(bytes);
    for (int64_t i = 0; i < placed->count; i++)
        placed->grads[i] = NAN; /* overwritten, never read */
    loss(p);
    run_backward(p);
    memcpy(once, placed->grads, bytes);
    run_state.grad_keep = 1.0f;
    loss(p);
    run_backward(p);
    for (int t = 0; t < placed->trained_count; t++)
        for (int64_t i = 0; i < placed->trained[t]->count; i++) {
            float g = once[placed->first[t] + i];
            cr_assert(isfinite(g), "%s", placed->trained[t]->name);
            cr_assert_float_eq(placed->grads[placed->first[t] + i], 2.0f * g, 1e-6f * fabsf(g) + 1e-12f);
        }
    free(once);
    hl_program_destroy(p);
}

Test(program, sharing_memory_by_liveness_changes_no_result)
{
    build(HL_ACT_SILU, 0.4f);
    train_everything();
    project();
    place();
    const hl_placement *placed = graph->placement;
    size_t bytes = (size_t)placed->count * sizeof(float);
    float *shared = malloc(bytes);
    hl_program *p = compile();
    loss(p);
    run_backward(p);
    size_t arena = hl_program_memory_use(p).arena;
    memcpy(shared, placed->grads, bytes);
    hl_program_destroy(p);
    options.keep_all = true;
    p = compile();
    loss(p);
    run_backward(p);
    cr_assert_arr_eq(shared, placed->grads, bytes);
    cr_assert_lt(arena, hl_program_memory_use(p).persistent);
    hl_program_destroy(p);
    free(shared);
}

Test(program, frozen_layers_before_the_first_trained_one_have_no_backward_pass)
{
    build(HL_ACT_RELU, 0.0f);
    hl_graph_find_param(graph, "head.weight")->trained = true;
    hl_graph_find_param(graph, "head.bias")->trained = true;
    place();
    hl_program *p = compile();
    int gradients = 0;
    for (int i = 0; i < hl_program_step_count(p); i++) {
        hl_step_kind kind = hl_program_step(p, i)->kind;
        gradients += kind >= HL_STEP_CONV_DATA && kind < HL_STEP_OPTIMIZE;
        cr_assert_neq(kind, HL_STEP_CONV_DATA);
    }
    cr_assert_eq(gradients, 3); /* conv_weight, weight_grad, bias_grad of the head */
    check_gradients(p);
    hl_program_destroy(p);
}

Test(program, bf16_gives_the_f32_results_within_its_precision)
{
    build(HL_ACT_RELU, 0.0f);
    project();
    place();
    hl_program *p = compile();
    loss(p);
    float logits[BATCH * CLASSES];
    memcpy(logits, hl_program_logits(p), sizeof logits);
    hl_program_destroy(p);
    options.elem = HL_ELEM_BF16;
    p = compile();
    loss(p);
    run_backward(p);
    /* Twelve layers deep, each rounding to 8 bits: 12 * 2^-8 = 5 % of the largest logit. */
    float scale = largest(logits, BATCH * CLASSES);
    for (int i = 0; i < BATCH * CLASSES; i++)
        cr_assert(fabsf(hl_program_logits(p)[i] - logits[i]) <= 0.05f * scale);
    largest(graph->placement->grads, graph->placement->count);
    hl_program_destroy(p);
}

Test(program, the_first_value_that_is_not_finite_is_named)
{
    build(HL_ACT_RELU, 0.0f);
    train_everything();
    place();
    hl_graph_find_param(graph, "project.weight")->value[0] = INFINITY;
    hl_program *p = compile();
    char name[128];
    cr_assert_eq(hl_program_forward(p), HL_OK);
    cr_assert_eq(hl_program_find_nonfinite(p, name, sizeof name), HL_OK);
    cr_assert(strncmp(name, "project (", 9) == 0, "%s", name);
    hl_program_destroy(p);
}

/* Two blocks as ConvNeXt has them. */
static void build_scaled_branches(float drop)
{
    hl_value x = hl_graph_input(graph, SIZE, SIZE, 3);
    x = hl_graph_conv(graph, "stem", x, (hl_conv_spec){.out = 8, .kernel = 2, .stride = 2, .bias = true});
    x = hl_graph_layer_norm(graph, "stem.norm", x, 1e-6f);
    for (int b = 0; b < 2; b++) {
        const char *name = hl_graph_name(graph, "block%d", b);
        hl_value y =
            hl_graph_conv(graph, hl_graph_name(graph, "%s.conv", name), x,
                          (hl_conv_spec){.out = 8, .kernel = 7, .padding = 3, .groups = 8, .bias = true});
        y = hl_graph_layer_norm(graph, hl_graph_name(graph, "%s.norm", name), y, 1e-6f);
        y = hl_graph_linear(graph, hl_graph_name(graph, "%s.wide", name), y, 16, true);
        y = hl_graph_act(graph, hl_graph_name(graph, "%s.act", name), y, HL_ACT_GELU);
        y = hl_graph_linear(graph, hl_graph_name(graph, "%s.narrow", name), y, 8, true);
        y = hl_graph_scale(graph, hl_graph_name(graph, "%s.scale", name), y);
        y = hl_graph_drop_path(graph, hl_graph_name(graph, "%s.drop", name), y, drop, 1.0f);
        x = hl_graph_add(graph, hl_graph_name(graph, "%s.add", name), y, x);
    }
    x = hl_graph_layer_norm(graph, "head.norm", hl_graph_global_pool(graph, "pool", x), 1e-6f);
    x = hl_graph_head(graph, "head", x, CLASSES);
    cr_assert_eq(hl_graph_finish(graph, x), HL_OK, "%s", hl_last_error());
    hl_graph_init(graph, 11);
    stray();
}

/* Samples that the second block keeps. */
static int kept(float drop)
{
    int count = 0;
    for (size_t v = 0; v < graph->node_count; v++)
        for (int n = 0; n < BATCH && strcmp(graph->nodes[v]->name, "block1.drop") == 0; n++)
            count += hl_dropout_keeps(
                hl_dropout_block(run_state.seed, (uint32_t)v, run_state.micro_step, n).v[n], drop);
    return count;
}

/* Layer scales on their own where they are trained, folded into the layer before where not; either way the
 * gradients of all others pass through them, and through the samples that stochastic depth has left. */
Test(program, gradients_through_layer_norms_scales_and_stochastic_depth_are_those_of_finite_differences)
{
    build_scaled_branches(0.5f);
    while (kept(0.5f) == 0 || kept(0.5f) == BATCH)
        run_state.micro_step++;
    train_everything();
    place();
    hl_program *p = compile();
    check_gradients(p);
    hl_program_destroy(p);
}

Test(program, gradients_through_folded_layer_scales_are_those_of_finite_differences)
{
    build_scaled_branches(0.0f);
    train_everything();
    for (size_t i = 0; i < graph->param_count; i++)
        graph->params[i]->trained = graph->params[i]->trained && graph->params[i]->role != HL_PARAM_SCALE;
    place();
    hl_program *p = compile();
    check_gradients(p);
    hl_program_destroy(p);
}
