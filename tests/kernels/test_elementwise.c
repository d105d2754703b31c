#include <math.h>
#include <stdlib.h>

#include "backend/dropout_mask.h"
#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_ops.h"

static const hl_act acts[] = {HL_ACT_NONE, HL_ACT_RELU,      HL_ACT_RELU6, HL_ACT_SIGMOID, HL_ACT_HARDSIGMOID,
                              HL_ACT_SILU, HL_ACT_HARDSWISH, HL_ACT_GELU,  HL_ACT_TANH};
enum { ACTS = sizeof acts / sizeof *acts };
/* Not multiples of a vector; one; none. */
static const int64_t counts[] = {0, 1, 3, 8, 127, 1031};
enum { COUNTS = sizeof counts / sizeof *counts };

static void expect_sum(hl_act act, hl_elem elem, int64_t count, int terms)
{
    kernel_rig r = {0};
    hl_terms list = {.count = terms};
    double *x[3], *want = doubles(count + 1), *got = doubles(count + 1);
    for (int k = 0; k < terms; k++) {
        x[k] = random_doubles(count + 1, -7.0, 7.0, elem, (uint32_t)k + 1);
        list.term[k] = kernel_input(&r, count, elem, x[k]);
    }
    void *y = kernel_output(&r, count, elem);
    KERNEL_RUN(&r, hl_launch_add(act, list, y, elem, count, NULL));
    kernel_get(y, count, elem, got);
    for (int64_t i = 0; i < count; i++) {
        double sum = 0.0;
        for (int k = 0; k < terms; k++)
            sum += x[k][i];
        want[i] = ref_act(act, sum);
    }
    /* Sums up to 21, some ten roundings in the activation, whose slope is at most 1.13. */
    expect_close(ref_act_name(act), elem, got, want, count, 21.0, 16.0);
    for (int k = 0; k < terms; k++)
        free(x[k]);
    free(want);
    free(got);
    kernel_rig_clear(&r);
}

Test(elementwise, sums_with_every_activation)
{
    for (int a = 0; a < ACTS; a++)
        for (int e = 0; e < 3; e++)
            for (int c = 0; c < COUNTS; c++)
                if (kernel_takes_case(13))
                    expect_sum(acts[a], kernel_elems[e], counts[c], 1 + c % 3);
}

Test(elementwise, a_sum_may_overwrite_a_term)
{
    kernel_rig r = {0};
    double x[40], got[40], want[40];
    for (int i = 0; i < 40; i++) {
        x[i] = i - 20;
        want[i] = i < 20 ? 0.0 : 2.0 * x[i];
    }
    void *a = kernel_input(&r, 40, HL_ELEM_BF16, x);
    KERNEL_RUN(&r, hl_launch_add(HL_ACT_RELU, (hl_terms){{a, a}, 2}, a, HL_ELEM_BF16, 40, NULL));
    kernel_get(a, 40, HL_ELEM_BF16, got);
    expect_same("in place", got, want, 40);
    kernel_rig_clear(&r);
}

static void expect_slope(hl_act act, hl_elem elem, int64_t count)
{
    kernel_rig r = {0};
    double *v = random_doubles(count + 1, -7.0, 7.0, elem, 1),
           *g = random_doubles(count + 1, -2.0, 2.0, elem, 2),
           *h = random_doubles(count + 1, -2.0, 2.0, elem, 3), *want = doubles(count + 1),
           *got = doubles(count + 1);
    for (int64_t i = 0; i < count; i++) {
        double x = v[i];
        if (hl_act_from_output(act))
            v[i] = stored(elem, ref_act(act, x));
        double slope = act == HL_ACT_SIGMOID ? v[i] * (1.0 - v[i])
                       : act == HL_ACT_TANH  ? 1.0 - v[i] * v[i]
                                             : ref_act_slope(act, x);
        if (act == HL_ACT_RELU6 && (v[i] <= 0.0 || v[i] >= 6.0))
            slope = 0.0;
        want[i] = slope * (g[i] + h[i]);
    }
    void *operand = act == HL_ACT_NONE ? NULL : kernel_input(&r, count, elem, v);
    hl_terms terms = {{kernel_input(&r, count, elem, g), kernel_input(&r, count, elem, h)}, 2};
    void *out = kernel_output(&r, count, elem);
    KERNEL_RUN(&r, hl_launch_act_grad(act, operand, terms, out, elem, count, NULL));
    kernel_get(out, count, elem, got);
    expect_close(ref_act_name(act), elem, got, want, count, 4.0 * 8.0, 16.0);
    free(v);
    free(g);
    free(h);
    free(want);
    free(got);
    kernel_rig_clear(&r);
}

Test(elementwise, gradients_of_every_activation)
{
    for (int a = 0; a < ACTS; a++)
        for (int e = 0; e < 3; e++)
            for (int c = 0; c < COUNTS; c++)
                if (kernel_takes_case(13))
                    expect_slope(acts[a], kernel_elems[e], counts[c]);
}

static void expect_product(hl_elem elem, int64_t n, int64_t pixels, int64_t channels, bool broadcast)
{
    kernel_rig r = {0};
    int64_t count = n * pixels * channels, factors = broadcast ? n * channels : count;
    double *a = random_doubles(count, -2.0, 2.0, elem, 1), *b = random_doubles(factors, -2.0, 2.0, elem, 2),
           *want = doubles(count), *got = doubles(count);
    for (int64_t i = 0; i < count; i++)
        want[i] = a[i] * b[broadcast ? i / (pixels * channels) * channels + i % channels : i];
    void *pa = kernel_input(&r, count, elem, a), *pb = kernel_input(&r, factors, elem, b);
    void *out = kernel_output(&r, count, elem);
    KERNEL_RUN(&r, hl_launch_mul(pa, pb, broadcast, out, elem, n, pixels, channels, NULL));
    kernel_get(out, count, elem, got);
    expect_close("product", elem, got, want, count, 4.0, 1.0);
    free(a);
    free(b);
    free(want);
    free(got);
    kernel_rig_clear(&r);
}

Test(elementwise, products_of_equal_shapes_and_of_a_factor_per_channel)
{
    static const int64_t channels[] = {1, 3, 8, 17, 40};
    for (int e = 0; e < 3; e++)
        for (int c = 0; c < 5; c++)
            for (int broadcast = 0; broadcast < 2; broadcast++)
                if (kernel_takes_case(13))
                    expect_product(kernel_elems[e], 3, 7, channels[c], broadcast != 0);
}

static void expect_copy(hl_elem elem, int64_t from_channels, int64_t from_first, int64_t to_channels,
                        int64_t to_first, int64_t width)
{
    enum { ROWS = 5 };
    kernel_rig r = {0};
    double *x = random_doubles(ROWS * from_channels, -1.0, 1.0, elem, 1), *got = doubles(ROWS * to_channels),
           *want = doubles(ROWS * to_channels);
    for (int64_t i = 0; i < ROWS * to_channels; i++) {
        int64_t c = i % to_channels - to_first;
        want[i] = c >= 0 && c < width ? x[i / to_channels * from_channels + from_first + c] : NAN;
    }
    void *from = kernel_input(&r, ROWS * from_channels, elem, x),
         *to = kernel_output(&r, ROWS * to_channels, elem);
    KERNEL_RUN(&r, hl_launch_copy_channels(from, from_channels, from_first, to, to_channels, to_first, width,
                                           ROWS, elem, NULL));
    kernel_get(to, ROWS * to_channels, elem, got);
    expect_same("channels", got, want, ROWS * to_channels);
    free(x);
    free(got);
    free(want);
    kernel_rig_clear(&r);
}

Test(elementwise, channels_are_copied_between_places)
{
    for (int e = 0; e < 3; e++) {
        expect_copy(kernel_elems[e], 8, 0, 24, 8, 8);
        expect_copy(kernel_elems[e], 24, 16, 8, 0, 8);
        expect_copy(kernel_elems[e], 7, 2, 9, 1, 3);
        expect_copy(kernel_elems[e], 16, 4, 16, 4, 4);
        expect_copy(kernel_elems[e], 1, 0, 1, 0, 1);
    }
}

Test(elementwise, dropout_draws_the_mask_that_all_backends_share)
{
    enum { COUNT = 1003 };
    const hl_run_state run = {.seed = 77, .micro_step = 5};
    const float p = 0.3f;
    double x[COUNT], want[COUNT], got[COUNT];
    int kept = 0;
    for (int i = 0; i < COUNT; i++) {
        x[i] = 1.0 + i % 7;
        bool keep = hl_dropout_keeps(hl_dropout_block(run.seed, 9, run.micro_step, i).v[i % 4], p) != 0;
        want[i] = keep ? (double)((float)x[i] * (1.0f / (1.0f - p))) : 0.0;
        kept += keep;
    }
    cr_assert(kept > 600 && kept < 800);
    kernel_rig r = {0};
    void *in = kernel_input(&r, COUNT, HL_ELEM_F32, x), *out = kernel_output(&r, COUNT, HL_ELEM_F32);
    const hl_run_state *device = kernel_bytes(&r, &run, sizeof run);
    KERNEL_RUN(&r, hl_launch_dropout(in, p, 9, device, out, HL_ELEM_F32, COUNT, NULL));
    kernel_get(out, COUNT, HL_ELEM_F32, got);
    expect_same("dropout", got, want, COUNT);
    kernel_rig_clear(&r);
}

static void expect_drop_path(hl_elem elem, int64_t n, int64_t count, bool residual)
{
    const hl_run_state run = {.seed = 77, .micro_step = 5};
    const float p = 0.4f;
    int64_t all = n * count, kept = 0;
    double *x = random_doubles(all, -1.0, 1.0, elem, 1), *r = random_doubles(all, -1.0, 1.0, elem, 2),
           *want = doubles(all), *got = doubles(all);
    for (int64_t i = 0; i < all; i++) {
        int64_t sample = i / count;
        bool keep = hl_dropout_keeps(hl_dropout_block(run.seed, 9, run.micro_step, sample).v[sample % 4], p);
        float v = keep ? (float)x[i] * (1.0f / (1.0f - p)) : 0.0f;
        want[i] = stored(elem, residual ? (double)(v + (float)r[i]) : (double)v);
        kept += keep && i % count == 0;
        x[i] = keep ? x[i] : NAN; /* what is dropped is not read */
    }
    cr_assert(kept > 0 && kept < n);
    kernel_rig rig = {0};
    void *in = kernel_input(&rig, all, elem, x), *add = residual ? kernel_input(&rig, all, elem, r) : NULL,
         *out = kernel_output(&rig, all, elem);
    const hl_run_state *device = kernel_bytes(&rig, &run, sizeof run);
    KERNEL_RUN(&rig, hl_launch_drop_path(in, add, p, 9, device, out, elem, n, count, NULL));
    kernel_get(out, all, elem, got);
    /* A device may fuse the product with the sum: one rounding less, of a value up to 2.7. */
    expect_close("drop path", elem, got, want, all, 2.7, 1.0);
    free(x);
    free(r);
    free(want);
    free(got);
    kernel_rig_clear(&rig);
}

Test(elementwise, drop_path_takes_whole_samples_as_all_backends_do)
{
    for (int e = 0; e < 3; e++)
        for (int residual = 0; residual < 2; residual++)
            if (kernel_takes_case(13)) {
                expect_drop_path(kernel_elems[e], 9, 1, residual != 0);
                expect_drop_path(kernel_elems[e], 7, 15, residual != 0);
                expect_drop_path(kernel_elems[e], 6, 320, residual != 0);
            }
}

Test(elementwise, conversions_round_to_nearest)
{
    enum { COUNT = 517 };
    double *x = random_doubles(COUNT, -300.0, 300.0, HL_ELEM_F32, 1), got[COUNT], want[COUNT];
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++)
            if (kernel_takes_case(13)) {
                kernel_rig r = {0};
                for (int i = 0; i < COUNT; i++)
                    want[i] = stored(kernel_elems[to], stored(kernel_elems[from], x[i]));
                void *in = kernel_input(&r, COUNT, kernel_elems[from], x),
                     *out = kernel_output(&r, COUNT, kernel_elems[to]);
                KERNEL_RUN(&r, hl_launch_convert(in, kernel_elems[from], out, kernel_elems[to], COUNT, NULL));
                kernel_get(out, COUNT, kernel_elems[to], got);
                expect_same("conversion", got, want, COUNT);
                kernel_rig_clear(&r);
            }
    free(x);
}
