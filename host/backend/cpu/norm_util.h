/* What the norm steps share: per-channel affine maps over tiles, and per-channel sums. */
#ifndef HL_BACKEND_CPU_NORM_UTIL_H
#define HL_BACKEND_CPU_NORM_UTIL_H

#include "backend/cpu/tile.h"

/* y[r, c] = act(a[c] x[r, c] + b[c] + residual[r, c]) over all rows; residual may be NULL. */
void hl_norm_affine(const hl_tensor *x, const hl_tensor *residual, const hl_tensor *y, const float *a,
                    const float *b, hl_act act);

/* out[r, c] = p[c] u[r, c] + q[c] v[r, c] + k[c]; with v NULL the middle term is left out. */
void hl_norm_combine(const hl_tensor *u, const hl_tensor *v, const hl_tensor *out, const float *p,
                     const float *q, const float *k);

/* Partial sums in double by row block (row_blocks.h): for each block and channel
 * sums[(block * channels + c) * 2] = sum of u, sums[.. + 1] = sum of u (v - shift[c]), over the block's rows;
 * v may be u. */
size_t hl_norm_sums_bytes(const hl_tensor *u);
void hl_norm_sums(const hl_tensor *u, const hl_tensor *v, const float *shift, double *sums);
/* Sums the blocks in order into total[2]. */
void hl_norm_total(const double *sums, int64_t rows, int64_t channels, int64_t c, double total[2]);

/* Gradients of scale and shift where they are trained: d scale = sum dy (x - mean) inverse, d shift = sum dy.
 */
void hl_norm_param_grads(const hl_step *step, int64_t c, double sum_dy, double sum_dy_normalised);

/* Operands of a norm: equal shapes, parameters of that many channels. */
hl_status hl_norm_check(const hl_step *step, const hl_tensor *x);

#endif
