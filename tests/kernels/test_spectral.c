/* The kernels of SPECTRAL_GRAD against the CPU backend, which is tested against torch.linalg.svdvals. */
#include <math.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/step_harness.h"

/* The penalty; the gradient goes to `gradient`. */
static double on_cpu(const hl_spectral_args *a, const double *x, double *gradient)
{
    step_harness h;
    hl_train_record record = {.loss_scale = 8.0};
    hl_shape shape = {a->rows, 1, 1, a->columns};
    harness_open(&h);
    hl_tensor *features = harness_tensor(&h, "features", shape, HL_ELEM_F32),
              *out = harness_tensor(&h, "gradient", shape, HL_ELEM_F32);
    hl_step *step = harness_step(&h, HL_STEP_SPECTRAL_GRAD, 1, &features, 1, &out);
    step->spectral.eta = a->eta;
    step->spectral.smallest = a->smallest;
    step->record = &record;
    harness_build(&h);
    h.run.grad_scale = 0.5f;
    harness_set(features, x);
    harness_run(&h, step);
    harness_get(out, gradient);
    harness_close(&h);
    return record.pending_loss;
}

static void expect_agreement(int64_t rows, int64_t columns, int smallest, hl_elem elem, bool scaled)
{
    if (!kernel_takes_case(7))
        return;
    kernel_rig rig = {0};
    int64_t count = rows * columns;
    double *x = random_doubles(count, -1.0, 1.0, elem, (uint32_t)count), *got = doubles(count),
           *want = doubles(count);
    hl_spectral_args args = {.rows = rows, .columns = columns, .eta = 0.25f, .smallest = smallest};
    args.features = kernel_input(&rig, count, elem, x);
    args.gradient = kernel_output(&rig, count, elem);
    args.scratch =
        kernel_output(&rig, (int64_t)(hl_spectral_scratch(rows, columns) / sizeof(float)), HL_ELEM_F32);
    const hl_run_state run = {.grad_scale = 0.5f};
    const hl_train_record start = {.loss_scale = 8.0};
    hl_run_state *state = kernel_bytes(&rig, &run, sizeof run);
    hl_train_record *record = kernel_bytes(&rig, &start, sizeof start);
    KERNEL_RUN(&rig, hl_launch_spectral_grad(&args, elem, state, scaled ? record : NULL, NULL));
    double penalty = on_cpu(&args, x, want);
    for (int64_t i = 0; i < count && !scaled; i++)
        want[i] /= 8.0;
    kernel_get(args.gradient, count, elem, got);
    /* Both in double: what differs is the rounding of the result, of values up to 4. */
    expect_close("gradient", elem, got, want, count, 4.0, 2.0);
    if (scaled)
        cr_assert_float_eq(record->pending_loss, penalty, 1e-12 * (1.0 + penalty));
    free(x);
    free(got);
    free(want);
    kernel_rig_clear(&rig);
}

Test(spectral_kernel, agrees_with_the_cpu_backend)
{
    static const struct {
        int64_t rows, columns;
        int smallest;
    } cases[] = {{1, 1, 1}, {1, 7, 1}, {6, 1, 1}, {3, 5, 2}, {5, 300, 1}, {8, 17, 4}, {19, 6, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_agreement(cases[i].rows, cases[i].columns, cases[i].smallest, kernel_elems[i % 3], i != 3);
    kernel_rig rig = {0};
    const hl_spectral_args large = {.rows = 513, .columns = 513, .smallest = 1};
    cr_assert_neq(hl_launch_spectral_grad(&large, HL_ELEM_F32, NULL, NULL, NULL), 0);
    kernel_rig_clear(&rig);
}
