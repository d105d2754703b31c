/* GLOBAL_POOL and GRID_POOL: means over a map or its cells. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

static const hl_shape maps[] = {{1, 1, 1, 1}, {3, 1, 1, 17}, {2, 7, 7, 40}, {1, 3, 2, 2051}, {2, 33, 31, 5}};
static const struct {
    hl_shape map;
    int64_t h, w; /* cells */
} grids[] = {
    {{1, 1, 1, 1}, 1, 1},    {{2, 1, 1, 17}, 7, 7}, {{2, 5, 5, 40}, 7, 7},
    {{1, 8, 8, 33}, 7, 7},   {{2, 9, 4, 5}, 6, 6},  {{1, 13, 20, 8}, 6, 7},
    {{1, 3, 2, 2051}, 2, 3}, {{1, 14, 7, 4}, 7, 7}, {{1, 31, 30, 3}, 7, 7},
};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

#define COUNT(list) (sizeof(list) / sizeof *(list))

static void expect_means(hl_step_kind kind, hl_step_kind grad, hl_shape in, hl_shape out, hl_elem elem,
                         hl_elem mean_elem)
{
    step_harness h;
    harness_open(&h);
    hl_tensor *x = harness_tensor(&h, "x", in, elem), *y = harness_tensor(&h, "y", out, mean_elem);
    hl_tensor *dy = harness_tensor(&h, "dy", out, elem), *dx = harness_tensor(&h, "dx", in, elem);
    hl_step *forward = harness_step(&h, kind, 1, &x, 1, &y),
            *backward = harness_step(&h, grad, 1, &dy, 1, &dx);
    harness_build(&h);
    int64_t nx = hl_shape_count(in), ny = hl_shape_count(out);
    double *xv = random_doubles(nx, 0.0, 2.0, elem, 1), *dyv = random_doubles(ny, -1.0, 1.0, elem, 2);
    double *got_y = doubles(ny), *want_y = doubles(ny), *got_dx = doubles(nx), *want_dx = doubles(nx);
    ref_grid_pool(xv, in, out, want_y);
    ref_grid_pool_grad(dyv, in, out, want_dx);
    harness_set(x, xv);
    harness_set(dy, dyv);
    harness_run(&h, forward);
    harness_run(&h, backward);
    harness_get(y, got_y);
    harness_get(dx, got_dx);
    /* Means of at most this many values up to 2; a place is in at most so many cells, each with a share of at
     * most 1. The gradient is linear: it is its own difference. */
    double in_cell = (double)((in.h / out.h + 2) * (in.w / out.w + 2)),
           cells = (double)((out.h / in.h + 2) * (out.w / in.w + 2));
    expect_close("y", mean_elem, got_y, want_y, ny, 2.0, in_cell + 2.0);
    expect_close("dx", elem, got_dx, want_dx, nx, cells, cells + 2.0);
    double *const all[] = {xv, dyv, got_y, want_y, got_dx, want_dx};
    for (size_t i = 0; i < COUNT(all); i++)
        free(all[i]);
    harness_close(&h);
}

static void expect_global(hl_shape in, hl_elem elem, hl_elem mean_elem)
{
    expect_means(HL_STEP_GLOBAL_POOL, HL_STEP_GLOBAL_POOL_GRAD, in, (hl_shape){in.n, 1, 1, in.c}, elem,
                 mean_elem);
}

Test(mean_pool, means_over_a_map_and_their_gradients_agree_with_the_definition)
{
    for (size_t k = 0; k < COUNT(maps); k++)
        for (size_t e = 0; e < COUNT(elems); e++)
            expect_global(maps[k], elems[e], elems[e]);
}

/* Logits are f32 also where a network ends in the mean of a 16-bit map. */
Test(mean_pool, means_of_16_bit_maps_may_be_f32)
{
    for (size_t k = 0; k < COUNT(maps); k++)
        expect_global(maps[k], HL_ELEM_BF16, HL_ELEM_F32);
}

Test(mean_pool, means_over_cells_and_their_gradients_agree_with_the_definition)
{
    for (size_t k = 0; k < COUNT(grids); k++)
        for (size_t e = 0; e < COUNT(elems); e++)
            expect_means(HL_STEP_GRID_POOL, HL_STEP_GRID_POOL_GRAD, grids[k].map,
                         (hl_shape){grids[k].map.n, grids[k].h, grids[k].w, grids[k].map.c}, elems[e],
                         elems[e]);
}

/* torch.nn.AdaptiveAvgPool2d((2, 4)) of 0 ... 14 as a map of 3 x 5. */
Test(mean_pool, cells_follow_pytorch)
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
