/* The gate fold against hl_weight_expr_fold and hl_weight_expr_bias, bit by
 * bit: f32 results are the same numbers, 16-bit ones are those numbers rounded
 * once. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/param.h"
#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

typedef struct layer {
    int32_t outputs, inputs, kh, kw; /* inputs of a group */
    int32_t groups;                  /* for the sub-function form; 0: plain form */
    bool gate, norm, bias;
    hl_packing packing;
    hl_elem packed_elem, bias_elem;
} layer;

/* Windows of one element with and without whole vectors, windows that are
 * turned, windows too large for shared memory, depthwise, sub-functions; many
 * blocks and less than one. */
static const layer layers[] = {
    {8, 16, 1, 1, 0, true, true, false, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {5, 3, 1, 1, 0, true, true, true, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {70, 80, 1, 1, 0, true, true, true, HL_PACK_KRSC, HL_ELEM_BF16, HL_ELEM_BF16},
    {40, 128, 1, 1, 0, false, false, true, HL_PACK_KRSC, HL_ELEM_F16, HL_ELEM_F16},
    {33, 130, 1, 1, 0, true, false, false, HL_PACK_KRSC, HL_ELEM_F16, HL_ELEM_F32},
    {12, 3, 3, 3, 0, true, true, false, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {17, 40, 3, 3, 0, true, true, true, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {64, 24, 5, 5, 0, true, true, false, HL_PACK_KRSC, HL_ELEM_BF16, HL_ELEM_F32},
    {9, 3, 7, 7, 0, true, false, true, HL_PACK_KRSC, HL_ELEM_F16, HL_ELEM_F32},
    {2, 3, 12, 11, 0, true, true, true, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {40, 1, 3, 3, 0, true, true, true, HL_PACK_DEPTHWISE, HL_ELEM_F32, HL_ELEM_F32},
    {17, 1, 5, 5, 0, true, true, false, HL_PACK_DEPTHWISE, HL_ELEM_BF16, HL_ELEM_F32},
    {600, 1, 3, 3, 0, false, true, false, HL_PACK_DEPTHWISE, HL_ELEM_F16, HL_ELEM_F16},
    {3, 1, 12, 12, 0, true, false, false, HL_PACK_DEPTHWISE, HL_ELEM_F32, HL_ELEM_F32},
    {8, 1, 1, 1, 0, true, true, true, HL_PACK_DEPTHWISE, HL_ELEM_F32, HL_ELEM_F32},
    {40, 1, 3, 3, 40, true, true, true, HL_PACK_DEPTHWISE, HL_ELEM_F32, HL_ELEM_F32},
    {12, 3, 3, 3, 1, true, true, true, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
    {12, 2, 3, 3, 3, true, true, false, HL_PACK_KRSC, HL_ELEM_BF16, HL_ELEM_F32},
    {8, 3, 5, 5, 2, true, false, false, HL_PACK_DEPTHWISE, HL_ELEM_F32, HL_ELEM_F32},
    {6, 8, 1, 1, 1, true, true, false, HL_PACK_KRSC, HL_ELEM_F32, HL_ELEM_F32},
};
enum { LAYERS = sizeof layers / sizeof *layers };

/* A layer's parameters in host memory, as the reference wants them. */
typedef struct model {
    hl_param weight, gate, bias, scale, shift, mean, var;
    hl_weight_expr expr;
    int64_t window, weights;
} model;

static hl_param vector(int64_t count, double low, double high, uint32_t stream)
{
    double *v = random_doubles(count, low, high, HL_ELEM_F32, stream);
    hl_param p = {.ndim = 1, .shape = {count}, .count = count};
    p.host = malloc((size_t)count * sizeof(float));
    cr_assert_not_null(p.host);
    for (int64_t i = 0; i < count; i++)
        p.host[i] = (float)v[i];
    free(v);
    return p;
}

static void build(const layer *l, uint32_t stream, model *m)
{
    int64_t o = l->outputs, i = l->inputs;
    *m = (model){.window = (int64_t)l->kh * l->kw};
    m->weights = o * i * m->window;
    m->weight = vector(m->weights, -1.0, 1.0, stream);
    m->weight.ndim = 4;
    memcpy(m->weight.shape, (int64_t[4]){o, i, l->kh, l->kw}, sizeof m->weight.shape);
    m->gate = vector(o * i, -0.7, 0.9, stream + 1);
    m->gate.ndim = 2;
    memcpy(m->gate.shape, (int64_t[4]){o, i}, sizeof m->gate.shape);
    m->bias = vector(o, -1.0, 1.0, stream + 2);
    m->scale = vector(o, -1.5, 1.5, stream + 3);
    m->shift = vector(o, -1.0, 1.0, stream + 4);
    m->mean = vector(o, -1.0, 1.0, stream + 5);
    m->var = vector(o, 0.01, 2.0, stream + 6);
    m->expr = (hl_weight_expr){.kind = HL_WEIGHT_PLAIN, .weight = &m->weight, .eps = 1e-5f};
    if (l->gate && l->groups == 0) {
        m->expr.kind = HL_WEIGHT_GATED;
        m->expr.gate = &m->gate;
    }
    m->expr.bias = l->bias ? &m->bias : NULL;
    if (l->norm) {
        m->expr.norm_scale = &m->scale;
        m->expr.norm_shift = &m->shift;
        m->expr.norm_mean = &m->mean;
        m->expr.norm_var = &m->var;
    }
}

static void drop(model *m)
{
    float *all[] = {m->weight.host, m->gate.host, m->bias.host, m->scale.host,
                    m->shift.host,  m->mean.host, m->var.host};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static const float *host(const hl_param *p)
{
    return p != NULL ? p->host : NULL;
}

/* Parameters stay where they are, results are in the rig. The gate is handed over in sub-function form as
 * well: the kernel has to leave it out. */
static hl_fold_item item_of(kernel_rig *r, const layer *l, const model *m)
{
    hl_fold_item item = {.packing = l->packing, .subfunction_groups = l->groups};
    item.expr = (hl_expr_args){.weight = m->weight.host,
                               .gate = l->gate ? m->gate.host : NULL,
                               .bias = host(m->expr.bias),
                               .norm_scale = host(m->expr.norm_scale),
                               .norm_shift = host(m->expr.norm_shift),
                               .norm_mean = host(m->expr.norm_mean),
                               .norm_var = host(m->expr.norm_var),
                               .eps = m->expr.eps,
                               .outputs = l->outputs,
                               .inputs = l->inputs,
                               .window = (int32_t)m->window};
    item.packed_elem = l->packed_elem;
    item.bias_elem = l->bias_elem;
    item.packed = kernel_output(r, m->weights, l->packed_elem);
    item.bias = kernel_output(r, l->outputs, l->bias_elem);
    return item;
}

/* Where element t of the window of (o, i) goes, as kernels.h says. */
static int64_t place(const layer *l, const model *m, int64_t o, int64_t i, int64_t t)
{
    if (l->groups == 0)
        return l->packing == HL_PACK_KRSC ? (o * m->window + t) * l->inputs + i : t * l->outputs + o;
    int64_t outputs = l->outputs / l->groups, input = o / outputs * l->inputs + i;
    int64_t filter = input * outputs + o % outputs;
    return l->packing == HL_PACK_KRSC ? filter * m->window + t : t * l->inputs * l->groups * outputs + filter;
}

static double *packed_want(const layer *l, const model *m)
{
    double *want = doubles(m->weights);
    float *folded = malloc((size_t)m->weights * sizeof *folded);
    cr_assert_not_null(folded);
    hl_weight_expr_fold(&m->expr, 0, l->outputs, folded);
    for (int64_t o = 0; o < l->outputs; o++)
        for (int64_t i = 0; i < l->inputs; i++)
            for (int64_t t = 0; t < m->window; t++)
                want[place(l, m, o, i, t)] =
                    stored(l->packed_elem, (double)folded[(o * l->inputs + i) * m->window + t]);
    free(folded);
    return want;
}

static double *bias_want(const layer *l, const model *m)
{
    double *want = doubles(l->outputs);
    float *bias = malloc((size_t)l->outputs * sizeof *bias);
    cr_assert_not_null(bias);
    hl_weight_expr_bias(&m->expr, bias);
    for (int64_t o = 0; o < l->outputs; o++)
        want[o] = stored(l->bias_elem, (double)bias[o]);
    free(bias);
    return want;
}

static double *fetch(const void *buffer, int64_t count, hl_elem elem)
{
    double *values = doubles(count);
    kernel_get(buffer, count, elem, values);
    return values;
}

static void expect_item(const layer *l, const model *m, const hl_fold_item *item)
{
    char name[96];
    snprintf(name, sizeof name, "layer %td", l - layers);
    if (item->packed != NULL) {
        double *want = packed_want(l, m), *got = fetch(item->packed, m->weights, l->packed_elem);
        expect_same(name, got, want, m->weights);
        free(want);
        free(got);
    }
    if (item->bias != NULL) {
        double *want = bias_want(l, m), *got = fetch(item->bias, l->outputs, l->bias_elem);
        expect_same(name, got, want, l->outputs);
        free(want);
        free(got);
    }
}

static void launch(kernel_rig *r, hl_fold_item *items, int count)
{
    int64_t blocks = hl_fold_blocks(items, count);
    const hl_fold_item *list = kernel_bytes(r, items, (size_t)count * sizeof *items);
    KERNEL_RUN(r, hl_launch_fold(list, count, blocks, NULL));
}

/* Some layers in one launch. `partly`: without weights, without biases and with neither, by turns. */
static void check_layers(int first, int count, bool partly)
{
    static model models[LAYERS];
    hl_fold_item items[LAYERS];
    kernel_rig r = {0};
    for (int k = 0; k < count; k++) {
        build(&layers[first + k], (uint32_t)(10 * k), &models[k]);
        items[k] = item_of(&r, &layers[first + k], &models[k]);
        if (partly && k % 4 != 1)
            items[k].bias = NULL;
        if (partly && k % 4 != 2)
            items[k].packed = NULL;
    }
    launch(&r, items, count);
    for (int k = 0; k < count; k++) {
        expect_item(&layers[first + k], &models[k], &items[k]);
        drop(&models[k]);
    }
    kernel_rig_clear(&r);
}

Test(fold, layers_in_one_launch_equal_the_reference_bit_by_bit)
{
    check_layers(0, LAYERS / 2, false);
    check_layers(LAYERS / 2, LAYERS - LAYERS / 2, false);
}

/* Items with nothing to do come first, in the middle and last. */
Test(fold, items_may_want_weights_or_biases_alone_or_nothing)
{
    check_layers(0, 9, true);
    check_layers(9, 9, true);
}

Test(fold, norms_without_scale_and_shift_take_1_and_0)
{
    model m;
    kernel_rig r = {0};
    const layer *l = &layers[6];
    build(l, 3, &m);
    m.expr.norm_scale = m.expr.norm_shift = NULL;
    hl_fold_item item = item_of(&r, l, &m);
    launch(&r, &item, 1);
    expect_item(l, &m, &item);
    kernel_rig_clear(&r);
    drop(&m);
}

/* A layer scale: no statistics, the bias is scaled as well. */
Test(fold, a_scale_without_statistics_scales_weights_and_bias)
{
    for (int k = 0; k < 2; k++) {
        model m;
        kernel_rig r = {0};
        const layer *l = &layers[k == 0 ? 0 : 10];
        build(l, 3, &m);
        m.expr.norm_scale = &m.scale;
        m.expr.norm_shift = m.expr.norm_mean = m.expr.norm_var = NULL;
        float scale;
        hl_weight_expr_scale(&m.expr, 1, 2, &scale);
        cr_assert_eq(scale, m.scale.host[1]);
        hl_fold_item item = item_of(&r, l, &m);
        launch(&r, &item, 1);
        expect_item(l, &m, &item);
        kernel_rig_clear(&r);
        drop(&m);
    }
}

/* Vectors, windows that are turned, wide windows, depthwise; with and without bias and norm. */
Test(fold, rows_have_factors_and_offsets)
{
    static const int which[] = {0, 3, 6, 9, 10, 12};
    for (size_t k = 0; k < sizeof which / sizeof *which; k++) {
        model m;
        kernel_rig r = {0};
        const layer *l = &layers[which[k]];
        build(l, 3, &m);
        hl_param factor = vector(l->outputs, -0.7, 0.9, 21), offset = vector(l->outputs, -1.0, 1.0, 22);
        m.expr.kind = HL_WEIGHT_ROW;
        m.expr.gate = &factor;
        m.expr.offset = &offset;
        hl_fold_item item = item_of(&r, l, &m);
        item.expr.gate = NULL;
        item.expr.row_gate = factor.host;
        item.expr.offset = offset.host;
        launch(&r, &item, 1);
        expect_item(l, &m, &item);
        kernel_rig_clear(&r);
        drop(&m);
        free(factor.host);
        free(offset.host);
    }
}

Test(fold, nothing_to_fold_launches_nothing)
{
    cr_assert_eq(hl_fold_blocks(NULL, 0), 0);
    cr_assert_eq(hl_launch_fold(NULL, 0, 0, NULL), 0);
}
