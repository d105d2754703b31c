/* NORM_BATCH and NORM_BATCH_GRAD: batch norm on the statistics of the batch (Ioffe and Szegedy, 2015), as
 * torch.nn.BatchNorm2d in training: biased variance to normalise, unbiased variance into the running one. */
#include <math.h>

#include "backend/cpu/norm_util.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0];
    HL_TRY(hl_norm_check(step, x));
    if (hl_tensor_rows(x) < 2)
        return hl_fail(HL_E_ARG, step->name, "use a larger --batch-size or --norm frozen",
                       "batch statistics need more than one value per channel");
    return HL_OK;
}

/* Scratch: sums, then three vectors. */
static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    step->scratch_bytes = hl_norm_sums_bytes(step->in[0]) + 3 * (size_t)step->in[0]->shape.c * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}

static float scale_of(const hl_norm_attr *norm, int64_t c)
{
    return norm->scale != NULL ? norm->scale->value[c] : 1.0f;
}

static void move_statistics(const hl_norm_attr *norm, int64_t c, double mean, double variance, int64_t rows)
{
    double unbiased = variance * (double)rows / (double)(rows - 1), share = (double)norm->momentum;
    if (norm->mean->moves)
        norm->mean->value[c] = (float)((1.0 - share) * (double)norm->mean->value[c] + share * mean);
    if (norm->var->moves)
        norm->var->value[c] = (float)((1.0 - share) * (double)norm->var->value[c] + share * unbiased);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    const hl_tensor *x = step->in[0];
    int64_t channels = x->shape.c, rows = hl_tensor_rows(x);
    double *sums = step->exec;
    float *a = (float *)((char *)step->exec + hl_norm_sums_bytes(x)), *b = a + channels, *zero = b + channels;
    float *mean = step->out[1]->data, *inverse = step->out[2]->data;
    for (int64_t c = 0; c < channels; c++)
        zero[c] = 0.0f;
    /* Two passes: the mean first, then squares around it, so that a large mean does not cancel the variance
     * away. */
    hl_norm_sums(x, x, zero, sums);
    for (int64_t c = 0; c < channels; c++) {
        double total[2];
        hl_norm_total(sums, rows, channels, c, total);
        mean[c] = (float)(total[0] / (double)rows);
    }
    /* sum x (x - m) = sum (x - m)^2 + m sum (x - m), and m sum (x - m) is known exactly. */
    hl_norm_sums(x, x, mean, sums);
    for (int64_t c = 0; c < channels; c++) {
        double total[2], m = (double)mean[c];
        hl_norm_total(sums, rows, channels, c, total);
        double residue = total[0] - m * (double)rows; /* of rounding the mean to f32 */
        double variance =
            (total[1] - m * residue) / (double)rows - (residue / (double)rows) * (residue / (double)rows);
        variance = variance > 0.0 ? variance : 0.0;
        inverse[c] = (float)(1.0 / sqrt(variance + (double)norm->eps));
        a[c] = scale_of(norm, c) * inverse[c];
        b[c] = (norm->shift != NULL ? norm->shift->value[c] : 0.0f) - a[c] * mean[c];
        move_statistics(norm, c, m + residue / (double)rows, variance, rows);
    }
    hl_norm_affine(x, step->in[1], step->out[0], a, b, norm->act);
    return HL_OK;
}

/* With n rows, xhat = (x - mean) inverse:  dx = scale inverse (dy - mean(dy) - xhat mean(dy xhat)). */
static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    const hl_tensor *dy = step->in[0], *x = step->in[1];
    const float *mean = step->in[2]->data, *inverse = step->in[3]->data;
    int64_t channels = dy->shape.c, rows = hl_tensor_rows(dy);
    double *sums = step->exec;
    float *p = (float *)((char *)step->exec + hl_norm_sums_bytes(dy)), *q = p + channels, *k = q + channels;
    hl_norm_sums(dy, x, mean, sums);
    for (int64_t c = 0; c < channels; c++) {
        double total[2], inv = (double)inverse[c];
        hl_norm_total(sums, rows, channels, c, total);
        double normalised = total[1] * inv;
        hl_norm_param_grads(step, c, total[0], normalised);
        double s = (double)scale_of(norm, c) * inv, slope = -s * inv * normalised / (double)rows;
        p[c] = (float)s;
        q[c] = (float)slope;
        k[c] = (float)(-s * total[0] / (double)rows - slope * (double)mean[c]);
    }
    if (step->out[0] != NULL)
        hl_norm_combine(dy, x, step->out[0], p, q, k);
    return HL_OK;
}

const hl_cpu_op hl_cpu_norm_batch = {.check = check, .prepare = prepare, .bind = bind, .run = run};
const hl_cpu_op hl_cpu_norm_batch_grad = {.check = check, .prepare = prepare, .bind = bind, .run = grad_run};
