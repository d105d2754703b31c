#include "backend/cpu/columns.h"

#include "backend/cpu/pairs.h"
#include "base/bf16.h"
#include "base/memory.h"
#include "base/simd.h"

/* RUN rows are summed in float. Strips are columns whose sums stay in registers: a cache line of bf16. */
enum { PANEL = 128, RUN = 16, CHUNK = 16384, STRIP = 32 };

/* Rows that are read as one, so that their width is even, and a multiple of STRIP where few rows make it one.
 */
static int64_t unit_of(int64_t channels)
{
    int64_t unit = 1;
    while (unit < 4 && channels * unit % STRIP != 0)
        unit *= 2;
    return channels * unit % STRIP == 0 ? unit : channels % 2 == 0 ? 1 : 2;
}

hl_columns hl_columns_of(const hl_tensor *t)
{
    hl_columns c = {.rows = hl_tensor_rows(t), .channels = t->shape.c, .pairs = t->elem == HL_ELEM_BF16};
    int64_t unit = unit_of(c.channels);
    c.count = c.rows * c.channels;
    c.repeat = unit * c.channels < PANEL ? PANEL / (unit * c.channels) * unit : unit;
    c.width = c.repeat * c.channels;
    c.blocks = hl_row_blocks(c.rows);
    c.chunk = c.width * (c.width < CHUNK ? CHUNK / c.width : 1);
    return c;
}

size_t hl_columns_sums_bytes(const hl_columns *c)
{
    return (size_t)(2 * (c->blocks + 1) * c->width) * sizeof(double);
}

static int64_t lane_of(const hl_columns *c, int64_t column)
{
    return !c->pairs ? column : column % 2 == 0 ? column / 2 : c->width / 2 + column / 2;
}

void hl_columns_spread(const hl_columns *c, const float *channels, float *lanes)
{
    for (int64_t k = 0, column = 0; k < c->repeat; k++)
        for (int64_t i = 0; i < c->channels; i++, column++)
            lanes[lane_of(c, column)] = channels[i];
}

/* Float sums of n columns, added in double to those so far. */
static inline __attribute__((always_inline)) void add_sums(const float *s, const float *d, int64_t n,
                                                           double *restrict sum, double *restrict dot)
{
    for (int64_t t = 0; t < n; t++) {
        sum[t] += (double)s[t];
        dot[t] += (double)d[t];
    }
}

/* Sums of x and x^2 from those of x - k and (x - k)^2, so that variances come out well: with k the first of
 * `rows` rows,
 *     sum x = n k + sum (x - k),   sum x^2 = n k^2 + 2 k sum (x - k) + sum (x - k)^2,
 * float only where differences are summed. Their rounding is relative to the n (k - mean)^2 of the rows k,
 * which are part of the variance themselves: its relative error stays below 2 RUN 2^-24. */
static inline __attribute__((always_inline)) void add_moments(const float *s, const float *d, const float *k,
                                                              int64_t rows, int64_t n, double *restrict sum,
                                                              double *restrict dot)
{
    for (int64_t t = 0; t < n; t++) {
        double first = (double)k[t], m = (double)rows;
        sum[t] += m * first + (double)s[t];
        dot[t] += (m * first + 2.0 * (double)s[t]) * first + (double)d[t];
    }
}

/* Asks for what will be read RUN rows later. Strips are read in jumps of a row, which hardware does not
 * foresee; into the second level, as RUN wide rows would push one another out of the first. */
static inline __attribute__((always_inline)) void fetch(const void *row, int64_t bytes_ahead, int64_t bytes)
{
    for (int64_t at = 0; at < bytes; at += HL_ALIGNMENT)
        __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)(bytes_ahead + at)), 0, 2);
}

/* n columns of f32 over some rows, `stride` apart; b NULL: moments. */
static inline __attribute__((always_inline)) void strip_f32(const float *a, const float *b, const float *mean,
                                                            int64_t rows, int64_t stride, int64_t n,
                                                            double *restrict sum, double *restrict dot)
{
    float s[STRIP] = {0}, d[STRIP] = {0};
    if (b == NULL) {
        fetch(a, RUN * stride * 4, 4 * n);
        for (int64_t r = 1; r < rows; r++) {
            fetch(a + r * stride, RUN * stride * 4, 4 * n);
            for (int64_t t = 0; t < n; t++) {
                float v = a[r * stride + t] - a[t];
                s[t] += v;
                d[t] += v * v;
            }
        }
        add_moments(s, d, a, rows, n, sum, dot);
    } else {
        for (int64_t r = 0; r < rows; r++) {
            fetch(a + r * stride, RUN * stride * 4, 4 * n);
            fetch(b + r * stride, RUN * stride * 4, 4 * n);
            for (int64_t t = 0; t < n; t++) {
                s[t] += a[r * stride + t];
                d[t] += a[r * stride + t] * (b[r * stride + t] - mean[t]);
            }
        }
        add_sums(s, d, n, sum, dot);
    }
}

/* n pairs of columns over some rows, `half` pairs apart. */
static inline __attribute__((always_inline)) void strip_pairs(const hl_pair *a, const hl_pair *b,
                                                              const float *mean, int64_t rows, int64_t half,
                                                              int64_t n, double *sum, double *dot)
{
    float s[STRIP / 2] = {0}, d[STRIP / 2] = {0}, s2[STRIP / 2] = {0}, d2[STRIP / 2] = {0};
    if (b == NULL) {
        float k[STRIP / 2], k2[STRIP / 2];
        for (int64_t t = 0; t < n; t++) {
            k[t] = hl_pair_first(a[t]);
            k2[t] = hl_pair_second(a[t]);
        }
        fetch(a, RUN * half * 4, 4 * n);
        for (int64_t r = 1; r < rows; r++) {
            fetch(a + r * half, RUN * half * 4, 4 * n);
            for (int64_t t = 0; t < n; t++) {
                float v = hl_pair_first(a[r * half + t]) - k[t], w = hl_pair_second(a[r * half + t]) - k2[t];
                s[t] += v;
                d[t] += v * v;
                s2[t] += w;
                d2[t] += w * w;
            }
        }
        add_moments(s, d, k, rows, n, sum, dot);
        add_moments(s2, d2, k2, rows, n, sum + half, dot + half);
    } else {
        for (int64_t r = 0; r < rows; r++) {
            fetch(a + r * half, RUN * half * 4, 4 * n);
            fetch(b + r * half, RUN * half * 4, 4 * n);
            for (int64_t t = 0; t < n; t++) {
                float v = hl_pair_first(a[r * half + t]), w = hl_pair_second(a[r * half + t]);
                s[t] += v;
                d[t] += v * (hl_pair_first(b[r * half + t]) - mean[t]);
                s2[t] += w;
                d2[t] += w * (hl_pair_second(b[r * half + t]) - mean[half + t]);
            }
        }
        add_sums(s, d, n, sum, dot);
        add_sums(s2, d2, n, sum + half, dot + half);
    }
}

/* The first `count` columns of some rows. */
HL_CLONES static void sums_f32(const float *a, const float *b, const float *mean, int64_t rows, int64_t width,
                               int64_t count, double *sum, double *dot)
{
    int64_t t = 0;
    if (b == NULL)
        for (; t + STRIP <= count; t += STRIP)
            strip_f32(a + t, NULL, NULL, rows, width, STRIP, sum + t, dot + t);
    else
        for (; t + STRIP <= count; t += STRIP)
            strip_f32(a + t, b + t, mean + t, rows, width, STRIP, sum + t, dot + t);
    if (t < count && b == NULL)
        strip_f32(a + t, NULL, NULL, rows, width, count - t, sum + t, dot + t);
    else if (t < count)
        strip_f32(a + t, b + t, mean + t, rows, width, count - t, sum + t, dot + t);
}

HL_CLONES static void sums_pairs(const hl_pair *a, const hl_pair *b, const float *mean, int64_t rows,
                                 int64_t half, int64_t count, double *sum, double *dot)
{
    enum { PAIRS = STRIP / 2 };
    int64_t t = 0;
    if (b == NULL)
        for (; t + PAIRS <= count; t += PAIRS)
            strip_pairs(a + t, NULL, NULL, rows, half, PAIRS, sum + t, dot + t);
    else
        for (; t + PAIRS <= count; t += PAIRS)
            strip_pairs(a + t, b + t, mean + t, rows, half, PAIRS, sum + t, dot + t);
    if (t < count && b == NULL)
        strip_pairs(a + t, NULL, NULL, rows, half, count - t, sum + t, dot + t);
    else if (t < count)
        strip_pairs(a + t, b + t, mean + t, rows, half, count - t, sum + t, dot + t);
}

/* A value without a partner: the last one of an odd number. */
static void add_single(hl_bf16 a, const hl_bf16 *b, float mean, double *sum, double *dot)
{
    float v = hl_bf16_to_f32(a);
    *sum += (double)v;
    *dot += (double)v * (b != NULL ? (double)hl_bf16_to_f32(*b) - (double)mean : (double)v);
}

/* `rows` rows of `count` columns from element `at` on; less than `width` where it is but one row. */
static void rows_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                      int64_t at, int64_t rows, int64_t count, double *sum, double *dot)
{
    if (!c->pairs) {
        sums_f32((const float *)a->data + at, b != NULL ? (const float *)b->data + at : NULL, mean, rows,
                 c->width, count, sum, dot);
        return;
    }
    const hl_bf16 *va = (const hl_bf16 *)a->data + at, *vb = b != NULL ? (const hl_bf16 *)b->data + at : NULL;
    sums_pairs(hl_pairs_at(va, 0), vb != NULL ? hl_pairs_at(vb, 0) : NULL, mean, rows, c->width / 2,
               count / 2, sum, dot);
    if (count % 2 != 0)
        add_single(va[count - 1], vb != NULL ? vb + count - 1 : NULL, vb != NULL ? mean[count / 2] : 0.0f,
                   sum + count / 2, dot + count / 2);
}

static void block_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                       int64_t block, double *sum, double *dot)
{
    int64_t at = hl_row_block_first(c->rows, c->blocks, block) * c->channels;
    int64_t end = hl_row_block_first(c->rows, c->blocks, block + 1) * c->channels;
    for (int64_t t = 0; t < c->width; t++)
        sum[t] = dot[t] = 0.0;
    for (int64_t rows; (rows = (end - at) / c->width) > 0; at += rows * c->width) {
        rows = rows < RUN ? rows : RUN;
        rows_sums(c, a, b, mean, at, rows, c->width, sum, dot);
    }
    if (at < end) /* less than a row, and only where rows are repeated */
        rows_sums(c, a, b, mean, at, 1, end - at, sum, dot);
}

/* Row `into` of `v` += the row `from`. */
HL_CLONES static void add_row(double *restrict into, const double *restrict from, int64_t count)
{
    for (int64_t t = 0; t < count; t++)
        into[t] += from[t];
}

/* Lanes to channels: those of repeated rows are added. */
static void gather(const hl_columns *c, const double *lanes, double *channels)
{
    for (int64_t i = 0; i < c->channels; i++) {
        channels[i] = lanes[lane_of(c, i)];
        for (int64_t k = 1; k < c->repeat; k++)
            channels[i] += lanes[lane_of(c, k * c->channels + i)];
    }
}

void hl_columns_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                     double *memory, double **sum, double **dot)
{
    int64_t width = c->width;
    double *sums = memory + 2 * width, *dots = sums + c->blocks * width;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < c->blocks; block++)
        block_sums(c, a, b, mean, block, sums + block * width, dots + block * width);
    for (int64_t block = 1; block < c->blocks; block++) {
        add_row(sums, sums + block * width, width);
        add_row(dots, dots + block * width, width);
    }
    *sum = memory;
    *dot = memory + width;
    gather(c, sums, *sum);
    gather(c, dots, *dot);
}
