/* DROPOUT and DROPOUT_GRAD: x keep / (1 - p), with the same mask for both. */
#include "backend/cpu/tile.h"
#include "backend/dropout_mask.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *x = step->in[0], *y = step->out[0];
    int64_t count = hl_tensor_count(y);
    float p = step->dropout.p, scale = 1.0f / (1.0f - p);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE) {
        float v[HL_TILE];
        int64_t n = count - at < HL_TILE ? count - at : HL_TILE;
        hl_tile_load(x, at, n, v);
        hl_philox block = {{0}};
        for (int64_t i = 0; i < n; i++) {
            if (i % 4 == 0)
                block = hl_dropout_block(step->run->seed, step->dropout.id, step->run->micro_step, at + i);
            v[i] = hl_dropout_keeps(block.v[i % 4], p) ? v[i] * scale : 0.0f;
        }
        hl_tile_store(y, at, n, v);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_dropout = {.check = check, .run = run};
const hl_cpu_op hl_cpu_dropout_grad = {.check = check, .run = run};
