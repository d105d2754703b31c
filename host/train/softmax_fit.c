/* L-BFGS with the two-loop recursion (Nocedal and Wright, Numerical Optimization, algorithms 7.4 and 7.5) and
 * a line search that bisects to the weak Wolfe conditions (Lewis and Overton, 2013): enough for convex
 * functions, and every pair it keeps has positive curvature. */
#include "train/softmax_fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/simd.h"
#include "base/vector.h"

enum { MEMORY = 10, LINE_STEPS = 40 };

HL_CLONES static double dot_mixed(const double *restrict w, const float *restrict x, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += w[i] * (double)x[i];
    return sum;
}

HL_CLONES static void add_mixed(double factor, const float *restrict x, int64_t n, double *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += factor * (double)x[i];
}

/* Logits of one sample become p - onehot; returns its cross-entropy. */
static double softmax_row(double *z, int64_t classes, int32_t label)
{
    double most = z[0], sum = 0.0, at_label = z[label];
    for (int64_t c = 1; c < classes; c++)
        most = z[c] > most ? z[c] : most;
    for (int64_t c = 0; c < classes; c++)
        sum += z[c] = exp(z[c] - most);
    for (int64_t c = 0; c < classes; c++)
        z[c] /= sum;
    z[label] -= 1.0;
    return log(sum) + most - at_label;
}

double hl_softmax_objective(const hl_softmax_data *d, double lambda, const double *params, double *gradient,
                            double *work, double *cross_entropy)
{
    const int64_t stride = d->width + 1;
    double total = 0.0, squares = 0.0, scale = 1.0 / (double)d->count;
    /* Schedules are static and partial sums are added in the order of threads. */
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < d->count; i++)
        for (int64_t c = 0; c < d->classes; c++)
            work[i * d->classes + c] = dot_mixed(params + c * stride, d->features + i * d->width, d->width) +
                                       params[c * stride + d->width];
    for (int64_t i = 0; i < d->count; i++)
        total += softmax_row(work + i * d->classes, d->classes, d->labels[i]);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < d->classes; c++) {
        double *row = gradient + c * stride;
        memset(row, 0, (size_t)stride * sizeof *row);
        for (int64_t i = 0; i < d->count; i++) {
            double factor = work[i * d->classes + c] * scale;
            add_mixed(factor, d->features + i * d->width, d->width, row);
            row[d->width] += factor;
        }
        hl_add_scaled(lambda * scale, params + c * stride, d->width, row);
    }
    for (int64_t c = 0; c < d->classes; c++)
        squares += hl_dot(params + c * stride, params + c * stride, d->width);
    *cross_entropy = total * scale;
    return (total + 0.5 * lambda * squares) * scale;
}

/* Vectors of `count` doubles, in one block. */
typedef struct lbfgs {
    const hl_softmax_data *data;
    double lambda, *work;
    int64_t count;
    double *x, *gradient, *next, *next_gradient, *direction;
    double *s[MEMORY], *y[MEMORY], rho[MEMORY];
    int kept, newest;
    double value, cross_entropy;
} lbfgs;

static double largest(const double *v, int64_t n)
{
    double most = 0.0;
    for (int64_t i = 0; i < n; i++)
        most = fabs(v[i]) > most ? fabs(v[i]) : most;
    return most;
}

/* direction = -H gradient. */
static void find_direction(lbfgs *m)
{
    double alpha[MEMORY];
    for (int64_t i = 0; i < m->count; i++)
        m->direction[i] = -m->gradient[i];
    for (int k = 0; k < m->kept; k++) {
        int at = (m->newest - k + MEMORY) % MEMORY;
        alpha[at] = m->rho[at] * hl_dot(m->s[at], m->direction, m->count);
        hl_add_scaled(-alpha[at], m->y[at], m->count, m->direction);
    }
    /* The first step is about one long. */
    double gamma = m->kept > 0
                       ? 1.0 / (m->rho[m->newest] * hl_dot(m->y[m->newest], m->y[m->newest], m->count))
                       : 1.0 / (1e-300 + sqrt(hl_dot(m->gradient, m->gradient, m->count)));
    for (int64_t i = 0; i < m->count; i++)
        m->direction[i] *= gamma;
    for (int k = m->kept - 1; k >= 0; k--) {
        int at = (m->newest - k + MEMORY) % MEMORY;
        double beta = m->rho[at] * hl_dot(m->y[at], m->direction, m->count);
        hl_add_scaled(alpha[at] - beta, m->s[at], m->count, m->direction);
    }
}

/* next, next_gradient and *value at a step along the direction that decreases enough and where the slope has
 * flattened enough; false where rounding leaves none. */
static bool search_line(lbfgs *m, double *value, double *cross_entropy)
{
    double slope = hl_dot(m->gradient, m->direction, m->count), low = 0.0, high = INFINITY, step = 1.0;
    if (!(slope < 0.0))
        return false;
    for (int i = 0; i < LINE_STEPS; i++) {
        memcpy(m->next, m->x, (size_t)m->count * sizeof *m->x);
        hl_add_scaled(step, m->direction, m->count, m->next);
        *value = hl_softmax_objective(m->data, m->lambda, m->next, m->next_gradient, m->work, cross_entropy);
        if (!(*value <= m->value + 1e-4 * step * slope))
            high = step;
        else if (hl_dot(m->next_gradient, m->direction, m->count) < 0.9 * slope)
            low = step;
        else
            return true;
        step = isinf(high) ? 2.0 * low : 0.5 * (low + high);
    }
    return false;
}

/* Goes to `next`, remembering the way. */
static void move(lbfgs *m)
{
    int at = m->kept == 0 ? 0 : (m->newest + 1) % MEMORY;
    for (int64_t i = 0; i < m->count; i++) {
        m->s[at][i] = m->next[i] - m->x[i];
        m->y[at][i] = m->next_gradient[i] - m->gradient[i];
    }
    double curvature = hl_dot(m->s[at], m->y[at], m->count);
    memcpy(m->x, m->next, (size_t)m->count * sizeof *m->x);
    memcpy(m->gradient, m->next_gradient, (size_t)m->count * sizeof *m->gradient);
    if (!(curvature > 0.0))
        return;
    m->rho[at] = 1.0 / curvature;
    m->newest = at;
    m->kept += m->kept < MEMORY;
}

static int minimise(lbfgs *m, double tolerance, int most)
{
    double value, cross_entropy;
    m->value = hl_softmax_objective(m->data, m->lambda, m->x, m->gradient, m->work, &m->cross_entropy);
    for (int done = 0; done < most; done++) {
        if (largest(m->gradient, m->count) <= tolerance)
            return done;
        find_direction(m);
        if (!search_line(m, &value, &cross_entropy))
            return done;
        double gain = m->value - value;
        m->value = value;
        m->cross_entropy = cross_entropy;
        move(m);
        if (gain <= 1e-15 * fabs(value))
            return done + 1;
    }
    return most;
}

hl_status hl_softmax_fit(const hl_softmax_data *data, double lambda, double tolerance, int most,
                         double *params, hl_softmax_outcome *outcome)
{
    enum { VECTORS = 4 + 2 * MEMORY };
    size_t rows, vector, bytes;
    double *block, *at;
    if (!hl_size_mul((size_t)data->classes, (size_t)data->width + 1, &vector) ||
        !hl_size_mul((size_t)data->classes, (size_t)data->count, &rows) ||
        !hl_size_mul(vector, VECTORS, &bytes) || bytes > SIZE_MAX - rows)
        return hl_fail_nomem("L-BFGS", (size_t)data->width);
    HL_TRY(hl_alloc_array(bytes + rows, sizeof(double), "L-BFGS", (void **)&block));
    lbfgs m = {.data = data, .lambda = lambda, .count = (int64_t)vector, .x = params};
    at = block;
    double **const vectors[] = {&m.gradient, &m.next, &m.next_gradient, &m.direction};
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++, at += vector)
        *vectors[i] = at;
    for (int k = 0; k < MEMORY; k++, at += 2 * vector) {
        m.s[k] = at;
        m.y[k] = at + vector;
    }
    m.work = at;
    int iterations = minimise(&m, tolerance, most);
    *outcome = (hl_softmax_outcome){.objective = m.value,
                                    .cross_entropy = m.cross_entropy,
                                    .slope = largest(m.gradient, m.count),
                                    .iterations = iterations};
    free(block);
    return HL_OK;
}
