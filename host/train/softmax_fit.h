/* Multinomial logistic regression on features, fitted to the end by L-BFGS: the closed form, as it were, of
 * training a linear head. */
#ifndef HL_TRAIN_SOFTMAX_FIT_H
#define HL_TRAIN_SOFTMAX_FIT_H

#include <stdint.h>

#include "base/error.h"

/* Samples; the caller owns the arrays. */
typedef struct hl_softmax_data {
    const float *features; /* [count, width] */
    const int32_t *labels; /* [count], from 0 to classes - 1 */
    int64_t count, width, classes;
} hl_softmax_data;

typedef struct hl_softmax_outcome {
    double objective, cross_entropy; /* at the end; the latter is its mean over the samples */
    double slope;                    /* the largest absolute value in the objective's gradient */
    int iterations;
} hl_softmax_outcome;

/* The objective  1/n (sum of cross-entropies + lambda/2 |W|^2)  of logits W x + b, which is scikit-learn's of
 * C = 1/lambda divided by n; biases are not penalised. params [classes, width + 1]: a row of W and its b;
 * gradient likewise. work [count, classes]. */
double hl_softmax_objective(const hl_softmax_data *data, double lambda, const double *params,
                            double *gradient, double *work, double *cross_entropy);

/* Minimises it from `params` on, in double, until no part of the gradient is larger than `tolerance`, steps
 * gain nothing any more, or after `most` iterations. The same bits for the same number of threads. */
hl_status hl_softmax_fit(const hl_softmax_data *data, double lambda, double tolerance, int most,
                         double *params, hl_softmax_outcome *outcome);

#endif
