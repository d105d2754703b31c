#include "support/ref_conv.h"

#include <math.h>
#include <string.h>

static int64_t extent(int64_t size, int64_t k, int64_t stride, int64_t dilation, int64_t padding)
{
    return (size + padding - ((k - 1) * dilation + 1)) / stride + 1;
}

ref_conv ref_conv_make(hl_shape x, int64_t outputs, int64_t groups, hl_window w)
{
    hl_shape y = {x.n, extent(x.h, w.kh, w.sh, w.dh, w.top + w.bottom),
                  extent(x.w, w.kw, w.sw, w.dw, w.left + w.right), outputs};
    return (ref_conv){x, y, w, groups};
}

int64_t ref_conv_weights(const ref_conv *c)
{
    return c->y.c * (c->x.c / c->groups) * c->window.kh * c->window.kw;
}

int64_t ref_conv_terms(const ref_conv *c)
{
    int64_t window = c->window.kh * c->window.kw;
    int64_t forward = c->x.c / c->groups * window, data = c->y.c / c->groups * window,
            weight = c->y.n * c->y.h * c->y.w;
    int64_t most = forward > data ? forward : data;
    return most > weight ? most : weight;
}

/* What is done with every product: y += x w, dx += dy w, dw += x dy, or S. */
typedef enum product { FORWARD, DATA, WEIGHT, SUBFUNCTIONS } product;

static void visit(const ref_conv *c, product mode, double *x, double *w, double *y)
{
    const hl_window *k = &c->window;
    int64_t inputs = c->x.c / c->groups, outputs = c->y.c / c->groups;
    for (int64_t n = 0; n < c->y.n; n++)
        for (int64_t oy = 0; oy < c->y.h; oy++)
            for (int64_t ox = 0; ox < c->y.w; ox++)
                for (int64_t o = 0; o < c->y.c; o++)
                    for (int64_t i = 0; i < inputs; i++)
                        for (int64_t ky = 0; ky < k->kh; ky++)
                            for (int64_t kx = 0; kx < k->kw; kx++) {
                                int64_t iy = oy * k->sh + ky * k->dh - k->top,
                                        ix = ox * k->sw + kx * k->dw - k->left;
                                if (iy < 0 || iy >= c->x.h || ix < 0 || ix >= c->x.w)
                                    continue;
                                int64_t channel = o / outputs * inputs + i;
                                int64_t pixel = (n * c->y.h + oy) * c->y.w + ox;
                                double *px = &x[((n * c->x.h + iy) * c->x.w + ix) * c->x.c + channel];
                                double *pw = &w[((o * inputs + i) * k->kh + ky) * k->kw + kx];
                                double *py = &y[pixel * c->y.c + o];
                                if (mode == SUBFUNCTIONS)
                                    py = &y[pixel * c->x.c * outputs + channel * outputs + o % outputs];
                                if (mode == DATA)
                                    *px += *py * *pw;
                                else if (mode == WEIGHT)
                                    *pw += *px * *py;
                                else
                                    *py += *px * *pw;
                            }
}

static void clear(double *to, int64_t count)
{
    memset(to, 0, (size_t)count * sizeof *to);
}

void ref_conv_forward(const ref_conv *c, const double *x, const double *w, double *y)
{
    clear(y, hl_shape_count(c->y));
    visit(c, FORWARD, (double *)x, (double *)w, y);
}

void ref_conv_data(const ref_conv *c, const double *dy, const double *w, double *dx)
{
    clear(dx, hl_shape_count(c->x));
    visit(c, DATA, dx, (double *)w, (double *)dy);
}

void ref_conv_weight(const ref_conv *c, const double *x, const double *dy, double *dw)
{
    clear(dw, ref_conv_weights(c));
    visit(c, WEIGHT, (double *)x, dw, (double *)dy);
}

void ref_conv_subfunctions(const ref_conv *c, const double *x, const double *w, double *s)
{
    clear(s, c->y.n * c->y.h * c->y.w * c->x.c * (c->y.c / c->groups));
    visit(c, SUBFUNCTIONS, (double *)x, (double *)w, s);
}

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

double ref_conv_act(hl_act act, double x)
{
    switch (act) {
    case HL_ACT_NONE:
        return x;
    case HL_ACT_RELU:
        return x > 0.0 ? x : 0.0;
    case HL_ACT_RELU6:
        return clamp(x, 0.0, 6.0);
    case HL_ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case HL_ACT_HARDSIGMOID:
        return clamp(x / 6.0 + 0.5, 0.0, 1.0);
    case HL_ACT_SILU:
        return x / (1.0 + exp(-x));
    case HL_ACT_HARDSWISH:
        return x * clamp(x / 6.0 + 0.5, 0.0, 1.0);
    case HL_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case HL_ACT_TANH:
        return tanh(x);
    }
    return NAN;
}
