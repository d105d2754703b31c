/* Activations over short runs of floats, for loops that fuse them. All are without calls and branches, so
 * that they vectorise inside functions marked HL_CLONES. */
#ifndef HL_BACKEND_CPU_ACT_MATH_H
#define HL_BACKEND_CPU_ACT_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backend/step.h"

/* e^z within 2e-7, relative: 2^n e^r with n = round(z / ln 2) and a polynomial for |r| <= ln(2)/2. z is kept
 * within +-87, where 2^n stays a normal number. A NaN stays a NaN. */
static inline float hl_expf(float z)
{
    const float round_to_integer =
        12582912.0f; /* 1.5 * 2^23: adding it leaves the rounded integer in the low bits */
    z = z > 87.0f ? 87.0f : z;
    z = z < -87.0f ? -87.0f : z;
    float shifted = z * 1.44269504f + round_to_integer;
    float n = shifted - round_to_integer;
    float r = (z - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* 1 / (1 + e^-x) within 3e-7, relative. */
static inline float hl_sigmoidf(float x)
{
    return 1.0f / (1.0f + hl_expf(-x));
}

/* The normal distribution: returns P(X <= x), within 1e-7, and its density at x. By the error function's
 * approximation 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), on the side where
 * the probability is small. */
static inline float hl_normalf(float x, float *density)
{
    float t = 1.0f / (1.0f + 0.3275911f * 0.707106781f * fabsf(x)), e = hl_expf(-0.5f * x * x);
    float tail = 1.061405429f;
    tail = tail * t - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = 0.5f * tail * t * e;
    *density = 0.398942280f * e;
    return x < 0.0f ? tail : 1.0f - tail;
}

/* Within 3e-7, relative: near zero, where 1 - 2 / (e^2x + 1) cancels, by the polynomial of Cephes' tanhf
 * (Moshier, netlib.org/cephes). A NaN stays a NaN. */
static inline float hl_tanhf(float x)
{
    float z = x * x, size = fabsf(x);
    float p = -5.70498872745e-3f;
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    float near = p * z * x + x, far = 1.0f - 2.0f / (hl_expf(2.0f * size) + 1.0f);
    far = x < 0.0f ? -far : far;
    return size < 0.625f ? near : far;
}

/* Comparisons are written so that a NaN falls through. */
static inline float hl_hardsigmoidf(float x)
{
    float y = x / 6.0f + 0.5f;
    y = y < 0.0f ? 0.0f : y;
    return y > 1.0f ? 1.0f : y;
}

/* v[0 .. count) = act(v). */
static inline __attribute__((always_inline)) void hl_act_run(hl_act act, float *v, int64_t count)
{
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        for (int64_t i = 0; i < count; i++)
            v[i] = v[i] < 0.0f ? 0.0f : v[i];
        break;
    case HL_ACT_RELU6:
        for (int64_t i = 0; i < count; i++) {
            float x = v[i] < 0.0f ? 0.0f : v[i];
            v[i] = x > 6.0f ? 6.0f : x;
        }
        break;
    case HL_ACT_SIGMOID:
        for (int64_t i = 0; i < count; i++)
            v[i] = hl_sigmoidf(v[i]);
        break;
    case HL_ACT_HARDSIGMOID:
        for (int64_t i = 0; i < count; i++)
            v[i] = hl_hardsigmoidf(v[i]);
        break;
    case HL_ACT_SILU:
        for (int64_t i = 0; i < count; i++)
            v[i] *= hl_sigmoidf(v[i]);
        break;
    case HL_ACT_HARDSWISH:
        for (int64_t i = 0; i < count; i++)
            v[i] *= hl_hardsigmoidf(v[i]);
        break;
    case HL_ACT_GELU:
        for (int64_t i = 0; i < count; i++) {
            float density;
            v[i] *= hl_normalf(v[i], &density);
        }
        break;
    case HL_ACT_TANH:
        for (int64_t i = 0; i < count; i++)
            v[i] = hl_tanhf(v[i]);
        break;
    }
}

#endif
