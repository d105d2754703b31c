#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "backend/dropout_mask.h"
#include "support/numeric.h"
#include "support/step_harness.h"

typedef struct rig {
    step_harness h;
    int64_t count;
    hl_tensor *x, *y, *dy, *dx;
    hl_step *forward, *backward;
    double *ones, *got;
} rig;

static void rig_make(rig *r, int64_t count, hl_elem elem, float p, uint32_t id)
{
    harness_open(&r->h);
    r->count = count;
    hl_shape s = {1, 1, 1, count};
    r->x = harness_tensor(&r->h, "x", s, elem);
    r->y = harness_tensor(&r->h, "y", s, elem);
    r->dy = harness_tensor(&r->h, "dy", s, elem);
    r->dx = harness_tensor(&r->h, "dx", s, elem);
    r->forward = harness_step(&r->h, HL_STEP_DROPOUT, 1, &r->x, 1, &r->y);
    r->backward = harness_step(&r->h, HL_STEP_DROPOUT_GRAD, 1, &r->dy, 1, &r->dx);
    r->forward->dropout.p = r->backward->dropout.p = p;
    r->forward->dropout.id = r->backward->dropout.id = id;
    harness_build(&r->h);
    r->ones = doubles(count);
    r->got = doubles(count);
    for (int64_t i = 0; i < count; i++)
        r->ones[i] = 1.0;
    harness_set(r->x, r->ones);
    harness_set(r->dy, r->ones);
}

static void rig_drop(rig *r)
{
    free(r->ones), free(r->got);
    harness_close(&r->h);
}

static const double *mask(rig *r)
{
    harness_run(&r->h, r->forward);
    harness_get(r->y, r->got);
    return r->got;
}

Test(dropout, the_mask_is_the_one_all_backends_share)
{
    static const int64_t counts[] = {1, 3, 17, 2048, 5003};
    for (int k = 0; k < 5; k++)
        for (int e = 0; e < 2; e++) {
            hl_elem elem = e ? HL_ELEM_BF16 : HL_ELEM_F32;
            rig r;
            rig_make(&r, counts[k], elem, 0.3f, 9);
            r.h.run.seed = 77;
            r.h.run.micro_step = 5;
            const double *y = mask(&r);
            double *want = doubles(r.count);
            for (int64_t i = 0; i < r.count; i++) {
                hl_philox block = hl_dropout_block(77, 9, 5, i);
                want[i] = hl_dropout_keeps(block.v[i % 4], 0.3f)
                              ? stored(elem, (double)(1.0f / (1.0f - 0.3f)))
                              : 0.0;
            }
            expect_same("y", y, want, r.count);
            harness_run(&r.h, r.backward); /* linear: the gradient of ones is the mask */
            harness_get(r.dx, r.got);
            expect_same("dx", r.got, want, r.count);
            free(want);
            rig_drop(&r);
        }
}

/* Of n = 20000 about n (1 - p) are kept, within 5 standard deviations sqrt(n p (1 - p)). */
Test(dropout, the_share_kept_is_one_minus_p)
{
    static const float shares[] = {0.1f, 0.5f, 0.9f};
    for (int k = 0; k < 3; k++) {
        rig r;
        rig_make(&r, 20000, HL_ELEM_F32, shares[k], 1);
        const double *y = mask(&r);
        double kept = 0.0, p = (double)shares[k];
        for (int64_t i = 0; i < r.count; i++)
            kept += y[i] != 0.0;
        cr_assert(fabs(kept - 20000.0 * (1.0 - p)) < 5.0 * sqrt(20000.0 * p * (1.0 - p)), "%g kept", kept);
        rig_drop(&r);
    }
}

Test(dropout, passes_layers_and_seeds_draw_different_masks)
{
    rig r;
    rig_make(&r, 256, HL_ELEM_F32, 0.5f, 1);
    double *first = doubles(256);
    for (int64_t i = 0; i < 256; i++)
        first[i] = mask(&r)[i];
    int differ[3] = {0, 0, 0};
    r.h.run.micro_step = 1;
    mask(&r);
    for (int64_t i = 0; i < 256; i++)
        differ[0] += r.got[i] != first[i];
    r.h.run.micro_step = 0;
    r.h.run.seed = 2;
    mask(&r);
    for (int64_t i = 0; i < 256; i++)
        differ[1] += r.got[i] != first[i];
    r.h.run.seed = 1;
    r.forward->dropout.id = 2;
    mask(&r);
    for (int64_t i = 0; i < 256; i++)
        differ[2] += r.got[i] != first[i];
    for (int k = 0; k < 3; k++)
        cr_assert(differ[k] > 64 && differ[k] < 192, "%d of 256 differ", differ[k]);
    r.forward->dropout.id = 1;
    mask(&r);
    expect_same("the same again", r.got, first, 256);
    free(first);
    rig_drop(&r);
}

Test(dropout, nothing_is_dropped_with_p_zero)
{
    rig r;
    rig_make(&r, 100, HL_ELEM_F32, 0.0f, 1);
    expect_same("y", mask(&r), r.ones, 100);
    rig_drop(&r);
}

Test(dropout, what_is_dropped_is_zero_even_where_it_is_not_a_number)
{
    rig r;
    rig_make(&r, 64, HL_ELEM_F32, 0.5f, 1);
    for (int64_t i = 0; i < 64; i++)
        r.ones[i] = NAN;
    harness_set(r.x, r.ones);
    mask(&r);
    int zeros = 0, nans = 0;
    for (int64_t i = 0; i < 64; i++) {
        zeros += r.got[i] == 0.0;
        nans += isnan(r.got[i]) != 0;
    }
    cr_assert(zeros > 0 && nans > 0 && zeros + nans == 64);
    rig_drop(&r);
}
