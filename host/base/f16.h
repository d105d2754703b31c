/* IEEE half precision: 1 sign, 5 exponent and 10 fraction bits. */
#ifndef HL_BASE_F16_H
#define HL_BASE_F16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t hl_f16;

static inline float hl_f16_to_f32(hl_f16 x)
{
    uint32_t sign = (uint32_t)(x & 0x8000u) << 16, magnitude = x & 0x7fffu, bits;
    float value;
    if (magnitude < 0x400u) {
        /* Zero and subnormal halves are whole multiples of 2^-24. */
        value = (float)magnitude * 0x1p-24f;
        memcpy(&bits, &value, sizeof bits);
    } else if (magnitude < 0x7c00u) {
        bits = (magnitude << 13) + ((127u - 15u) << 23);
    } else {
        bits = (magnitude << 13) | 0x7f800000u;
    }
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to nearest, ties to even; beyond 65504 to infinity; a NaN stays a NaN. */
static inline hl_f16 hl_f16_from_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (hl_f16)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x47800000u) /* 65536 */
        return (hl_f16)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* 2^-14: the sum rounds to a multiple of 2^-24 in its last bit */
        float positive, sum;
        memcpy(&positive, &magnitude, sizeof positive);
        sum = positive + 0.5f;
        memcpy(&bits, &sum, sizeof bits);
        return (hl_f16)(sign | (bits - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u) - ((127u - 15u) << 23);
    return (hl_f16)(sign | (rounded >> 13));
}

#endif
