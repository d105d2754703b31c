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
    return hl_step_check_pool(step, x->shape, y->shape);
}

/* The first of equal maxima wins; a NaN wins over everything before it. */
HL_CLONES static void max_tile(const float *restrict v, int32_t at, int64_t n, float *restrict best,
                               int32_t *restrict index)
{
    for (int64_t c = 0; c < n; c++) {
        bool better = (v[c] > best[c]) | (v[c] != v[c]);
        best[c] = better ? v[c] : best[c];
        index[c] = better ? at : index[c];
    }
}

HL_CLONES static void add_tile(const float *restrict v, float factor, int64_t n, float *restrict sum)
{
    for (int64_t c = 0; c < n; c++)
        sum[c] += factor * v[c];
}

HL_CLONES static void start_max(int32_t at, int64_t n, float *restrict best, int32_t *restrict index)
{
    for (int64_t c = 0; c < n; c++) {
        best[c] = -INFINITY;
        index[c] = at;
    }
}

HL_CLONES static void narrow_index(const int32_t *restrict values, int64_t n, uint8_t *restrict out)
{
    for (int64_t c = 0; c < n; c++)
        out[c] = (uint8_t)values[c];
}

static void store_index(const hl_tensor *index, int64_t at, int64_t n, const int32_t *values)
{
    if (index->elem == HL_ELEM_U8)
        narrow_index(values, n, (uint8_t *)index->data + at);
    else
        memcpy((int32_t *)index->data + at, values, (size_t)n * sizeof *values);
}

/* Channels [c, c + n) of one output pixel. */
static void pool_pixel(const hl_step *step, int64_t sample, const extent *e, int64_t out_row, int64_t c,
                       int64_t n)
{
    const hl_tensor *x = step->in[0], *index = step->out_count > 1 ? step->out[1] : NULL;
    const hl_window *w = &step->pool.window;
    float v[HL_TILE], result[HL_TILE];
    int32_t best[HL_TILE];
    if (step->pool.max)
        start_max((int32_t)((e->y0 - e->top) * w->kw + e->x0 - e->left), n, result, best);
    else
        memset(result, 0, (size_t)n * sizeof *result);
    for (int64_t y = e->y0; y < e->y1; y++)
        for (int64_t col = e->x0; col < e->x1; col++) {
            hl_tile_load(x, ((sample * x->shape.h + y) * x->shape.w + col) * x->shape.c + c, n, v);
            if (step->pool.max)
                max_tile(v, (int32_t)((y - e->top) * w->kw + col - e->left), n, result, best);
            else
                add_tile(v, 1.0f, n, result);
        }
    if (!step->pool.max)
        for (int64_t i = 0; i < n; i++)
            result[i] /= e->divisor;
    hl_tile_store(step->out[0], out_row * x->shape.c + c, n, result);
    if (index != NULL)
        store_index(index, out_row * x->shape.c + c, n, best);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    int64_t rows = y->shape.n * y->shape.h;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t col = 0; col < y->shape.w; col++) {
            extent e = extent_of(&step->pool, x->shape, r % y->shape.h, col);
            for (int64_t c = 0; c < x->shape.c; c += HL_TILE)
                pool_pixel(step, r / y->shape.h, &e, r * y->shape.w + col, c,
                           x->shape.c - c < HL_TILE ? x->shape.c - c : HL_TILE);
        }
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

HL_CLONES static void add_where_u8(const float *restrict g, const uint8_t *restrict index, uint8_t here,
                                   int64_t n, float *restrict sum)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += index[i] == here ? g[i] : 0.0f;
}

HL_CLONES static void add_where_i32(const float *restrict g, const int32_t *restrict index, int32_t here,
                                    int64_t n, float *restrict sum)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += index[i] == here ? g[i] : 0.0f;
}

/* Adds to sum[0 .. n), the gradient of input pixel (iy, ix), what output pixel `out_row` passes on to it. */
static void gather(const hl_step *step, int64_t out_row, const extent *e, int64_t iy, int64_t ix, int64_t c,
                   int64_t n, float *sum)
{
    const hl_tensor *dy = step->in[0], *index = step->in[1];
    float g[HL_TILE];
    int64_t at = out_row * dy->shape.c + c;
    hl_tile_load(dy, at, n, g);
    if (!step->pool.max) {
        add_tile(g, 1.0f / e->divisor, n, sum);
        return;
    }
    int32_t here = (int32_t)((iy - e->top) * step->pool.window.kw + ix - e->left);
    if (index->elem == HL_ELEM_U8)
        add_where_u8(g, (const uint8_t *)index->data + at, (uint8_t)here, n, sum);
    else
        add_where_i32(g, (const int32_t *)index->data + at, here, n, sum);
}

/* First and one past the last output whose window covers input coordinate i. */
static void covering(int64_t i, int64_t before, int64_t kernel, int64_t stride, int64_t outputs,
                     int64_t *first, int64_t *end)
{
    int64_t from = i + before - kernel + 1;
    *first = from <= 0 ? 0 : (from + stride - 1) / stride;
    *end = (i + before) / stride + 1 < outputs ? (i + before) / stride + 1 : outputs;
}

static void grad_pixel(const hl_step *step, int64_t sample, int64_t iy, int64_t ix, int64_t c, int64_t n)
{
    const hl_tensor *dy = step->in[0], *dx = step->out[0];
    const hl_window *w = &step->pool.window;
    float sum[HL_TILE];
    memset(sum, 0, (size_t)n * sizeof *sum);
    int64_t y0, y1, x0, x1;
    covering(iy, w->top, w->kh, w->sh, dy->shape.h, &y0, &y1);
    covering(ix, w->left, w->kw, w->sw, dy->shape.w, &x0, &x1);
    for (int64_t oy = y0; oy < y1; oy++)
        for (int64_t ox = x0; ox < x1; ox++) {
            extent e = extent_of(&step->pool, dx->shape, oy, ox);
            gather(step, (sample * dy->shape.h + oy) * dy->shape.w + ox, &e, iy, ix, c, n, sum);
        }
    hl_tile_store(dx, ((sample * dx->shape.h + iy) * dx->shape.w + ix) * dx->shape.c + c, n, sum);
}

/* Every input pixel gathers from the outputs that cover it: no two threads write to one place. */
static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dx = step->out[0];
    int64_t rows = dx->shape.n * dx->shape.h, channels = dx->shape.c;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t ix = 0; ix < dx->shape.w; ix++)
            for (int64_t c = 0; c < channels; c += HL_TILE)
                grad_pixel(step, r / dx->shape.h, r % dx->shape.h, ix, c,
                           channels - c < HL_TILE ? channels - c : HL_TILE);
    return HL_OK;
}

const hl_cpu_op hl_cpu_pool = {.check = check, .run = run};
const hl_cpu_op hl_cpu_pool_grad = {.check = grad_check, .run = grad_run};
