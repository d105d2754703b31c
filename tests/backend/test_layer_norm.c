#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

static const double eps = (double)1e-6f;

/* One channel, whose variance is 0; odd channels, and fewer than a vector; whole vectors; many blocks of
 * rows; ConvNeXt's widths; wider than a tile. */
static const hl_shape shapes[] = {
    {3, 1, 1, 1},  {2, 5, 3, 3},  {3, 1, 1, 17},  {1, 40, 50, 8},
    {2, 7, 9, 40}, {1, 3, 3, 96}, {1, 2, 2, 384}, {2, 2, 1, 2051},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

typedef struct rig {
    step_harness h;
    int64_t rows, channels, count;
    hl_tensor *x, *y, *dy, *dx;
    hl_param *scale, *shift;
    hl_step *forward, *backward;
    double *x_values, *dy_values, *scale_values, *shift_values;
    double amplified; /* 1 / the least deviation of a row, at least 1: what rounding of x - mean is multiplied
                         by */
} rig;

static double least_deviation(const rig *r)
{
    double least = 1.0;
    for (int64_t row = 0; row < r->rows; row++) {
        double mean = 0.0, var = 0.0;
        const double *x = r->x_values + row * r->channels;
        for (int64_t c = 0; c < r->channels; c++)
            mean += x[c] / (double)r->channels;
        for (int64_t c = 0; c < r->channels; c++)
            var += (x[c] - mean) * (x[c] - mean) / (double)r->channels;
        least = fmin(least, sqrt(var + eps));
    }
    return least;
}

/* centre: of the values, which lie within 2 of it. */
static void rig_make(rig *r, hl_shape shape, hl_elem elem, bool affine, bool trained, bool dx, double centre)
{
    *r = (rig){.channels = shape.c, .count = hl_shape_count(shape)};
    harness_open(&r->h);
    r->rows = r->count / shape.c;
    r->x = harness_tensor(&r->h, "x", shape, elem);
    r->y = harness_tensor(&r->h, "y", shape, elem);
    r->dy = harness_tensor(&r->h, "dy", shape, elem);
    r->dx = harness_tensor(&r->h, "dx", shape, elem);
    r->x_values = random_doubles(r->count, centre - 2.0, centre + 2.0, elem, 1);
    r->dy_values = random_doubles(r->count, -1.0, 1.0, elem, 2);
    r->scale_values = affine ? random_doubles(shape.c, -1.5, 1.5, HL_ELEM_F32, 3) : NULL;
    r->shift_values = affine ? random_doubles(shape.c, -1.0, 1.0, HL_ELEM_F32, 4) : NULL;
    r->amplified = 1.0 / least_deviation(r);
    if (affine) {
        r->scale = harness_param(&r->h, HL_PARAM_NORM_SCALE, shape.c, trained, r->scale_values);
        r->shift = harness_param(&r->h, HL_PARAM_NORM_SHIFT, shape.c, trained, r->shift_values);
    }
    hl_tensor *in[2] = {r->dy, r->x}, *out[1] = {dx ? r->dx : NULL};
    r->forward = harness_step(&r->h, HL_STEP_LAYER_NORM, 1, &r->x, 1, &r->y);
    r->backward = harness_step(&r->h, HL_STEP_LAYER_NORM_GRAD, 2, in, 1, out);
    r->forward->norm = r->backward->norm =
        (hl_norm_attr){.scale = r->scale, .shift = r->shift, .eps = (float)eps};
}

static void rig_build(rig *r)
{
    harness_build(&r->h);
    harness_set(r->x, r->x_values);
    harness_set(r->dy, r->dy_values);
}

static void rig_drop(rig *r)
{
    harness_close(&r->h);
    free(r->x_values), free(r->dy_values), free(r->scale_values), free(r->shift_values);
}

/* Sums over channels go through at least 4 lanes, or 4 threads of vectors: of their n / 4 roundings each is
 * of a partial sum, so that a mean is off by n / 4 roundings at worst; a dozen others follow. */
static double operations(const rig *r)
{
    return 12.0 + (double)r->channels / 4.0;
}

static void expect_forward(hl_shape shape, hl_elem elem, bool affine, double centre)
{
    rig r;
    rig_make(&r, shape, elem, affine, false, true, centre);
    rig_build(&r);
    harness_run(&r.h, r.forward);
    double *y = doubles(r.count), *want = doubles(r.count);
    harness_get(r.y, y);
    ref_layer_norm(r.x_values, r.rows, r.channels, r.scale_values, r.shift_values, eps, want);
    /* Values up to 2 around the centre, times a scale of 1.5 over the deviation. */
    expect_close("y", elem, y, want, r.count, 1.5 * (2.0 + fabs(centre)) * r.amplified, operations(&r));
    rig_drop(&r);
    free(y), free(want);
}

Test(layer_norm, every_pixel_is_normalised_over_its_channels)
{
    for (int s = 0; s < SHAPES; s++)
        for (int e = 0; e < 2; e++)
            for (int affine = 0; affine < 2; affine++)
                expect_forward(shapes[s], elems[e], affine, 0.0);
}

/* The mean is off by roundings of the centre, not the variance by those of its square: that would be 1 and
 * more. */
Test(layer_norm, a_large_mean_does_not_cancel_the_variance)
{
    expect_forward(shapes[4], HL_ELEM_F32, true, 3000.0);
    expect_forward(shapes[7], HL_ELEM_F32, true, -3000.0);
}

static void expect_backward(hl_shape shape, hl_elem elem, bool affine, bool dx)
{
    rig r;
    rig_make(&r, shape, elem, affine, affine, dx, 0.0);
    rig_build(&r);
    harness_run(&r.h, r.backward);
    double *got = doubles(r.count), *want = doubles(r.count), *dscale = doubles(r.channels),
           *dshift = doubles(r.channels), *sums = doubles(r.channels);
    ref_layer_norm_grad(r.dy_values, r.x_values, r.rows, r.channels, r.scale_values, eps, want, dscale,
                        dshift);
    harness_get(r.dx, got);
    /* scale dy xhat / deviation: 1.5 * 2 over the deviation, twice, as xhat has it too. */
    if (dx)
        expect_close("dx", elem, got, want, r.count, 6.0 * r.amplified * r.amplified, operations(&r));
    /* Sums over rows run in float over 16 rows (or a chunk's rows), then on in double (or by chunks). */
    if (affine) {
        for (int64_t c = 0; c < r.channels; c++)
            sums[c] = (double)r.scale->grad[c];
        expect_close("dscale", HL_ELEM_F32, sums, dscale, r.channels, 2.0 * (double)r.rows * r.amplified,
                     16.0 + operations(&r));
        for (int64_t c = 0; c < r.channels; c++)
            sums[c] = (double)r.shift->grad[c];
        expect_close("dshift", HL_ELEM_F32, sums, dshift, r.channels, (double)r.rows, 16.0);
    }
    rig_drop(&r);
    free(got), free(want), free(dscale), free(dshift), free(sums);
}

Test(layer_norm, gradients_agree_with_their_definition)
{
    for (int s = 0; s < SHAPES; s++)
        for (int e = 0; e < 2; e++)
            for (int variant = 1; variant < 4; variant++)
                expect_backward(shapes[s], elems[e], variant & 1, variant & 2);
}

static double loss(const rig *r, double *y)
{
    double sum = 0.0;
    ref_layer_norm(r->x_values, r->rows, r->channels, r->scale_values, r->shift_values, eps, y);
    for (int64_t i = 0; i < r->count; i++)
        sum += y[i] * r->dy_values[i];
    return sum;
}

/* Differences of the reference in double: off by h^2 times a third derivative, which is some tens (deviations
 * are near 1 here) in 1e-10, and by 1e-16 / h in rounding. */
Test(layer_norm, gradients_agree_with_finite_differences)
{
    rig r;
    rig_make(&r, (hl_shape){2, 1, 2, 17}, HL_ELEM_F32, true, true, true, 0.0);
    rig_build(&r);
    harness_run(&r.h, r.backward);
    double *dx = doubles(r.count), *want = doubles(r.count), *y = doubles(r.count);
    harness_get(r.dx, dx);
    const double h = 1e-5;
    const struct {
        double *values, *got;
        int64_t count;
    } parts[3] = {{r.x_values, dx, r.count}, {r.scale_values, NULL, 17}, {r.shift_values, NULL, 17}};
    for (int p = 0; p < 3; p++) {
        double *got = parts[p].got != NULL ? parts[p].got : doubles(parts[p].count);
        for (int64_t i = 0; i < parts[p].count; i++) {
            double at = parts[p].values[i], above;
            parts[p].values[i] = at + h;
            above = loss(&r, y);
            parts[p].values[i] = at - h;
            want[i] = (above - loss(&r, y)) / (2.0 * h);
            parts[p].values[i] = at;
            if (p > 0)
                got[i] = (double)(p == 1 ? r.scale : r.shift)->grad[i];
        }
        expect_close("gradient", HL_ELEM_F32, got, want, parts[p].count, 8.0 * r.amplified * r.amplified,
                     24.0);
        if (parts[p].got == NULL)
            free(got);
    }
    rig_drop(&r);
    free(dx), free(want), free(y);
}

static void widen(const float *from, int64_t count, double *to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = (double)from[i];
}

/* Both sides compute in float. */
Test(layer_norm, agrees_with_pytorch)
{
    rig r;
    rig_make(&r, (hl_shape){2, 2, 3, 5}, HL_ELEM_F32, true, true, true, 0.0);
    double *got = doubles(r.count), *want = doubles(r.count);
    harness_build(&r.h);
    widen(golden_layer_norm_x, r.count, r.x_values);
    widen(golden_layer_norm_dy, r.count, r.dy_values);
    r.amplified = 1.0 / least_deviation(&r);
    memcpy(r.scale->host, golden_layer_norm_scale, 5 * sizeof(float));
    memcpy(r.shift->host, golden_layer_norm_shift, 5 * sizeof(float));
    harness_set(r.x, r.x_values);
    harness_set(r.dy, r.dy_values);
    harness_run(&r.h, r.forward);
    harness_run(&r.h, r.backward);
    harness_get(r.y, got);
    widen(golden_layer_norm_y, r.count, want);
    expect_close("y", HL_ELEM_F32, got, want, r.count, 10.0 * r.amplified, 32.0);
    harness_get(r.dx, got);
    widen(golden_layer_norm_dx, r.count, want);
    expect_close("dx", HL_ELEM_F32, got, want, r.count, 10.0 * r.amplified * r.amplified, 32.0);
    widen(r.scale->grad, 5, got);
    widen(golden_layer_norm_dscale, 5, want);
    expect_close("dscale", HL_ELEM_F32, got, want, 5, 24.0 * r.amplified, 32.0);
    widen(r.shift->grad, 5, got);
    widen(golden_layer_norm_dshift, 5, want);
    expect_close("dshift", HL_ELEM_F32, got, want, 5, 24.0, 32.0);
    rig_drop(&r);
    free(got), free(want);
}

Test(layer_norm, gradients_of_parameters_overwrite_or_accumulate)
{
    rig r;
    rig_make(&r, shapes[4], HL_ELEM_F32, true, true, true, 0.0);
    rig_build(&r);
    r.h.run.grad_keep = 0.0f; /* what is there is NaN, and must not matter */
    harness_run(&r.h, r.backward);
    double once = (double)r.scale->grad[5], once_shift = (double)r.shift->grad[5];
    cr_assert(isfinite(once) && isfinite(once_shift));
    r.h.run.grad_keep = 1.0f;
    harness_run(&r.h, r.backward);
    cr_assert_float_eq((double)r.scale->grad[5], 2.0 * once, 1e-6 * fabs(once));
    cr_assert_float_eq((double)r.shift->grad[5], 2.0 * once_shift, 1e-6 * fabs(once_shift));
    rig_drop(&r);
}

Test(layer_norm, only_what_is_trained_gets_a_gradient)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, true, true, 0.0);
    r.scale->trained = false;
    rig_build(&r);
    harness_run(&r.h, r.backward);
    cr_assert(isnan(r.scale->grad[0]) && isfinite(r.shift->grad[0]));
    rig_drop(&r);
}

Test(layer_norm, the_number_of_threads_changes_no_bit)
{
    rig r;
    rig_make(&r, shapes[3], HL_ELEM_BF16, true, true, true, 0.0);
    r.h.backend->threads = 5;
    rig_build(&r);
    unsigned char *y = malloc(r.y->bytes), *dx = malloc(r.dx->bytes);
    float dscale[8];
    for (int threads = 1; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        harness_run(&r.h, r.forward);
        harness_run(&r.h, r.backward);
        if (threads == 1) {
            memcpy(y, r.y->data, r.y->bytes);
            memcpy(dx, r.dx->data, r.dx->bytes);
            memcpy(dscale, r.scale->grad, sizeof dscale);
        }
        cr_assert_eq(memcmp(y, r.y->data, r.y->bytes), 0, "%d threads", threads);
        cr_assert_eq(memcmp(dx, r.dx->data, r.dx->bytes), 0, "%d threads", threads);
        cr_assert_eq(memcmp(dscale, r.scale->grad, sizeof dscale), 0, "%d threads", threads);
    }
    free(y), free(dx);
    rig_drop(&r);
}

Test(layer_norm, parameters_of_another_width_are_refused)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, false, true, 0.0);
    r.scale->count = 2;
    cr_assert_neq(harness_prepare(&r.h, r.forward), HL_OK);
    rig_drop(&r);
}
