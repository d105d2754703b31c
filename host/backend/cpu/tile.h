/* Tiles: short runs of a tensor as floats in a buffer that stays in the first-level cache. Loops work on
 * tiles and need one version for all element types; conversion is vectorised, and memory, not arithmetic, is
 * what these steps wait for. */
#ifndef HL_BACKEND_CPU_TILE_H
#define HL_BACKEND_CPU_TILE_H

#include "backend/cpu/cpu.h"

enum { HL_TILE = 2048 }; /* floats */

/* out[0 .. count) = elements [at, at + count) of a f32 or bf16 tensor; count <= HL_TILE. */
void hl_tile_load(const hl_tensor *t, int64_t at, int64_t count, float *out);
void hl_tile_store(const hl_tensor *t, int64_t at, int64_t count, const float *values);

/* sum += factor values; they do not overlap. */
void hl_tile_add(const float *values, float factor, int64_t count, float *sum);

/* How many rows of `channels` fit a tile (at least one: wider tensors go through channels in parts). */
static inline int64_t hl_tile_rows(int64_t channels)
{
    return channels >= HL_TILE ? 1 : HL_TILE / channels;
}

/* Every operand a plain f32 or bf16 tensor? NULL operands pass. For check functions. */
hl_status hl_tile_check(const hl_step *step);

static inline int64_t hl_tensor_count(const hl_tensor *t)
{
    return hl_shape_count(t->shape);
}

static inline int64_t hl_tensor_rows(const hl_tensor *t)
{
    return t->shape.n * t->shape.h * t->shape.w;
}

#endif
