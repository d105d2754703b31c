#include <cuda_runtime_api.h>

#include "kernels/kernel_memory.h"

void *kernel_memory_take(size_t bytes)
{
    void *memory = NULL;
    return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : NULL; /* managed (tests/cuda/managed.c) */
}

void kernel_memory_give(void *memory)
{
    cudaFree(memory);
}

void kernel_set_order(int order)
{
    (void)order; /* the device's own, which differs from run to run */
}

int kernel_finish(void)
{
    return (int)cudaDeviceSynchronize();
}
