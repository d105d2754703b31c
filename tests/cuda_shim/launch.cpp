/* Launches: limits, blocks one after another, shared memory poisoned. The threads of a block are in
 * fibers.cpp, or under the thread sanitizer in threads.cpp. */
#include "cuda_shim/block.hpp"

#include <stdio.h>
#include <stdlib.h>

#include "cuda_shim/shim.h"

thread_local uint3 cuda_shim_thread, cuda_shim_block;
dim3 cuda_shim_block_size, cuda_shim_grid_size;

namespace cuda_shim
{
order_t current_order = {CUDA_SHIM_FORWARD, 1};
static int64_t launches;

void fail(const char *what, const char *file, int line)
{
    fprintf(stderr, "CUDA shim: %s:%d: %s\n", file, line, what);
    abort();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" {
extern char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));
}
static void poison()
{
    if (__start_cuda_shared != nullptr)
        memset(__start_cuda_shared, 0xff, (size_t)(__stop_cuda_shared - __start_cuda_shared));
}
#else
static void poison()
{
}
#endif

void run(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    size_t threads = (size_t)block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu ||
        grid.y > 65535 || grid.z > 65535 || shared != 0)
        fail("a launch outside of CUDA's limits", name, 0);
    if (block.y != 1 || block.z != 1)
        fail("blocks have one dimension here", name, 0);
    launches++;
    cuda_shim_block_size = block;
    cuda_shim_grid_size = grid;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                poison();
                run_block({x, y, z}, (int)threads, kernel);
            }
}
} // namespace cuda_shim

__attribute__((weak)) void cuda_shim_enqueue(void *stream, std::function<void()> work)
{
    (void)stream;
    work();
}

extern "C" void cuda_shim_set_order(cuda_shim_order order, uint32_t seed)
{
    cuda_shim::current_order = {order, seed};
}

extern "C" int64_t cuda_shim_launches(void)
{
    return cuda_shim::launches;
}
