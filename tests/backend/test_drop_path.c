#include <criterion/criterion.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "backend/dropout_mask.h"
#include "support/numeric.h"
#include "support/step_harness.h"

typedef struct rig {
    step_harness h;
    int64_t samples, count; /* elements of a sample */
    hl_tensor *x, *residual, *y, *dy, *dx;
    hl_step *forward, *backward;
    double *x_values, *residual_values, *got;
} rig;

static void rig_make(rig *r, hl_shape s, hl_elem elem, float p, bool residual)
{
    *r = (rig){.samples = s.n, .count = hl_shape_count(s) / s.n};
    harness_open(&r->h);
    r->x = harness_tensor(&r->h, "x", s, elem);
    r->residual = harness_tensor(&r->h, "residual", s, elem);
    r->y = harness_tensor(&r->h, "y", s, elem);
    r->dy = harness_tensor(&r->h, "dy", s, elem);
    r->dx = harness_tensor(&r->h, "dx", s, elem);
    hl_tensor *in[2] = {r->x, residual ? r->residual : NULL};
    r->forward = harness_step(&r->h, HL_STEP_DROP_PATH, 2, in, 1, &r->y);
    r->backward = harness_step(&r->h, HL_STEP_DROP_PATH_GRAD, 1, &r->dy, 1, &r->dx);
    r->forward->dropout.p = r->backward->dropout.p = p;
    r->forward->dropout.id = r->backward->dropout.id = 9;
    harness_build(&r->h);
    int64_t all = s.n * r->count;
    r->x_values = random_doubles(all, -1.0, 1.0, elem, 1);
    r->residual_values = random_doubles(all, -1.0, 1.0, elem, 2);
    r->got = doubles(all);
    harness_set(r->x, r->x_values);
    harness_set(r->residual, r->residual_values);
    harness_set(r->dy, r->x_values);
}

static void rig_drop(rig *r)
{
    free(r->x_values), free(r->residual_values), free(r->got);
    harness_close(&r->h);
}

static bool keeps(const rig *r, int64_t sample)
{
    hl_philox block = hl_dropout_block(r->h.run.seed, 9, r->h.run.micro_step, sample);
    return hl_dropout_keeps(block.v[sample % 4], r->forward->dropout.p);
}

/* Forward and backward draw the same samples; f32 in the steps' own order of operations. */
static void expect_samples(hl_shape shape, hl_elem elem, bool residual)
{
    rig r;
    rig_make(&r, shape, elem, 0.4f, residual);
    r.h.run.seed = 77;
    r.h.run.micro_step = 5;
    int64_t all = r.samples * r.count;
    double *y = doubles(all), *dx = doubles(all);
    int kept = 0;
    for (int64_t i = 0; i < all; i++) {
        bool keep = keeps(&r, i / r.count);
        float scaled = keep ? (float)r.x_values[i] * (1.0f / (1.0f - 0.4f)) : 0.0f;
        y[i] = stored(elem, residual ? (double)(scaled + (float)r.residual_values[i]) : (double)scaled);
        dx[i] = stored(elem, (double)scaled);
        kept += keep && i % r.count == 0;
    }
    cr_assert(kept > 0 && kept < r.samples, "the case drops all or nothing");
    harness_run(&r.h, r.forward);
    harness_get(r.y, r.got);
    expect_same("y", r.got, y, all);
    harness_run(&r.h, r.backward);
    harness_get(r.dx, r.got);
    expect_same("dx", r.got, dx, all);
    free(y), free(dx);
    rig_drop(&r);
}

Test(drop_path, whole_samples_are_dropped_and_the_rest_scaled)
{
    static const hl_shape shapes[] = {{9, 1, 1, 1}, {7, 3, 5, 3}, {6, 5, 7, 64}, {5, 7, 10, 40}};
    for (int s = 0; s < 4; s++)
        for (int variant = 0; variant < 4; variant++)
            expect_samples(shapes[s], variant & 1 ? HL_ELEM_BF16 : HL_ELEM_F32, variant & 2);
}

/* Of n = 20000 about n (1 - p) are kept, within 5 standard deviations sqrt(n p (1 - p)). */
Test(drop_path, the_share_kept_is_one_minus_p)
{
    static const float shares[] = {0.1f, 0.5f, 0.9f};
    for (int k = 0; k < 3; k++) {
        rig r;
        rig_make(&r, (hl_shape){20000, 1, 1, 1}, HL_ELEM_F32, shares[k], false);
        harness_run(&r.h, r.forward);
        harness_get(r.y, r.got);
        double kept = 0.0, p = (double)shares[k];
        for (int64_t i = 0; i < r.samples; i++)
            kept += r.got[i] != 0.0;
        cr_assert(fabs(kept - 20000.0 * (1.0 - p)) < 5.0 * sqrt(20000.0 * p * (1.0 - p)), "%g kept", kept);
        rig_drop(&r);
    }
}

Test(drop_path, passes_draw_different_samples)
{
    rig r;
    rig_make(&r, (hl_shape){256, 1, 1, 1}, HL_ELEM_F32, 0.5f, false);
    double *first = doubles(256);
    int differ = 0;
    harness_run(&r.h, r.forward);
    harness_get(r.y, first);
    r.h.run.micro_step = 1;
    harness_run(&r.h, r.forward);
    harness_get(r.y, r.got);
    for (int64_t i = 0; i < 256; i++)
        differ += (r.got[i] == 0.0) != (first[i] == 0.0);
    cr_assert(differ > 64 && differ < 192, "%d of 256 differ", differ);
    free(first);
    rig_drop(&r);
}

Test(drop_path, a_dropped_sample_is_its_residual_even_where_the_branch_is_not_a_number)
{
    rig r;
    rig_make(&r, (hl_shape){16, 1, 1, 3}, HL_ELEM_F32, 0.5f, true);
    for (int64_t i = 0; i < 48; i++)
        r.x_values[i] = NAN;
    harness_set(r.x, r.x_values);
    harness_run(&r.h, r.forward);
    harness_get(r.y, r.got);
    for (int64_t i = 0; i < 48; i++)
        cr_assert(keeps(&r, i / 3) ? isnan(r.got[i]) : r.got[i] == r.residual_values[i]);
    rig_drop(&r);
}

Test(drop_path, the_number_of_threads_changes_no_bit)
{
    rig r;
    rig_make(&r, (hl_shape){6, 5, 7, 64}, HL_ELEM_BF16, 0.5f, true);
    unsigned char *first = malloc(r.y->bytes);
    for (int threads = 1; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        harness_run(&r.h, r.forward);
        if (threads == 1)
            memcpy(first, r.y->data, r.y->bytes);
        cr_assert_eq(memcmp(first, r.y->data, r.y->bytes), 0, "%d threads", threads);
    }
    free(first);
    rig_drop(&r);
}
