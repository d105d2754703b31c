/* NORM_BATCH and NORM_BATCH_GRAD: normalisation by the statistics of the batch.
 * One pass over memory takes the sums of x and x^2 (columns.h), so that means far from zero do not cancel. */
#include <math.h>

#include "backend/cpu/norm_util.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    if (hl_tensor_rows(step->in[0]) < 2)
        return hl_fail(HL_E_ARG, step->name, "use a larger batch, or running statistics",
                       "the statistics of a batch need more than 1 value per channel");
    return hl_norm_check(cpu, step);
}

/* running = (1 - momentum) running + momentum batch. */
static void move(hl_param *running, int64_t i, float momentum, double batch)
{
    if (running != NULL && running->moves)
        running->value[i] =
            (float)((1.0 - (double)momentum) * (double)running->value[i] + (double)momentum * batch);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    hl_columns c = hl_columns_of(step->in[0]);
    hl_norm_coefficients k = hl_norm_coefficients_at(&c, step->exec),
                         lanes = hl_norm_lanes_at(&c, step->exec);
    double *sum, *square, count = (double)c.rows;
    hl_columns_sums(&c, step->in[0], NULL, NULL, hl_norm_sums_memory(&c, step->exec), &sum, &square);
    float *mean_out = step->out[1]->data, *inverse_out = step->out[2]->data;
    for (int64_t i = 0; i < c.channels; i++) {
        double mean = sum[i] / count, var = square[i] / count - mean * mean;
        var = var < 0.0 ? 0.0 : var;
        double inverse = 1.0 / sqrt(var + (double)norm->eps);
        k.mean[i] = mean_out[i] = (float)mean;
        inverse_out[i] = (float)inverse;
        k.gain[i] = (float)(inverse * (double)hl_norm_scale(norm, i));
        k.slope[i] = 0.0f;
        k.shift[i] = hl_norm_shift(norm, i);
        move(norm->mean, i, norm->momentum, mean);
        move(norm->var, i, norm->momentum, var * count / (count - 1.0));
    }
    hl_norm_spread(&c, &k, &lanes);
    hl_norm_apply(step, &c, &lanes);
    return HL_OK;
}

/* With S1 = sum of dy and S2 = sum of dy (x - mean), s = 1 / deviation and m values per channel:
 *     dx = scale s (dy - S1 / m - (x - mean) s^2 S2 / m) */
static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    const hl_tensor *dy = step->in[0], *x = step->in[1], *dx = step->out[0];
    const float *mean = step->in[2]->data, *inverse = step->in[3]->data;
    hl_columns c = hl_columns_of(dy);
    hl_norm_coefficients k = hl_norm_coefficients_at(&c, step->exec),
                         lanes = hl_norm_lanes_at(&c, step->exec);
    for (int64_t i = 0; i < c.channels; i++)
        k.mean[i] = mean[i];
    hl_columns_spread(&c, k.mean, lanes.mean);
    double *sum, *dot, count = (double)c.rows;
    hl_columns_sums(&c, dy, x, lanes.mean, hl_norm_sums_memory(&c, step->exec), &sum, &dot);
    if (hl_norm_trains(norm))
        hl_norm_param_grads(step, &c, sum, dot, inverse);
    if (dx == NULL)
        return HL_OK;
    for (int64_t i = 0; i < c.channels; i++) {
        double s = (double)inverse[i], gain = (double)hl_norm_scale(norm, i) * s;
        k.gain[i] = (float)gain;
        k.slope[i] = (float)(-gain * s * s * dot[i] / count);
        k.shift[i] = (float)(-gain * sum[i] / count);
    }
    hl_norm_spread(&c, &k, &lanes);
    hl_norm_apply_grad(dy, x, dx, &c, &lanes);
    return HL_OK;
}

const hl_cpu_op hl_cpu_norm_batch = {
    .check = check, .prepare = hl_norm_prepare, .bind = hl_norm_bind, .run = run};
const hl_cpu_op hl_cpu_norm_batch_grad = {
    .check = check, .prepare = hl_norm_prepare, .bind = hl_norm_bind, .run = grad_run};
