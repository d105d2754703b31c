/* Two neighbouring bf16 values as one 32-bit word, for loops that load bf16, compute in f32 registers and
 * store bf16: a shift and a mask widen both, without the shuffles that lanes of half the size cost.
 * Coefficients of such loops lie apart for even and odd columns (backend/cpu/columns.h). */
#ifndef HL_BACKEND_CPU_PAIRS_H
#define HL_BACKEND_CPU_PAIRS_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first value of a pair is the low half");

/* A pair in memory: aligned as a single bf16 is, since rows of an odd number of channels start anywhere. */
typedef uint32_t __attribute__((may_alias, aligned(2))) hl_pair;

static inline const hl_pair *hl_pairs_at(const void *values, int64_t at)
{
    return (const hl_pair *)(const void *)((const uint16_t *)values + at);
}

static inline float hl_pair_first(uint32_t pair)
{
    uint32_t bits = pair << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float hl_pair_second(uint32_t pair)
{
    uint32_t bits = pair & 0xffff0000u;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* hl_bf16_from_f32 of a value between `low` and `high` (positive numbers or 0 by their bit patterns, which
 * compare as they do; a NaN stays a NaN), with the result in the upper half and anything in the lower one. In
 * integers, as a comparison of floats before the rounding has the compiler follow both of its outcomes
 * through it. */
static inline uint32_t hl_pair_round(float value, int32_t low, int32_t high)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int32_t clamped = bits < low ? low : bits;
    clamped = clamped > high ? high : clamped;
    uint32_t kept = (uint32_t)clamped, rounded = kept + 0x7fffu + ((kept >> 16) & 1u);
    return value != value ? (uint32_t)bits | 0x400000u : rounded;
}

static inline uint32_t hl_pair_clamped(float first, float second, int32_t low, int32_t high)
{
    return (hl_pair_round(first, low, high) >> 16) | (hl_pair_round(second, low, high) & 0xffff0000u);
}

static inline uint32_t hl_pair_of(float first, float second)
{
    return hl_pair_clamped(first, second, INT32_MIN, INT32_MAX);
}

#endif
