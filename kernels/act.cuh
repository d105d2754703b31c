/* Activations (base/compute.h) and their derivatives, for one value. Comparisons are written so that a NaN
 * falls through; at the kinks the derivatives are PyTorch's (docs/numerics.md). */
#ifndef HL_KERNELS_ACT_CUH
#define HL_KERNELS_ACT_CUH

#include "base/compute.h"
#include "kernels/launch.cuh"

static __device__ __forceinline__ float hl_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static __device__ __forceinline__ float hl_hardsigmoid(float x)
{
    float y = x / 6.0f + 0.5f;
    y = y < 0.0f ? 0.0f : y;
    return y > 1.0f ? 1.0f : y;
}

/* P(X <= x) of the normal distribution. */
static __device__ __forceinline__ float hl_normal(float x)
{
    return 0.5f * erfcf(-0.707106781f * x);
}

static __device__ __forceinline__ float hl_act_forward(hl_act act, float x)
{
    float y;
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        return x < 0.0f ? 0.0f : x;
    case HL_ACT_RELU6:
        y = x < 0.0f ? 0.0f : x;
        return y > 6.0f ? 6.0f : y;
    case HL_ACT_SIGMOID:
        return hl_sigmoid(x);
    case HL_ACT_HARDSIGMOID:
        return hl_hardsigmoid(x);
    case HL_ACT_SILU:
        return x * hl_sigmoid(x);
    case HL_ACT_HARDSWISH:
        return x * hl_hardsigmoid(x);
    case HL_ACT_GELU:
        return x * hl_normal(x);
    case HL_ACT_TANH:
        return tanhf(x);
    }
    return x;
}

/* The derivative; v is the activation's output where hl_act_from_output(act), else its input. */
static __device__ __forceinline__ float hl_act_slope(hl_act act, float v)
{
    float s;
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        return v <= 0.0f ? 0.0f : 1.0f;
    case HL_ACT_RELU6:
        return v <= 0.0f || v >= 6.0f ? 0.0f : 1.0f;
    case HL_ACT_SIGMOID:
        return v * (1.0f - v);
    case HL_ACT_HARDSIGMOID:
        return v <= -3.0f || v >= 3.0f ? 0.0f : 1.0f / 6.0f;
    case HL_ACT_SILU:
        s = hl_sigmoid(v);
        return s * (1.0f + v * (1.0f - s));
    case HL_ACT_HARDSWISH:
        s = v <= -3.0f ? 0.0f : v / 3.0f + 0.5f;
        return v >= 3.0f ? 1.0f : s;
    case HL_ACT_GELU:
        return hl_normal(v) + v * 0.398942280f * expf(-0.5f * v * v);
    case HL_ACT_TANH:
        return 1.0f - v * v;
    }
    return 1.0f;
}

#endif
