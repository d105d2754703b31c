#ifndef CUDA_SHIM_CUDA_FP16_H
#define CUDA_SHIM_CUDA_FP16_H

#include "base/f16.h"

struct __half {
    uint16_t bits;
};

static inline float __half2float(__half x)
{
    return hl_f16_to_f32(x.bits);
}
static inline __half __float2half_rn(float x)
{
    return {hl_f16_from_f32(x)};
}

#endif
