#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

typedef struct pool_case {
    hl_shape in;
    hl_window window; /* kh, kw, sh, sw, dh, dw, top, bottom, left, right */
} pool_case;

static const pool_case cases[] = {
    {{1, 1, 1, 1}, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {{2, 9, 7, 17}, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {{2, 8, 8, 16}, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {{1, 6, 5, 33}, {2, 2, 2, 2, 1, 1, 0, 0, 0, 1}},
    {{2, 7, 7, 5}, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {{1, 5, 9, 40}, {1, 4, 1, 3, 1, 1, 0, 0, 2, 1}},
    {{1, 3, 3, 2051}, {2, 2, 1, 1, 1, 1, 1, 0, 0, 0}},
    {{2, 1, 1, 8}, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    /* several segments in a row */
    {{1, 6, 70, 40}, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {{1, 5, 60, 64}, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {{1, 40, 40, 3}, {17, 18, 5, 7, 1, 1, 8, 8, 9, 9}},
    {{2, 10, 10, 4}, {2, 2, 3, 3, 1, 1, 0, 0, 0, 0}},
};
enum { CASES = sizeof cases / sizeof *cases };
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

static hl_shape output_of(const pool_case *c)
{
    const hl_window *w = &c->window;
    return (hl_shape){c->in.n, (c->in.h + w->top + w->bottom - w->kh) / w->sh + 1,
                      (c->in.w + w->left + w->right - w->kw) / w->sw + 1, c->in.c};
}

typedef struct rig {
    step_harness h;
    hl_pool_attr attr;
    hl_shape in, out;
    int64_t nx, ny;
    hl_tensor *x, *y, *index, *dy, *dx;
    hl_step *forward, *backward;
} rig;

static void rig_make(rig *r, const pool_case *c, hl_elem elem, bool max, bool count_padding)
{
    harness_open(&r->h);
    r->attr = (hl_pool_attr){.window = c->window, .max = max, .count_padding = count_padding};
    r->in = c->in;
    r->out = output_of(c);
    r->nx = hl_shape_count(r->in);
    r->ny = hl_shape_count(r->out);
    r->x = harness_tensor(&r->h, "x", r->in, elem);
    r->y = harness_tensor(&r->h, "y", r->out, elem);
    hl_elem index = c->window.kh * c->window.kw <= 256 ? HL_ELEM_U8 : HL_ELEM_I32;
    r->index = max ? harness_tensor(&r->h, "index", r->out, index) : NULL;
    r->dy = harness_tensor(&r->h, "dy", r->out, elem);
    r->dx = harness_tensor(&r->h, "dx", r->in, elem);
    r->forward = harness_step(&r->h, HL_STEP_POOL, 1, &r->x, 2, (hl_tensor *[]){r->y, r->index});
    r->backward = harness_step(&r->h, HL_STEP_POOL_GRAD, 2, (hl_tensor *[]){r->dy, r->index}, 1, &r->dx);
    r->forward->pool = r->backward->pool = r->attr;
}

static void expect_pool(const pool_case *c, hl_elem elem, bool max, bool count_padding)
{
    rig r;
    rig_make(&r, c, elem, max, count_padding);
    harness_build(&r.h);
    double *x = random_doubles(r.nx, -2.0, 2.0, elem, 1), *dy = random_doubles(r.ny, -1.0, 1.0, elem, 2);
    double *y = doubles(r.ny), *want_y = doubles(r.ny), *index = doubles(r.ny), *want_index = doubles(r.ny),
           *dx = doubles(r.nx), *want_dx = doubles(r.nx);
    for (int64_t i = 0; i < r.nx; i += 3) /* ties */
        x[i] = 1.0;
    harness_set(r.x, x);
    harness_set(r.dy, dy);
    harness_run(&r.h, r.forward);
    harness_run(&r.h, r.backward);
    ref_pool(&r.attr, x, r.in, r.out, want_y, max ? want_index : NULL);
    ref_pool_grad(&r.attr, dy, want_index, r.in, r.out, want_dx);
    harness_get(r.y, y);
    harness_get(r.dx, dx);
    double area = (double)(c->window.kh * c->window.kw);
    if (max) { /* nothing is rounded */
        harness_get(r.index, index);
        expect_same("y", y, want_y, r.ny);
        expect_same("index", index, want_index, r.ny);
    } else { /* means of up to `area` values up to 2 */
        expect_close("y", elem, y, want_y, r.ny, 2.0, area + 2.0);
    }
    /* Sums of up to `area` gradients up to 1. */
    expect_close("dx", elem, dx, want_dx, r.nx, area, area + 2.0);
    double *const all[] = {x, dy, y, want_y, index, want_index, dx, want_dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&r.h);
}

Test(pool, maxima_and_their_gradients_agree_with_the_definition)
{
    for (int k = 0; k < CASES; k++)
        for (int e = 0; e < 2; e++)
            expect_pool(&cases[k], elems[e], true, false);
}

Test(pool, averages_and_their_gradients_agree_with_the_definition)
{
    for (int k = 0; k < CASES; k++)
        for (int e = 0; e < 2; e++)
            for (int count_padding = 0; count_padding < 2; count_padding++)
                expect_pool(&cases[k], elems[e], false, count_padding);
}

/* Average: linear. Maximum: piecewise linear, and the random values are further apart than the step. */
Test(pool, gradients_agree_with_finite_differences)
{
    for (int max = 0; max < 2; max++) {
        rig r;
        rig_make(&r, &cases[2], HL_ELEM_F32, max, true);
        harness_build(&r.h);
        double *x = random_doubles(r.nx, -2.0, 2.0, HL_ELEM_F32, 3),
               *dy = random_doubles(r.ny, -1.0, 1.0, HL_ELEM_F32, 4);
        double *y = doubles(r.ny), *dx = doubles(r.nx), *want = doubles(r.nx);
        harness_set(r.x, x);
        harness_set(r.dy, dy);
        harness_run(&r.h, r.forward);
        harness_run(&r.h, r.backward);
        harness_get(r.dx, dx);
        const double h = 1e-8;
        for (int64_t i = 0; i < r.nx; i++) {
            double kept = x[i], loss[2] = {0.0, 0.0};
            for (int side = 0; side < 2; side++) {
                x[i] = side ? kept + h : kept - h;
                ref_pool(&r.attr, x, r.in, r.out, y, NULL);
                for (int64_t j = 0; j < r.ny; j++)
                    loss[side] += y[j] * dy[j];
            }
            x[i] = kept;
            want[i] = (loss[1] - loss[0]) / (2.0 * h);
        }
        /* The difference of two sums near 100 errs by 100 * 2^-53 / h = 1e-6. */
        expect_close("dx", HL_ELEM_F32, dx, want, r.nx, 9.0, 11.0 + 2.0);
        free(x), free(dy), free(y), free(dx), free(want);
        harness_close(&r.h);
    }
}

static void pool_golden(const float *x_golden, int64_t side, hl_window window, bool max, bool count_padding,
                        double *y, double *index, int64_t *out_side)
{
    rig r;
    pool_case c = {{1, side, side, 1}, window};
    rig_make(&r, &c, HL_ELEM_F32, max, count_padding);
    harness_build(&r.h);
    double x[25];
    for (int64_t i = 0; i < side * side; i++)
        x[i] = (double)x_golden[i];
    harness_set(r.x, x);
    harness_run(&r.h, r.forward);
    harness_get(r.y, y);
    if (max)
        harness_get(r.index, index);
    *out_side = r.out.h;
    harness_close(&r.h);
}

/* PyTorch's index counts in the input plane, ours in the window. */
Test(pool, ties_and_nan_follow_pytorch)
{
    double y[4], index[4], want[4];
    int64_t side;
    pool_golden(golden_maxpool_x, 4, (hl_window){3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, true, false, y, index, &side);
    cr_assert_eq(side, 2);
    for (int i = 0; i < 4; i++) {
        int row = i / 2 * 2 - 1 + (int)index[i] / 3, column = i % 2 * 2 - 1 + (int)index[i] % 3;
        cr_assert_eq(row * 4 + column, golden_maxpool_index[i], "window %d", i);
        want[i] = (double)golden_maxpool_y[i];
    }
    expect_same("y", y, want, 4);
}

Test(pool, divisors_follow_pytorch)
{
    static const struct {
        const float *want;
        hl_window window;
        bool count_padding;
    } goldens[] = {
        {golden_avgpool_padded, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, true},
        {golden_avgpool_inside, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, false},
        {golden_avgpool_ceil, {2, 2, 2, 2, 1, 1, 0, 1, 0, 1}, true},
    };
    for (int k = 0; k < 3; k++) {
        double y[9], want[9];
        int64_t side;
        pool_golden(golden_avgpool_x, 5, goldens[k].window, false, goldens[k].count_padding, y, NULL, &side);
        cr_assert_eq(side, 3);
        for (int i = 0; i < 9; i++)
            want[i] = (double)goldens[k].want[i];
        /* Means of 9 values up to 3, rounded differently on both sides. */
        expect_close("y", HL_ELEM_F32, y, want, 9, 3.0, 20);
    }
}

Test(pool, windows_of_nothing_but_padding_and_dilated_ones_are_refused)
{
    rig r;
    rig_make(&r, &(pool_case){{1, 4, 4, 2}, {2, 2, 1, 1, 1, 1, 2, 0, 0, 0}}, HL_ELEM_F32, true, false);
    cr_assert_eq(harness_prepare(&r.h, r.forward), HL_E_ARG);
    cr_assert_eq(harness_prepare(&r.h, r.backward), HL_E_ARG);
    harness_close(&r.h);
    rig_make(&r, &(pool_case){{1, 6, 6, 2}, {2, 2, 1, 1, 2, 2, 0, 0, 0, 0}}, HL_ELEM_F32, true, false);
    cr_assert_eq(harness_prepare(&r.h, r.forward), HL_E_UNSUPPORTED);
    harness_close(&r.h);
}
