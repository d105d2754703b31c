#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "backend/cpu/pairs.h"
#include "base/bf16.h"

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Every upper half with lower halves on all sides of a tie: NaN, infinities and denormals are among them. */
Test(pairs, pack_the_bits_of_two_single_conversions)
{
    static const uint32_t lower[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    for (uint32_t upper = 0; upper < 0x10000; upper++)
        for (int i = 0; i < 6; i++) {
            float first = from_bits(upper << 16 | lower[i]), second = from_bits(~upper << 16 | lower[5 - i]);
            uint32_t pair = hl_pair_of(first, second);
            uint32_t want = hl_bf16_from_f32(first) | (uint32_t)hl_bf16_from_f32(second) << 16;
            cr_assert_eq(pair, want, "%a and %a: %08x, not %08x", (double)first, (double)second, pair, want);
        }
}

Test(pairs, read_what_single_conversions_read)
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        uint32_t pair = bits | (bits ^ 0x5555u) << 16;
        float first = hl_pair_first(pair), second = hl_pair_second(pair);
        float want[2] = {hl_bf16_to_f32((hl_bf16)bits), hl_bf16_to_f32((hl_bf16)(bits ^ 0x5555u))};
        cr_assert_eq(memcmp(&first, &want[0], sizeof first), 0);
        cr_assert_eq(memcmp(&second, &want[1], sizeof second), 0);
    }
}

/* As ReLU and ReLU6 of the value before it is rounded; a NaN of either sign passes. */
Test(pairs, are_clamped_to_a_range)
{
    const int32_t six = 0x40c00000;
    for (uint32_t upper = 0; upper < 0x10000; upper++) {
        float v = from_bits(upper << 16 | 0x8001u), relu = v < 0.0f ? 0.0f : v,
              relu6 = relu > 6.0f ? 6.0f : relu;
        cr_assert_eq(hl_pair_clamped(v, 1.0f, 0, INT32_MAX) & 0xffffu, hl_bf16_from_f32(relu), "%a",
                     (double)v);
        cr_assert_eq(hl_pair_clamped(1.0f, v, 0, six) >> 16, hl_bf16_from_f32(relu6), "%a", (double)v);
    }
}
