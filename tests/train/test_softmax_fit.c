/* Logistic regression by L-BFGS: the objective, its gradient, and where it ends. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures/op_goldens.h"
#include "train/softmax_fit.h"

enum { COUNT = 40, WIDTH = 6, CLASSES = 3, PARAMS = CLASSES * (WIDTH + 1) };

static const hl_softmax_data data = {golden_logistic_x, golden_logistic_labels, COUNT, WIDTH, CLASSES};

static double objective(double lambda, const double *params, double *gradient)
{
    double work[COUNT * CLASSES], cross_entropy;
    return hl_softmax_objective(&data, lambda, params, gradient, work, &cross_entropy);
}

Test(softmax_fit, gradients_agree_with_finite_differences)
{
    double params[PARAMS], gradient[PARAMS], unused[PARAMS];
    const double h = 1e-5;
    for (int i = 0; i < PARAMS; i++)
        params[i] = 0.3 * sin(1.0 + i);
    objective(2.0, params, gradient);
    for (int i = 0; i < PARAMS; i++) {
        double kept = params[i];
        params[i] = kept + h;
        double above = objective(2.0, params, unused);
        params[i] = kept - h;
        double below = objective(2.0, params, unused);
        params[i] = kept;
        /* Third derivatives of about 1 times h^2, and rounding of values of about 1 over h. */
        cr_assert_float_eq((above - below) / (2.0 * h), gradient[i], 1e-9, "%d", i);
    }
}

Test(softmax_fit, ends_where_pytorchs_lbfgs_does)
{
    static const double lambdas[] = {10.0, 0.1}; /* each from where the one before ended */
    double params[PARAMS] = {0};
    for (int k = 0; k < 2; k++) {
        hl_softmax_outcome outcome;
        cr_assert_eq(hl_softmax_fit(&data, lambdas[k], 1e-9, 1000, params, &outcome), HL_OK);
        cr_assert_leq(outcome.slope, 1e-7); /* where steps of 1e-15 of the value end it */
        cr_assert_lt(outcome.iterations, 200);
        /* The objective is lambda/n strongly convex in the weights: a gradient of 1e-7 leaves less than
         * 21 1e-14 n / (2 lambda), 4e-11; the golden is rounded to float. */
        double want = (double)golden_logistic_objective[k];
        cr_assert_float_eq(outcome.objective, want, 1e-7 * want, "%.10g, not %.10g", outcome.objective, want);
    }
}

Test(softmax_fit, separable_classes_without_a_penalty_stop_at_the_limit_or_flat)
{
    static const float x[] = {-1.0f, 1.0f};
    static const int32_t labels[] = {0, 1};
    const hl_softmax_data two = {x, labels, 2, 1, 2};
    double params[4] = {0};
    hl_softmax_outcome outcome;
    cr_assert_eq(hl_softmax_fit(&two, 0.0, 1e-6, 1000, params, &outcome), HL_OK);
    cr_assert(isfinite(outcome.objective) && outcome.objective < 1e-5, "%g", outcome.objective);
    cr_assert_gt(params[2], params[0]);
}
