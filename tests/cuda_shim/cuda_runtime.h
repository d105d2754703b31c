/* Stands in for the CUDA toolkit's header where kernels are compiled for the CPU, for tests. What is CUDA C
 * beyond C++ is defined away or played by the functions of this shim:
 *
 * - A launch runs its blocks one after another. The threads of a block are fibers that give way at
 *   __syncthreads, at __syncwarp and at warp operations, in an order that can be chosen: a missing barrier
 *   shows as a difference between orders.
 * - A barrier that not all threads of a block reach, by the same line, ends the program with that line.
 * - Shared memory is filled with NaN before each block.
 * - The address sanitizer knows the fibers' stacks, and sees what goes beyond an array in shared memory.
 * - To the thread sanitizer each fiber is a thread of its own, ordered by barriers, warp operations and the
 *   end of the launch alone: races within a block and between blocks are reported. */
#ifndef CUDA_SHIM_CUDA_RUNTIME_H
#define CUDA_SHIM_CUDA_RUNTIME_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <functional>
#include <tuple>

#include "cuda_shim/stream.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
/* All that these programs keep in .bss is shared memory; the Makefile renames that section, so that the shim
 * finds it. */
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct uint3 {
    unsigned x, y, z;
};

extern __thread uint3 cuda_shim_thread, cuda_shim_block;
extern dim3 cuda_shim_block_size, cuda_shim_grid_size;
#define threadIdx cuda_shim_thread
#define blockIdx  cuda_shim_block
#define blockDim  cuda_shim_block_size
#define gridDim   cuda_shim_grid_size

namespace cuda_shim
{
void barrier(const char *file, int line);
void warp_barrier(const char *file, int line);
/* Leaves a value of up to 16 bytes for the calling thread's warp; reads what `lane` of it left. */
void leave(const void *value, size_t bytes);
void read(int lane, void *value, size_t bytes);
/* Of the calling thread's block. */
void *dynamic_shared();
void run(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel);

template <typename... P, typename... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, void *stream, A... arguments)
{
    std::tuple<P...> copies(arguments...);
    cuda_shim_enqueue(stream,
                      [=] { run("kernel", grid, block, shared, [&] { std::apply(kernel, copies); }); });
}

/* Its variables lie on a stack that blocks share, which is no race. */
template <typename T>
__attribute__((noinline, no_sanitize("thread"))) T exchange(T value, int from, const char *file, int line)
{
    static_assert(sizeof(T) <= 16, "a warp exchanges up to 16 bytes");
    leave(&value, sizeof value);
    warp_barrier(file, line);
    T other;
    read(from, &other, sizeof other);
    warp_barrier(file, line);
    return other;
}
} // namespace cuda_shim

#define __syncthreads() cuda_shim::barrier(__FILE__, __LINE__)
#define __syncwarp(...) cuda_shim::warp_barrier(__FILE__, __LINE__)
#define __shfl_xor_sync(mask, value, distance)                                                               \
    ((void)(mask), cuda_shim::exchange((value), (int)(threadIdx.x % 32) ^ (distance), __FILE__, __LINE__))
#define __shfl_down_sync(mask, value, distance)                                                              \
    ((void)(mask),                                                                                           \
     cuda_shim::exchange((value),                                                                            \
                         (int)(threadIdx.x % 32) + (distance) < 32 ? (int)(threadIdx.x % 32) + (distance)    \
                                                                   : (int)(threadIdx.x % 32),                \
                         __FILE__, __LINE__))
#define __shfl_sync(mask, value, lane)                                                                       \
    ((void)(mask), cuda_shim::exchange((value), (lane) % 32, __FILE__, __LINE__))

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)(((uint64_t)a * b) >> 32);
}

/* Launches of the shim do not fail. */
typedef int cudaError_t;
typedef struct CUstream_st *cudaStream_t;
#ifndef CUDA_SHIM_RUNTIME /* the double of the runtime defines them */
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
static inline cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}
#endif

#endif
