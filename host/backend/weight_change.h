/* Weight expressions that are computed as a whole (HL_WEIGHT_CHANGED): f(W) and the gradients of what it is
 * made of, in host memory. The reference for every backend, and what the CPU backend and merging use; loops
 * run on OpenMP's threads, with results that do not depend on how many there are. */
#ifndef HL_BACKEND_WEIGHT_CHANGE_H
#define HL_BACKEND_WEIGHT_CHANGE_H

#include "backend/param.h"
#include "base/error.h"

/* f(W) [O, I/G, kh, kw] into `value`, which is not W. */
void hl_weight_change_value(const hl_weight_expr *e, float *value);

/* |V_o| of every output channel into norms [O], where V is f(W) but for the magnitude. */
hl_status hl_weight_change_norms(const hl_weight_expr *e, float *norms);

/* Gradients of all trained factors and of the magnitude from dv, the gradient of f(W), which is overwritten:
 * grad = keep * grad + ..., as hl_weight_expr_grad. `scratch` has so many floats: */
size_t hl_weight_change_scratch(const hl_weight_expr *e);
void hl_weight_change_grad(const hl_weight_expr *e, float *dv, float keep, float *scratch);

/* Elements of a factor's matrices. */
static inline int64_t hl_factor_count(const hl_factor *f)
{
    return f->blocks * f->rows * f->columns;
}

/* The gradient of `right` is summed over rows in chunks, which are then added: tall matrices have enough of
 * them to share. */
enum { HL_FACTOR_CHUNK = 8192 };
static inline int64_t hl_factor_chunks(const hl_factor *f)
{
    return (f->rows + HL_FACTOR_CHUNK - 1) / HL_FACTOR_CHUNK;
}

#endif
