/* Methods that change weights as a whole: what they train, that they start as the network they are given, and
 * that they compute the same as layers beside it and as merged weights, with groups, depthwise, strides,
 * dilation and paddings that differ by side. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "graph/program.h"
#include "method/eigen.h"
#include "method/method.h"
#include "models/registry.h"
#include "support/device.h"
#include "support/formula.h"

enum { BATCH = 2, CLASSES = 5 };

static void apply(hl_graph *graph, const char *text)
{
    hl_method method;
    cr_assert_eq(hl_method_parse(text, &method), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 7), HL_OK, "%s", hl_last_error());
}

static hl_graph *zoo_graph(const char *model, int64_t size)
{
    const hl_model_info *info;
    hl_graph *graph;
    cr_assert_eq(hl_model_find(model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, size, CLASSES, &graph), HL_OK, "%s", hl_last_error());
    return graph;
}

/* ---- what is trained ---- */

/* Trained values but for the head. */
static int64_t trained(const hl_graph *graph)
{
    int64_t count = 0;
    for (size_t i = 0; i < graph->param_count; i++)
        count += graph->params[i]->trained && !graph->params[i]->head ? graph->params[i]->count : 0;
    return count;
}

/* Those of torchvision's network in peft and microsoft/LoRA; rank 4 of gates: 4 times the sum of O + I/G. */
Test(weight_methods, trained_parameters_of_resnet50)
{
    static const struct {
        const char *method;
        int64_t count;
    } rows[] = {{"lora:r=8,alpha=16", 635544}, {"lora:r=8,spatial=1", 302080},
                {"dora:r=8", 662104},          {"loha:r=8", 1271088},
                {"lokr:r=8", 63392},           {"convlora:r=8", 901784},
                {"piggyback", 23454912},       {"atoms:m=9", 1737},
                {"projection:rank=4", 196364}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_graph *graph = zoo_graph("resnet50", 32);
        apply(graph, rows[i].method);
        cr_assert_eq(trained(graph), rows[i].count, "%s: %lld", rows[i].method, (long long)trained(graph));
        hl_graph_destroy(graph);
    }
}

Test(weight_methods, options_of_low_rank_gates_that_mean_nothing_are_refused)
{
    static const char *const texts[] = {"projection:rank=2,l1=0.1", "projection:rank=2,init-noise=0.1",
                                        "piggyback:init=0.001"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        hl_graph *graph = zoo_graph("squeezenet1_1", 64);
        hl_method method;
        cr_assert_eq(hl_method_parse(texts[i], &method), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 7), HL_E_ARG, "%s", texts[i]);
        hl_graph_destroy(graph);
    }
}

/* ---- what is computed ---- */

/* Every kind of convolution, and linear layers as a 1x1. `beside`: each convolution has the layers of LoRA of
 * rank 2 beside it, as layers. */
static const struct {
    const char *name;
    hl_conv_spec spec;
} layers[] = {
    {"stem", {.out = 8, .kernel = 3, .stride = 2, .padding_same = true}},
    {"dilated", {.out = 12, .kernel = 3, .padding = 2, .dilation = 2, .bias = true}},
    {"grouped", {.out = 8, .kernel = 3, .padding = 2, .dilation = 2, .groups = 4}},
    {"depthwise", {.out = 8, .kernel = 5, .stride = 2, .groups = 8, .padding_same = true}},
    {"wide", {.out = 10, .kernel_h = 1, .kernel_w = 3, .padding_w = 1}},
    {"point", {.out = 16}},
};
enum { LAYERS = sizeof layers / sizeof *layers, SIDE = 15, RANK = 2 };

static hl_graph *small_graph(bool beside)
{
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, SIDE, SIDE, 3);
    for (int i = 0; i < LAYERS; i++) {
        hl_conv_spec a = layers[i].spec, b = {.out = layers[i].spec.out, .groups = layers[i].spec.groups};
        hl_value y = hl_graph_conv(g, layers[i].name, x, layers[i].spec);
        if (beside) {
            a.out = RANK * (a.groups > 1 ? a.groups : 1);
            a.bias = false;
            hl_value z = hl_graph_conv(g, hl_graph_name(g, "%s.A", layers[i].name), x, a);
            z = hl_graph_conv(g, hl_graph_name(g, "%s.B", layers[i].name), z, b);
            y = hl_graph_add(g, hl_graph_name(g, "%s.sum", layers[i].name), y, z);
        }
        y = hl_graph_norm(g, hl_graph_name(g, "%s.bn", layers[i].name), y, 1e-5f, 0.1f);
        x = hl_graph_act(g, hl_graph_name(g, "%s.act", layers[i].name), y, HL_ACT_SILU);
    }
    x = hl_graph_head(g, "fc", hl_graph_global_pool(g, "pool", x), CLASSES);
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    formula_fill(g);
    return g;
}

/* Away from the start: what is trained moves a little. Masks lose every third weight. */
static void disturb(hl_graph *graph)
{
    for (size_t i = 0; i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        hl_rng rng = hl_rng_make(5, HL_STREAM_TEST, (uint32_t)i, 0);
        if (hl_param_is_base(p) || !p->trained)
            continue;
        for (int64_t k = 0; k < p->count; k++)
            if (p->role == HL_PARAM_MASK)
                p->host[k] = k % 3 == 1 ? 0.0f : p->host[k];
            else
                p->host[k] += 0.2f * hl_rng_normal(&rng);
    }
}

typedef struct outcome {
    float logits[BATCH * CLASSES];
    hl_graph *graph; /* placed, with gradients where it was trained */
    hl_backend *backend;
    hl_program *program;
} outcome;

static hl_run_state run_state = {.grad_scale = 1.0f};

static outcome compute(hl_graph *graph, int64_t side, bool training)
{
    outcome r = {.graph = graph, .backend = test_backend(1)};
    hl_backend *backend = r.backend;
    const hl_compile_options options = {.batch = BATCH,
                                        .raw_input = true,
                                        .training = training,
                                        .projection = HL_PROJECTION_FOLD,
                                        .run = &run_state};
    cr_assert_eq(hl_graph_place(graph, backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_compile(graph, backend, &options, &r.program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK); /* its memory is cleared */
    formula_images(hl_program_images(r.program), BATCH * side * side * 3);
    formula_labels(hl_program_labels(r.program), BATCH, CLASSES);
    cr_assert_eq(hl_program_forward(r.program), HL_OK, "%s", hl_last_error());
    if (training)
        cr_assert_eq(hl_program_backward(r.program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
    memcpy(r.logits, hl_program_logits(r.program), sizeof r.logits);
    return r;
}

static void drop(outcome *r)
{
    hl_program_destroy(r->program);
    hl_graph_destroy(r->graph);
    hl_backend_close(r->backend);
}

/* Two ways of computing the same in fp32, within 2^-24 for each of a few hundred roundings in a row. */
static void expect_near(const char *what, const float *got, const float *want, int64_t count)
{
    double scale = 0.0;
    for (int64_t i = 0; i < count; i++)
        scale = fmax(scale, fabs((double)want[i]));
    cr_assert_gt(scale, 0.0, "%s is 0", what);
    for (int64_t i = 0; i < count; i++)
        cr_assert(fabs((double)got[i] - (double)want[i]) <= 2e-5 * scale, "%s[%lld]: %g, not %g", what,
                  (long long)i, (double)got[i], (double)want[i]);
}

static const char *const methods[] = {"lora:r=3",          "dora:r=3",     "loha:r=2",       "lokr:r=1",
                                      "lokr:r=64",         "convlora:r=2", "piggyback",      "atoms:m=4",
                                      "projection:rank=2", "atoms:m=25",   "lora:spatial=1", "dora:scope=g*"};
enum { METHODS = sizeof methods / sizeof *methods };

Test(weight_methods, step_0_is_the_network_that_was_given)
{
    outcome plain = compute(small_graph(false), SIDE, false);
    for (int i = 0; i < METHODS; i++) {
        hl_graph *graph = small_graph(false);
        apply(graph, methods[i]);
        outcome changed = compute(graph, SIDE, false);
        /* Only lengths are not the same numbers everywhere: they are sums, in a backend's order. */
        if (plain.backend->host_memory || strncmp(methods[i], "dora", 4) != 0)
            cr_assert_eq(memcmp(changed.logits, plain.logits, sizeof plain.logits), 0, "%s", methods[i]);
        else
            expect_near(methods[i], changed.logits, plain.logits, BATCH * CLASSES);
        drop(&changed);
    }
    drop(&plain);
}

Test(weight_methods, merged_weights_give_the_same_logits_with_groups_and_dilation)
{
    outcome plain = compute(small_graph(false), SIDE, false);
    for (int i = 0; i < METHODS; i++) {
        hl_graph *graph = small_graph(false), *merged = small_graph(false);
        apply(graph, methods[i]);
        disturb(graph);
        apply(merged, methods[i]);
        disturb(merged);
        cr_assert_eq(hl_method_merge(merged), HL_OK, "%s", hl_last_error());
        for (size_t p = 0; p < merged->param_count; p++)
            cr_assert(hl_param_is_base(merged->params[p]), "%s is still there", merged->params[p]->name);
        outcome a = compute(graph, SIDE, false), b = compute(merged, SIDE, false);
        expect_near(methods[i], b.logits, a.logits, BATCH * CLASSES);
        cr_assert_neq(memcmp(a.logits, plain.logits, sizeof a.logits), 0, "%s changes nothing", methods[i]);
        drop(&a);
        drop(&b);
    }
    drop(&plain);
}

static void copy_values(hl_graph *from, const char *name, hl_graph *to, const char *to_name, float factor)
{
    const hl_param *p = hl_graph_find_param(from, name);
    hl_param *q = hl_graph_find_param(to, to_name);
    cr_assert(p != NULL && q != NULL && p->count == q->count, "%s, %s", name, to_name);
    q->trained = true;
    for (int64_t i = 0; i < p->count; i++)
        q->host[i] = factor * p->host[i];
}

static void expect_gradient(const outcome *lora, const char *name, const outcome *beside,
                            const char *beside_name, float factor)
{
    const hl_param *p = hl_graph_find_param(lora->graph, name),
                   *q = hl_graph_find_param(beside->graph, beside_name);
    float *want = malloc((size_t)p->count * sizeof *want);
    for (int64_t i = 0; i < p->count; i++)
        want[i] = factor * q->grad[i];
    expect_near(name, p->grad, want, p->count);
    free(want);
}

/* On depthwise, grouped and dilated layers, where LoRA of other libraries raises, or forgets the dilation. */
Test(weight_methods, lora_is_two_convolutions_beside_each)
{
    const float scale = 16.0f / RANK;
    hl_graph *graph = small_graph(false), *with_layers = small_graph(true);
    apply(graph, "lora:r=2,alpha=16");
    disturb(graph);
    for (size_t i = 0; i < with_layers->param_count; i++)
        with_layers->params[i]->trained = with_layers->params[i]->head;
    char names[LAYERS][4][64];
    for (int i = 0; i < LAYERS; i++) {
        static const char *const suffixes[] = {"lora_A.weight", "A.weight", "lora_B.weight", "B.weight"};
        for (int k = 0; k < 4; k++)
            snprintf(names[i][k], sizeof names[i][k], "%s.%s", layers[i].name, suffixes[k]);
        copy_values(graph, names[i][0], with_layers, names[i][1], 1.0f);
        copy_values(graph, names[i][2], with_layers, names[i][3], scale);
    }
    outcome lora = compute(graph, SIDE, true), beside = compute(with_layers, SIDE, true);
    expect_near("logits", lora.logits, beside.logits, BATCH * CLASSES);
    for (int i = 0; i < LAYERS; i++) {
        expect_gradient(&lora, names[i][0], &beside, names[i][1], 1.0f);
        expect_gradient(&lora, names[i][2], &beside, names[i][3], scale);
    }
    drop(&lora);
    drop(&beside);
}

Test(weight_methods, lora_trains_depthwise_layers_of_mobilenet_v2)
{
    hl_graph *graph = zoo_graph("mobilenet_v2", 32);
    formula_fill(graph);
    apply(graph, "lora:r=8,spatial=1");
    disturb(graph);
    outcome r = compute(graph, 32, true);
    int layers_trained = 0;
    for (size_t i = 0; i < graph->param_count; i++) {
        const hl_param *p = graph->params[i];
        double norm = 0.0;
        if (p->head || !p->trained)
            continue;
        for (int64_t k = 0; k < p->count; k++)
            norm += (double)p->grad[k] * (double)p->grad[k];
        cr_assert(isfinite(norm) && norm > 0.0, "d %s: %g", p->name, norm);
        layers_trained++;
    }
    cr_assert_eq(layers_trained, 2 * 17);
    drop(&r);
}

/* ---- atoms ---- */

Test(atoms, eigenvectors_are_orthonormal_and_ordered)
{
    enum { N = 7 };
    double a[N * N], copy[N * N], v[N * N], before = INFINITY;
    hl_rng rng = hl_rng_make(9, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= i; j++)
            a[i * N + j] = a[j * N + i] = (double)hl_rng_normal(&rng);
    memcpy(copy, a, sizeof a);
    hl_symmetric_eigenvectors(a, N, v);
    for (int i = 0; i < N; i++) {
        double image[N] = {0}, value = 0.0;
        for (int j = 0; j < N; j++) {
            double product = 0.0;
            for (int k = 0; k < N; k++) {
                product += v[i * N + k] * v[j * N + k];
                image[j] += copy[j * N + k] * v[i * N + k];
            }
            cr_assert_float_eq(product, i == j ? 1.0 : 0.0, 1e-12);
        }
        for (int j = 0; j < N; j++)
            value += image[j] * v[i * N + j];
        for (int j = 0; j < N; j++)
            cr_assert_float_eq(image[j], value * v[i * N + j], 1e-10);
        cr_assert_leq(value, before);
        before = value;
    }
}

/* alpha fits W best: with as many atoms as a kernel has weights exactly, up to float's rounding of alpha. */
Test(atoms, as_many_as_weights_of_a_kernel_hold_all_of_it)
{
    hl_graph *graph = small_graph(false);
    apply(graph, "atoms:m=9");
    const hl_param *w = hl_graph_find_param(graph, "dilated.weight"),
                   *alpha = hl_graph_find_param(graph, "dilated.alpha"),
                   *atoms = hl_graph_find_param(graph, "dilated.atoms");
    cr_assert(alpha != NULL && !alpha->trained && atoms->trained && atoms->count == 81);
    for (int64_t row = 0; row < w->count / 9; row++) {
        double all = 0.0, held = 0.0;
        for (int k = 0; k < 9; k++) {
            all += pow((double)w->host[row * 9 + k], 2.0);
            held += pow((double)alpha->host[row * 9 + k], 2.0);
        }
        cr_assert_float_eq(held, all, 1e-6 * all);
    }
    hl_graph_destroy(graph);
}
