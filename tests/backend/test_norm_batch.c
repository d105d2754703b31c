#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

static const hl_shape shapes[] = {
    {2, 1, 1, 1},    {3, 1, 1, 17},   {2, 5, 3, 3},   {2, 7, 9, 40},
    {1, 24, 25, 16}, {2, 2, 1, 2051}, {2, 40, 40, 5},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

typedef struct rig {
    step_harness h;
    int64_t rows, channels, count;
    hl_tensor *x, *y, *dy, *dx, *mean, *inverse;
    hl_param *scale, *shift, *running_mean, *running_var;
    hl_step *forward, *backward;
} rig;

/* Forward and backward of one norm on batch statistics. */
static void rig_make(rig *r, hl_shape shape, hl_elem elem, bool affine, bool trained, bool moves, float eps,
                     float momentum)
{
    harness_open(&r->h);
    r->channels = shape.c;
    r->count = hl_shape_count(shape);
    r->rows = r->count / shape.c;
    r->x = harness_tensor(&r->h, "x", shape, elem);
    r->y = harness_tensor(&r->h, "y", shape, elem);
    r->dy = harness_tensor(&r->h, "dy", shape, elem);
    r->dx = harness_tensor(&r->h, "dx", shape, elem);
    r->mean = harness_tensor(&r->h, "mean", (hl_shape){1, 1, 1, shape.c}, HL_ELEM_F32);
    r->inverse = harness_tensor(&r->h, "inverse", (hl_shape){1, 1, 1, shape.c}, HL_ELEM_F32);
    r->scale = affine ? harness_param(&r->h, HL_PARAM_NORM_SCALE, shape.c, trained, NULL) : NULL;
    r->shift = affine ? harness_param(&r->h, HL_PARAM_NORM_SHIFT, shape.c, trained, NULL) : NULL;
    r->running_mean = harness_param(&r->h, HL_PARAM_NORM_MEAN, shape.c, false, NULL);
    r->running_var = harness_param(&r->h, HL_PARAM_NORM_VAR, shape.c, false, NULL);
    r->running_mean->moves = r->running_var->moves = moves;
    for (int64_t c = 0; c < shape.c; c++)
        r->running_var->value[c] = 1.0f;
    hl_norm_attr attr = {.scale = r->scale,
                         .shift = r->shift,
                         .mean = r->running_mean,
                         .var = r->running_var,
                         .eps = eps,
                         .momentum = momentum};
    hl_tensor *in[2] = {r->x, NULL}, *out[3] = {r->y, r->mean, r->inverse};
    r->forward = harness_step(&r->h, HL_STEP_NORM_BATCH, 2, in, 3, out);
    r->forward->norm = attr;
    hl_tensor *grad_in[4] = {r->dy, r->x, r->mean, r->inverse};
    r->backward = harness_step(&r->h, HL_STEP_NORM_BATCH_GRAD, 4, grad_in, 1, &r->dx);
    r->backward->norm = attr;
}

static void set_affine(rig *r, const double *scale, const double *shift)
{
    for (int64_t c = 0; r->scale != NULL && c < r->channels; c++) {
        r->scale->value[c] = (float)scale[c];
        r->shift->value[c] = (float)shift[c];
    }
}

static double *from_floats(const float *values, int64_t count)
{
    double *out = doubles(count);
    for (int64_t i = 0; i < count; i++)
        out[i] = (double)values[i];
    return out;
}

static void expect_floats(const char *what, const float *got, const double *want, int64_t count, double scale,
                          double operations)
{
    double *values = from_floats(got, count);
    expect_close(what, HL_ELEM_F32, values, want, count, scale, operations);
    free(values);
}

static void expect_tensor(const hl_tensor *t, const double *want, double scale, double operations)
{
    double *values = doubles(hl_shape_count(t->shape));
    harness_get(t, values);
    expect_close(t->name, t->elem, values, want, hl_shape_count(t->shape), scale, operations);
    free(values);
}

static double largest(const double *v, int64_t count)
{
    double most = 0.0;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(v[i]));
    return most;
}

static void expect_norm(hl_shape shape, hl_elem elem, bool affine)
{
    rig r;
    float eps = 1e-5f;
    rig_make(&r, shape, elem, affine, affine, true, eps, 0.1f);
    double *x = random_doubles(r.count, -2.0, 3.0, elem, 1),
           *dy = random_doubles(r.count, -1.0, 1.0, elem, 2);
    double *scale = random_doubles(r.channels, -1.5, 1.5, HL_ELEM_F32, 3),
           *shift = random_doubles(r.channels, -1.0, 1.0, HL_ELEM_F32, 4);
    double *mean = doubles(r.channels), *var = doubles(r.channels), *inverse = doubles(r.channels),
           *dscale = doubles(r.channels), *dshift = doubles(r.channels), *y = doubles(r.count),
           *dx = doubles(r.count);
    harness_build(&r.h);
    set_affine(&r, scale, shift);
    harness_set(r.x, x);
    harness_set(r.dy, dy);
    harness_run(&r.h, r.forward);
    harness_run(&r.h, r.backward);
    ref_norm_statistics(x, r.rows, r.channels, mean, var);
    ref_norm(x, r.rows, r.channels, affine ? scale : NULL, affine ? shift : NULL, mean, var, (double)eps, y);
    ref_norm_batch_grad(dy, x, r.rows, r.channels, affine ? scale : NULL, (double)eps, dx, dscale, dshift);
    for (int64_t c = 0; c < r.channels; c++)
        inverse[c] = 1.0 / sqrt(var[c] + (double)eps);
    /* Sums run in float over a tile, 2048 / channels rows, with random rounding: well under 64 roundings;
     * then in double. The variance's relative error is halved by the root and scaled by (x / deviation)^2. */
    double spread = 3.0 * largest(inverse, r.channels);
    expect_tensor(r.mean, mean, 3.0, 64);
    expect_tensor(r.inverse, inverse, spread * spread * spread, 64);
    expect_tensor(r.y, y, 1.5 * spread * spread * spread, 64);
    expect_tensor(r.dx, dx, 1.5 * spread * spread * spread, 64);
    if (affine) {
        expect_floats("dscale", r.scale->grad, dscale, r.channels, spread * spread * (double)r.rows, 64);
        expect_floats("dshift", r.shift->grad, dshift, r.channels, (double)r.rows, 64);
    }
    for (int64_t c = 0; c < r.channels; c++) {
        mean[c] *= 0.1;
        var[c] = 0.9 + 0.1 * var[c] * (double)r.rows / (double)(r.rows - 1);
    }
    expect_floats("running mean", r.running_mean->value, mean, r.channels, 3.0, 64);
    expect_floats("running variance", r.running_var->value, var, r.channels, 18.0, 64);
    double *const all[] = {x, dy, scale, shift, mean, var, inverse, dscale, dshift, y, dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&r.h);
}

Test(norm_batch, values_statistics_and_gradients_agree_with_their_definition)
{
    for (int s = 0; s < SHAPES; s++)
        for (int e = 0; e < 2; e++)
            for (int affine = 0; affine < 2; affine++)
                expect_norm(shapes[s], elems[e], affine);
}

/* Momentum is the share of the new batch; the variance is biased to normalise by and unbiased in the running
 * one. */
Test(norm_batch, two_steps_agree_with_pytorch)
{
    static const float *const golden[2][8] = {
        {golden_norm_x_0, golden_norm_dy_0, golden_norm_y_0, golden_norm_dx_0, golden_norm_dscale_0,
         golden_norm_dshift_0, golden_norm_running_mean_0, golden_norm_running_var_0},
        {golden_norm_x_1, golden_norm_dy_1, golden_norm_y_1, golden_norm_dx_1, golden_norm_dscale_1,
         golden_norm_dshift_1, golden_norm_running_mean_1, golden_norm_running_var_1}};
    rig r;
    rig_make(&r, (hl_shape){2, 2, 3, 3}, HL_ELEM_F32, true, true, true, 1e-3f, 0.2f);
    harness_build(&r.h);
    set_affine(&r, (double[]){1.5, -0.5, 2.0}, (double[]){0.25, 1.0, -1.0});
    for (int step = 0; step < 2; step++) {
        double *want[8];
        for (int k = 0; k < 8; k++)
            want[k] = from_floats(golden[step][k], k < 4 ? 36 : 3);
        harness_set(r.x, want[0]);
        harness_set(r.dy, want[1]);
        harness_run(&r.h, r.forward);
        harness_run(&r.h, r.backward);
        /* Two computations in float with means up to 100: their roundings, a few each. */
        expect_tensor(r.y, want[2], 200.0, 16);
        expect_tensor(r.dx, want[3], 200.0, 16);
        expect_floats("dscale", r.scale->grad, want[4], 3, 200.0, 16);
        expect_floats("dshift", r.shift->grad, want[5], 3, 36.0, 16);
        expect_floats("running mean", r.running_mean->value, want[6], 3, 100.0, 16);
        expect_floats("running variance", r.running_var->value, want[7], 3, 100.0, 16);
        for (int k = 0; k < 8; k++)
            free(want[k]);
    }
    harness_close(&r.h);
}

/* The loss is sum y dy of the reference, differentiated numerically in x and scale. */
Test(norm_batch, gradients_agree_with_finite_differences)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, true, false, 1e-2f, 0.1f);
    double *x = random_doubles(r.count, -2.0, 2.0, HL_ELEM_F32, 5),
           *dy = random_doubles(r.count, -1.0, 1.0, HL_ELEM_F32, 6);
    double scale[3] = {0.5, -1.0, 1.5}, shift[3] = {0.0, 1.0, -1.0}, mean[3], var[3];
    double *y = doubles(r.count), *want = doubles(r.count), want_scale[3];
    harness_build(&r.h);
    set_affine(&r, scale, shift);
    harness_set(r.x, x);
    harness_set(r.dy, dy);
    harness_run(&r.h, r.forward);
    harness_run(&r.h, r.backward);
    const double h = 1e-5;
    for (int64_t i = 0; i < r.count + 3; i++) {
        double *at = i < r.count ? &x[i] : &scale[i - r.count], kept = *at, loss[2] = {0.0, 0.0};
        for (int side = 0; side < 2; side++) {
            *at = side ? kept + h : kept - h;
            ref_norm_statistics(x, r.rows, 3, mean, var);
            ref_norm(x, r.rows, 3, scale, shift, mean, var, (double)1e-2f, y);
            for (int64_t j = 0; j < r.count; j++)
                loss[side] += y[j] * dy[j];
        }
        *at = kept;
        *(i < r.count ? &want[i] : &want_scale[i - r.count]) = (loss[1] - loss[0]) / (2.0 * h);
    }
    expect_tensor(r.dx, want, 30.0, 64);
    expect_floats("dscale", r.scale->grad, want_scale, 3, 30.0, 64);
    free(x), free(dy), free(y), free(want);
    harness_close(&r.h);
}

/* Values 4096 + k / 256: exact in float, with 24 bits of which 20 are the mean's. */
Test(norm_batch, a_large_mean_does_not_cancel_the_variance)
{
    rig r;
    rig_make(&r, (hl_shape){2, 16, 16, 7}, HL_ELEM_F32, false, false, true, 1e-5f, 1.0f);
    double *x = random_doubles(r.count, 0.0, 256.0, HL_ELEM_F32, 7), mean[7], var[7];
    for (int64_t i = 0; i < r.count; i++)
        x[i] = 4096.0 + floor(x[i]) / 256.0;
    harness_build(&r.h);
    harness_set(r.x, x);
    harness_run(&r.h, r.forward);
    ref_norm_statistics(x, r.rows, 7, mean, var);
    for (int64_t c = 0; c < 7; c++)
        var[c] *= (double)r.rows / (double)(r.rows - 1);
    /* Within 64 roundings of the variance itself (1/12), not of the mean's square. */
    expect_floats("running variance", r.running_var->value, var, 7, 0.1, 64);
    free(x);
    harness_close(&r.h);
}

Test(norm_batch, a_constant_channel_has_no_variance)
{
    rig r;
    rig_make(&r, (hl_shape){2, 5, 5, 4}, HL_ELEM_F32, false, false, true, 1e-5f, 1.0f);
    double *x = doubles(r.count), *y = doubles(r.count);
    for (int64_t i = 0; i < r.count; i++)
        x[i] = 0.1;
    harness_build(&r.h);
    harness_set(r.x, x);
    harness_run(&r.h, r.forward);
    harness_get(r.y, y);
    for (int64_t i = 0; i < r.count; i++) /* 0.1 less a mean within one rounding, times 1 / sqrt(eps) */
        cr_assert(fabs(y[i]) <= 0.1 * 0x1p-23 / sqrt(1e-5), "y[%lld] is %g", (long long)i, y[i]);
    cr_assert(r.running_var->value[0] >= 0.0f && r.running_var->value[0] < 1e-12f);
    free(x), free(y);
    harness_close(&r.h);
}

Test(norm_batch, running_statistics_stay_where_they_do_not_move)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, false, false, 1e-5f, 0.1f);
    double *x = random_doubles(r.count, 4.0, 5.0, HL_ELEM_F32, 8);
    harness_build(&r.h);
    harness_set(r.x, x);
    harness_run(&r.h, r.forward);
    cr_assert(r.running_mean->value[0] == 0.0f && r.running_var->value[0] == 1.0f);
    free(x);
    harness_close(&r.h);
}

Test(norm_batch, gradients_of_parameters_accumulate_when_asked)
{
    rig r;
    rig_make(&r, shapes[3], HL_ELEM_F32, true, true, false, 1e-5f, 0.1f);
    double *x = random_doubles(r.count, -1.0, 1.0, HL_ELEM_F32, 9);
    harness_build(&r.h);
    set_affine(&r, x, x);
    harness_set(r.x, x);
    harness_set(r.dy, x);
    harness_run(&r.h, r.forward);
    harness_run(&r.h, r.backward);
    float once = r.scale->grad[7];
    r.h.run.grad_keep = 1.0f;
    harness_run(&r.h, r.backward);
    cr_assert(isfinite(once) && r.scale->grad[7] == 2.0f * once);
    free(x);
    harness_close(&r.h);
}

Test(norm_batch, the_number_of_threads_changes_no_bit)
{
    rig r;
    rig_make(&r, shapes[6], HL_ELEM_F32, true, true, false, 1e-5f, 0.1f);
    double *x = random_doubles(r.count, -1.0, 1.0, HL_ELEM_F32, 10);
    float *first = calloc((size_t)r.count, sizeof *first), scale_grad[5];
    harness_build(&r.h);
    set_affine(&r, x, x + 5);
    harness_set(r.x, x);
    harness_set(r.dy, x);
    for (int threads = 1; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        harness_run(&r.h, r.forward);
        harness_run(&r.h, r.backward);
        if (threads == 1) {
            memcpy(first, r.dx->data, r.dx->bytes);
            memcpy(scale_grad, r.scale->grad, sizeof scale_grad);
        }
        cr_assert_eq(memcmp(first, r.dx->data, r.dx->bytes), 0, "%d threads", threads);
        cr_assert_eq(memcmp(scale_grad, r.scale->grad, sizeof scale_grad), 0, "%d threads", threads);
    }
    free(x), free(first);
    harness_close(&r.h);
}

/* PyTorch refuses it too: the unbiased variance of one value does not exist. */
Test(norm_batch, one_value_per_channel_is_refused)
{
    rig r;
    rig_make(&r, (hl_shape){1, 1, 1, 8}, HL_ELEM_F32, false, false, false, 1e-5f, 0.1f);
    cr_assert_eq(harness_prepare(&r.h, r.forward), HL_E_ARG);
    harness_close(&r.h);
}
