/* Sums over the threads of a block, in an order that is always the same. */
#ifndef HL_KERNELS_REDUCE_CUH
#define HL_KERNELS_REDUCE_CUH

#include "kernels/launch.cuh"

/* Over the 32 threads of a warp, by halves; every thread gets the sum. All threads of the warp come here. */
template <typename T> static __device__ __forceinline__ T hl_warp_sum(T value)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

template <typename T> static __device__ __forceinline__ T hl_warp_max(T value)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        T other = __shfl_xor_sync(0xffffffffu, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

/* Over a block of up to 1024 threads, a multiple of 32; every thread gets the sum. `shared` holds 32 values
 * and may be used again at once. All threads come here. */
template <typename T> static __device__ __forceinline__ T hl_block_sum(T value, T *shared)
{
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    value = hl_warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[warp] = value;
    __syncthreads();
    T total = shared[0];
    for (int i = 1; i < warps; i++)
        total += shared[i];
    return total;
}

template <typename T> static __device__ __forceinline__ T hl_block_max(T value, T *shared)
{
    int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    value = hl_warp_max(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[warp] = value;
    __syncthreads();
    T most = shared[0];
    for (int i = 1; i < warps; i++)
        most = shared[i] > most ? shared[i] : most;
    return most;
}

#endif
