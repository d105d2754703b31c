#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "support/numeric.h"
#include "support/step_harness.h"

static const int64_t widths[] = {1, 17, 32, 5};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};
static const hl_shape whole = {2, 5, 3, 55};

static void expect_round_trip(hl_elem elem)
{
    step_harness h;
    harness_open(&h);
    int64_t n = hl_shape_count(whole);
    hl_tensor *parts[4], *back[4], *y = harness_tensor(&h, "y", whole, elem);
    for (int k = 0; k < 4; k++) {
        hl_shape part = {whole.n, whole.h, whole.w, widths[k]};
        parts[k] = harness_tensor(&h, "part", part, elem);
        back[k] = k == 2 ? NULL : harness_tensor(&h, "back", part, elem); /* one that is not wanted */
    }
    hl_step *forward = harness_step(&h, HL_STEP_CONCAT, 4, parts, 1, &y);
    hl_step *backward = harness_step(&h, HL_STEP_CONCAT_GRAD, 1, &y, 4, back);
    backward->concat.widths = widths;
    harness_build(&h);
    double *values = random_doubles(n, -2.0, 2.0, elem, 1), *part = doubles(n), *got = doubles(n);
    for (int64_t k = 0, first = 0; k < 4; first += widths[k], k++) {
        for (int64_t i = 0; i < n / whole.c * widths[k]; i++)
            part[i] = values[i / widths[k] * whole.c + first + i % widths[k]];
        harness_set(parts[k], part);
    }
    harness_run(&h, forward);
    harness_get(y, got);
    expect_same("y", got, values, n);
    harness_run(&h, backward);
    for (int k = 0; k < 4; k++) {
        if (back[k] == NULL)
            continue;
        harness_get(parts[k], part);
        harness_get(back[k], got);
        expect_same("gradient", got, part, n / whole.c * widths[k]);
    }
    free(values), free(part), free(got);
    harness_close(&h);
}

Test(concat, channels_lie_side_by_side_and_come_apart_again)
{
    for (int e = 0; e < 2; e++)
        expect_round_trip(elems[e]);
}

Test(concat, tensors_of_different_precision_are_refused)
{
    step_harness h;
    harness_open(&h);
    hl_shape half = {1, 1, 1, 4};
    hl_tensor *in[2] = {harness_tensor(&h, "a", half, HL_ELEM_F32),
                        harness_tensor(&h, "b", half, HL_ELEM_BF16)};
    hl_tensor *y = harness_tensor(&h, "y", (hl_shape){1, 1, 1, 8}, HL_ELEM_F32);
    cr_assert_neq(harness_prepare(&h, harness_step(&h, HL_STEP_CONCAT, 2, in, 1, &y)), HL_OK);
    harness_close(&h);
}
