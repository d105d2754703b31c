/* NORM and NORM_GRAD: batch norm on its running statistics, y = s (x - mean) + shift with s = scale /
 * sqrt(var + eps). */
#include <math.h>

#include "backend/cpu/norm_util.h"

static float inverse_deviation(const hl_norm_attr *norm, int64_t c)
{
    return 1.0f / sqrtf(norm->var->value[c] + norm->eps);
}

static float scale_of(const hl_norm_attr *norm, int64_t c)
{
    return norm->scale != NULL ? norm->scale->value[c] : 1.0f;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_norm_check(step, step->in[0]);
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    step->scratch_bytes = 2 * (size_t)step->in[0]->shape.c * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    int64_t channels = step->in[0]->shape.c;
    float *a = step->exec, *b = a + channels;
    for (int64_t c = 0; c < channels; c++) {
        a[c] = scale_of(norm, c) * inverse_deviation(norm, c);
        b[c] = (norm->shift != NULL ? norm->shift->value[c] : 0.0f) - a[c] * norm->mean->value[c];
    }
    hl_norm_affine(step->in[0], step->in[1], step->out[0], a, b, norm->act);
    return HL_OK;
}

static hl_status grad_prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    step->scratch_bytes = hl_norm_sums_bytes(step->in[0]) + 2 * (size_t)step->in[0]->shape.c * sizeof(float);
    return HL_OK;
}

static bool is_trained(const hl_param *p)
{
    return p != NULL && p->trained;
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_norm_attr *norm = &step->norm;
    const hl_tensor *dy = step->in[0], *x = step->in[1];
    int64_t channels = dy->shape.c, rows = hl_tensor_rows(dy);
    double *sums = step->exec;
    float *a = (float *)((char *)step->exec + hl_norm_sums_bytes(dy)), *zero = a + channels;
    for (int64_t c = 0; c < channels; c++) {
        a[c] = scale_of(norm, c) * inverse_deviation(norm, c);
        zero[c] = 0.0f;
    }
    if (is_trained(norm->scale) || is_trained(norm->shift)) {
        hl_norm_sums(dy, x, norm->mean->value, sums);
        for (int64_t c = 0; c < channels; c++) {
            double total[2];
            hl_norm_total(sums, rows, channels, c, total);
            hl_norm_param_grads(step, c, total[0], total[1] * (double)inverse_deviation(norm, c));
        }
    }
    if (step->out[0] != NULL)
        hl_norm_combine(dy, NULL, step->out[0], a, NULL, zero);
    return HL_OK;
}

/* exec is the shared scratch: there is nothing to free. */
const hl_cpu_op hl_cpu_norm = {.check = check, .prepare = prepare, .bind = bind, .run = run};
const hl_cpu_op hl_cpu_norm_grad = {.check = check, .prepare = grad_prepare, .bind = bind, .run = grad_run};
