#include "backend/cpu/columns.h"

#include "base/simd.h"

enum { PANEL = 128, RUN = HL_TILE / PANEL, CHUNK = 16384, STRIP = 32 };

hl_columns hl_columns_of(const hl_tensor *t)
{
    hl_columns c = {.rows = hl_tensor_rows(t), .channels = t->shape.c, .repeat = 1};
    c.count = c.rows * c.channels;
    if (c.channels < PANEL)
        c.repeat = PANEL / c.channels;
    c.width = c.repeat * c.channels;
    c.blocks = hl_row_blocks(c.rows);
    c.chunk = c.width * (c.width < CHUNK ? CHUNK / c.width : 1);
    return c;
}

size_t hl_columns_sums_bytes(const hl_columns *c)
{
    return (size_t)(2 * c->blocks * c->width) * sizeof(double);
}

void hl_columns_repeat(const hl_columns *c, float *v)
{
    for (int64_t i = c->channels; i < c->width; i++)
        v[i] = v[i - c->channels];
}

/* A strip of columns over the rows of one tile, in float in registers, added in double to the sums so far. */
static inline __attribute__((always_inline)) void strip_sums(const float *a, const float *b,
                                                             const float *mean, int64_t rows, int64_t stride,
                                                             int64_t n, double *restrict sum,
                                                             double *restrict dot)
{
    float s[STRIP] = {0}, d[STRIP] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t t = 0; t < n; t++) {
            s[t] += a[r * stride + t];
            d[t] += a[r * stride + t] * (b[r * stride + t] - mean[t]);
        }
    for (int64_t t = 0; t < n; t++) {
        sum[t] += (double)s[t];
        dot[t] += (double)d[t];
    }
}

/* The same for a = b and mean 0, so that variances come out well: with k the first row,
 *     sum a = n k + sum (a - k),   sum a^2 = n k^2 + 2 k sum (a - k) + sum (a - k)^2,
 * float only where differences are summed. Their rounding is relative to the n (k - mean)^2 of the rows k,
 * which are part of the variance themselves: its relative error stays below 2 RUN 2^-24. */
static inline __attribute__((always_inline)) void strip_moments(const float *a, int64_t rows, int64_t stride,
                                                                int64_t n, double *restrict sum,
                                                                double *restrict dot)
{
    float s[STRIP] = {0}, d[STRIP] = {0};
    for (int64_t r = 1; r < rows; r++)
        for (int64_t t = 0; t < n; t++) {
            float v = a[r * stride + t] - a[t];
            s[t] += v;
            d[t] += v * v;
        }
    for (int64_t t = 0; t < n; t++) {
        double k = (double)a[t], m = (double)rows;
        sum[t] += m * k + (double)s[t];
        dot[t] += (m * k + 2.0 * (double)s[t]) * k + (double)d[t];
    }
}

/* rows x width values, one row behind the other. */
HL_CLONES static void panel_sums(const float *a, const float *b, const float *mean, int64_t rows,
                                 int64_t width, double *sum, double *dot)
{
    for (int64_t t = 0; t < width; t += STRIP) {
        int64_t n = width - t;
        if (b == NULL && n >= STRIP)
            strip_moments(a + t, rows, width, STRIP, sum + t, dot + t);
        else if (b == NULL)
            strip_moments(a + t, rows, width, n, sum + t, dot + t);
        else if (n >= STRIP)
            strip_sums(a + t, b + t, mean + t, rows, width, STRIP, sum + t, dot + t);
        else
            strip_sums(a + t, b + t, mean + t, rows, width, n, sum + t, dot + t);
    }
}

static void load_panel(const hl_tensor *t, int64_t at, int64_t rows, int64_t stride, int64_t width,
                       float *panel)
{
    if (width == stride)
        hl_tile_load(t, at, rows * width, panel);
    else
        for (int64_t r = 0; r < rows; r++)
            hl_tile_load(t, at + r * stride, width, panel + r * width);
}

/* Panels of RUN rows and a few columns, so that double sums are touched once in RUN rows however wide the
 * table is. */
static void rows_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                      int64_t at, int64_t rows, double *sum, double *dot)
{
    float va[HL_TILE], vb[HL_TILE];
    for (int64_t t = 0; t < c->width; t += PANEL) {
        int64_t n = c->width - t < PANEL ? c->width - t : PANEL;
        load_panel(a, at + t, rows, c->width, n, va);
        if (b != NULL)
            load_panel(b, at + t, rows, c->width, n, vb);
        panel_sums(va, b != NULL ? vb : NULL, b != NULL ? mean + t : NULL, rows, n, sum + t, dot + t);
    }
}

/* What is left of a block behind its last whole row: less than `width`, and only where rows are repeated. */
static void rest_sums(const hl_tensor *a, const hl_tensor *b, const float *mean, int64_t at, int64_t count,
                      double *sum, double *dot)
{
    float va[HL_TILE], vb[HL_TILE];
    hl_tile_load(a, at, count, va);
    if (b != NULL)
        hl_tile_load(b, at, count, vb);
    panel_sums(va, b != NULL ? vb : NULL, mean, 1, count, sum, dot);
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
        rows_sums(c, a, b, mean, at, rows, sum, dot);
    }
    if (at < end)
        rest_sums(a, b, mean, at, end - at, sum, dot);
}

/* Row `into` of `v` += the row `from`. */
HL_CLONES static void add_row(double *restrict into, const double *restrict from, int64_t count)
{
    for (int64_t t = 0; t < count; t++)
        into[t] += from[t];
}

void hl_columns_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                     double *memory, double **sum, double **dot)
{
    int64_t width = c->width;
    double *sums = memory, *dots = memory + c->blocks * width;
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < c->blocks; block++)
        block_sums(c, a, b, mean, block, sums + block * width, dots + block * width);
    for (int64_t block = 1; block < c->blocks; block++) {
        add_row(sums, sums + block * width, width);
        add_row(dots, dots + block * width, width);
    }
    for (int64_t k = 1; k < c->repeat; k++) {
        add_row(sums, sums + k * c->channels, c->channels);
        add_row(dots, dots + k * c->channels, c->channels);
    }
    *sum = sums;
    *dot = dots;
}
