/* INPUT: bytes to normalised values, mirrored where asked for; or floats, only converted. */
#include <stdlib.h>

#include "backend/cpu/simd.h"
#include "backend/cpu/tile.h"

enum { MAX_CHANNELS = 4 };

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    bool raw = step->input.raw;
    if ((y->elem != HL_ELEM_F32 && y->elem != HL_ELEM_BF16) || x->elem != (raw ? HL_ELEM_F32 : HL_ELEM_U8) ||
        (!raw && x->shape.c > MAX_CHANNELS))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL,
                       "images have up to %d channels of bytes, or are floats", MAX_CHANNELS);
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

static void normalise_row(const hl_step *step, int64_t row)
{
    const hl_tensor *x = step->in[0], *y = step->out[0];
    int64_t channels = x->shape.c, width = x->shape.w, per_tile = HL_TILE / channels;
    const uint8_t *from = (const uint8_t *)x->data + row * width * channels;
    bool mirrored = ((const uint8_t *)step->in[1]->data)[row / x->shape.h] != 0;
    float v[HL_TILE];
    for (int64_t p = 0; p < width; p += per_tile) {
        int64_t n = width - p < per_tile ? width - p : per_tile;
        const uint8_t *first = mirrored ? from + (width - 1 - p) * channels : from + p * channels;
        normalise(step->exec, first, mirrored ? -channels : channels, n, channels, v);
        hl_tile_store(y, (row * width + p) * channels, n * channels, v);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    int64_t count = hl_tensor_count(y), rows = x->shape.n * x->shape.h;
    if (step->input.raw) {
#pragma omp parallel for schedule(static)
        for (int64_t at = 0; at < count; at += HL_TILE)
            hl_tile_store(y, at, count - at < HL_TILE ? count - at : HL_TILE, (const float *)x->data + at);
        return HL_OK;
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        normalise_row(step, row);
    return HL_OK;
}

const hl_cpu_op hl_cpu_input = {.check = check, .prepare = prepare, .run = run, .release = release};
