/* Plain convolution and its gradients in double, the reference that backends are compared with. Activations
 * are channels-last, weights [O, I/G, kh, kw]. */
#ifndef TESTS_SUPPORT_REF_CONV_H
#define TESTS_SUPPORT_REF_CONV_H

#include "backend/step.h"

typedef struct ref_conv {
    hl_shape x, y;
    hl_window window;
    int64_t groups;
} ref_conv;

/* Fills in y from x, window and groups, with `outputs` channels. */
ref_conv ref_conv_make(hl_shape x, int64_t outputs, int64_t groups, hl_window window);
int64_t ref_conv_weights(const ref_conv *c);
/* Products in one output element; in one element of the data gradient, at most; in one of the weight
 * gradient. */
int64_t ref_conv_terms(const ref_conv *c);

void ref_conv_forward(const ref_conv *c, const double *x, const double *w, double *y);
void ref_conv_data(const ref_conv *c, const double *dy, const double *w, double *dx);
void ref_conv_weight(const ref_conv *c, const double *x, const double *dy, double *dw);
/* S [n,h,w, I * O/G] as HL_STEP_CONV defines it in sub-function form. */
void ref_conv_subfunctions(const ref_conv *c, const double *x, const double *w, double *s);
double ref_conv_act(hl_act act, double x);

#endif
