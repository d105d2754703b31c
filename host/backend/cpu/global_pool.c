/* GLOBAL_POOL and its gradient: the mean over all pixels. */
#include "backend/cpu/simd.h"
#include "backend/cpu/tile.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

HL_CLONES static void add_tile(const float *restrict v, float *restrict sum, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        sum[i] += v[i];
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
    int64_t channels = x->shape.c, pixels = x->shape.h * x->shape.w,
            parts = (channels + HL_TILE - 1) / HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < x->shape.n * parts; k++) {
        float sum[HL_TILE] = {0}, v[HL_TILE];
        int64_t sample = k / parts, c = k % parts * HL_TILE,
                n = channels - c < HL_TILE ? channels - c : HL_TILE;
        for (int64_t p = 0; p < pixels; p++) {
            hl_tile_load(x, (sample * pixels + p) * channels + c, n, v);
            add_tile(v, sum, n);
        }
        scale_tile(sum, 1.0f / (float)pixels, n);
        hl_tile_store(y, sample * channels + c, n, sum);
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
