/* Launching: the one macro that all kernels are started with. nvcc compiles it to a launch; compiled by a
 * plain C++ compiler (for tests), kernels run on the CPU, see tests/cuda_shim. */
#ifndef HL_KERNELS_LAUNCH_CUH
#define HL_KERNELS_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stdint.h>

/* kernel in parentheses where it has template arguments. Launch errors stay until cudaGetLastError. */
#ifdef __CUDACC__
#define HL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                            \
    (kernel)<<<dim3(grid), dim3(block), (shared_bytes), (stream)>>>(__VA_ARGS__)
#else
#define HL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                            \
    cuda_shim::launch((kernel), dim3(grid), dim3(block), (shared_bytes), (stream), __VA_ARGS__)
#endif

/* Declares `name` as the block's dynamic shared memory, as an array of `type`; 16-byte aligned. */
#ifdef __CUDACC__
#define HL_DYNAMIC_SHARED(type, name)                                                                        \
    extern __shared__ __align__(16) unsigned char hl_dynamic_shared[];                                       \
    type *name = (type *)hl_dynamic_shared
#else
#define HL_DYNAMIC_SHARED(type, name) type *name = (type *)cuda_shim::dynamic_shared()
#endif

enum { HL_THREADS = 256, HL_MAX_BLOCKS = 4096 };

/* Blocks of HL_THREADS for `items`, each of which one thread takes; kernels loop where that is more than
 * HL_MAX_BLOCKS cover (hl_thread_first, hl_thread_stride). At least one, so that a count of zero is a launch
 * that does nothing. */
static inline unsigned hl_blocks(int64_t items)
{
    int64_t blocks = (items + HL_THREADS - 1) / HL_THREADS;
    return blocks < 1 ? 1u : blocks > HL_MAX_BLOCKS ? (unsigned)HL_MAX_BLOCKS : (unsigned)blocks;
}

static __device__ __forceinline__ int64_t hl_thread_first(void)
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static __device__ __forceinline__ int64_t hl_thread_stride(void)
{
    return (int64_t)gridDim.x * blockDim.x;
}

#endif
