/* DROP_PATH and DROP_PATH_GRAD: a sample's values, all or none, with the same decisions for both. */
#include <string.h>

#include "backend/cpu/tile.h"
#include "backend/dropout_mask.h"
#include "base/simd.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

HL_CLONES static void scale_and_add(float factor, const float *restrict add, int64_t n, float *restrict v)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = v[i] * factor + add[i];
}

HL_CLONES static void scale(float factor, int64_t n, float *v)
{
    for (int64_t i = 0; i < n; i++)
        v[i] *= factor;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *residual = step->in_count > 1 ? step->in[1] : NULL, *y = step->out[0];
    int64_t samples = y->shape.n, count = hl_tensor_count(y) / samples,
            tiles = (count + HL_TILE - 1) / HL_TILE;
    float p = step->dropout.p, factor = 1.0f / (1.0f - p);
#pragma omp parallel for schedule(static)
    for (int64_t turn = 0; turn < samples * tiles; turn++) {
        float v[HL_TILE], add[HL_TILE];
        int64_t sample = turn / tiles, start = turn % tiles * HL_TILE, at = sample * count + start,
                n = count - start < HL_TILE ? count - start : HL_TILE;
        hl_philox block = hl_dropout_block(step->run->seed, step->dropout.id, step->run->micro_step, sample);
        bool kept = hl_dropout_keeps(block.v[sample % 4], p);
        if (residual != NULL)
            hl_tile_load(residual, at, n, kept ? add : v);
        else if (!kept)
            memset(v, 0, (size_t)n * sizeof *v);
        if (kept) {
            hl_tile_load(x, at, n, v);
            if (residual != NULL)
                scale_and_add(factor, add, n, v);
            else
                scale(factor, n, v);
        }
        hl_tile_store(y, at, n, v);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_drop_path = {.check = check, .run = run};
const hl_cpu_op hl_cpu_drop_path_grad = {.check = check, .run = run};
