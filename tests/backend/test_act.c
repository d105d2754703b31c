#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

enum { GOLDENS = sizeof golden_act_points / sizeof *golden_act_points };

/* One element, less and more than a vector register, and more than a tile with a ragged end. */
static const int64_t sizes[] = {1, 15, 17, 2048, 2049, 5003};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

enum { SIZES = sizeof sizes / sizeof *sizes };

static void forward(hl_act act, hl_elem elem, int64_t n, const double *x, double *y)
{
    step_harness h;
    harness_open(&h);
    hl_tensor *in = harness_tensor(&h, "x", (hl_shape){1, 1, 1, n}, elem);
    hl_tensor *out = harness_tensor(&h, "y", (hl_shape){1, 1, 1, n}, elem);
    hl_step *step = harness_step(&h, HL_STEP_ACT, 1, &in, 1, &out);
    step->act.act = act;
    harness_build(&h);
    harness_set(in, x);
    harness_run(&h, step);
    harness_get(out, y);
    harness_close(&h);
}

/* Of the sum of `count` gradients, g + k n apart; `alias` writes over the last of them. */
static void backward(hl_act act, hl_elem elem, int64_t n, const double *operand, const double *g, int count,
                     bool alias, double *dx)
{
    step_harness h;
    harness_open(&h);
    hl_shape shape = {1, 1, 1, n};
    hl_tensor *in[4] = {act == HL_ACT_NONE ? NULL : harness_tensor(&h, "operand", shape, elem)};
    for (int k = 0; k < count; k++)
        in[1 + k] = harness_tensor(&h, "gradient", shape, elem);
    hl_tensor *out = alias ? in[count] : harness_tensor(&h, "dx", shape, elem);
    hl_step *step = harness_step(&h, HL_STEP_ACT_GRAD, 1 + count, in, 1, &out);
    step->act.act = act;
    harness_build(&h);
    if (in[0] != NULL)
        harness_set(in[0], operand);
    for (int k = 0; k < count; k++)
        harness_set(in[1 + k], g + k * n);
    harness_run(&h, step);
    harness_get(out, dx);
    harness_close(&h);
}

static void expect_activation(hl_act act, hl_elem elem, int64_t n)
{
    double *x = random_doubles(n, -8.0, 8.0, elem, 1), *y = doubles(n), *want = doubles(n);
    for (int64_t i = 0; i < n; i++)
        want[i] = ref_act(act, x[i]);
    forward(act, elem, n, x, y);
    /* Values up to 8, a handful of operations and a polynomial. */
    expect_close(ref_act_name(act), elem, y, want, n, 8.0, 8);
    free(x), free(y), free(want);
}

Test(act, every_activation_agrees_with_its_definition)
{
    for (int k = 0; k < SIZES; k++)
        for (int e = 0; e < 2; e++)
            for (int act = 0; act <= HL_ACT_TANH; act++)
                expect_activation((hl_act)act, elems[e], sizes[k]);
}

/* What the step reads: the output, as it was stored, or the input. */
static double operand_of(hl_act act, hl_elem elem, double x)
{
    return hl_act_from_output(act) ? stored(elem, ref_act(act, x)) : x;
}

/* The derivative where the step can know only the stored output: x is gone, but s (1 - s) and 1 - t^2 can be
 * had from s and t. */
static double slope_known(hl_act act, double x, double operand)
{
    return act == HL_ACT_SIGMOID ? operand * (1.0 - operand)
           : act == HL_ACT_TANH  ? 1.0 - operand * operand
                                 : ref_act_slope(act, x);
}

static void expect_gradient(hl_act act, hl_elem elem, int64_t n, int count)
{
    double *x = random_doubles(n, -8.0, 8.0, elem, 2), *g = random_doubles(n * count, -1.0, 1.0, elem, 3);
    double *operand = doubles(n), *want = doubles(n), *dx = doubles(n);
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int k = 0; k < count; k++)
            sum += g[k * n + i];
        operand[i] = operand_of(act, elem, x[i]);
        want[i] = sum * slope_known(act, x[i], operand[i]);
    }
    for (int alias = 0; alias <= 1; alias++) {
        backward(act, elem, n, operand, g, count, alias, dx);
        /* Gradients up to 3, slopes up to 1.2, sigmoid's 1 - s up to 1, x up to 8 in x (1 - s). */
        expect_close(ref_act_name(act), elem, dx, want, n, 3.0 * 8.0, 8);
    }
    free(x), free(g), free(operand), free(want), free(dx);
}

Test(act, gradients_are_summed_and_multiplied_by_the_derivative)
{
    for (int k = 0; k < SIZES; k++)
        for (int e = 0; e < 2; e++)
            for (int act = 0; act <= HL_ACT_TANH; act++)
                for (int count = 1; count <= 3; count++)
                    expect_gradient((hl_act)act, elems[e], sizes[k], count);
}

static double act_of(double x, const void *act)
{
    return ref_act(*(const hl_act *)act, x);
}

/* Away from the kinks at -3, 0, 3 and 6. */
Test(act, gradients_agree_with_finite_differences)
{
    enum { N = 331 };
    double x[N], operand[N], one[N], dx[N], want[N];
    int64_t n = 0;
    for (int i = 0; i < N; i++) {
        double value = stored(HL_ELEM_F32, -8.0 + 16.0 * i / N), kink = fabs(remainder(value, 3.0));
        if (kink > 1e-3)
            x[n++] = value;
    }
    for (int k = 0; k <= HL_ACT_TANH; k++) {
        hl_act act = (hl_act)k;
        for (int64_t i = 0; i < n; i++) {
            operand[i] = operand_of(act, HL_ELEM_F32, x[i]);
            one[i] = 1.0;
            want[i] = central_difference(act_of, x[i], &act);
        }
        backward(act, HL_ELEM_F32, n, operand, one, 1, false, dx);
        /* The difference itself errs by h^2 f''' / 6 + 2^-53 |f| / h < 2e-10, below 2^-24. */
        expect_close(ref_act_name(act), HL_ELEM_F32, dx, want, n, 8.0, 8);
    }
}

typedef struct golden_act {
    hl_act act;
    const float *y, *slope;
} golden_act;

/* relu6' is 0 at 0 and 6; hardsigmoid' 0 at -3 and 3; hardswish' 0 at -3 and 1 at 3. */
Test(act, kinks_follow_pytorch)
{
    static const golden_act goldens[] = {
        {HL_ACT_RELU, golden_act_relu, golden_act_relu_grad},
        {HL_ACT_RELU6, golden_act_relu6, golden_act_relu6_grad},
        {HL_ACT_SIGMOID, golden_act_sigmoid, golden_act_sigmoid_grad},
        {HL_ACT_HARDSIGMOID, golden_act_hardsigmoid, golden_act_hardsigmoid_grad},
        {HL_ACT_SILU, golden_act_silu, golden_act_silu_grad},
        {HL_ACT_HARDSWISH, golden_act_hardswish, golden_act_hardswish_grad},
        {HL_ACT_GELU, golden_act_gelu, golden_act_gelu_grad},
    };
    for (size_t n = 0; n < sizeof goldens / sizeof *goldens; n++) {
        const golden_act *k = &goldens[n];
        double x[GOLDENS], y[GOLDENS], dx[GOLDENS], one[GOLDENS], want_y[GOLDENS], want_dx[GOLDENS];
        for (int i = 0; i < GOLDENS; i++) {
            x[i] = (double)golden_act_points[i];
            one[i] = 1.0;
            want_y[i] = (double)k->y[i];
            want_dx[i] = (double)k->slope[i];
        }
        forward(k->act, HL_ELEM_F32, GOLDENS, x, y);
        backward(k->act, HL_ELEM_F32, GOLDENS, hl_act_from_output(k->act) ? y : x, one, 1, false, dx);
        /* Both sides round in float. */
        expect_close(ref_act_name(k->act), HL_ELEM_F32, y, want_y, GOLDENS, 8.0, 8);
        expect_close(ref_act_name(k->act), HL_ELEM_F32, dx, want_dx, GOLDENS, 8.0, 8);
    }
}

Test(act, a_gradient_that_is_not_finite_is_not_hidden)
{
    for (int act = 0; act <= HL_ACT_TANH; act++)
        for (int e = 0; e < 2; e++)
            for (int count = 1; count <= 3; count++) {
                double operand[3] = {0.5, 0.5, 0.5}, dx[3],
                       g[9] = {1.0, NAN, INFINITY, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0};
                backward((hl_act)act, elems[e], 3, operand, g, count, false, dx);
                cr_assert(isfinite(dx[0]) && isnan(dx[1]) && isinf(dx[2]), "%s", ref_act_name((hl_act)act));
            }
}

/* As torch: only what is known to lie at or beyond a kink is stopped. */
Test(act, relu_passes_the_gradient_of_what_is_not_a_number)
{
    static const hl_act acts[] = {HL_ACT_RELU, HL_ACT_RELU6};
    for (int a = 0; a < 2; a++)
        for (int e = 0; e < 2; e++)
            for (int count = 1; count <= 2; count++) {
                double operand[6] = {NAN, -NAN, -0.0, 0.0, 6.0, INFINITY}, dx[6],
                       g[12] = {1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5};
                double sum = count == 1 ? 1.0 : 1.5, beyond = acts[a] == HL_ACT_RELU ? sum : 0.0;
                const double want[6] = {sum, sum, 0.0, 0.0, beyond, beyond};
                backward(acts[a], elems[e], 6, operand, g, count, false, dx);
                for (int i = 0; i < 6; i++)
                    cr_assert_eq(dx[i], want[i], "%s of %g: %g", ref_act_name(acts[a]), operand[i], dx[i]);
            }
}
