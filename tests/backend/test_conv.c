#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/kernel.h"
#include "support/conv_rig.h"
#include "support/ref_conv.h"

typedef struct conv_case {
    const char *name;
    hl_shape x;
    int64_t outputs, groups;
    hl_window window; /* kh, kw, sh, sw, dh, dw, top, bottom, left, right */
} conv_case;

static const conv_case cases[] = {
    {"3x3", {2, 9, 7, 32}, 48, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"3x3 strided", {2, 9, 8, 16}, 32, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"3x3 strided differently", {1, 10, 11, 16}, 16, 1, {3, 3, 2, 3, 1, 1, 1, 1, 1, 1}},
    {"3x3 dilated", {2, 11, 9, 16}, 16, 1, {3, 3, 1, 1, 2, 3, 2, 2, 3, 3}},
    {"3x3 padded on one side", {2, 8, 8, 16}, 24, 1, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"1x1", {2, 7, 5, 64}, 32, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, 49 outputs", {1, 5, 7, 24}, 49, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, rows of 4096 bytes and more", {1, 3, 7, 2048}, 40, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, rows of 4096 bytes back", {1, 3, 5, 40}, 1024, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, results beyond the cache", {1, 130, 127, 2}, 256, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1, many pixels and channels", {3, 18, 19, 136}, 141, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"1x1 strided, odd map", {2, 7, 7, 48}, 40, 1, {1, 1, 2, 2, 1, 1, 0, 0, 0, 0}},
    {"3x3 strided, many pixels", {3, 43, 41, 32}, 45, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"3x3 strided, half a unit of channels", {1, 9, 12, 48}, 9, 1, {3, 3, 2, 1, 1, 1, 0, 1, 1, 1}},
    {"5x2 strided, rows apart", {2, 17, 9, 40}, 80, 1, {5, 2, 1, 2, 2, 1, 4, 4, 0, 1}},
    {"1x1 strided", {2, 7, 6, 32}, 64, 1, {1, 1, 2, 2, 1, 1, 0, 0, 0, 0}},
    {"1x1 with padding", {1, 1, 1, 8}, 8, 1, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"stem 7x7", {2, 20, 18, 3}, 64, 1, {7, 7, 2, 2, 1, 1, 3, 3, 3, 3}},
    {"stem 7x7, 1 channel", {2, 20, 18, 1}, 64, 1, {7, 7, 2, 2, 1, 1, 3, 3, 3, 3}},
    {"stem 3x3, 4 channels", {2, 17, 16, 4}, 32, 1, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"stem 3x3", {2, 17, 16, 3}, 32, 1, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"17 channels", {3, 5, 5, 17}, 17, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"1 channel", {2, 6, 6, 1}, 1, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"flat window", {2, 6, 9, 16}, 16, 1, {1, 7, 1, 1, 1, 1, 0, 0, 3, 3}},
    {"window larger than the image", {2, 2, 3, 16}, 16, 1, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}},
    {"1 pixel", {4, 1, 1, 16}, 32, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"linear", {5, 1, 1, 40}, 37, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"linear, 1 sample", {1, 1, 1, 96}, 102, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"linear, 2 classes", {16, 1, 1, 1280}, 2, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"grouped", {2, 7, 7, 64}, 64, 16, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"grouped, odd", {2, 6, 5, 15}, 20, 5, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"grouped 1x1", {2, 5, 5, 32}, 64, 2, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"grouped linear", {3, 1, 1, 24}, 36, 3, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"depthwise 3x3", {2, 9, 9, 32}, 32, 32, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise 3x3 strided", {2, 9, 10, 48}, 48, 48, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"depthwise 3x3 strided differently", {2, 9, 10, 16}, 16, 16, {3, 3, 2, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise 5x5", {2, 8, 7, 40}, 40, 40, {5, 5, 1, 1, 1, 1, 2, 2, 2, 2}},
    {"depthwise 5x5 strided", {2, 11, 11, 16}, 16, 16, {5, 5, 2, 2, 1, 1, 1, 2, 1, 2}},
    {"depthwise 7x7", {1, 10, 9, 33}, 33, 33, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}},
    {"depthwise 7x7 strided, wide", {1, 9, 17, 35}, 35, 35, {7, 7, 2, 2, 1, 1, 3, 3, 3, 3}},
    {"depthwise 5x5 strided, wide", {1, 8, 31, 72}, 72, 72, {5, 5, 2, 2, 1, 1, 1, 2, 2, 2}},
    {"depthwise 3x3 strided, no padding", {2, 10, 16, 64}, 64, 64, {3, 3, 2, 2, 1, 1, 0, 0, 0, 0}},
    {"depthwise 9x2", {1, 12, 9, 10}, 10, 10, {9, 2, 1, 1, 1, 1, 4, 4, 0, 1}},
    {"depthwise dilated", {2, 9, 9, 16}, 16, 16, {3, 3, 1, 1, 2, 2, 2, 2, 2, 2}},
    {"depthwise, 17 channels", {2, 6, 6, 17}, 17, 17, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise, window larger than the image", {2, 2, 2, 24}, 24, 24, {5, 5, 1, 1, 1, 1, 2, 2, 2, 2}},
    {"depthwise, 1 pixel", {3, 1, 1, 20}, 20, 20, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise with a multiplier", {2, 7, 7, 8}, 24, 8, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
};
enum { CASES = sizeof cases / sizeof *cases };

/* All passes of one convolution with its weights as the trained parameter. */
typedef struct passes {
    conv_rig rig;
    ref_conv ref;
    hl_weight_expr expr;
    hl_tensor *x, *y, *dx, *dy, *packed, *packed_data, *dw;
    hl_step *fold, *forward, *data, *weight, *weight_grad;
    int64_t nx, ny, nw;
} passes;

/* False: the backend cannot compute this. threads 0: as many as there are cores. */
static bool passes_open_threads(passes *p, const conv_case *c, hl_elem elem, hl_elem y_elem, hl_elem dy_elem,
                                bool winograd, int threads)
{
    rig_open(&p->rig);
    if (threads > 0) {
        p->rig.backend->threads = threads;
        omp_set_num_threads(threads);
    }
    p->ref = ref_conv_make(c->x, c->outputs, c->groups, c->window);
    p->nx = hl_shape_count(p->ref.x);
    p->ny = hl_shape_count(p->ref.y);
    p->nw = ref_conv_weights(&p->ref);
    const int64_t dims[4] = {c->outputs, c->x.c / c->groups, c->window.kh, c->window.kw};
    p->expr =
        (hl_weight_expr){.kind = HL_WEIGHT_PLAIN, .weight = rig_param(&p->rig, "weight", true, 4, dims)};
    hl_conv_attr conv = {.window = c->window, .groups = c->groups, .expr = &p->expr, .winograd = winograd};
    p->x = rig_tensor(&p->rig, "x", p->ref.x, elem);
    p->y = rig_tensor(&p->rig, "y", p->ref.y, y_elem);
    p->dx = rig_tensor(&p->rig, "dx", p->ref.x, elem);
    p->dy = rig_tensor(&p->rig, "dy", p->ref.y, dy_elem);
    p->packed = rig_opaque(&p->rig, "packed", elem);
    p->packed_data = rig_packed_data(&p->rig, p->packed);
    p->dw = rig_opaque(&p->rig, "dW", HL_ELEM_F32);
    p->fold = rig_step(&p->rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, p->packed, p->packed_data, NULL);
    p->forward = rig_step(&p->rig, HL_STEP_CONV, &conv, p->x, p->packed, NULL, NULL, p->y, NULL, NULL);
    p->data =
        rig_step(&p->rig, HL_STEP_CONV_DATA, &conv, p->dy, p->packed_data, NULL, NULL, p->dx, NULL, NULL);
    p->weight = rig_step(&p->rig, HL_STEP_CONV_WEIGHT, &conv, p->x, p->dy, NULL, NULL, p->dw, NULL, NULL);
    p->weight_grad = rig_step(&p->rig, HL_STEP_WEIGHT_GRAD, &conv, p->dw, NULL, NULL, NULL, NULL, NULL, NULL);
    if (!rig_supports(&p->rig)) {
        rig_close(&p->rig);
        return false;
    }
    rig_build(&p->rig);
    return true;
}

static bool passes_open(passes *p, const conv_case *c, hl_elem elem, hl_elem y_elem, hl_elem dy_elem,
                        bool winograd)
{
    return passes_open_threads(p, c, elem, y_elem, dy_elem, winograd, 0);
}

static void passes_run(passes *p, const double *x, const double *w, const double *dy)
{
    rig_set(p->x, x);
    rig_set(p->dy, dy);
    for (int64_t i = 0; i < p->nw; i++)
        p->expr.weight->value[i] = (float)w[i];
    rig_run(&p->rig, p->fold);
    rig_run(&p->rig, p->forward);
    rig_run(&p->rig, p->data);
    rig_run(&p->rig, p->weight);
    rig_run(&p->rig, p->weight_grad);
    rig_expect_intact(&p->rig);
}

static void expect_equal(const conv_case *c, const char *what, hl_elem elem, const double *got,
                         const double *want, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        cr_assert(got[i] == rig_round(elem, want[i]), "%s: %s[%lld] is %g, not %g", c->name, what,
                  (long long)i, got[i], rig_round(elem, want[i]));
}

/* Sums of products of small integers are exact in float32, so every implementation must give the same bits.
 */
static bool expect_exact(const conv_case *c, hl_elem elem, hl_elem y_elem, hl_elem dy_elem)
{
    passes p;
    if (!passes_open(&p, c, elem, y_elem, dy_elem, false))
        return false;
    double *x = rig_array(p.nx), *w = rig_array(p.nw), *dy = rig_array(p.ny);
    double *y = rig_array(p.ny), *dx = rig_array(p.nx), *dw = rig_array(p.nw);
    double *got_y = rig_array(p.ny), *got_dx = rig_array(p.nx), *got_dw = rig_array(p.nw);
    rig_fill_integers(x, p.nx, 3, 1);
    rig_fill_integers(w, p.nw, 2, 2);
    rig_fill_integers(dy, p.ny, 3, 3);
    passes_run(&p, x, w, dy);
    ref_conv_forward(&p.ref, x, w, y);
    ref_conv_data(&p.ref, dy, w, dx);
    ref_conv_weight(&p.ref, x, dy, dw);
    rig_get(p.y, got_y);
    rig_get(p.dx, got_dx);
    for (int64_t i = 0; i < p.nw; i++)
        got_dw[i] = (double)p.expr.weight->grad[i];
    expect_equal(c, "y", y_elem, got_y, y, p.ny);
    expect_equal(c, "dx", elem, got_dx, dx, p.nx);
    expect_equal(c, "dw", p.dw->elem, got_dw, dw, p.nw);
    double *const arrays[] = {x, w, dy, y, dx, dw, got_y, got_dx, got_dw};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    rig_close(&p.rig);
    return true;
}

Test(conv, fp32_passes_are_exact_on_integers)
{
    for (int i = 0; i < CASES; i++)
        cr_assert(expect_exact(&cases[i], HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_F32));
}

Test(conv, wide_depthwise_results_go_past_the_cache)
{
    static const conv_case big = {"depthwise", {1, 120, 118, 160}, 160, 160, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}};
    cr_assert(expect_exact(&big, HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_F32));
}

Test(conv, bf16_passes_are_exact_on_integers)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    for (int i = 0; i < CASES; i++)
        cr_assert(expect_exact(&cases[i], HL_ELEM_BF16, HL_ELEM_BF16, HL_ELEM_BF16));
}

Test(conv, bf16_passes_with_fp32_logits_are_exact_on_integers)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    int computed = 0;
    for (int i = 0; i < 2 * CASES; i++)
        computed +=
            expect_exact(&cases[i / 2], HL_ELEM_BF16, HL_ELEM_F32, i % 2 ? HL_ELEM_BF16 : HL_ELEM_F32);
    cr_assert_gt(computed, 0);
}

/* |got - exact| where float32 sums of `terms` products come in any order: each addition and product errs by
 * at most half an ulp of what is summed so far, so the sum by terms * 2^-24 * sum |x w|, and storing by half
 * an ulp of the result. */
static void expect_close(const conv_case *c, const char *what, hl_elem elem, int64_t terms, const double *got,
                         const double *want, const double *absolute, int64_t count)
{
    double store = elem == HL_ELEM_BF16 ? 0x1p-8 : 0x1p-24;
    for (int64_t i = 0; i < count; i++) {
        double tolerance =
            (double)(terms + 2) * 0x1p-24 * absolute[i] * 1.01 + store * fabs(want[i]) + FLT_MIN;
        cr_assert(fabs(got[i] - want[i]) <= tolerance, "%s: %s[%lld] is %.9g, not %.9g (tolerance %g)",
                  c->name, what, (long long)i, got[i], want[i], tolerance);
    }
}

static void absolute_values(double *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        values[i] = fabs(values[i]);
}

static void expect_accurate(const conv_case *c, hl_elem elem)
{
    passes p;
    cr_assert(passes_open(&p, c, elem, elem, elem, false));
    double *x = rig_array(p.nx), *w = rig_array(p.nw), *dy = rig_array(p.ny);
    double *y = rig_array(p.ny), *dx = rig_array(p.nx), *dw = rig_array(p.nw);
    double *abs_y = rig_array(p.ny), *abs_dx = rig_array(p.nx), *abs_dw = rig_array(p.nw);
    double *got_y = rig_array(p.ny), *got_dx = rig_array(p.nx), *got_dw = rig_array(p.nw);
    rig_fill_uniform(x, p.nx, elem, 1);
    rig_fill_uniform(w, p.nw, elem, 2);
    rig_fill_uniform(dy, p.ny, elem, 3);
    passes_run(&p, x, w, dy);
    rig_get(p.y, got_y);
    rig_get(p.dx, got_dx);
    for (int64_t i = 0; i < p.nw; i++)
        got_dw[i] = (double)p.expr.weight->grad[i];
    ref_conv_forward(&p.ref, x, w, y);
    ref_conv_data(&p.ref, dy, w, dx);
    ref_conv_weight(&p.ref, x, dy, dw);
    absolute_values(x, p.nx);
    absolute_values(w, p.nw);
    absolute_values(dy, p.ny);
    ref_conv_forward(&p.ref, x, w, abs_y);
    ref_conv_data(&p.ref, dy, w, abs_dx);
    ref_conv_weight(&p.ref, x, dy, abs_dw);
    int64_t terms = ref_conv_terms(&p.ref);
    expect_close(c, "y", elem, terms, got_y, y, abs_y, p.ny);
    expect_close(c, "dx", elem, terms, got_dx, dx, abs_dx, p.nx);
    expect_close(c, "dw", p.dw->elem, terms, got_dw, dw, abs_dw, p.nw);
    double *const arrays[] = {x, w, dy, y, dx, dw, abs_y, abs_dx, abs_dw, got_y, got_dx, got_dw};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    rig_close(&p.rig);
}

Test(conv, fp32_passes_err_within_the_bound_of_their_sums)
{
    for (int i = 0; i < CASES; i++)
        expect_accurate(&cases[i], HL_ELEM_F32);
}

Test(conv, bf16_passes_err_within_the_bound_of_their_sums)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    for (int i = 0; i < CASES; i++)
        expect_accurate(&cases[i], HL_ELEM_BF16);
}

static double norm_of_difference(const double *a, const double *b, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum);
}

static void expect_norm(const char *name, const char *what, const double *got, const double *want,
                        int64_t count)
{
    double *zero = rig_array(count);
    double error = norm_of_difference(got, want, count), size = norm_of_difference(want, zero, count);
    cr_assert(error <= 4e-6 * size, "%s, %s: off by %g of its norm", name, what, error / size);
    free(zero);
}

/* F(4x4,3x3) computes each output from sums up to 48 times as large as its terms in each direction; rounding
 * errors, which are random, come out at 2^-24 times ten to twenty in the norm (seen: 7 to 18). */
static void expect_winograd(const conv_case *c)
{
    passes p;
    cr_assert(passes_open(&p, c, HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_F32, true));
    double *x = rig_array(p.nx), *w = rig_array(p.nw), *dy = rig_array(p.ny);
    double *y = rig_array(p.ny), *dx = rig_array(p.nx), *dw = rig_array(p.nw);
    double *got_y = rig_array(p.ny), *got_dx = rig_array(p.nx), *got_dw = rig_array(p.nw);
    rig_fill_uniform(x, p.nx, HL_ELEM_F32, 1);
    rig_fill_uniform(w, p.nw, HL_ELEM_F32, 2);
    rig_fill_uniform(dy, p.ny, HL_ELEM_F32, 3);
    ref_conv_forward(&p.ref, x, w, y);
    ref_conv_data(&p.ref, dy, w, dx);
    ref_conv_weight(&p.ref, x, dy, dw);
    for (int run = 0; run < 2; run++) { /* results do not depend on what scratch held */
        passes_run(&p, x, w, dy);
        rig_get(p.y, got_y);
        rig_get(p.dx, got_dx);
        for (int64_t i = 0; i < p.nw; i++)
            got_dw[i] = (double)p.expr.weight->grad[i];
        expect_norm(c->name, "y", got_y, y, p.ny);
        expect_norm(c->name, "dx", got_dx, dx, p.nx);
        expect_norm(c->name, "dw", got_dw, dw, p.nw);
    }
    double *const arrays[] = {x, w, dy, y, dx, dw, got_y, got_dx, got_dw};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    rig_close(&p.rig);
}

Test(conv, winograd_errs_little)
{
    static const conv_case wino[] = {
        {"56 wide", {1, 20, 56, 64}, 64, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"14 wide, more outputs", {2, 14, 14, 64}, 128, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"7 wide", {3, 7, 7, 128}, 96, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"no padding", {2, 12, 9, 32}, 48, 1, {3, 3, 1, 1, 1, 1, 0, 0, 0, 0}},
        {"padding on one side, so not by Winograd", {2, 12, 9, 32}, 16, 1, {3, 3, 1, 1, 1, 1, 0, 1, 0, 1}},
        {"channels that are no multiple of 16", {2, 12, 9, 20}, 33, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"1 pixel", {4, 1, 1, 16}, 32, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
        {"strided, so not by Winograd", {2, 9, 8, 16}, 32, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
        {"grouped, so not by Winograd", {2, 9, 8, 32}, 32, 2, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    };
    for (size_t i = 0; i < sizeof wino / sizeof *wino; i++)
        expect_winograd(&wino[i]);
}

Test(conv, weight_gradients_accumulate_over_micro_batches)
{
    const conv_case *c = &cases[0];
    passes p;
    cr_assert(passes_open(&p, c, HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_F32, false));
    double *x = rig_array(p.nx), *w = rig_array(p.nw), *dy = rig_array(p.ny), *dw = rig_array(p.nw);
    rig_fill_integers(x, p.nx, 3, 1);
    rig_fill_integers(dy, p.ny, 3, 3);
    p.expr.weight->grad[0] = NAN; /* keep 0 overwrites whatever was there */
    passes_run(&p, x, w, dy);
    p.rig.run.grad_keep = 1.0f;
    rig_run(&p.rig, p.weight);
    rig_run(&p.rig, p.weight_grad);
    ref_conv_weight(&p.ref, x, dy, dw);
    for (int64_t i = 0; i < p.nw; i++)
        cr_assert(p.expr.weight->grad[i] == (float)(2.0 * dw[i]));
    free(x);
    free(w);
    free(dy);
    free(dw);
    rig_close(&p.rig);
}

/* One after the other in `all`, which the caller frees. */
static size_t results_of(const passes *p, char **all)
{
    size_t dw = (size_t)p->nw * sizeof(float), bytes = dw + p->y->bytes + p->dx->bytes;
    *all = calloc(1, bytes);
    memcpy(*all, p->expr.weight->grad, dw);
    memcpy(*all + dw, p->y->data, p->y->bytes);
    memcpy(*all + dw + p->y->bytes, p->dx->data, p->dx->bytes);
    return bytes;
}

static void expect_same_with_any_threads(const conv_case *c, hl_elem elem)
{
    char *first = NULL;
    for (int threads = 1; threads <= 5; threads++) {
        passes p;
        char *all;
        cr_assert(passes_open_threads(&p, c, elem, elem, elem, false, threads));
        double *x = rig_array(p.nx), *w = rig_array(p.nw), *dy = rig_array(p.ny);
        rig_fill_uniform(x, p.nx, elem, 1);
        rig_fill_uniform(w, p.nw, elem, 2);
        rig_fill_uniform(dy, p.ny, elem, 3);
        passes_run(&p, x, w, dy);
        size_t bytes = results_of(&p, &all);
        if (first == NULL)
            first = all;
        else
            cr_assert_eq(memcmp(first, all, bytes), 0, "%s: %d threads", c->name, threads);
        if (all != first)
            free(all);
        free(x);
        free(w);
        free(dy);
        rig_close(&p.rig);
    }
    free(first);
}

/* Where the kernels are ours; oneDNN does not promise it. */
Test(conv, results_of_our_kernels_do_not_depend_on_the_number_of_threads)
{
    static const conv_case wide = {"depthwise 5x5", {3, 21, 20, 40}, 40, 40, {5, 5, 1, 1, 1, 1, 2, 2, 2, 2}};
    static const conv_case pixelwise = {"1x1", {3, 18, 19, 136}, 141, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}};
    static const conv_case strided = {"3x3 strided", {3, 44, 41, 48}, 70, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}};
    expect_same_with_any_threads(&wide, HL_ELEM_F32);
    if (!hl_kernel_is_native(HL_ELEM_F32))
        cr_skip_test("SKIPPED: no AVX-512 on this processor");
    expect_same_with_any_threads(&strided, HL_ELEM_F32);
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    expect_same_with_any_threads(&pixelwise, HL_ELEM_BF16);
    expect_same_with_any_threads(&strided, HL_ELEM_BF16);
}
