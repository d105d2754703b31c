/* Linked into test programs of a build with CUDA, in place of cudaMalloc (ld's --wrap): device memory is
 * managed memory, so that a test can read and write where a tensor lies, as on the CPU. */
#include <cuda_runtime_api.h>

cudaError_t __wrap_cudaMalloc(void **memory, size_t bytes);

cudaError_t __wrap_cudaMalloc(void **memory, size_t bytes)
{
    return cudaMallocManaged(memory, bytes, cudaMemAttachGlobal);
}
