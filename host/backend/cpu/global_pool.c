/* GLOBAL_POOL and its gradient: the mean over all pixels. */
#include "backend/cpu/tile.h"
#include "base/simd.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

/* sum[c] += the rows of a tile, added up in float first. */
HL_CLONES static void add_rows(const float *restrict v, int64_t rows, int64_t channels,
                               float *restrict rows_sum, double *restrict sum)
{
    for (int64_t c = 0; c < channels; c++)
        rows_sum[c] = v[c];
    for (int64_t r = 1; r < rows; r++)
        for (int64_t c = 0; c < channels; c++)
            rows_sum[c] += v[r * channels + c];
    for (int64_t c = 0; c < channels; c++)
        sum[c] += (double)rows_sum[c];
}

/* Channels [c, c + n) of one sample's mean; n is all of them unless they do not fit a tile. */
static void mean_of(const hl_tensor *x, const hl_tensor *y, int64_t sample, int64_t c, int64_t n)
{
    float v[HL_TILE], mean[HL_TILE];
    double sum[HL_TILE] = {0};
    int64_t channels = x->shape.c, pixels = x->shape.h * x->shape.w;
    int64_t together = n == channels ? hl_tile_rows(channels) : 1;
    for (int64_t p = 0, rows; p < pixels; p += rows) {
        rows = pixels - p < together ? pixels - p : together;
        hl_tile_load(x, (sample * pixels + p) * channels + c, rows * n, v);
        add_rows(v, rows, n, mean, sum);
    }
    for (int64_t i = 0; i < n; i++)
        mean[i] = (float)(sum[i] / (double)pixels);
    hl_tile_store(y, sample * channels + c, n, mean);
}

HL_CLONES static void scale_tile(float *v, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] *= factor;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    int64_t channels = x->shape.c, parts = (channels + HL_TILE - 1) / HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < x->shape.n * parts; k++) {
        int64_t c = k % parts * HL_TILE;
        mean_of(x, y, k / parts, c, channels - c < HL_TILE ? channels - c : HL_TILE);
    }
    return HL_OK;
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0], *dx = step->out[0];
    int64_t channels = dx->shape.c, pixels = dx->shape.h * dx->shape.w,
            parts = (channels + HL_TILE - 1) / HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < dx->shape.n * parts; k++) {
        float g[HL_TILE];
        int64_t sample = k / parts, c = k % parts * HL_TILE,
                n = channels - c < HL_TILE ? channels - c : HL_TILE;
        hl_tile_load(dy, sample * channels + c, n, g);
        scale_tile(g, 1.0f / (float)pixels, n);
        for (int64_t p = 0; p < pixels; p++)
            hl_tile_store(dx, (sample * pixels + p) * channels + c, n, g);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_global_pool = {.check = check, .run = run};
const hl_cpu_op hl_cpu_global_pool_grad = {.check = check, .run = grad_run};
