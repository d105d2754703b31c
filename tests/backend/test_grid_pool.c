#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

typedef struct map_case {
    hl_shape in;
    int64_t h, w; /* cells */
} map_case;

static const map_case cases[] = {
    {{1, 1, 1, 1}, 1, 1},    {{2, 1, 1, 17}, 7, 7}, {{2, 5, 5, 40}, 7, 7},
    {{1, 8, 8, 33}, 7, 7},   {{2, 9, 4, 5}, 6, 6},  {{1, 13, 20, 8}, 6, 7},
    {{1, 3, 2, 2051}, 2, 3}, {{1, 14, 7, 4}, 7, 7}, {{1, 31, 30, 3}, 7, 7},
};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

static void expect_means(const map_case *c, hl_elem elem)
{
    step_harness h;
    harness_open(&h);
    hl_shape out = {c->in.n, c->h, c->w, c->in.c};
    hl_tensor *x = harness_tensor(&h, "x", c->in, elem), *y = harness_tensor(&h, "y", out, elem);
    hl_tensor *dy = harness_tensor(&h, "dy", out, elem), *dx = harness_tensor(&h, "dx", c->in, elem);
    hl_step *forward = harness_step(&h, HL_STEP_GRID_POOL, 1, &x, 1, &y);
    hl_step *backward = harness_step(&h, HL_STEP_GRID_POOL_GRAD, 1, &dy, 1, &dx);
    harness_build(&h);
    int64_t nx = hl_shape_count(c->in), ny = hl_shape_count(out);
    double *xv = random_doubles(nx, 0.0, 2.0, elem, 1), *dyv = random_doubles(ny, -1.0, 1.0, elem, 2);
    double *got_y = doubles(ny), *want_y = doubles(ny), *got_dx = doubles(nx), *want_dx = doubles(nx);
    ref_grid_pool(xv, c->in, out, want_y);
    ref_grid_pool_grad(dyv, c->in, out, want_dx);
    harness_set(x, xv);
    harness_set(dy, dyv);
    harness_run(&h, forward);
    harness_run(&h, backward);
    harness_get(y, got_y);
    harness_get(dx, got_dx);
    /* Means of at most this many values up to 2; a place is in at most so many cells, each with a share of at
     * most 1. The gradient is linear: it is its own difference. */
    double in_cell = (double)((c->in.h / c->h + 2) * (c->in.w / c->w + 2));
    double cells = (double)((c->h / c->in.h + 2) * (c->w / c->in.w + 2));
    expect_close("y", elem, got_y, want_y, ny, 2.0, in_cell + 2.0);
    expect_close("dx", elem, got_dx, want_dx, nx, cells, cells + 2.0);
    double *const all[] = {xv, dyv, got_y, want_y, got_dx, want_dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&h);
}

Test(grid_pool, means_and_their_gradients_agree_with_the_definition)
{
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int e = 0; e < 2; e++)
            expect_means(&cases[k], elems[e]);
}

/* torch.nn.AdaptiveAvgPool2d((2, 4)) of 0 ... 14 as a map of 3 x 5. */
Test(grid_pool, follows_pytorch)
{
    static const double want[] = {3.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0, 11.0};
    step_harness h;
    harness_open(&h);
    hl_tensor *x = harness_tensor(&h, "x", (hl_shape){1, 3, 5, 1}, HL_ELEM_F32),
              *y = harness_tensor(&h, "y", (hl_shape){1, 2, 4, 1}, HL_ELEM_F32);
    hl_step *step = harness_step(&h, HL_STEP_GRID_POOL, 1, &x, 1, &y);
    harness_build(&h);
    double values[15], got[8];
    for (int i = 0; i < 15; i++)
        values[i] = i;
    harness_set(x, values);
    harness_run(&h, step);
    harness_get(y, got);
    expect_close("y", HL_ELEM_F32, got, want, 8, 14.0, 6.0);
    harness_close(&h);
}
