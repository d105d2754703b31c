/* Depthwise convolution kernels against plain loops in double: with small
 * integers exactly, with fractions within rounding; every element type, in
 * three orders of threads. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_conv.h"
#include "support/ref_ops.h"

typedef struct problem {
    const char *name;
    int64_t n, h, w;
    hl_window window; /* kh, kw, sh, sw, dh, dw, top, bottom, left, right */
} problem;

static const problem problems[] = {
    {"3x3", 2, 9, 11, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"3x3 without padding", 1, 4, 12, {3, 3, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"3x3 stride 2", 2, 10, 9, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"3x3 stride 2, padded on one side", 2, 8, 10, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"5x5", 1, 7, 6, {5, 5, 1, 1, 1, 1, 2, 2, 2, 2}},
    {"5x5 stride 2, uneven padding", 1, 12, 10, {5, 5, 2, 2, 1, 1, 1, 2, 1, 2}},
    {"5x5 stride 2, wide padding", 1, 3, 9, {5, 5, 2, 2, 1, 1, 2, 2, 4, 4}},
    {"3x3 stride 3", 1, 10, 8, {3, 3, 3, 3, 1, 1, 1, 1, 1, 1}},
    {"3x3 dilated", 1, 8, 7, {3, 3, 1, 1, 2, 2, 2, 2, 2, 2}},
    {"3x3 dilated along columns, stride 2 along rows", 1, 9, 8, {3, 3, 1, 2, 2, 1, 2, 2, 1, 1}},
    {"3x3 on one pixel", 2, 1, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"5x5 stride 2 on one pixel", 1, 1, 1, {5, 5, 2, 2, 1, 1, 2, 2, 2, 2}},
    {"7x7", 1, 3, 10, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}},
    {"7x7 larger than the image", 1, 4, 5, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}},
    {"1x1 stride 2", 1, 5, 4, {1, 1, 2, 2, 1, 1, 0, 0, 0, 0}},
    {"1x5", 1, 3, 9, {1, 5, 1, 1, 1, 1, 0, 0, 2, 2}},
    {"9x3", 1, 9, 5, {9, 3, 1, 1, 1, 1, 4, 4, 1, 1}},
    {"3x3 over many rows", 6, 9, 17, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
};
static const int64_t channel_counts[] = {1, 3, 8, 12, 17, 40};

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* One problem with its operands in double; what is stored in `elem` is rounded
 * to it. */
typedef struct operands {
    char name[160];
    ref_conv conv;
    hl_elem elem;
    int64_t xs, ys, ws, taps;
    double *x, *y, *w, *packed; /* w as [C, window], packed as [window, C] */
} operands;

static double *values(int64_t count, hl_elem elem, bool integers, uint32_t stream)
{
    double *v = random_doubles(count, integers ? -2.49 : -1.0, integers ? 2.49 : 1.0, elem, stream);
    for (int64_t i = 0; i < count && integers; i++)
        v[i] = (double)(int)(v[i] + (v[i] < 0.0 ? -0.5 : 0.5));
    return v;
}

static operands make(const problem *p, int64_t channels, hl_elem elem, bool integers)
{
    operands o = {.elem = elem};
    snprintf(o.name, sizeof o.name, "%s, %lld channels, element type %d", p->name, (long long)channels,
             (int)elem);
    o.conv = ref_conv_make((hl_shape){p->n, p->h, p->w, channels}, channels, channels, p->window);
    o.taps = p->window.kh * p->window.kw;
    o.xs = hl_shape_count(o.conv.x);
    o.ys = hl_shape_count(o.conv.y);
    o.ws = o.taps * channels;
    o.x = values(o.xs, elem, integers, 1);
    o.y = values(o.ys, elem, integers, 2);
    o.w = values(o.ws, elem, integers, 3);
    o.packed = doubles(o.ws);
    for (int64_t i = 0; i < o.ws; i++)
        o.packed[i % o.taps * channels + i / o.taps] = o.w[i];
    return o;
}

static void drop(operands *o)
{
    free(o->x);
    free(o->y);
    free(o->w);
    free(o->packed);
}

static hl_depthwise_args args_of(const operands *o)
{
    return (hl_depthwise_args){.x = o->conv.x, .y = o->conv.y, .window = o->conv.window};
}

static double *fetch(const void *buffer, int64_t count, hl_elem elem)
{
    double *values = doubles(count);
    kernel_get(buffer, count, elem, values);
    return values;
}

static void compare(const operands *o, bool integers, double *got, const double *want, int64_t count,
                    hl_elem elem, double scale, double operations)
{
    if (integers)
        expect_same(o->name, got, want, count);
    else
        expect_close(o->name, elem, got, want, count, scale, operations);
    free(got);
}

typedef void (*check)(const operands *o, bool integers);

static void every_problem(check run)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t c = 0; c < COUNT(channel_counts); c++)
            for (size_t e = 0; e < COUNT(kernel_elems); e++)
                for (int integers = 0; integers < 2; integers++) {
                    if (!kernel_takes_case(53))
                        continue;
                    operands o = make(&problems[p], channel_counts[c], kernel_elems[e], integers == 1);
                    run(&o, integers == 1);
                    drop(&o);
                }
}

/* ---- forward ---- */

typedef struct extras {
    hl_act act;
    const double *bias, *residual; /* NULL: none */
    hl_elem bias_elem;
    bool in_place; /* y is the residual's memory */
} extras;

static double *forward(const operands *o, const extras *e)
{
    kernel_rig r = {0};
    hl_depthwise_args args = args_of(o);
    void *x = kernel_input(&r, o->xs, o->elem, o->x), *w = kernel_input(&r, o->ws, o->elem, o->packed);
    void *bias = e->bias != NULL ? kernel_input(&r, o->conv.x.c, e->bias_elem, e->bias) : NULL;
    void *residual = e->residual != NULL ? kernel_input(&r, o->ys, o->elem, e->residual) : NULL;
    void *y = e->in_place ? residual : kernel_output(&r, o->ys, o->elem);
    KERNEL_RUN(&r, hl_launch_depthwise(&args, x, w, bias, e->bias_elem, residual, e->act, y, o->elem, NULL));
    double *got = fetch(y, o->ys, o->elem);
    kernel_rig_clear(&r);
    return got;
}

static void check_forward(const operands *o, bool integers)
{
    double *want = doubles(o->ys);
    ref_conv_forward(&o->conv, o->x, o->w, want);
    extras none = {.act = HL_ACT_NONE, .bias_elem = HL_ELEM_F32};
    compare(o, integers, forward(o, &none), want, o->ys, o->elem, (double)o->taps, (double)o->taps);
    free(want);
}

Test(depthwise, forward_is_the_plain_sum_over_windows)
{
    every_problem(check_forward);
}

static void check_fused(const operands *o, hl_act act, bool in_place)
{
    double *want = doubles(o->ys), *bias = random_doubles(o->conv.x.c, -1.0, 1.0, HL_ELEM_F32, 7);
    ref_conv_forward(&o->conv, o->x, o->w, want);
    for (int64_t i = 0; i < o->ys; i++)
        want[i] = ref_act(act, want[i] + bias[i % o->conv.x.c] + o->y[i]);
    extras e = {.act = act, .bias = bias, .residual = o->y, .bias_elem = HL_ELEM_F32, .in_place = in_place};
    /* No activation's slope exceeds 1.13; its own arithmetic is a few roundings
     * more. */
    double terms = (double)o->taps + 2.0;
    compare(o, false, forward(o, &e), want, o->ys, o->elem, terms, 1.13 * terms + 16.0);
    free(want);
    free(bias);
}

Test(depthwise, bias_residual_and_activation_are_fused)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            for (int64_t channels = 8; channels <= 17; channels += 9)
                if (kernel_takes_case(53)) {
                    operands o = make(&problems[p], channels, kernel_elems[e], false);
                    check_fused(&o, HL_ACT_SILU, false);
                    check_fused(&o, HL_ACT_RELU6, true);
                    drop(&o);
                }
}

Test(depthwise, bias_may_have_the_type_of_the_tensors)
{
    for (size_t e = 0; e < COUNT(kernel_elems); e++) {
        operands o = make(&problems[0], 16, kernel_elems[e], true);
        double *want = doubles(o.ys), *bias = values(16, kernel_elems[e], true, 8);
        ref_conv_forward(&o.conv, o.x, o.w, want);
        for (int64_t i = 0; i < o.ys; i++)
            want[i] += bias[i % 16];
        extras extra = {.act = HL_ACT_NONE, .bias = bias, .bias_elem = kernel_elems[e]};
        compare(&o, true, forward(&o, &extra), want, o.ys, o.elem, 0.0, 0.0);
        free(want);
        free(bias);
        drop(&o);
    }
}

/* ---- gradients ---- */

static double *data_gradient(const operands *o)
{
    kernel_rig r = {0};
    hl_depthwise_args args = args_of(o);
    void *dy = kernel_input(&r, o->ys, o->elem, o->y), *w = kernel_input(&r, o->ws, o->elem, o->packed);
    void *dx = kernel_output(&r, o->xs, o->elem);
    KERNEL_RUN(&r, hl_launch_depthwise_data(&args, dy, w, dx, o->elem, NULL));
    double *got = fetch(dx, o->xs, o->elem);
    kernel_rig_clear(&r);
    return got;
}

static void check_data(const operands *o, bool integers)
{
    double *want = doubles(o->xs);
    ref_conv_data(&o->conv, o->y, o->w, want);
    compare(o, integers, data_gradient(o), want, o->xs, o->elem, (double)o->taps, (double)o->taps);
    free(want);
}

Test(depthwise, data_gradient_is_the_plain_sum_over_outputs)
{
    every_problem(check_data);
}

static double *weight_gradient(const operands *o)
{
    kernel_rig r = {0};
    hl_depthwise_args args = args_of(o);
    void *x = kernel_input(&r, o->xs, o->elem, o->x), *dy = kernel_input(&r, o->ys, o->elem, o->y);
    void *scratch = kernel_output(&r, (int64_t)hl_depthwise_weight_scratch(&args), HL_ELEM_U8);
    void *dw = kernel_output(&r, o->ws, HL_ELEM_F32);
    KERNEL_RUN(&r, hl_launch_depthwise_weight(&args, x, dy, dw, scratch, o->elem, NULL));
    double *got = fetch(dw, o->ws, HL_ELEM_F32);
    kernel_rig_clear(&r);
    return got;
}

static void check_weight(const operands *o, bool integers)
{
    double *plain = doubles(o->ws), *want = doubles(o->ws);
    ref_conv_weight(&o->conv, o->x, o->y, plain);
    for (int64_t i = 0; i < o->ws; i++)
        want[i % o->taps * o->conv.x.c + i / o->taps] = plain[i];
    double terms = (double)(o->ys / o->conv.y.c);
    compare(o, integers, weight_gradient(o), want, o->ws, HL_ELEM_F32, terms, terms);
    free(plain);
    free(want);
}

Test(depthwise, weight_gradient_is_the_plain_sum_over_pixels)
{
    every_problem(check_weight);
}

Test(depthwise, empty_batches_leave_zero_weight_gradients)
{
    enum { WEIGHTS = 9 * 8 };
    kernel_rig r = {0};
    hl_depthwise_args args = {{0, 5, 5, 8}, {0, 5, 5, 8}, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}};
    void *empty = kernel_output(&r, 0, HL_ELEM_F32), *w = kernel_output(&r, WEIGHTS, HL_ELEM_F32);
    void *dw = kernel_output(&r, WEIGHTS, HL_ELEM_F32);
    cr_assert_eq(hl_depthwise_weight_scratch(&args), 0);
    KERNEL_RUN(&r, hl_launch_depthwise(&args, empty, w, NULL, HL_ELEM_F32, NULL, HL_ACT_NONE, empty,
                                       HL_ELEM_F32, NULL));
    KERNEL_RUN(&r, hl_launch_depthwise_data(&args, empty, w, empty, HL_ELEM_F32, NULL));
    KERNEL_RUN(&r, hl_launch_depthwise_weight(&args, empty, empty, dw, empty, HL_ELEM_F32, NULL));
    double *zeros = doubles(WEIGHTS), *got = fetch(dw, WEIGHTS, HL_ELEM_F32);
    expect_same("dw", got, zeros, WEIGHTS);
    kernel_rig_clear(&r);
    free(got);
    free(zeros);
}
