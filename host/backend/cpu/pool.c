/* POOL and POOL_GRAD: maximum or average over windows, as torch.nn.MaxPool2d and AvgPool2d. */
#include <math.h>
#include <string.h>

#include "backend/cpu/tile.h"
#include "base/simd.h"

/* Window elements [y0, y1) x [x0, x1) that lie inside the input, in input coordinates, and the divisor of an
 * average. */
typedef struct extent {
    int64_t y0, y1, x0, x1, top, left;
    float divisor;
} extent;

static extent extent_of(const hl_pool_attr *pool, hl_shape in, int64_t oy, int64_t ox)
{
    const hl_window *w = &pool->window;
    extent e = {.top = oy * w->sh - w->top, .left = ox * w->sw - w->left};
    e.y0 = e.top < 0 ? 0 : e.top;
    e.x0 = e.left < 0 ? 0 : e.left;
    e.y1 = e.top + w->kh < in.h ? e.top + w->kh : in.h;
    e.x1 = e.left + w->kw < in.w ? e.left + w->kw : in.w;
    int64_t area = (e.y1 - e.y0) * (e.x1 - e.x0);
    if (pool->count_padding) {
        /* The window counts as far as the padding reaches; what ceil mode adds beyond that does not, as in
         * PyTorch. The top and left paddings are the ones asked for. */
        int64_t bottom = in.h + w->top, right = in.w + w->left;
        int64_t h = (e.top + w->kh < bottom ? e.top + w->kh : bottom) - e.top;
        int64_t v = (e.left + w->kw < right ? e.left + w->kw : right) - e.left;
        area = h * v;
    }
    e.divisor = (float)area;
    return e;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0], *index = step->out_count > 1 ? step->out[1] : NULL;
    bool floats = (x->elem == HL_ELEM_F32 || x->elem == HL_ELEM_BF16) &&
                  (y->elem == HL_ELEM_F32 || y->elem == HL_ELEM_BF16);
    if (!floats || (index != NULL && index->elem != HL_ELEM_U8 && index->elem != HL_ELEM_I32))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL,
                       "pooling computes in f32 and bf16, with u8 or i32 indices");
    if (step->pool.window.kw > HL_TILE)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "a pooling window is %lld wide, more than %d",
                       (long long)step->pool.window.kw, HL_TILE);
    return hl_step_check_pool(step, x->shape, y->shape);
}

/* Pooling works on segments: neighbouring pixels of one output row, all their channels or a part of them, so
 * that inner loops are long however few channels there are. */
typedef struct segment {
    int64_t sample, row, first, end; /* pixels [first, end) of a row */
    int64_t c, n;                    /* channels [c, c + n) */
} segment;

/* Pixels [first, first + count) of row `row` as [count][n] floats. */
static void load_pixels(const hl_tensor *t, const segment *s, int64_t row, int64_t first, int64_t count,
                        float *out)
{
    int64_t channels = t->shape.c,
            at = ((s->sample * t->shape.h + row) * t->shape.w + first) * channels + s->c;
    if (s->n == channels)
        hl_tile_load(t, at, count * s->n, out);
    else
        for (int64_t p = 0; p < count; p++)
            hl_tile_load(t, at + p * channels, s->n, out + p * s->n);
}

static void store_pixels(const hl_tensor *t, const segment *s, const float *values)
{
    int64_t channels = t->shape.c, count = s->end - s->first,
            at = ((s->sample * t->shape.h + s->row) * t->shape.w + s->first) * channels + s->c;
    if (s->n == channels)
        hl_tile_store(t, at, count * s->n, values);
    else
        for (int64_t p = 0; p < count; p++)
            hl_tile_store(t, at + p * channels, s->n, values + p * s->n);
}

/* Pixels of x that are read for one pixel of a segment after another lie `stride` floats apart. The first of
 * equal maxima wins; a NaN wins over everything before it. */
HL_CLONES static void max_pixels(const float *restrict x, int64_t stride, int32_t at, int64_t count,
                                 int64_t n, float *restrict best, int32_t *restrict index)
{
    for (int64_t p = 0; p < count; p++)
        for (int64_t c = 0; c < n; c++) {
            float v = x[p * stride + c];
            bool better = (v > best[p * n + c]) | (v != v);
            best[p * n + c] = better ? v : best[p * n + c];
            index[p * n + c] = better ? at : index[p * n + c];
        }
}

HL_CLONES static void add_pixels(const float *restrict x, int64_t stride, int64_t count, int64_t n,
                                 float *restrict sum)
{
    for (int64_t p = 0; p < count; p++)
        for (int64_t c = 0; c < n; c++)
            sum[p * n + c] += x[p * stride + c];
}

HL_CLONES static void start_max(int32_t at, int64_t n, float *restrict best, int32_t *restrict index)
{
    for (int64_t c = 0; c < n; c++) {
        best[c] = -INFINITY;
        index[c] = at;
    }
}

HL_CLONES static void divide(float *v, float divisor, int64_t n)
{
    for (int64_t c = 0; c < n; c++)
        v[c] /= divisor;
}

HL_CLONES static void narrow_index(const int32_t *restrict values, int64_t n, uint8_t *restrict out)
{
    for (int64_t c = 0; c < n; c++)
        out[c] = (uint8_t)values[c];
}

static void store_index(const hl_tensor *index, const segment *s, const int32_t *values)
{
    int64_t channels = index->shape.c;
    for (int64_t p = 0; p < s->end - s->first; p++) {
        int64_t at =
            ((s->sample * index->shape.h + s->row) * index->shape.w + s->first + p) * channels + s->c;
        if (index->elem == HL_ELEM_U8)
            narrow_index(values + p * s->n, s->n, (uint8_t *)index->data + at);
        else
            memcpy((int32_t *)index->data + at, values + p * s->n, (size_t)s->n * sizeof *values);
    }
}

/* Outputs o of [first, end) whose window element k, input o * stride - before + k, lies in [from, to). */
static void clip(int64_t k, int64_t stride, int64_t before, int64_t from, int64_t to, int64_t *first,
                 int64_t *end)
{
    int64_t lowest = from + before - k, past = to + before - k;
    lowest = lowest <= 0 ? 0 : (lowest + stride - 1) / stride;
    past = past <= 0 ? 0 : (past + stride - 1) / stride;
    *first = *first > lowest ? *first : lowest;
    *end = *end < past ? *end : past;
}

static void pool_segment(const hl_step *step, const segment *s)
{
    const hl_tensor *x = step->in[0], *index = step->out_count > 1 ? step->out[1] : NULL;
    const hl_window *w = &step->pool.window;
    float v[HL_TILE], result[HL_TILE];
    int32_t best[HL_TILE];
    extent e = extent_of(&step->pool, x->shape, s->row, s->first);
    for (int64_t o = s->first; o < s->end; o++) {
        extent of = extent_of(&step->pool, x->shape, s->row, o);
        start_max((int32_t)((of.y0 - of.top) * w->kw + of.x0 - of.left), s->n, result + (o - s->first) * s->n,
                  best + (o - s->first) * s->n);
    }
    if (!step->pool.max)
        memset(result, 0, (size_t)((s->end - s->first) * s->n) * sizeof *result);
    int64_t from = e.x0, to = extent_of(&step->pool, x->shape, s->row, s->end - 1).x1;
    for (int64_t y = e.y0; y < e.y1; y++) {
        load_pixels(x, s, y, from, to - from, v);
        for (int64_t k = 0; k < w->kw; k++) {
            int64_t first = s->first, end = s->end;
            clip(k, w->sw, w->left, 0, x->shape.w, &first, &end);
            if (first >= end)
                continue;
            const float *start = v + (first * w->sw - w->left + k - from) * s->n;
            float *to_pixel = result + (first - s->first) * s->n;
            if (step->pool.max)
                max_pixels(start, w->sw * s->n, (int32_t)((y - e.top) * w->kw + k), end - first, s->n,
                           to_pixel, best + (first - s->first) * s->n);
            else
                add_pixels(start, w->sw * s->n, end - first, s->n, to_pixel);
        }
    }
    if (!step->pool.max)
        for (int64_t o = s->first; o < s->end; o++)
            divide(result + (o - s->first) * s->n, extent_of(&step->pool, x->shape, s->row, o).divisor, s->n);
    store_pixels(step->out[0], s, result);
    if (index != NULL)
        store_index(index, s, best);
}

/* How many channels, and how many pixels beside each other, a segment takes, so that `reach` pixels for the
 * first and `stride` for each further one fit a tile. */
static void segment_size(int64_t channels, int64_t reach, int64_t stride, int64_t *n, int64_t *pixels)
{
    int64_t most = HL_TILE / reach;
    *n = channels < most ? channels : most;
    *pixels = 1 + (HL_TILE / *n - reach) / stride;
}

static void in_segments(const hl_step *step, const hl_tensor *t, int64_t n, int64_t pixels,
                        void (*run)(const hl_step *step, const segment *s))
{
    int64_t rows = t->shape.n * t->shape.h, channels = t->shape.c, width = t->shape.w;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t first = 0; first < width; first += pixels)
            for (int64_t c = 0; c < channels; c += n) {
                const segment s = {.sample = r / t->shape.h,
                                   .row = r % t->shape.h,
                                   .first = first,
                                   .end = width - first < pixels ? width : first + pixels,
                                   .c = c,
                                   .n = channels - c < n ? channels - c : n};
                run(step, &s);
            }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    int64_t n, pixels;
    segment_size(step->in[0]->shape.c, step->pool.window.kw, step->pool.window.sw, &n, &pixels);
    in_segments(step, step->out[0], n, pixels, pool_segment);
    return HL_OK;
}

static hl_status grad_check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0], *dx = step->out[0], *index = step->in[1];
    bool floats = (dx->elem == HL_ELEM_F32 || dx->elem == HL_ELEM_BF16) &&
                  (dy->elem == HL_ELEM_F32 || dy->elem == HL_ELEM_BF16);
    if (!floats || step->pool.max != (index != NULL))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL,
                       "the gradient of pooling computes in f32 and bf16");
    return hl_step_check_pool(step, dx->shape, dy->shape);
}

/* What pixels of dy pass on to pixels of dx that lie `stride` floats apart: all of it where the maximum was
 * `here`. */
HL_CLONES static void add_where_u8(const float *restrict g, const uint8_t *restrict index, uint8_t here,
                                   int64_t count, int64_t n, int64_t stride, float *restrict sum)
{
    for (int64_t p = 0; p < count; p++)
        for (int64_t c = 0; c < n; c++)
            sum[p * stride + c] += index[p * n + c] == here ? g[p * n + c] : 0.0f;
}

HL_CLONES static void add_where_i32(const float *restrict g, const int32_t *restrict index, int32_t here,
                                    int64_t count, int64_t n, int64_t stride, float *restrict sum)
{
    for (int64_t p = 0; p < count; p++)
        for (int64_t c = 0; c < n; c++)
            sum[p * stride + c] += index[p * n + c] == here ? g[p * n + c] : 0.0f;
}

/* Adds what outputs [first, first + count) of row oy pass on to the input pixels at element (ky, kx) of their
 * windows, `stride` floats apart from `sum` on. */
static void scatter(const hl_step *step, const segment *s, int64_t oy, int64_t ky, int64_t kx, int64_t first,
                    int64_t count, int64_t stride, float *sum)
{
    const hl_tensor *dy = step->in[0], *dx = step->out[0], *index = step->in[1];
    float g[HL_TILE];
    load_pixels(dy, s, oy, first, count, g);
    if (!step->pool.max) {
        for (int64_t p = 0; p < count; p++)
            hl_tile_add(g + p * s->n, 1.0f / extent_of(&step->pool, dx->shape, oy, first + p).divisor, s->n,
                        sum + p * stride);
        return;
    }
    int64_t here = ky * step->pool.window.kw + kx, channels = dy->shape.c,
            at = ((s->sample * dy->shape.h + oy) * dy->shape.w + first) * channels + s->c;
    bool whole = s->n == channels;
    for (int64_t p = 0; p < (whole ? 1 : count); p++) {
        int64_t pixels = whole ? count : 1, from = at + p * channels;
        if (index->elem == HL_ELEM_U8)
            add_where_u8(g + p * s->n, (const uint8_t *)index->data + from, (uint8_t)here, pixels, s->n,
                         stride, sum + p * stride);
        else
            add_where_i32(g + p * s->n, (const int32_t *)index->data + from, (int32_t)here, pixels, s->n,
                          stride, sum + p * stride);
    }
}

/* First and one past the last output whose window covers input coordinate i. */
static void covering(int64_t i, int64_t before, int64_t kernel, int64_t stride, int64_t outputs,
                     int64_t *first, int64_t *end)
{
    int64_t from = i + before - kernel + 1;
    *first = from <= 0 ? 0 : (from + stride - 1) / stride;
    *end = (i + before) / stride + 1 < outputs ? (i + before) / stride + 1 : outputs;
}

/* Every segment of dx gathers from the outputs that cover it: no two threads write to one place. */
static void grad_segment(const hl_step *step, const segment *s)
{
    const hl_tensor *dy = step->in[0];
    const hl_window *w = &step->pool.window;
    float sum[HL_TILE];
    memset(sum, 0, (size_t)((s->end - s->first) * s->n) * sizeof *sum);
    int64_t y0, y1;
    covering(s->row, w->top, w->kh, w->sh, dy->shape.h, &y0, &y1);
    for (int64_t oy = y0; oy < y1; oy++)
        for (int64_t k = w->kw - 1; k >= 0; k--) { /* outputs from left to right for each input */
            int64_t first = 0, end = dy->shape.w;
            clip(k, w->sw, w->left, s->first, s->end, &first, &end);
            if (first < end)
                scatter(step, s, oy, s->row - (oy * w->sh - w->top), k, first, end - first, w->sw * s->n,
                        sum + (first * w->sw - w->left + k - s->first) * s->n);
        }
    store_pixels(step->out[0], s, sum);
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    int64_t n, pixels;
    segment_size(step->out[0]->shape.c, 1, 1, &n, &pixels);
    in_segments(step, step->out[0], n, pixels, grad_segment);
    return HL_OK;
}

const hl_cpu_op hl_cpu_pool = {.check = check, .run = run};
const hl_cpu_op hl_cpu_pool_grad = {.check = grad_check, .run = grad_run};
