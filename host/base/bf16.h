/* bfloat16: the upper half of a float32. */
#ifndef HL_BASE_BF16_H
#define HL_BASE_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t hl_bf16;

static inline float hl_bf16_to_f32(hl_bf16 x)
{
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to nearest, ties to even; a NaN stays a NaN. Without branches, so that loops over it vectorise. */
static inline hl_bf16 hl_bf16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return (hl_bf16)((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

#endif
