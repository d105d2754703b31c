/* Which elements a dropout layer keeps: one definition for all backends and for the backward pass, which
 * draws the mask again instead of storing it. */
#ifndef HL_BACKEND_DROPOUT_MASK_H
#define HL_BACKEND_DROPOUT_MASK_H

#include "base/philox.h"

/* Four elements share a Philox block: element e of forward pass number `micro_step` uses word e % 4 of block
 * (e / 4) + (micro_step << 36), which leaves room for 2^38 elements and 2^28 passes. */
static inline hl_philox hl_dropout_block(uint64_t seed, uint32_t id, uint64_t micro_step, int64_t element)
{
    return hl_philox_at(seed, HL_STREAM_DROPOUT, id, ((uint64_t)element >> 2) + (micro_step << 36));
}

/* Kept with probability 1 - p; `p` in [0, 1). */
static inline int hl_dropout_keeps(uint32_t word, float p)
{
    return (float)(word >> 8) * 0x1p-24f >= p;
}

#endif
