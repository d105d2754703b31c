#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/f16.h"

enum { HALVES = 65536 };

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* By the definition: (-1)^s 2^(e - 15) (1 + f / 1024), or 2^-14 f / 1024 where e is 0. */
static double value_of(unsigned half)
{
    int exponent = (half >> 10) & 31, fraction = half & 1023;
    double magnitude = exponent == 31 ? (fraction != 0 ? NAN : INFINITY)
                       : exponent > 0 ? ldexp(1024.0 + fraction, exponent - 25)
                                      : ldexp(fraction, -24);
    return half >> 15 ? -magnitude : magnitude;
}

Test(f16, every_half_becomes_its_value)
{
    for (unsigned half = 0; half < HALVES; half++) {
        double want = value_of(half), got = (double)hl_f16_to_f32((hl_f16)half);
        cr_assert(isnan(want) ? isnan(got) : got == want && signbit(got) == signbit(want), "%04x: %g", half,
                  got);
    }
}

Test(f16, every_half_comes_back_from_a_float)
{
    for (unsigned half = 0; half < HALVES; half++) {
        hl_f16 back = hl_f16_from_f32(hl_f16_to_f32((hl_f16)half));
        cr_assert(isnan(value_of(half)) ? isnan(value_of(back)) && back >> 15 == half >> 15 : back == half,
                  "%04x: %04x", half, back);
    }
}

/* Between every two neighbours: the middle goes to the even one, the floats beside it to the nearer one. */
Test(f16, rounds_to_nearest_and_ties_to_even)
{
    for (unsigned half = 0; half < 0x7c00; half++) {
        float middle = half == 0x7bff ? 65520.0f : (float)((value_of(half) + value_of(half + 1)) / 2.0);
        unsigned even = half % 2 == 0 ? half : half + 1;
        for (unsigned sign = 0; sign <= 0x8000; sign += 0x8000) {
            float s = sign != 0 ? -1.0f : 1.0f;
            cr_assert_eq(hl_f16_from_f32(s * middle), sign | even, "tie above %04x", half);
            cr_assert_eq(hl_f16_from_f32(s * nextafterf(middle, 0.0f)), sign | half, "below tie, %04x", half);
            cr_assert_eq(hl_f16_from_f32(s * nextafterf(middle, INFINITY)), sign | (half + 1),
                         "above tie, %04x", half);
        }
    }
}

/* Every 251st float (a prime: all exponents, all kinds of fractions): no half is nearer. */
Test(f16, no_half_is_nearer_than_the_one_chosen)
{
    for (uint64_t bits = 0; bits < 0x47800000u; bits += 251) {
        float x = from_bits((uint32_t)bits);
        unsigned half = hl_f16_from_f32(x);
        double distance = half == 0x7c00 ? fabs((double)x - 65536.0) : fabs((double)x - value_of(half));
        double below = half > 0 ? fabs((double)x - value_of(half - 1)) : INFINITY;
        double above = half >= 0x7bff ? (half == 0x7bff ? fabs((double)x - 65536.0) : INFINITY)
                                      : fabs((double)x - value_of(half + 1));
        if (!(distance <= below && distance <= above))
            cr_assert(false, "%a becomes %04x", (double)x, half);
    }
}

Test(f16, what_is_too_large_becomes_infinite_and_nan_stays_nan)
{
    cr_assert_eq(hl_f16_from_f32(1e30f), 0x7c00);
    cr_assert_eq(hl_f16_from_f32(-INFINITY), 0xfc00);
    cr_assert_eq(hl_f16_from_f32(from_bits(1)), 0); /* the smallest float */
    cr_assert_eq(hl_f16_from_f32(from_bits(0x80000001u)), 0x8000);
    for (uint32_t fraction = 1; fraction < 0x800000; fraction = 2 * fraction + 1)
        for (uint32_t sign = 0; sign < 2; sign++)
            cr_assert(isnan(value_of(hl_f16_from_f32(from_bits(sign << 31 | 0x7f800000u | fraction)))));
}
