/* What the norms share: their coefficients, one of each a channel, and the passes over the data. */
#ifndef HL_BACKEND_CPU_NORM_UTIL_H
#define HL_BACKEND_CPU_NORM_UTIL_H

#include "backend/cpu/columns.h"

/* Coefficients in scratch, one a channel, or `width` of each in lane order (host/backend/cpu/columns.h):
 *     forward  y  = (x - mean) gain + shift
 *     backward dx = dy gain + (x - mean) slope + shift */
typedef struct hl_norm_coefficients {
    float *mean, *gain, *slope, *shift;
} hl_norm_coefficients;

/* Scratch of a norm: coefficients of both kinds, and the memory of hl_columns_sums. */
size_t hl_norm_scratch_bytes(const hl_columns *c);
double *hl_norm_sums_memory(const hl_columns *c, void *scratch);
hl_norm_coefficients hl_norm_coefficients_at(const hl_columns *c, void *scratch);
/* Where those in lane order lie; filled by hl_norm_spread (or hl_columns_spread, one by one). */
hl_norm_coefficients hl_norm_lanes_at(const hl_columns *c, void *scratch);
void hl_norm_spread(const hl_columns *c, const hl_norm_coefficients *channels,
                    const hl_norm_coefficients *lanes);

/* out 0 = act((in 0 - mean) gain + shift + in 1). Coefficients in lane order, here and below. */
void hl_norm_apply(const hl_step *step, const hl_columns *c, const hl_norm_coefficients *k);
/* dx = dy gain + (x - mean) slope + shift; x NULL: dy gain. */
void hl_norm_apply_grad(const hl_tensor *dy, const hl_tensor *x, const hl_tensor *dx, const hl_columns *c,
                        const hl_norm_coefficients *k);

/* Adds to (or overwrites) the gradients of what is trained, from sum = sum of dy and dot = sum of dy (x -
 * mean). */
void hl_norm_param_grads(const hl_step *step, const hl_columns *c, const double *sum, const double *dot,
                         const float *inverse_deviation);
bool hl_norm_trains(const hl_norm_attr *norm);

static inline float hl_norm_scale(const hl_norm_attr *norm, int64_t c)
{
    return norm->scale != NULL ? norm->scale->value[c] : 1.0f;
}

static inline float hl_norm_shift(const hl_norm_attr *norm, int64_t c)
{
    return norm->shift != NULL ? norm->shift->value[c] : 0.0f;
}

/* Rows of a hl_cpu_op: shapes that fit, one type, scratch for the above, exec = scratch. */
hl_status hl_norm_check(const hl_cpu *cpu, const hl_step *step);
hl_status hl_norm_prepare(hl_cpu *cpu, hl_step *step);
hl_status hl_norm_bind(hl_cpu *cpu, hl_step *step, void *scratch);

#endif
