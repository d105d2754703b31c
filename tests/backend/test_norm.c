#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

static const double eps = 1e-5;

/* One value; one pixel; odd channels; several blocks of rows; wider than a tile. */
static const hl_shape shapes[] = {
    {1, 1, 1, 1}, {3, 1, 1, 17}, {2, 5, 3, 3}, {2, 7, 9, 40}, {1, 24, 25, 16}, {2, 2, 1, 2051},
};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

/* A norm with all it may have. */
typedef struct rig {
    step_harness h;
    hl_shape shape;
    int64_t rows, channels, count;
    hl_tensor *x, *residual, *y, *dy, *dx;
    double *x_values, *dy_values, *residual_values;
    double *scale, *shift, *mean, *var;
    hl_norm_attr attr;
} rig;

static void rig_make(rig *r, hl_shape shape, hl_elem elem, bool affine, bool trained)
{
    harness_open(&r->h);
    r->shape = shape;
    r->channels = shape.c;
    r->count = hl_shape_count(shape);
    r->rows = r->count / shape.c;
    r->x = harness_tensor(&r->h, "x", shape, elem);
    r->residual = harness_tensor(&r->h, "residual", shape, elem);
    r->y = harness_tensor(&r->h, "y", shape, elem);
    r->dy = harness_tensor(&r->h, "dy", shape, elem);
    r->dx = harness_tensor(&r->h, "dx", shape, elem);
    r->x_values = random_doubles(r->count, -2.0, 2.0, elem, 1);
    r->dy_values = random_doubles(r->count, -1.0, 1.0, elem, 2);
    r->residual_values = random_doubles(r->count, -1.0, 1.0, elem, 3);
    r->scale = affine ? random_doubles(shape.c, -1.5, 1.5, HL_ELEM_F32, 4) : NULL;
    r->shift = affine ? random_doubles(shape.c, -1.0, 1.0, HL_ELEM_F32, 5) : NULL;
    r->mean = random_doubles(shape.c, -1.0, 1.0, HL_ELEM_F32, 6);
    r->var = random_doubles(shape.c, 0.5, 2.0, HL_ELEM_F32, 7);
    r->attr = (hl_norm_attr){.eps = (float)eps, .momentum = 0.1f};
    if (affine) {
        r->attr.scale = harness_param(&r->h, HL_PARAM_NORM_SCALE, shape.c, trained, r->scale);
        r->attr.shift = harness_param(&r->h, HL_PARAM_NORM_SHIFT, shape.c, trained, r->shift);
    }
    r->attr.mean = harness_param(&r->h, HL_PARAM_NORM_MEAN, shape.c, false, r->mean);
    r->attr.var = harness_param(&r->h, HL_PARAM_NORM_VAR, shape.c, false, r->var);
}

static void rig_drop(rig *r)
{
    harness_close(&r->h);
    free(r->x_values), free(r->dy_values), free(r->residual_values);
    free(r->scale), free(r->shift), free(r->mean), free(r->var);
}

static hl_step *forward_step(rig *r, hl_act act, bool residual)
{
    hl_tensor *in[2] = {r->x, residual ? r->residual : NULL};
    hl_step *step = harness_step(&r->h, HL_STEP_NORM, 2, in, 1, &r->y);
    step->norm = r->attr;
    step->norm.act = act;
    return step;
}

static hl_step *backward_step(rig *r, bool dx)
{
    hl_tensor *in[2] = {r->dy, r->x}, *out[1] = {dx ? r->dx : NULL};
    hl_step *step = harness_step(&r->h, HL_STEP_NORM_GRAD, 2, in, 1, out);
    step->norm = r->attr;
    return step;
}

static void run(rig *r, hl_step *step)
{
    harness_set(r->x, r->x_values);
    harness_set(r->residual, r->residual_values);
    harness_set(r->dy, r->dy_values);
    harness_run(&r->h, step);
}

static void expect_forward(hl_shape shape, hl_elem elem, bool affine, hl_act act, bool residual)
{
    rig r;
    rig_make(&r, shape, elem, affine, false);
    hl_step *step = forward_step(&r, act, residual);
    harness_build(&r.h);
    run(&r, step);
    double *y = doubles(r.count), *want = doubles(r.count);
    ref_norm(r.x_values, r.rows, r.channels, r.scale, r.shift, r.mean, r.var, (double)(float)eps, want);
    for (int64_t i = 0; i < r.count; i++)
        want[i] = ref_act(act, want[i] + (residual ? r.residual_values[i] : 0.0));
    harness_get(r.y, y);
    /* |scale x / deviation| < 1.5 * 3 / 0.7, a few roundings, and those of an activation. */
    expect_close("y", elem, y, want, r.count, 8.0, 12);
    rig_drop(&r);
    free(y), free(want);
}

Test(norm, running_statistics_are_an_affine_map_of_each_channel)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int e = 0; e < 2; e++)
            for (int variant = 0; variant < 8; variant++)
                expect_forward(shapes[s], elems[e], variant & 1, variant & 2 ? HL_ACT_SILU : HL_ACT_NONE,
                               variant & 4);
}

Test(norm, every_activation_can_be_fused)
{
    for (int act = 0; act <= HL_ACT_TANH; act++)
        expect_forward(shapes[3], HL_ELEM_F32, true, (hl_act)act, true);
}

/* The loops differ by type, by activation, with a residual and without. */
Test(norm, every_activation_can_be_fused_in_bf16_and_without_residual)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int act = 0; act <= HL_ACT_TANH; act++)
            for (int variant = 0; variant < 4; variant++)
                expect_forward(shapes[s], elems[variant & 1], true, (hl_act)act, variant & 2);
}

static void expect_backward(hl_shape shape, hl_elem elem, bool affine, bool dx)
{
    rig r;
    rig_make(&r, shape, elem, affine, affine);
    hl_step *step = backward_step(&r, dx);
    harness_build(&r.h);
    run(&r, step);
    double *got = doubles(r.count), *want = doubles(r.count);
    double *dscale = doubles(r.channels), *dshift = doubles(r.channels), *got_dscale = doubles(r.channels),
           *got_dshift = doubles(r.channels);
    for (int64_t i = 0; i < r.count; i++) {
        int64_t c = i % r.channels;
        double inverse = 1.0 / sqrt(r.var[c] + (double)(float)eps);
        want[i] = r.dy_values[i] * inverse * (affine ? r.scale[c] : 1.0);
        dscale[c] += r.dy_values[i] * (r.x_values[i] - r.mean[c]) * inverse;
        dshift[c] += r.dy_values[i];
    }
    harness_get(r.dx, got);
    if (dx)
        expect_close("dx", elem, got, want, r.count, 3.0, 4);
    for (int64_t c = 0; affine && c < r.channels; c++) {
        got_dscale[c] = (double)r.attr.scale->grad[c];
        got_dshift[c] = (double)r.attr.shift->grad[c];
    }
    /* Terms up to 1 * 3 / 0.7 in runs of a tile (2048 / channels rows) in float, then double. */
    if (affine) {
        expect_close("dscale", HL_ELEM_F32, got_dscale, dscale, r.channels, 4.3 * (double)r.rows, 8);
        expect_close("dshift", HL_ELEM_F32, got_dshift, dshift, r.channels, (double)r.rows, 8);
    }
    rig_drop(&r);
    free(got), free(want), free(dscale), free(dshift), free(got_dscale), free(got_dshift);
}

Test(norm, gradients_agree_with_their_definition)
{
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int e = 0; e < 2; e++)
            for (int variant = 0; variant < 4; variant++)
                expect_backward(shapes[s], elems[e], variant & 1, variant & 2);
}

Test(norm, gradients_of_parameters_overwrite_or_accumulate)
{
    rig r;
    rig_make(&r, shapes[3], HL_ELEM_F32, true, true);
    hl_step *step = backward_step(&r, true);
    harness_build(&r.h);
    r.h.run.grad_keep = 0.0f; /* what is there is NaN, and must not matter */
    run(&r, step);
    double once = (double)r.attr.scale->grad[5], once_shift = (double)r.attr.shift->grad[5];
    cr_assert(isfinite(once) && isfinite(once_shift));
    r.h.run.grad_keep = 1.0f;
    run(&r, step);
    cr_assert_float_eq((double)r.attr.scale->grad[5], 2.0 * once, 1e-6 * fabs(once));
    cr_assert_float_eq((double)r.attr.shift->grad[5], 2.0 * once_shift, 1e-6 * fabs(once_shift));
    rig_drop(&r);
}

Test(norm, only_what_is_trained_gets_a_gradient)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, true);
    r.attr.scale->trained = false;
    hl_step *step = backward_step(&r, true);
    harness_build(&r.h);
    run(&r, step);
    cr_assert(isnan(r.attr.scale->grad[0]) && isfinite(r.attr.shift->grad[0]));
    rig_drop(&r);
}

/* Linear in x, so a difference of the reference is exact up to rounding. */
Test(norm, gradients_agree_with_finite_differences)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, true);
    hl_step *step = backward_step(&r, true);
    harness_build(&r.h);
    run(&r, step);
    double *dx = doubles(r.count), *want = doubles(r.count), *y = doubles(r.count);
    harness_get(r.dx, dx);
    const double h = 1e-5;
    for (int64_t i = 0; i < r.count; i++) {
        double x = r.x_values[i], loss[2];
        for (int side = 0; side < 2; side++) {
            r.x_values[i] = side ? x + h : x - h;
            ref_norm(r.x_values, r.rows, r.channels, r.scale, r.shift, r.mean, r.var, (double)(float)eps, y);
            loss[side] = 0.0;
            for (int64_t j = 0; j < r.count; j++)
                loss[side] += y[j] * r.dy_values[j];
        }
        r.x_values[i] = x;
        want[i] = (loss[1] - loss[0]) / (2.0 * h);
    }
    expect_close("dx", HL_ELEM_F32, dx, want, r.count, 3.0, 4);
    rig_drop(&r);
    free(dx), free(want), free(y);
}

/* A layer scale: f32 products are exact but for their rounding. */
Test(norm, without_statistics_channels_are_scaled)
{
    for (int e = 0; e < 2; e++) {
        rig r;
        rig_make(&r, shapes[3], elems[e], true, true);
        r.attr.shift = r.attr.mean = r.attr.var = NULL;
        hl_step *forward = forward_step(&r, HL_ACT_NONE, true), *backward = backward_step(&r, true);
        harness_build(&r.h);
        run(&r, forward);
        double *got = doubles(r.count), *want = doubles(r.count), *dscale = doubles(r.channels);
        for (int64_t i = 0; i < r.count; i++)
            want[i] = r.x_values[i] * r.scale[i % r.channels] + r.residual_values[i];
        harness_get(r.y, got);
        expect_close("y", elems[e], got, want, r.count, 4.0, 2);
        run(&r, backward);
        for (int64_t i = 0; i < r.count; i++) {
            want[i] = r.dy_values[i] * r.scale[i % r.channels];
            dscale[i % r.channels] += r.dy_values[i] * r.x_values[i];
        }
        harness_get(r.dx, got);
        expect_close("dx", elems[e], got, want, r.count, 1.5, 1);
        for (int64_t c = 0; c < r.channels; c++)
            got[c] = (double)r.attr.scale->grad[c];
        /* As in expect_backward. */
        expect_close("dscale", HL_ELEM_F32, got, dscale, r.channels, 2.0 * (double)r.rows, 8);
        rig_drop(&r);
        free(got), free(want), free(dscale);
    }
}

Test(norm, a_mean_without_a_variance_is_refused)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, false);
    hl_step *step = forward_step(&r, HL_ACT_NONE, false);
    step->norm.var = NULL;
    cr_assert_neq(harness_prepare(&r.h, step), HL_OK);
    rig_drop(&r);
}

Test(norm, statistics_of_another_width_are_refused)
{
    rig r;
    rig_make(&r, shapes[2], HL_ELEM_F32, true, false);
    hl_step *step = forward_step(&r, HL_ACT_NONE, false);
    r.attr.mean->count = 2;
    cr_assert_neq(harness_prepare(&r.h, step), HL_OK);
    rig_drop(&r);
}
