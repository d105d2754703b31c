/* Naive references in double for the steps that are not convolutions; channels-last arrays. */
#ifndef TESTS_SUPPORT_REF_OPS_H
#define TESTS_SUPPORT_REF_OPS_H

#include "backend/step.h"

double ref_act(hl_act act, double x);
/* Derivative at x, written out. */
double ref_act_slope(hl_act act, double x);
const char *ref_act_name(hl_act act);
/* `act` where its derivative is continuous, else SiLU: for gradients without kinks. */
hl_act ref_act_smooth(hl_act act);

/* y = scale (x - mean) / sqrt(var + eps) + shift over `rows` x `channels`; scale and shift may be NULL. */
void ref_norm(const double *x, int64_t rows, int64_t channels, const double *scale, const double *shift,
              const double *mean, const double *var, double eps, double *y);
/* Mean and biased variance of each channel, in two passes. */
void ref_norm_statistics(const double *x, int64_t rows, int64_t channels, double *mean, double *var);
/* Gradients of the norm on batch statistics; each out may be NULL. */
void ref_norm_batch_grad(const double *dy, const double *x, int64_t rows, int64_t channels,
                         const double *scale, double eps, double *dx, double *dscale, double *dshift);

/* Over the channels of each row; scale and shift may be NULL. */
void ref_layer_norm(const double *x, int64_t rows, int64_t channels, const double *scale, const double *shift,
                    double eps, double *y);
/* Its gradients, all written; dscale and dshift [channels]. */
void ref_layer_norm_grad(const double *dy, const double *x, int64_t rows, int64_t channels,
                         const double *scale, double eps, double *dx, double *dscale, double *dshift);

/* index: element of the window, as the step keeps it; NULL for averages. */
void ref_pool(const hl_pool_attr *pool, const double *x, hl_shape in, hl_shape out, double *y, double *index);
/* Scatters dy, so that it shares nothing with a gathering implementation. */
void ref_pool_grad(const hl_pool_attr *pool, const double *dy, const double *index, hl_shape in, hl_shape out,
                   double *dx);

/* Adaptive averages of `in` to `out`, cell by cell; the gradient scatters. */
void ref_grid_pool(const double *x, hl_shape in, hl_shape out, double *y);
void ref_grid_pool_grad(const double *dy, hl_shape in, hl_shape out, double *dx);

/* Cross-entropy of one sample; dlogits (of this sample's loss) may be NULL. */
double ref_loss(const double *logits, int64_t classes, int64_t label, double smoothing, double *dlogits);

#endif
