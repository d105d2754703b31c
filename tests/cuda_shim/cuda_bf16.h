#ifndef CUDA_SHIM_CUDA_BF16_H
#define CUDA_SHIM_CUDA_BF16_H

#include "base/bf16.h"

struct __nv_bfloat16 {
    uint16_t bits;
};

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return hl_bf16_to_f32(x.bits);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x)
{
    return {hl_bf16_from_f32(x)};
}

#endif
