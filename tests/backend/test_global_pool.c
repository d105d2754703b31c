#include <criterion/criterion.h>
#include <stdlib.h>

#include "support/numeric.h"
#include "support/step_harness.h"

static const hl_shape shapes[] = {
    {1, 1, 1, 1}, {3, 1, 1, 17}, {2, 7, 7, 40}, {1, 3, 2, 2051}, {2, 33, 31, 5}};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

static void expect_means(hl_shape s, hl_elem elem, hl_elem mean_elem)
{
    step_harness h;
    harness_open(&h);
    hl_shape vector = {s.n, 1, 1, s.c};
    hl_tensor *x = harness_tensor(&h, "x", s, elem), *y = harness_tensor(&h, "y", vector, mean_elem);
    hl_tensor *dy = harness_tensor(&h, "dy", vector, elem), *dx = harness_tensor(&h, "dx", s, elem);
    hl_step *forward = harness_step(&h, HL_STEP_GLOBAL_POOL, 1, &x, 1, &y);
    hl_step *backward = harness_step(&h, HL_STEP_GLOBAL_POOL_GRAD, 1, &dy, 1, &dx);
    harness_build(&h);
    int64_t pixels = s.h * s.w, nx = hl_shape_count(s), ny = s.n * s.c;
    double *xv = random_doubles(nx, 0.0, 2.0, elem, 1), *dyv = random_doubles(ny, -1.0, 1.0, elem, 2);
    double *got_y = doubles(ny), *want_y = doubles(ny), *got_dx = doubles(nx), *want_dx = doubles(nx);
    for (int64_t i = 0; i < nx; i++) {
        int64_t o = i / (pixels * s.c) * s.c + i % s.c;
        want_y[o] += xv[i] / (double)pixels;
        want_dx[i] = dyv[o] / (double)pixels;
    }
    harness_set(x, xv);
    harness_set(dy, dyv);
    harness_run(&h, forward);
    harness_run(&h, backward);
    harness_get(y, got_y);
    harness_get(dx, got_dx);
    /* A sum of `pixels` values up to 2, divided by their number. The gradient is linear: it is its own
     * difference. */
    expect_close("y", mean_elem, got_y, want_y, ny, 2.0, (double)pixels + 2.0);
    expect_close("dx", elem, got_dx, want_dx, nx, 1.0, 2.0);
    double *const all[] = {xv, dyv, got_y, want_y, got_dx, want_dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&h);
}

Test(global_pool, means_and_their_gradients_agree_with_the_definition)
{
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        for (int e = 0; e < 2; e++)
            expect_means(shapes[k], elems[e], elems[e]);
}

/* Logits are f32 also where a network ends in the mean of a 16-bit map. */
Test(global_pool, means_of_16_bit_maps_may_be_f32)
{
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++)
        expect_means(shapes[k], HL_ELEM_BF16, HL_ELEM_F32);
}
