/* Element types: conversion to and from float, and vectors of up to 128 bits. */
#ifndef HL_KERNELS_ELEM_CUH
#define HL_KERNELS_ELEM_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "base/shape.h"
#include "kernels/launch.cuh"

static __device__ __forceinline__ float hl_to_float(float x)
{
    return x;
}

static __device__ __forceinline__ float hl_to_float(__half x)
{
    return __half2float(x);
}

static __device__ __forceinline__ float hl_to_float(__nv_bfloat16 x)
{
    return __bfloat162float(x);
}

/* To nearest, ties to even. */
template <typename T> static __device__ __forceinline__ T hl_from_float(float x);

template <> __device__ __forceinline__ float hl_from_float<float>(float x)
{
    return x;
}

template <> __device__ __forceinline__ __half hl_from_float<__half>(float x)
{
    return __float2half_rn(x);
}

template <> __device__ __forceinline__ __nv_bfloat16 hl_from_float<__nv_bfloat16>(float x)
{
    return __float2bfloat16_rn(x);
}

/* N elements that lie together, moved in accesses of up to 16 bytes. */
template <typename T, int N> struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) hl_vec {
    T v[N];
};

/* Elements of a 128-bit vector. */
template <typename T> struct hl_width {
    enum { value = 16 / (int)sizeof(T) };
};

/* V elements at p, which is a multiple of their size, at most 16 bytes. */
template <int V, typename T> static __device__ __forceinline__ void hl_load(const T *p, float (&out)[V])
{
    hl_vec<T, V> raw = *(const hl_vec<T, V> *)p;
#pragma unroll
    for (int i = 0; i < V; i++)
        out[i] = hl_to_float(raw.v[i]);
}

template <int V, typename T> static __device__ __forceinline__ void hl_store(T *p, const float (&values)[V])
{
    hl_vec<T, V> raw;
#pragma unroll
    for (int i = 0; i < V; i++)
        raw.v[i] = hl_from_float<T>(values[i]);
    *(hl_vec<T, V> *)p = raw;
}

/* V elements of an array whose type is known when it runs, from element `at` on. */
template <int V>
static __device__ __forceinline__ void hl_load_as(const void *p, hl_elem elem, int64_t at, float (&out)[V])
{
    if (elem == HL_ELEM_F32)
        hl_load<V>((const float *)p + at, out);
    else if (elem == HL_ELEM_F16)
        hl_load<V>((const __half *)p + at, out);
    else
        hl_load<V>((const __nv_bfloat16 *)p + at, out);
}

/* Integers that are kept small. */
template <int V, typename I> static __device__ __forceinline__ void hl_load_index(const I *p, int (&out)[V])
{
    hl_vec<I, V> raw = *(const hl_vec<I, V> *)p;
#pragma unroll
    for (int i = 0; i < V; i++)
        out[i] = (int)raw.v[i];
}

template <int V, typename I>
static __device__ __forceinline__ void hl_store_index(I *p, const int (&values)[V])
{
    hl_vec<I, V> raw;
#pragma unroll
    for (int i = 0; i < V; i++)
        raw.v[i] = (I)values[i];
    *(hl_vec<I, V> *)p = raw;
}

/* Runs the statements with T as the type of `elem`, one of the floating-point ones. */
#define HL_DISPATCH_ELEM(elem, T, ...)                                                                       \
    do {                                                                                                     \
        if ((elem) == HL_ELEM_F32) {                                                                         \
            using T = float;                                                                                 \
            __VA_ARGS__;                                                                                     \
        } else if ((elem) == HL_ELEM_F16) {                                                                  \
            using T = __half;                                                                                \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            using T = __nv_bfloat16;                                                                         \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

#endif
