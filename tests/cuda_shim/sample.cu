#include "cuda_shim/sample.h"

#include "kernels/elem.cuh"
#include "kernels/launch.cuh"
#include "kernels/reduce.cuh"

/* ---- right ---- */

static __global__ void block_sum(const float *in, float *out)
{
    __shared__ float shared[32];
    float sum = hl_block_sum(in[blockIdx.x * SAMPLE_THREADS + threadIdx.x], shared);
    if (threadIdx.x == 0)
        out[blockIdx.x] = sum;
}

extern "C" void sample_block_sum(const float *in, float *out, int blocks)
{
    HL_LAUNCH(block_sum, (unsigned)blocks, SAMPLE_THREADS, 0, NULL, in, out);
}

static __global__ void reverse(const float *in, float *out, bool barrier)
{
    HL_DYNAMIC_SHARED(float, shared);
    const unsigned first = blockIdx.x * SAMPLE_THREADS;
    shared[threadIdx.x] = in[first + threadIdx.x];
    if (barrier)
        __syncthreads();
    out[first + threadIdx.x] = shared[SAMPLE_THREADS - 1 - threadIdx.x];
}

extern "C" void sample_reverse(const float *in, float *out, int blocks)
{
    HL_LAUNCH(reverse, (unsigned)blocks, SAMPLE_THREADS, SAMPLE_THREADS * sizeof(float), NULL, in, out, true);
}

static __global__ void warp_neighbours(const float *in, float *out, bool barrier)
{
    __shared__ float shared[SAMPLE_THREADS];
    shared[threadIdx.x] = in[threadIdx.x];
    if (barrier)
        __syncwarp();
    out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

extern "C" void sample_warp_neighbours(const float *in, float *out)
{
    HL_LAUNCH(warp_neighbours, 1, SAMPLE_THREADS, 0, NULL, in, out, true);
}

static __global__ void grid(int32_t *out)
{
    unsigned i = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[i] = (int32_t)i;
}

extern "C" void sample_grid(int32_t *out, unsigned x, unsigned y, unsigned z)
{
    HL_LAUNCH(grid, dim3(x, y, z), 1, 0, NULL, out);
}

static __global__ void arrival(int32_t *out)
{
    __shared__ int32_t arrived;
    if (threadIdx.x == 0)
        arrived = 0;
    __syncthreads();
    out[threadIdx.x] = arrived++;
}

extern "C" void sample_arrival(int32_t *out)
{
    HL_LAUNCH(arrival, 1, SAMPLE_THREADS, 0, NULL, out);
}

/* ---- wrong ---- */

extern "C" void sample_reverse_without_barrier(const float *in, float *out)
{
    HL_LAUNCH(reverse, 1, SAMPLE_THREADS, SAMPLE_THREADS * sizeof(float), NULL, in, out, false);
}

extern "C" void sample_warp_neighbours_without_syncwarp(const float *in, float *out)
{
    HL_LAUNCH(warp_neighbours, 1, SAMPLE_THREADS, 0, NULL, in, out, false);
}

static __global__ void barrier_of_some(int how)
{
    if (how == 0 && threadIdx.x % 2 == 0)
        __syncthreads();
    if (how == 1 && threadIdx.x / 32 < blockDim.x / 32 - 1)
        __syncthreads();
    if (how == 2) {
        if (threadIdx.x % 2 == 0)
            __syncthreads();
        else
            __syncthreads();
    }
    if (how == 3) {
        if (threadIdx.x == 5)
            return;
        __syncthreads();
    }
}

extern "C" void sample_barrier_of_some(int how)
{
    HL_LAUNCH(barrier_of_some, 1, SAMPLE_THREADS, 0, NULL, how);
}

static __global__ void shuffle_of_some(float *out)
{
    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = hl_warp_sum(1.0f);
}

extern "C" void sample_shuffle_of_some(float *out)
{
    HL_LAUNCH(shuffle_of_some, 1, SAMPLE_THREADS, 0, NULL, out);
}

static __global__ void unwritten(float *out)
{
    __shared__ float shared[SAMPLE_THREADS];
    if (threadIdx.x == 0)
        shared[0] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

template <typename T> static __global__ void unwritten_of_template(T *out)
{
    __shared__ T shared[SAMPLE_THREADS];
    if (threadIdx.x == 0)
        shared[0] = (T)1;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

static __global__ void unwritten_dynamic(float *out)
{
    HL_DYNAMIC_SHARED(float, shared);
    if (threadIdx.x == 0)
        shared[0] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

extern "C" void sample_unwritten(float *out)
{
    HL_LAUNCH(unwritten, 2, SAMPLE_THREADS, 0, NULL, out);
}

extern "C" void sample_unwritten_of_template(float *out)
{
    HL_LAUNCH((unwritten_of_template<float>), 1, SAMPLE_THREADS, 0, NULL, out);
}

extern "C" void sample_unwritten_dynamic(float *out)
{
    HL_LAUNCH(unwritten_dynamic, 1, SAMPLE_THREADS, SAMPLE_THREADS * sizeof(float), NULL, out);
}

static __global__ void beyond(float *out, int count)
{
    for (int i = (int)threadIdx.x; i <= count; i += (int)blockDim.x)
        out[i] = 1.0f;
}

static __global__ void beyond_shared(float *out)
{
    __shared__ float shared[SAMPLE_THREADS];
    shared[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

static __global__ void beyond_dynamic(float *out)
{
    HL_DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x + 1] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

extern "C" void sample_beyond(float *out, int count)
{
    HL_LAUNCH(beyond, 1, SAMPLE_THREADS, 0, NULL, out, count);
}

extern "C" void sample_beyond_shared(float *out)
{
    HL_LAUNCH(beyond_shared, 1, SAMPLE_THREADS, 0, NULL, out);
}

extern "C" void sample_beyond_dynamic(float *out)
{
    HL_LAUNCH(beyond_dynamic, 1, SAMPLE_THREADS, SAMPLE_THREADS * sizeof(float), NULL, out);
}

static __global__ void blocks_collide(float *out)
{
    out[threadIdx.x] = (float)blockIdx.x;
}

extern "C" void sample_blocks_collide(float *out, int blocks)
{
    HL_LAUNCH(blocks_collide, (unsigned)blocks, SAMPLE_THREADS, 0, NULL, out);
}

static __global__ void block_reads_another(float *out)
{
    if (threadIdx.x == 0)
        out[blockIdx.x] = blockIdx.x == 0 ? 1.0f : out[blockIdx.x - 1] + 1.0f;
}

extern "C" void sample_block_reads_another(float *out, int blocks)
{
    HL_LAUNCH(block_reads_another, (unsigned)blocks, SAMPLE_THREADS, 0, NULL, out);
}

static __global__ void misaligned(const float *in, float *out)
{
    float v[4];
    hl_load<4>(in + 1, v);
    out[threadIdx.x] = v[threadIdx.x % 4];
}

extern "C" void sample_misaligned(const float *in, float *out)
{
    HL_LAUNCH(misaligned, 1, SAMPLE_THREADS, 0, NULL, in, out);
}

static __global__ void nothing(int)
{
}

extern "C" void sample_launch(unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared)
{
    HL_LAUNCH(nothing, dim3(x, y, z), threads, shared, NULL, 0);
}
