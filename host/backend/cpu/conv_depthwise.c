#include "backend/cpu/conv_depthwise.h"

#include <stdlib.h>
#include <string.h>

#include "backend/cpu/row_blocks.h"
#include "base/bf16.h"
#include "base/simd.h"

/* dW[c, ky, kx] = sum over n, oy, ox of dy[n, oy, ox, c] x[n, oy sh + ky dh - top, ox sw + kx dw - left, c].
 *
 * TILE channels at a time, rows of dy and x are widened to float32 in buffers that stay near the core: one
 * row of dy, and the rows of x under the window, with their padding, so that the loop over pixels has no
 * edges and each row is widened once. Sums over a row go to the partial sums of a block of rows, those are
 * added in order: the result does not depend on the number of threads. */
enum { TILE = 32, MAX_BLOCKS = 16 };

struct hl_depthwise {
    int64_t rows, blocks;     /* rows of outputs, n h; blocks of them */
    int64_t tiles, taps;      /* kh kw */
    int64_t x_rows, x_pixels; /* buffered at once; padding included */
    size_t partial_floats;    /* of one block: [tile][tap][TILE] */
    size_t buffer_floats;     /* of one block: [x_rows][x_pixels][TILE] of x, then a row of dy */
    float *partial, *buffers;
    int64_t *held; /* [block][x_rows]: which row of x a buffer holds, n h + iy */
};

bool hl_depthwise_takes(const hl_step *step)
{
    const hl_conv_attr *conv = &step->conv;
    return conv->groups > 1 && conv->groups == step->in[0]->shape.c && conv->groups == step->in[1]->shape.c;
}

hl_status hl_depthwise_create(const hl_step *step, hl_depthwise **depthwise, size_t *scratch_bytes)
{
    const hl_window *w = &step->conv.window;
    hl_shape y = step->in[1]->shape;
    hl_depthwise *d = calloc(1, sizeof *d);
    *depthwise = d;
    if (d == NULL)
        return hl_fail_nomem(step->name, sizeof *d);
    d->rows = y.n * y.h;
    d->blocks = d->rows < MAX_BLOCKS ? d->rows : MAX_BLOCKS;
    d->tiles = (y.c + TILE - 1) / TILE;
    d->taps = w->kh * w->kw;
    d->x_rows = (w->kh - 1) * w->dh + 1;
    d->x_pixels = (y.w - 1) * w->sw + (w->kw - 1) * w->dw + 1;
    d->partial_floats = (size_t)(d->tiles * d->taps * TILE);
    d->buffer_floats = (size_t)((d->x_rows * d->x_pixels + y.w) * TILE);
    *scratch_bytes = (size_t)d->blocks * ((d->partial_floats + d->buffer_floats) * sizeof(float) +
                                          (size_t)d->x_rows * sizeof(int64_t));
    return HL_OK;
}

void hl_depthwise_destroy(hl_depthwise *d)
{
    free(d);
}

void hl_depthwise_bind(hl_depthwise *d, void *scratch)
{
    d->partial = scratch;
    d->buffers = d->partial + (size_t)d->blocks * d->partial_floats;
    d->held = (int64_t *)(d->buffers + (size_t)d->blocks * d->buffer_floats);
}

/* `pixels` pixels of `width` channels, `stride` apart in memory, as float32 TILE apart; channels beyond the
 * width are zero. */
#define WIDEN(name, type, load)                                                                              \
    HL_CLONES static void name(const type *restrict from, int64_t stride, int64_t pixels, int64_t width,     \
                               float *restrict to)                                                           \
    {                                                                                                        \
        if (width == TILE) {                                                                                 \
            for (int64_t p = 0; p < pixels; p++)                                                             \
                for (int64_t t = 0; t < TILE; t++)                                                           \
                    to[p * TILE + t] = load(from[p * stride + t]);                                           \
            return;                                                                                          \
        }                                                                                                    \
        for (int64_t p = 0; p < pixels; p++)                                                                 \
            for (int64_t t = 0; t < TILE; t++)                                                               \
                to[p * TILE + t] = t < width ? load(from[p * stride + t]) : 0.0f;                            \
    }

#define AS_IS(x) (x)
WIDEN(widen_f32, float, AS_IS)
WIDEN(widen_bf16, hl_bf16, hl_bf16_to_f32)

static void widen(const hl_tensor *from, int64_t at, int64_t pixels, int64_t width, float *to)
{
    int64_t stride = from->shape.c;
    if (from->elem == HL_ELEM_BF16)
        widen_bf16((const hl_bf16 *)from->data + at, stride, pixels, width, to);
    else
        widen_f32((const float *)from->data + at, stride, pixels, width, to);
}

/* Row iy of x with its padding. `before` pixels of padding on the left; pixels beyond the image are zero. */
static void widen_padded(const hl_tensor *x, int64_t row, int64_t before, int64_t pixels, int64_t c,
                         int64_t width, float *to)
{
    int64_t inside = x->shape.w < pixels - before ? x->shape.w : pixels - before;
    if (inside < 0) {
        inside = 0;
        before = pixels;
    }
    int64_t after = pixels - before - inside;
    memset(to, 0, (size_t)(before * TILE) * sizeof *to);
    widen(x, row * x->shape.w * x->shape.c + c, inside, width, to + before * TILE);
    memset(to + (before + inside) * TILE, 0, (size_t)(after * TILE) * sizeof *to);
}

/* sum[k][t] += sum over ox of dy[ox][t] x[ox sw + k dw][t] for some successive taps k. Loops of constant
 * length, so that the sums stay in registers. */
#define TAPS(name, count)                                                                                    \
    HL_CLONES static void name(const float *restrict dy, const float *restrict x, int64_t pixels,            \
                               int64_t sw, int64_t dw, float *restrict sum)                                  \
    {                                                                                                        \
        float acc[(count)*TILE] = {0};                                                                       \
        for (int64_t p = 0; p < pixels; p++)                                                                 \
            for (int64_t k = 0; k < (count); k++)                                                            \
                for (int64_t t = 0; t < TILE; t++)                                                           \
                    acc[k * TILE + t] += dy[p * TILE + t] * x[(p * sw + k * dw) * TILE + t];                 \
        for (int64_t t = 0; t < (count)*TILE; t++)                                                           \
            sum[t] += acc[t];                                                                                \
    }

TAPS(taps1, 1)
TAPS(taps3, 3)
TAPS(taps5, 5)

static void row_sums(const float *dy, const float *x, int64_t pixels, const hl_window *w, float *sum)
{
    int64_t k = 0;
    for (; w->kw - k >= 5 && w->kw - k != 6; k += 5)
        taps5(dy, x + k * w->dw * TILE, pixels, w->sw, w->dw, sum + k * TILE);
    for (; w->kw - k >= 3; k += 3)
        taps3(dy, x + k * w->dw * TILE, pixels, w->sw, w->dw, sum + k * TILE);
    for (; k < w->kw; k++)
        taps1(dy, x + k * w->dw * TILE, pixels, w->sw, w->dw, sum + k * TILE);
}

/* Channels [c, c + width) of output rows [first, last). */
static void tile_sums(const hl_depthwise *d, const hl_step *step, int64_t block, int64_t first, int64_t last,
                      int64_t c, int64_t width, float *sum)
{
    const hl_tensor *x = step->in[0], *dy = step->in[1];
    const hl_window *w = &step->conv.window;
    hl_shape ys = dy->shape, xs = x->shape;
    float *x_buffer = d->buffers + (size_t)block * d->buffer_floats;
    float *dy_row = x_buffer + d->x_rows * d->x_pixels * TILE;
    int64_t *held = d->held + block * d->x_rows;
    for (int64_t slot = 0; slot < d->x_rows; slot++)
        held[slot] = -1;
    for (int64_t row = first; row < last; row++) {
        int64_t n = row / ys.h, oy = row % ys.h;
        widen(dy, row * ys.w * ys.c + c, ys.w, width, dy_row);
        for (int64_t ky = 0; ky < w->kh; ky++) {
            int64_t iy = oy * w->sh + ky * w->dh - w->top;
            if (iy < 0 || iy >= xs.h)
                continue;
            int64_t slot = iy % d->x_rows, x_row = n * xs.h + iy;
            float *at = x_buffer + slot * d->x_pixels * TILE;
            if (held[slot] != x_row)
                widen_padded(x, x_row, w->left, d->x_pixels, c, width, at);
            held[slot] = x_row;
            row_sums(dy_row, at, ys.w, w, sum + ky * w->kw * TILE);
        }
    }
}

void hl_depthwise_run(const hl_depthwise *d, const hl_step *step)
{
    int64_t channels = step->in[1]->shape.c;
    float *dw = step->out[0]->data;
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < d->blocks; b++) {
        int64_t first = hl_row_block_first(d->rows, d->blocks, b),
                last = hl_row_block_first(d->rows, d->blocks, b + 1);
        float *partial = d->partial + (size_t)b * d->partial_floats;
        memset(partial, 0, d->partial_floats * sizeof *partial);
        for (int64_t tile = 0; tile < d->tiles; tile++) {
            int64_t c = tile * TILE, width = channels - c < TILE ? channels - c : TILE;
            tile_sums(d, step, b, first, last, c, width, partial + tile * d->taps * TILE);
        }
    }
    int64_t stride = (int64_t)d->partial_floats;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t k = 0; k < d->taps; k++)
            dw[c * d->taps + k] =
                hl_row_blocks_sum(d->partial, d->blocks, stride, (c / TILE * d->taps + k) * TILE + c % TILE);
}
