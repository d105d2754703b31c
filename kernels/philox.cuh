/* Philox4x32-10 on the device: the numbers of host/base/philox.c. */
#ifndef HL_KERNELS_PHILOX_CUH
#define HL_KERNELS_PHILOX_CUH

#include "base/philox.h"
#include "kernels/launch.cuh"

/* Block `index` of stream (seed, stream, sub). */
static __device__ __forceinline__ void hl_philox_device(uint64_t seed, hl_stream stream, uint32_t sub,
                                                        uint64_t index, uint32_t (&out)[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = sub, c3 = (uint32_t)stream;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c0), high1 = __umulhi(0xCD9E8D57u, c2);
        uint32_t low0 = 0xD2511F53u * c0, low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#endif
