/* NORM and NORM_GRAD: normalisation by running statistics, an affine map of each channel; without statistics
 * a factor for each channel. */
#include <math.h>

#include "backend/cpu/norm_util.h"

static float mean_of(const hl_norm_attr *norm, int64_t c)
{
    return norm->mean != NULL ? norm->mean->value[c] : 0.0f;
}

static float deviation_of(const hl_norm_attr *norm, int64_t c)
{
    return norm->var != NULL ? sqrtf(norm->var->value[c] + norm->eps) : 1.0f;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    hl_columns c = hl_columns_of(step->in[0]);
    hl_norm_coefficients k = hl_norm_coefficients_at(&c, step->exec),
                         lanes = hl_norm_lanes_at(&c, step->exec);
    for (int64_t i = 0; i < c.channels; i++) {
        k.mean[i] = mean_of(norm, i);
        k.gain[i] = hl_norm_scale(norm, i) / deviation_of(norm, i);
        k.slope[i] = 0.0f;
        k.shift[i] = hl_norm_shift(norm, i);
    }
    hl_norm_spread(&c, &k, &lanes);
    hl_norm_apply(step, &c, &lanes);
    return HL_OK;
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    const hl_tensor *dy = step->in[0], *x = step->in[1], *dx = step->out[0];
    hl_columns c = hl_columns_of(dy);
    hl_norm_coefficients k = hl_norm_coefficients_at(&c, step->exec),
                         lanes = hl_norm_lanes_at(&c, step->exec);
    for (int64_t i = 0; i < c.channels; i++) {
        k.mean[i] = mean_of(norm, i);
        k.slope[i] = 1.0f / deviation_of(norm, i);
        k.gain[i] = hl_norm_scale(norm, i) * k.slope[i];
        k.shift[i] = 0.0f;
    }
    hl_norm_spread(&c, &k, &lanes);
    if (hl_norm_trains(norm)) {
        double *sum, *dot;
        hl_columns_sums(&c, dy, x, lanes.mean, hl_norm_sums_memory(&c, step->exec), &sum, &dot);
        hl_norm_param_grads(step, &c, sum, dot, k.slope);
    }
    if (dx != NULL)
        hl_norm_apply_grad(dy, NULL, dx, &c, &lanes);
    return HL_OK;
}

const hl_cpu_op hl_cpu_norm = {
    .check = hl_norm_check, .prepare = hl_norm_prepare, .bind = hl_norm_bind, .run = run};
const hl_cpu_op hl_cpu_norm_grad = {
    .check = hl_norm_check, .prepare = hl_norm_prepare, .bind = hl_norm_bind, .run = grad_run};
