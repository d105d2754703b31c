/* INPUT: bytes to normalised values, mirrored where asked for; or floats, only converted; mixed with another
 * image of the batch where asked for. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/tile.h"
#include "base/simd.h"

enum { MAX_CHANNELS = 4 };

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    bool raw = step->input.raw;
    if ((y->elem != HL_ELEM_F32 && y->elem != HL_ELEM_BF16) || x->elem != (raw ? HL_ELEM_F32 : HL_ELEM_U8) ||
        x->shape.c > (raw ? HL_TILE : MAX_CHANNELS))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "images are floats, or bytes of up to %d channels",
                       MAX_CHANNELS);
    return HL_OK;
}

/* The value of each byte in each channel. */
typedef struct table {
    float value[MAX_CHANNELS][256];
} table;

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    if (step->input.raw)
        return HL_OK;
    table *t = calloc(1, sizeof *t);
    if (t == NULL)
        return hl_fail_nomem(step->name, sizeof *t);
    for (int c = 0; c < (int)step->in[0]->shape.c; c++)
        for (int b = 0; b < 256; b++)
            t->value[c][b] = ((float)b / 255.0f - step->input.mean[c]) / step->input.std[c];
    step->exec = t;
    return HL_OK;
}

static void release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    free(step->exec);
}

/* `count` pixels from `x` in steps of `stride` bytes (negative: mirrored). */
static void normalise(const table *t, const uint8_t *x, int64_t stride, int64_t count, int64_t channels,
                      float *out)
{
    for (int64_t p = 0; p < count; p++, x += stride)
        for (int64_t c = 0; c < channels; c++)
            *out++ = t->value[c][x[c]];
}

/* Row `y` of image `n` as the network would see it alone, pixels [first, first + count). */
static void load_pixels(const hl_step *step, int64_t n, int64_t y, int64_t first, int64_t count, float *out)
{
    const hl_tensor *x = step->in[0], *flips = step->in[1];
    int64_t channels = x->shape.c, width = x->shape.w, row = n * x->shape.h + y;
    if (step->input.raw) {
        memcpy(out, (const float *)x->data + (row * width + first) * channels,
               (size_t)(count * channels) * sizeof *out);
        return;
    }
    const uint8_t *from = (const uint8_t *)x->data + row * width * channels;
    bool mirrored = flips != NULL && ((const uint8_t *)flips->data)[n] != 0;
    if (mirrored)
        normalise(step->exec, from + (width - 1 - first) * channels, -channels, count, channels, out);
    else
        normalise(step->exec, from + first * channels, channels, count, channels, out);
}

/* Mixes pixels [first, first + count) of row y with the partner's. */
static void mix_pixels(const hl_step *step, const hl_mix *mix, int64_t y, int64_t first, int64_t count,
                       float *v)
{
    float other[HL_TILE];
    int64_t channels = step->in[0]->shape.c;
    bool box = mix->bottom > mix->top && mix->right > mix->left;
    if (mix->share == 1.0f && !box)
        return;
    load_pixels(step, mix->partner, y, first, count, other);
    if (!box) {
        for (int64_t i = 0; i < count * channels; i++)
            v[i] = mix->share * v[i] + (1.0f - mix->share) * other[i];
        return;
    }
    int64_t left = mix->left > first ? mix->left : first,
            right = mix->right < first + count ? mix->right : first + count;
    if (y >= mix->top && y < mix->bottom && right > left)
        memcpy(v + (left - first) * channels, other + (left - first) * channels,
               (size_t)((right - left) * channels) * sizeof *v);
}

static void make_row(const hl_step *step, int64_t row)
{
    const hl_tensor *x = step->in[0];
    const hl_mix *mixes = step->in_count > 2 && step->in[2] != NULL ? step->in[2]->data : NULL;
    int64_t channels = x->shape.c, width = x->shape.w, per_tile = HL_TILE / channels;
    int64_t n = row / x->shape.h, y = row % x->shape.h;
    float v[HL_TILE];
    for (int64_t first = 0; first < width; first += per_tile) {
        int64_t count = width - first < per_tile ? width - first : per_tile;
        load_pixels(step, n, y, first, count, v);
        if (mixes != NULL)
            mix_pixels(step, &mixes[n], y, first, count, v);
        hl_tile_store(step->out[0], (row * width + first) * channels, count * channels, v);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    int64_t rows = step->in[0]->shape.n * step->in[0]->shape.h;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        make_row(step, row);
    return HL_OK;
}

const hl_cpu_op hl_cpu_input = {.check = check, .prepare = prepare, .run = run, .release = release};
