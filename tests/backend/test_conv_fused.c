/* What is fused behind a convolution, and packed weights that several steps share. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/conv_rig.h"
#include "support/ref_conv.h"

typedef struct shape_case {
    const char *name;
    hl_shape x;
    int64_t outputs, groups;
    hl_window window;
} shape_case;

static const shape_case shapes[] = {
    {"3x3", {2, 7, 6, 16}, 32, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"1x1", {2, 7, 6, 32}, 24, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, whole lines", {2, 7, 7, 32}, 96, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1 strided", {2, 7, 6, 32}, 40, 1, {1, 1, 2, 2, 1, 1, 0, 0, 0, 0}},
    {"stem", {2, 12, 12, 3}, 32, 1, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"grouped", {2, 6, 6, 32}, 32, 8, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise", {2, 8, 7, 32}, 32, 32, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise 5x5", {2, 8, 7, 17}, 17, 17, {5, 5, 2, 2, 1, 1, 2, 2, 2, 2}},
    {"depthwise 3x3, wide", {1, 5, 17, 40}, 40, 40, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise 3x3 strided, wide", {1, 7, 30, 48}, 48, 48, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"17 channels", {2, 5, 5, 17}, 19, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"linear", {6, 1, 1, 40}, 10, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* A case set up: its convolution, the reference, the packed weights and what fills them. */
typedef struct layer {
    conv_rig rig;
    ref_conv ref;
    int64_t nx, ny, nw;
    hl_weight_expr expr;
    hl_conv_attr conv;
    hl_tensor *packed;
} layer;

static void layer_open(layer *l, const shape_case *c, hl_elem elem, hl_act act)
{
    rig_open(&l->rig);
    l->ref = ref_conv_make(c->x, c->outputs, c->groups, c->window);
    l->nx = hl_shape_count(l->ref.x);
    l->ny = hl_shape_count(l->ref.y);
    l->nw = ref_conv_weights(&l->ref);
    const int64_t dims[4] = {c->outputs, c->x.c / c->groups, c->window.kh, c->window.kw};
    l->expr =
        (hl_weight_expr){.kind = HL_WEIGHT_PLAIN, .weight = rig_param(&l->rig, "weight", false, 4, dims)};
    l->conv = (hl_conv_attr){.window = c->window, .groups = c->groups, .expr = &l->expr, .act = act};
    l->packed = rig_opaque(&l->rig, "packed", elem);
}

static double *integers(int64_t count, int most, uint32_t stream)
{
    double *values = rig_array(count);
    rig_fill_integers(values, count, most, stream);
    return values;
}

/* Gives the layer integers times `scale` as weights, and returns them. */
static double *layer_weights(layer *l, double scale)
{
    double *ws = integers(l->nw, 2, 2);
    for (int64_t i = 0; i < l->nw; i++) {
        ws[i] *= scale;
        l->expr.weight->value[i] = (float)ws[i];
    }
    return ws;
}

/* Inputs are integers and weights eighths, so that sums are exact and lie where activations bend. */
static void expect_fused(const shape_case *c, hl_elem elem, hl_act act, bool bias, bool residual,
                         bool winograd)
{
    layer l;
    layer_open(&l, c, elem, act);
    if (bias)
        l.expr.bias = rig_param(&l.rig, "bias", false, 1, &c->outputs);
    l.conv.winograd = winograd;
    hl_tensor *x = rig_tensor(&l.rig, "x", l.ref.x, elem), *y = rig_tensor(&l.rig, "y", l.ref.y, elem);
    hl_tensor *b = bias ? rig_bias(&l.rig, c->outputs, elem) : NULL;
    hl_tensor *r = residual ? rig_tensor(&l.rig, "residual", l.ref.y, elem) : NULL;
    hl_step *fold = rig_step(&l.rig, HL_STEP_FOLD, &l.conv, NULL, NULL, NULL, NULL, l.packed, NULL, b);
    hl_step *step = rig_step(&l.rig, HL_STEP_CONV, &l.conv, x, l.packed, b, r, y, NULL, NULL);
    rig_build(&l.rig);

    double *xs = integers(l.nx, 3, 1), *ws = layer_weights(&l, 0.125), *rs = integers(l.ny, 4, 3),
           *want = rig_array(l.ny), *got = rig_array(l.ny);
    for (int64_t o = 0; bias && o < c->outputs; o++)
        l.expr.bias->value[o] = (float)(o % 9 - 4) * 0.25f;
    rig_set(x, xs);
    if (residual)
        rig_set(r, rs);
    rig_run(&l.rig, fold);
    rig_run(&l.rig, step);
    rig_expect_intact(&l.rig);
    rig_get(y, got);
    ref_conv_forward(&l.ref, xs, ws, want);
    bool exact = !winograd && (act == HL_ACT_NONE || act == HL_ACT_RELU || act == HL_ACT_RELU6);
    for (int64_t i = 0; i < l.ny; i++) {
        double before =
            want[i] + (bias ? (double)l.expr.bias->value[i % c->outputs] : 0.0) + (residual ? rs[i] : 0.0);
        double after = ref_conv_act(act, before);
        /* The argument is exact; oneDNN's polynomials err by a few units of 1e-7 in what is at most |x| times
         * a sigmoid. */
        double store = elem == HL_ELEM_BF16 ? 0x1p-8 : 0x1p-24;
        double tolerance = exact ? 0.0 : 2e-6 * (1.0 + fabs(before)) + store * fabs(after);
        if (winograd) /* see test_conv.c; of what the largest sums are here */
            tolerance += 4e-6 * 100.0;
        double target = exact ? rig_round(elem, after) : after;
        cr_assert(fabs(got[i] - target) <= tolerance,
                  "%s, activation %d, bias %d, residual %d: [%lld] is %.9g, not %.9g", c->name, (int)act,
                  bias, residual, (long long)i, got[i], target);
    }
    double *const arrays[] = {xs, ws, rs, want, got};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    rig_close(&l.rig);
}

static void expect_all_fused(hl_elem elem)
{
    for (int i = 0; i < SHAPES; i++)
        for (int act = HL_ACT_NONE; act <= HL_ACT_TANH; act++)
            for (int with = 0; with < 4; with++)
                expect_fused(&shapes[i], elem, (hl_act)act, (with & 1) != 0, (with & 2) != 0, false);
}

Test(conv_fused, bias_residual_and_activation_follow_in_fp32)
{
    expect_all_fused(HL_ELEM_F32);
}

Test(conv_fused, bias_residual_and_activation_follow_in_bf16)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    expect_all_fused(HL_ELEM_BF16);
}

/* What the activation before a convolution may have put out, where its derivative is exact: at and between
 * the kinks; of the sigmoid the derivative is 1/4 in the middle. */
static double before_of(hl_act act, uint64_t i)
{
    static const double clamped[] = {0.0, 0.5, 6.0, 3.0, 0.0, 8.0}, sigmoid[] = {0.0, 0.5, 1.0};
    if (act == HL_ACT_TANH)
        return 2.0 * sigmoid[i % 3] - 1.0;
    return act == HL_ACT_SIGMOID ? sigmoid[i % 3] : fmin(clamped[i % 6], act == HL_ACT_RELU6 ? 6.0 : 8.0);
}

static double derivative(hl_act act, double before)
{
    return act == HL_ACT_NONE      ? 1.0
           : act == HL_ACT_SIGMOID ? before * (1.0 - before)
           : act == HL_ACT_TANH    ? 1.0 - before * before
                                   : before > 0.0 && (before < 6.0 || act == HL_ACT_RELU);
}

/* Small integers, so that every implementation must give the same bits. */
static void expect_behind(const shape_case *c, hl_elem elem, hl_act act, bool other)
{
    layer l;
    layer_open(&l, c, elem, act);
    hl_tensor *dy = rig_tensor(&l.rig, "dy", l.ref.y, elem), *dx = rig_tensor(&l.rig, "dx", l.ref.x, elem);
    hl_tensor *o = other ? rig_tensor(&l.rig, "other", l.ref.x, elem) : NULL;
    hl_tensor *b = act != HL_ACT_NONE ? rig_tensor(&l.rig, "before", l.ref.x, elem) : NULL;
    hl_tensor *packed_data = rig_packed_data(&l.rig, l.packed);
    hl_step *fold =
        rig_step(&l.rig, HL_STEP_FOLD, &l.conv, NULL, NULL, NULL, NULL, l.packed, packed_data, NULL);
    if (packed_data != l.packed) /* the forward pass lays out its own */
        rig_step(&l.rig, HL_STEP_CONV, &l.conv, dx, l.packed, NULL, NULL, dy, NULL, NULL);
    hl_step *step = rig_step(&l.rig, HL_STEP_CONV_DATA, &l.conv, dy, packed_data, o, b, dx, NULL, NULL);
    rig_build(&l.rig);
    double *dys = integers(l.ny, 3, 1), *ws = layer_weights(&l, 1.0), *os = integers(l.nx, 4, 3),
           *bs = rig_array(l.nx), *want = rig_array(l.nx), *got = rig_array(l.nx);
    for (int64_t i = 0; i < l.nx; i++)
        bs[i] = before_of(act, (uint64_t)(i * 7 + i / 11));
    rig_set(dy, dys);
    if (o != NULL)
        rig_set(o, os);
    if (b != NULL)
        rig_set(b, bs);
    rig_run(&l.rig, fold);
    rig_run(&l.rig, step);
    rig_expect_intact(&l.rig);
    rig_get(dx, got);
    ref_conv_data(&l.ref, dys, ws, want);
    for (int64_t i = 0; i < l.nx; i++) {
        /* In bf16 sums beyond 256 are rounded, by some implementations before the derivative as well. */
        double factor = derivative(act, bs[i]), sum = want[i] + (o != NULL ? os[i] : 0.0);
        double tolerance = elem == HL_ELEM_BF16 && fabs(want[i]) > 250.0 ? 0x1p-7 * fabs(want[i]) : 0.0;
        cr_assert(fabs(got[i] - factor * sum) <= factor * tolerance,
                  "%s, activation %d, other %d: [%lld] is %.9g, not %.9g", c->name, (int)act, other,
                  (long long)i, got[i], factor * sum);
    }
    double *const arrays[] = {dys, ws, os, bs, want, got};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    rig_close(&l.rig);
}

static void expect_all_behind(hl_elem elem)
{
    static const hl_act acts[] = {HL_ACT_NONE, HL_ACT_RELU, HL_ACT_RELU6, HL_ACT_SIGMOID, HL_ACT_TANH};
    for (int i = 0; i < SHAPES; i++)
        for (size_t a = 0; a < sizeof acts / sizeof *acts; a++)
            for (int other = 0; other < 2; other++)
                expect_behind(&shapes[i], elem, acts[a], other != 0);
}

Test(conv_fused, another_gradient_and_a_derivative_follow_the_data_gradient_in_fp32)
{
    expect_all_behind(HL_ELEM_F32);
}

Test(conv_fused, another_gradient_and_a_derivative_follow_the_data_gradient_in_bf16)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    expect_all_behind(HL_ELEM_BF16);
}

Test(conv_fused, bias_residual_and_activation_follow_winograd)
{
    for (int act = HL_ACT_NONE; act <= HL_ACT_TANH; act++)
        for (int with = 0; with < 4; with++)
            expect_fused(&shapes[0], HL_ELEM_F32, (hl_act)act, (with & 1) != 0, (with & 2) != 0, true);
}

/* A program for training and one for evaluation share packed weights but not batch sizes; a linear layer may
 * also be applied at every pixel. */
Test(conv_fused, steps_of_different_shapes_share_packed_weights)
{
    static const hl_shape inputs[] = {{3, 1, 1, 24}, {1, 1, 1, 24}, {2, 5, 4, 24}, {16, 28, 28, 24}};
    enum { STEPS = sizeof inputs / sizeof *inputs };
    const hl_window window = {1, 1, 1, 1, 1, 1, 0, 0, 0, 0};
    const int64_t dims[2] = {20, 24};
    for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++) {
        conv_rig rig;
        rig_open(&rig);
        hl_weight_expr expr = {.kind = HL_WEIGHT_PLAIN, .weight = rig_param(&rig, "weight", false, 2, dims)};
        hl_conv_attr conv = {.window = window, .groups = 1, .expr = &expr};
        hl_tensor *packed = rig_opaque(&rig, "packed", (hl_elem)elem);
        hl_tensor *back = rig_packed_data(&rig, packed);
        hl_tensor *x[STEPS], *y[STEPS], *dx[STEPS];
        hl_step *forward[STEPS], *data[STEPS];
        ref_conv ref[STEPS];
        for (int s = 0; s < STEPS; s++) {
            ref[s] = ref_conv_make(inputs[s], 20, 1, window);
            x[s] = rig_tensor(&rig, "x", ref[s].x, (hl_elem)elem);
            y[s] = rig_tensor(&rig, "y", ref[s].y, (hl_elem)elem);
            dx[s] = rig_tensor(&rig, "dx", ref[s].x, (hl_elem)elem);
            forward[s] = rig_step(&rig, HL_STEP_CONV, &conv, x[s], packed, NULL, NULL, y[s], NULL, NULL);
            data[s] = rig_step(&rig, HL_STEP_CONV_DATA, &conv, y[s], back, NULL, NULL, dx[s], NULL, NULL);
        }
        hl_step *fold = rig_step(&rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, packed, back, NULL);
        rig_build(&rig);
        double w[480];
        rig_fill_integers(w, 480, 2, 2);
        for (int i = 0; i < 480; i++)
            expr.weight->value[i] = (float)w[i];
        rig_run(&rig, fold);
        for (int s = 0; s < STEPS; s++) {
            int64_t nx = hl_shape_count(ref[s].x), ny = hl_shape_count(ref[s].y);
            double *xs = rig_array(nx), *want = rig_array(ny), *got = rig_array(ny);
            double *want_dx = rig_array(nx), *got_dx = rig_array(nx);
            rig_fill_integers(xs, nx, 3, 1);
            rig_set(x[s], xs);
            rig_run(&rig, forward[s]);
            rig_run(&rig, data[s]);
            rig_get(y[s], got);
            rig_get(dx[s], got_dx);
            ref_conv_forward(&ref[s], xs, w, want);
            ref_conv_data(&ref[s], want, w, want_dx);
            for (int64_t i = 0; i < ny; i++)
                cr_assert(got[i] == want[i], "shape %d: y[%lld]", s, (long long)i);
            for (int64_t i = 0; i < nx; i++)
                cr_assert(got_dx[i] == rig_round((hl_elem)elem, want_dx[i]), "shape %d: dx[%lld]", s,
                          (long long)i);
            free(xs);
            free(want);
            free(got);
            free(want_dx);
            free(got_dx);
        }
        rig_expect_intact(&rig);
        rig_close(&rig);
    }
}

static void expect_refused(hl_shape x, hl_shape y, hl_window window, int64_t groups, hl_elem elem,
                           const char *part)
{
    conv_rig rig;
    rig_open(&rig);
    hl_conv_attr conv = {.window = window, .groups = groups};
    hl_tensor *in = rig_tensor(&rig, "x", x, elem), *out = rig_tensor(&rig, "y", y, elem);
    hl_tensor *packed = rig_opaque(&rig, "packed", elem);
    hl_step *step = rig_step(&rig, HL_STEP_CONV, &conv, in, packed, NULL, NULL, out, NULL, NULL);
    cr_assert_not(rig.backend->ops->supports(rig.backend, step));
    cr_assert_neq(rig.backend->ops->prepare(rig.backend, step), HL_OK);
    cr_assert_not_null(strstr(hl_last_error(), part), "%s", hl_last_error());
    cr_assert_eq(strncmp(hl_last_error(), "layer: ", 7), 0, "the message names the layer: %s",
                 hl_last_error());
    rig_close(&rig);
}

Test(conv_fused, what_cannot_be_computed_is_refused_with_the_layer_s_name)
{
    const hl_window k3 = {3, 3, 1, 1, 1, 1, 0, 0, 0, 0}, no_stride = {3, 3, 0, 1, 1, 1, 0, 0, 0, 0};
    const hl_shape small = {1, 2, 2, 8}, x = {1, 4, 4, 8}, y = {1, 2, 2, 8}, wrong = {1, 3, 2, 8};
    expect_refused(small, (hl_shape){1, 1, 1, 8}, k3, 1, HL_ELEM_F32, "does not fit");
    expect_refused(x, y, k3, 3, HL_ELEM_F32, "groups");
    expect_refused(x, y, no_stride, 1, HL_ELEM_F32, "at least 1");
    expect_refused(x, wrong, k3, 1, HL_ELEM_F32, "output");
    if (!rig_computes(HL_ELEM_F16))
        expect_refused(x, y, k3, 1, HL_ELEM_F16, "fp32 and bf16");
    expect_refused(x, y, k3, 1, HL_ELEM_I32, "computes in fp32");
}
