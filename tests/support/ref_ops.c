#include "support/ref_ops.h"

#include <math.h>

static double clamp(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

double ref_act(hl_act act, double x)
{
    switch (act) {
    case HL_ACT_NONE:
        break;
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
    return x;
}

double ref_act_slope(hl_act act, double x)
{
    double s = 1.0 / (1.0 + exp(-x));
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        return x > 0.0 ? 1.0 : 0.0;
    case HL_ACT_RELU6:
        return x > 0.0 && x < 6.0 ? 1.0 : 0.0;
    case HL_ACT_SIGMOID:
        return s * (1.0 - s);
    case HL_ACT_HARDSIGMOID:
        return x > -3.0 && x < 3.0 ? 1.0 / 6.0 : 0.0;
    case HL_ACT_SILU:
        return s + x * s * (1.0 - s);
    case HL_ACT_HARDSWISH:
        return x <= -3.0 ? 0.0 : x >= 3.0 ? 1.0 : x / 3.0 + 0.5;
    case HL_ACT_GELU:
        return 0.5 * (1.0 + erf(x / sqrt(2.0))) + x * exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
    case HL_ACT_TANH:
        return 1.0 - tanh(x) * tanh(x);
    }
    return 1.0;
}

const char *ref_act_name(hl_act act)
{
    static const char *const names[] = {"none", "relu",      "relu6", "sigmoid", "hardsigmoid",
                                        "silu", "hardswish", "gelu",  "tanh"};
    return names[act];
}

hl_act ref_act_smooth(hl_act act)
{
    bool kinks =
        act == HL_ACT_RELU || act == HL_ACT_RELU6 || act == HL_ACT_HARDSIGMOID || act == HL_ACT_HARDSWISH;
    return kinks ? HL_ACT_SILU : act;
}

void ref_norm(const double *x, int64_t rows, int64_t channels, const double *scale, const double *shift,
              const double *mean, const double *var, double eps, double *y)
{
    for (int64_t i = 0; i < rows * channels; i++) {
        int64_t c = i % channels;
        y[i] = (scale ? scale[c] : 1.0) * (x[i] - mean[c]) / sqrt(var[c] + eps) + (shift ? shift[c] : 0.0);
    }
}

void ref_norm_statistics(const double *x, int64_t rows, int64_t channels, double *mean, double *var)
{
    for (int64_t c = 0; c < channels; c++) {
        mean[c] = var[c] = 0.0;
        for (int64_t r = 0; r < rows; r++)
            mean[c] += x[r * channels + c] / (double)rows;
        for (int64_t r = 0; r < rows; r++)
            var[c] += (x[r * channels + c] - mean[c]) * (x[r * channels + c] - mean[c]) / (double)rows;
    }
}

void ref_norm_batch_grad(const double *dy, const double *x, int64_t rows, int64_t channels,
                         const double *scale, double eps, double *dx, double *dscale, double *dshift)
{
    for (int64_t c = 0; c < channels; c++) {
        double mean = 0.0, var = 0.0, sum = 0.0, dot = 0.0;
        for (int64_t r = 0; r < rows; r++)
            mean += x[r * channels + c] / (double)rows;
        for (int64_t r = 0; r < rows; r++)
            var += (x[r * channels + c] - mean) * (x[r * channels + c] - mean) / (double)rows;
        double inverse = 1.0 / sqrt(var + eps);
        for (int64_t r = 0; r < rows; r++) {
            sum += dy[r * channels + c];
            dot += dy[r * channels + c] * (x[r * channels + c] - mean) * inverse;
        }
        for (int64_t r = 0; dx != NULL && r < rows; r++) {
            int64_t i = r * channels + c;
            dx[i] = (scale ? scale[c] : 1.0) * inverse *
                    (dy[i] - sum / (double)rows - (x[i] - mean) * inverse * dot / (double)rows);
        }
        if (dscale != NULL)
            dscale[c] = dot;
        if (dshift != NULL)
            dshift[c] = sum;
    }
}

static double row_inverse(const double *x, int64_t channels, double eps, double *mean)
{
    double var = 0.0;
    *mean = 0.0;
    for (int64_t c = 0; c < channels; c++)
        *mean += x[c] / (double)channels;
    for (int64_t c = 0; c < channels; c++)
        var += (x[c] - *mean) * (x[c] - *mean) / (double)channels;
    return 1.0 / sqrt(var + eps);
}

void ref_layer_norm(const double *x, int64_t rows, int64_t channels, const double *scale, const double *shift,
                    double eps, double *y)
{
    for (int64_t r = 0; r < rows; r++, x += channels, y += channels) {
        double mean, inverse = row_inverse(x, channels, eps, &mean);
        for (int64_t c = 0; c < channels; c++)
            y[c] = (scale ? scale[c] : 1.0) * (x[c] - mean) * inverse + (shift ? shift[c] : 0.0);
    }
}

/* The Jacobian of xhat, element by element: d xhat_j / d x_i = inverse ([i = j] - 1 / n - xhat_i xhat_j / n).
 */
void ref_layer_norm_grad(const double *dy, const double *x, int64_t rows, int64_t channels,
                         const double *scale, double eps, double *dx, double *dscale, double *dshift)
{
    double n = (double)channels;
    for (int64_t c = 0; c < channels; c++)
        dscale[c] = dshift[c] = 0.0;
    for (int64_t r = 0; r < rows; r++, x += channels, dy += channels, dx += channels) {
        double mean, inverse = row_inverse(x, channels, eps, &mean);
        for (int64_t i = 0; i < channels; i++) {
            double hat = (x[i] - mean) * inverse;
            dscale[i] += dy[i] * hat;
            dshift[i] += dy[i];
            dx[i] = 0.0;
            for (int64_t j = 0; j < channels; j++)
                dx[i] += dy[j] * (scale ? scale[j] : 1.0) * inverse *
                         ((i == j) - 1.0 / n - hat * (x[j] - mean) * inverse / n);
        }
    }
}

/* Visits the inputs of output pixel (n, oy, ox), channel c: index of each into x, and its place in the
 * window. */
typedef struct visit {
    int64_t at[512], place[512], count;
    double divisor;
} visit;

static visit window_of(const hl_pool_attr *pool, hl_shape in, int64_t n, int64_t oy, int64_t ox, int64_t c)
{
    const hl_window *w = &pool->window;
    visit v = {.count = 0};
    for (int64_t i = 0; i < w->kh; i++)
        for (int64_t j = 0; j < w->kw; j++) {
            int64_t y = oy * w->sh - w->top + i, x = ox * w->sw - w->left + j;
            if (y < 0 || x < 0 || y >= in.h || x >= in.w)
                continue;
            v.at[v.count] = ((n * in.h + y) * in.w + x) * in.c + c;
            v.place[v.count++] = i * w->kw + j;
        }
    v.divisor = (double)v.count;
    if (pool->count_padding) { /* positions inside the input and paddings as large as those before it */
        double rows = 0.0, columns = 0.0;
        for (int64_t i = 0; i < w->kh; i++)
            rows += oy * w->sh - w->top + i < in.h + w->top;
        for (int64_t j = 0; j < w->kw; j++)
            columns += ox * w->sw - w->left + j < in.w + w->left;
        v.divisor = rows * columns;
    }
    return v;
}

void ref_pool(const hl_pool_attr *pool, const double *x, hl_shape in, hl_shape out, double *y, double *index)
{
    int64_t o = 0;
    for (int64_t n = 0; n < out.n; n++)
        for (int64_t oy = 0; oy < out.h; oy++)
            for (int64_t ox = 0; ox < out.w; ox++)
                for (int64_t c = 0; c < out.c; c++, o++) {
                    visit v = window_of(pool, in, n, oy, ox, c);
                    double best = x[v.at[0]], sum = 0.0;
                    int64_t place = v.place[0];
                    for (int64_t k = 0; k < v.count; k++) {
                        double value = x[v.at[k]];
                        sum += value;
                        if (value > best || isnan(value)) {
                            best = value;
                            place = v.place[k];
                        }
                    }
                    y[o] = pool->max ? best : sum / v.divisor;
                    if (index != NULL)
                        index[o] = (double)place;
                }
}

void ref_pool_grad(const hl_pool_attr *pool, const double *dy, const double *index, hl_shape in, hl_shape out,
                   double *dx)
{
    for (int64_t i = 0; i < hl_shape_count(in); i++)
        dx[i] = 0.0;
    int64_t o = 0;
    for (int64_t n = 0; n < out.n; n++)
        for (int64_t oy = 0; oy < out.h; oy++)
            for (int64_t ox = 0; ox < out.w; ox++)
                for (int64_t c = 0; c < out.c; c++, o++) {
                    visit v = window_of(pool, in, n, oy, ox, c);
                    for (int64_t k = 0; k < v.count; k++) {
                        if (!pool->max)
                            dx[v.at[k]] += dy[o] / v.divisor;
                        else if ((double)v.place[k] == index[o])
                            dx[v.at[k]] += dy[o];
                    }
                }
}

/* Is place p of n in cell i of m? By the overlap of [p, p + 1) / n with [i, i + 1) / m. */
static bool in_cell(int64_t p, int64_t n, int64_t i, int64_t m)
{
    return p * m < (i + 1) * n && (p + 1) * m > i * n;
}

static void visit_cells(hl_shape in, hl_shape out, const double *x, double *y, const double *dy, double *dx)
{
    int64_t o = 0;
    for (int64_t n = 0; n < out.n; n++)
        for (int64_t oy = 0; oy < out.h; oy++)
            for (int64_t ox = 0; ox < out.w; ox++)
                for (int64_t c = 0; c < out.c; c++, o++) {
                    double count = 0.0, sum = 0.0;
                    for (int pass = 0; pass < 2; pass++)
                        for (int64_t i = 0; i < in.h * in.w; i++) {
                            int64_t at = (n * in.h * in.w + i) * in.c + c;
                            if (!in_cell(i / in.w, in.h, oy, out.h) || !in_cell(i % in.w, in.w, ox, out.w))
                                continue;
                            if (pass == 0)
                                count += 1.0;
                            else if (dx != NULL)
                                dx[at] += dy[o] / count;
                            else
                                sum += x[at];
                        }
                    if (y != NULL)
                        y[o] = sum / count;
                }
}

void ref_grid_pool(const double *x, hl_shape in, hl_shape out, double *y)
{
    visit_cells(in, out, x, y, NULL, NULL);
}

void ref_grid_pool_grad(const double *dy, hl_shape in, hl_shape out, double *dx)
{
    for (int64_t i = 0; i < hl_shape_count(in); i++)
        dx[i] = 0.0;
    visit_cells(in, out, NULL, NULL, dy, dx);
}

double ref_loss(const double *logits, int64_t classes, int64_t label, double smoothing, double *dlogits)
{
    double top = logits[0], sum = 0.0, loss = 0.0;
    for (int64_t c = 1; c < classes; c++)
        top = fmax(top, logits[c]);
    for (int64_t c = 0; c < classes; c++)
        sum += exp(logits[c] - top);
    for (int64_t c = 0; c < classes; c++) {
        double q = smoothing / (double)classes + (c == label ? 1.0 - smoothing : 0.0);
        double log_p = logits[c] - top - log(sum);
        loss -= q * log_p;
        if (dlogits != NULL)
            dlogits[c] = exp(log_p) - q;
    }
    return loss;
}
