/* SPECTRAL_GRAD: the gradient of the smallest squared singular values of a batch's features. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/step_harness.h"

typedef struct rig {
    step_harness h;
    hl_tensor *features, *gradient;
    hl_step *step;
    hl_train_record record;
} rig;

static void rig_make(rig *r, hl_shape shape, hl_elem elem, int smallest, float eta)
{
    harness_open(&r->h);
    r->features = harness_tensor(&r->h, "features", shape, elem);
    r->gradient = harness_tensor(&r->h, "gradient", shape, elem);
    r->step = harness_step(&r->h, HL_STEP_SPECTRAL_GRAD, 1, &r->features, 1, &r->gradient);
    r->step->spectral.eta = eta;
    r->step->spectral.smallest = smallest;
    r->record = (hl_train_record){.loss_scale = 4.0, .pending_loss = 1.0};
    r->step->record = r->h.backend->host_memory ? &r->record : NULL;
    harness_build(&r->h);
    r->h.run.grad_scale = 0.5f;
}

/* Scale and, on the CPU, the record's loss scale of 4 are in the gradient. */
static double gradient_scale(const rig *r)
{
    return r->h.backend->host_memory ? 2.0 : 0.5;
}

typedef struct golden_case {
    hl_shape shape;
    int smallest;
    const float *features, *gradient, *penalty;
} golden_case;

Test(spectral, gradients_and_penalties_are_those_of_torch_linalg_svdvals)
{
    static const golden_case cases[] = {
        {{5, 1, 1, 9}, 1, golden_bss_wide_x, golden_bss_wide_grad_1, golden_bss_wide_penalty_1},
        {{5, 1, 1, 9}, 3, golden_bss_wide_x, golden_bss_wide_grad_3, golden_bss_wide_penalty_3},
        {{7, 1, 1, 4}, 1, golden_bss_tall_x, golden_bss_tall_grad_1, golden_bss_tall_penalty_1},
        {{7, 1, 1, 4}, 3, golden_bss_tall_x, golden_bss_tall_grad_3, golden_bss_tall_penalty_3},
        {{7, 1, 2, 2}, 3, golden_bss_tall_x, golden_bss_tall_grad_3, golden_bss_tall_penalty_3}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        rig r;
        rig_make(&r, cases[k].shape, HL_ELEM_F32, cases[k].smallest, 0.5f);
        int64_t count = hl_shape_count(cases[k].shape);
        double *x = doubles(count), *got = doubles(count), *want = doubles(count);
        for (int64_t i = 0; i < count; i++) {
            x[i] = (double)cases[k].features[i];
            want[i] = gradient_scale(&r) * (double)cases[k].gradient[i];
        }
        harness_set(r.features, x);
        harness_run(&r.h, r.step);
        harness_get(r.gradient, got);
        /* In double but for the rounding of the result; the goldens are floats of up to 4. */
        expect_close("gradient", HL_ELEM_F32, got, want, count, 8.0, 2.0);
        if (r.h.backend->host_memory)
            cr_assert_float_eq(r.record.pending_loss, 1.0 + (double)cases[k].penalty[0],
                               2e-7 * (1.0 + (double)cases[k].penalty[0]));
        free(x);
        free(got);
        free(want);
        harness_close(&r.h);
    }
}

/* With all singular values the penalty is eta |F|^2 and its gradient 2 eta F, whatever the rotations were. */
static void expect_all(hl_shape shape, hl_elem elem, uint32_t stream)
{
    rig r;
    int64_t count = hl_shape_count(shape), columns = count / shape.n;
    rig_make(&r, shape, elem, (int)(shape.n < columns ? shape.n : columns), 0.25f);
    double *x = random_doubles(count, -2.0, 2.0, elem, stream), *got = doubles(count), *want = doubles(count),
           squares = 0.0;
    for (int64_t i = 0; i < count; i++) {
        want[i] = gradient_scale(&r) * 2.0 * 0.25 * x[i];
        squares += x[i] * x[i];
    }
    harness_set(r.features, x);
    harness_run(&r.h, r.step);
    harness_get(r.gradient, got);
    expect_close("gradient", elem, got, want, count, 2.0, 1.0);
    if (r.h.backend->host_memory)
        cr_assert_float_eq(r.record.pending_loss, 1.0 + 0.25 * squares, 1e-12 * squares);
    free(x);
    free(got);
    free(want);
    harness_close(&r.h);
}

Test(spectral, all_singular_values_together_are_the_norm)
{
    static const hl_shape shapes[] = {{1, 1, 1, 1}, {1, 1, 1, 5},  {4, 1, 1, 1},
                                      {2, 1, 1, 3}, {9, 1, 1, 33}, {33, 1, 1, 8}};
    for (uint32_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        expect_all(shapes[i], HL_ELEM_F32, i);
        expect_all(shapes[i], HL_ELEM_BF16, i);
    }
    expect_all((hl_shape){3, 1, 1, 2100}, HL_ELEM_F32, 9); /* longer than a tile */
}

/* Features without variety: singular values of 0, whose vectors are any. */
Test(spectral, equal_samples_have_no_gradient)
{
    rig r;
    rig_make(&r, (hl_shape){6, 1, 1, 10}, HL_ELEM_F32, 5, 1.0f);
    double x[60], got[60], want[60] = {0};
    for (int i = 0; i < 60; i++)
        x[i] = (double)(i % 10) - 3.0;
    harness_set(r.features, x);
    harness_run(&r.h, r.step);
    harness_get(r.gradient, got);
    expect_close("gradient", HL_ELEM_F32, got, want, 60, 7.0, 1.0);
    harness_close(&r.h);
}

Test(spectral, too_many_singular_values_are_refused)
{
    step_harness h;
    harness_open(&h);
    hl_tensor *x = harness_tensor(&h, "x", (hl_shape){513, 1, 1, 600}, HL_ELEM_F32),
              *dx = harness_tensor(&h, "dx", (hl_shape){513, 1, 1, 600}, HL_ELEM_F32);
    hl_step *step = harness_step(&h, HL_STEP_SPECTRAL_GRAD, 1, &x, 1, &dx);
    step->spectral.smallest = 1;
    cr_assert_eq(harness_prepare(&h, step), HL_E_UNSUPPORTED);
    cr_assert_not_null(strstr(hl_last_error(), "512"), "%s", hl_last_error());
    harness_close(&h);
}
