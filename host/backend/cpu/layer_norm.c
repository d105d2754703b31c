/* LAYER_NORM and LAYER_NORM_GRAD: every row (a pixel) is normalised over its channels. A row is widened once
 * into floats that stay near the core, and all passes over it read those. bf16 is read in pairs
 * (backend/cpu/pairs.h): first values of all pairs, then second ones; coefficients lie likewise. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "backend/cpu/norm_util.h"
#include "backend/cpu/pairs.h"
#include "base/bf16.h"
#include "base/simd.h"

/* RUN rows are summed in float. CHUNK elements are one turn of a parallel loop. */
enum { RUN = 16, CHUNK = 16384 };

typedef struct layer {
    int64_t rows, channels, parts; /* parts: of the rows, one turn of a parallel loop each */
    bool pairs, sums;              /* sums: gradients of scale or shift are wanted */
    float eps;
    float *scale, *shift; /* [channels], in the order of a widened row */
    float *buffers;       /* [threads][2 channels] */
    double *totals;       /* [parts][2 channels] with `sums`: of dy xhat, of dy */
    float *runs;          /* [parts][2 channels] with `sums`: the same over RUN rows */
} layer;

/* Scratch: totals, coefficients, buffers, runs. Addresses are set where `scratch` is not NULL. */
static layer layer_of(const hl_cpu *cpu, const hl_step *step, void *scratch, size_t *bytes)
{
    const hl_tensor *x = step->in[0];
    layer l = {.rows = hl_tensor_rows(x),
               .channels = x->shape.c,
               .pairs = x->elem == HL_ELEM_BF16,
               .sums = step->kind == HL_STEP_LAYER_NORM_GRAD && hl_norm_trains(&step->norm),
               .eps = step->norm.eps};
    int64_t chunk = l.channels < CHUNK ? CHUNK / l.channels : 1;
    l.parts = l.sums ? hl_row_blocks(l.rows) : (l.rows + chunk - 1) / chunk;
    size_t c = (size_t)l.channels, sums = l.sums ? 2 * (size_t)l.parts * c : 0,
           buffers = 2 * (size_t)cpu->base.threads * c;
    *bytes = sums * sizeof(double) + (2 * c + buffers + sums) * sizeof(float);
    if (scratch == NULL)
        return l;
    l.totals = scratch;
    l.scale = (float *)(void *)(l.totals + sums);
    l.shift = l.scale + c;
    l.buffers = l.shift + c;
    l.runs = l.buffers + buffers;
    return l;
}

/* Where channel c lies in a widened row. */
static int64_t lane_of(const layer *l, int64_t c)
{
    return !l->pairs ? c : c % 2 == 0 ? c / 2 : (l->channels + 1) / 2 + c / 2;
}

static void set_coefficients(const layer *l, const hl_norm_attr *norm)
{
    for (int64_t c = 0; c < l->channels; c++) {
        l->scale[lane_of(l, c)] = hl_norm_scale(norm, c);
        l->shift[lane_of(l, c)] = hl_norm_shift(norm, c);
    }
}

/* Row r as floats: where it lies, or widened into `buffer`. */
static inline __attribute__((always_inline)) const float *widened(const void *values, int64_t r, int64_t n,
                                                                  bool pairs, float *restrict buffer)
{
    if (!pairs)
        return (const float *)values + r * n;
    const hl_pair *from = hl_pairs_at(values, r * n);
    float *restrict second = buffer + (n + 1) / 2;
    for (int64_t t = 0; t < n / 2; t++) {
        buffer[t] = hl_pair_first(from[t]);
        second[t] = hl_pair_second(from[t]);
    }
    if (n % 2 != 0)
        buffer[n / 2] = hl_bf16_to_f32(((const hl_bf16 *)values)[r * n + n - 1]);
    return buffer;
}

static inline __attribute__((always_inline)) void narrow(const float *v, int64_t r, int64_t n, void *values)
{
    hl_pair *to = (hl_pair *)hl_pairs_at(values, r * n);
    const float *second = v + (n + 1) / 2;
    for (int64_t t = 0; t < n / 2; t++)
        to[t] = hl_pair_of(v[t], second[t]);
    if (n % 2 != 0)
        ((hl_bf16 *)values)[r * n + n - 1] = hl_bf16_from_f32(v[n / 2]);
}

/* The squares are taken of differences to the mean, so that a large mean cancels nothing. */
static inline __attribute__((always_inline)) void statistics(const float *x, int64_t n, float eps,
                                                             float *mean, float *inverse)
{
    float sum = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t t = 0; t < n; t++)
        sum += x[t];
    const float m = sum / (float)n;
#pragma omp simd reduction(+ : square)
    for (int64_t t = 0; t < n; t++)
        square += (x[t] - m) * (x[t] - m);
    *mean = m;
    *inverse = 1.0f / sqrtf(square / (float)n + eps);
}

static inline __attribute__((always_inline)) void forward_rows(const layer *l, const void *values,
                                                               void *results, int64_t first, int64_t last,
                                                               bool pairs, float *buffer)
{
    const int64_t n = l->channels;
    const float *scale = l->scale, *shift = l->shift;
    for (int64_t r = first; r < last; r++) {
        const float *x = widened(values, r, n, pairs, buffer);
        float mean, inverse, *y = pairs ? buffer : (float *)results + r * n;
        statistics(x, n, l->eps, &mean, &inverse);
#pragma omp simd
        for (int64_t t = 0; t < n; t++)
            y[t] = (x[t] - mean) * inverse * scale[t] + shift[t];
        if (pairs)
            narrow(buffer, r, n, results);
    }
}

HL_CLONES static void forward_f32(const layer *l, const void *x, void *y, int64_t first, int64_t last,
                                  float *buffer)
{
    forward_rows(l, x, y, first, last, false, buffer);
}

HL_CLONES static void forward_bf16(const layer *l, const void *x, void *y, int64_t first, int64_t last,
                                   float *buffer)
{
    forward_rows(l, x, y, first, last, true, buffer);
}

static int64_t first_row(const layer *l, int64_t part)
{
    return hl_row_block_first(l->rows, l->parts, part);
}

/* There are buffers for no more. */
static int threads_of(const hl_cpu *cpu)
{
    int most = omp_get_max_threads();
    return most < cpu->base.threads ? most : cpu->base.threads;
}

static float *buffer_of_thread(const layer *l)
{
    return l->buffers + 2 * l->channels * omp_get_thread_num();
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    size_t bytes;
    const layer l = layer_of(cpu, step, step->exec, &bytes);
    const void *x = step->in[0]->data;
    void *y = step->out[0]->data;
    set_coefficients(&l, &step->norm);
#pragma omp parallel for schedule(static) num_threads(threads_of(cpu))
    for (int64_t part = 0; part < l.parts; part++) {
        if (l.pairs)
            forward_bf16(&l, x, y, first_row(&l, part), first_row(&l, part + 1), buffer_of_thread(&l));
        else
            forward_f32(&l, x, y, first_row(&l, part), first_row(&l, part + 1), buffer_of_thread(&l));
    }
    return HL_OK;
}

/* Sums over a run of rows go to those over all, and start again. */
static inline __attribute__((always_inline)) void flush(float *restrict run, double *restrict total,
                                                        int64_t count)
{
    for (int64_t t = 0; t < count; t++) {
        total[t] += (double)run[t];
        run[t] = 0.0f;
    }
}

/* With xhat = (x - mean) / deviation and g = scale dy:
 *     dx = (g - mean of g - xhat * mean of g xhat) / deviation
 * dx NULL: not wanted. run, total NULL: no sums. */
static inline __attribute__((always_inline)) void backward_rows(const layer *l, const void *gradients,
                                                                const void *values, void *results,
                                                                int64_t first, int64_t last, bool pairs,
                                                                float *buffer, float *run, double *total)
{
    const int64_t n = l->channels;
    const float *scale = l->scale;
    float *hat = buffer, *held = buffer + n;
    for (int64_t r = first; r < last; r++) {
        const float *x = widened(values, r, n, pairs, hat), *dy = widened(gradients, r, n, pairs, held);
        float mean, inverse, sum = 0.0f, dot = 0.0f;
        statistics(x, n, l->eps, &mean, &inverse);
#pragma omp simd reduction(+ : sum, dot)
        for (int64_t t = 0; t < n; t++) {
            float g = dy[t] * scale[t];
            hat[t] = (x[t] - mean) * inverse;
            sum += g;
            dot += g * hat[t];
        }
        if (total != NULL) {
#pragma omp simd
            for (int64_t t = 0; t < n; t++) {
                run[t] += dy[t] * hat[t];
                run[n + t] += dy[t];
            }
            if ((r - first) % RUN == RUN - 1)
                flush(run, total, 2 * n);
        }
        if (results == NULL)
            continue;
        const float centre = sum / (float)n, slope = dot / (float)n;
        float *dx = pairs ? hat : (float *)results + r * n;
#pragma omp simd
        for (int64_t t = 0; t < n; t++)
            dx[t] = inverse * (dy[t] * scale[t] - centre - hat[t] * slope);
        if (pairs)
            narrow(hat, r, n, results);
    }
    if (total != NULL)
        flush(run, total, 2 * n);
}

HL_CLONES static void backward_f32(const layer *l, const void *dy, const void *x, void *dx, int64_t first,
                                   int64_t last, float *buffer, float *runs, double *total)
{
    backward_rows(l, dy, x, dx, first, last, false, buffer, runs, total);
}

HL_CLONES static void backward_bf16(const layer *l, const void *dy, const void *x, void *dx, int64_t first,
                                    int64_t last, float *buffer, float *runs, double *total)
{
    backward_rows(l, dy, x, dx, first, last, true, buffer, runs, total);
}

static void set_gradient(const layer *l, hl_param *p, int64_t from, bool keep)
{
    if (p == NULL || !p->trained)
        return;
    for (int64_t c = 0; c < l->channels; c++) {
        double sum = 0.0;
        for (int64_t part = 0; part < l->parts; part++)
            sum += l->totals[2 * l->channels * part + from + lane_of(l, c)];
        p->grad[c] = (keep ? p->grad[c] : 0.0f) + (float)sum;
    }
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    size_t bytes;
    const layer l = layer_of(cpu, step, step->exec, &bytes);
    const void *dy = step->in[0]->data, *x = step->in[1]->data;
    void *dx = step->out[0] != NULL ? step->out[0]->data : NULL;
    set_coefficients(&l, &step->norm);
    size_t sums = l.sums ? (size_t)(2 * l.parts * l.channels) : 0;
    memset(l.totals, 0, sums * sizeof *l.totals);
    memset(l.runs, 0, sums * sizeof *l.runs);
#pragma omp parallel for schedule(static) num_threads(threads_of(cpu))
    for (int64_t part = 0; part < l.parts; part++) {
        int64_t first = first_row(&l, part), last = first_row(&l, part + 1), at = 2 * l.channels * part;
        float *runs = l.sums ? l.runs + at : NULL;
        double *totals = l.sums ? l.totals + at : NULL;
        if (l.pairs)
            backward_bf16(&l, dy, x, dx, first, last, buffer_of_thread(&l), runs, totals);
        else
            backward_f32(&l, dy, x, dx, first, last, buffer_of_thread(&l), runs, totals);
    }
    bool keep = step->run->grad_keep != 0.0f;
    if (l.sums) {
        set_gradient(&l, step->norm.scale, 0, keep);
        set_gradient(&l, step->norm.shift, l.channels, keep);
    }
    return HL_OK;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    layer_of(cpu, step, NULL, &step->scratch_bytes);
    return HL_OK;
}

const hl_cpu_op hl_cpu_layer_norm = {
    .check = hl_norm_check, .prepare = prepare, .bind = hl_norm_bind, .run = run};
const hl_cpu_op hl_cpu_layer_norm_grad = {
    .check = hl_norm_check, .prepare = prepare, .bind = hl_norm_bind, .run = grad_run};
