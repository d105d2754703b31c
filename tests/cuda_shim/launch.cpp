/* Launches: limits, blocks one after another in the order that is set, shared memory poisoned. The threads of
 * a block are in fibers.cpp.
 *
 * Under the thread sanitizer nothing orders the blocks of a launch, but they use the same shared memory; so
 * before each block the sanitizer has to forget who used it. Its functions for garbage collectors do that. */
#include "cuda_shim/block.hpp"

#include <stdio.h>
#include <stdlib.h>

#include <memory>
#include <mutex>
#include <vector>

#include "cuda_shim/shim.h"

__thread uint3 cuda_shim_thread, cuda_shim_block;
dim3 cuda_shim_block_size, cuda_shim_grid_size;

namespace cuda_shim
{
static int64_t launches;
static unsigned char *dynamic;

void fail(const char *what, const char *file, int line)
{
    fprintf(stderr, "CUDA shim: %s:%d: %s\n", file, line, what);
    abort();
}

extern "C" {
/* The renamed .bss of all kernels, of both ends. */
extern char __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));
__attribute__((weak)) void __tsan_java_init(unsigned long first, unsigned long bytes);
__attribute__((weak)) void __tsan_java_alloc(unsigned long at, unsigned long bytes);
}

/* Every byte 0xff: a NaN in all floating-point types. Volatile, lest it becomes a call of memset, which the
 * address sanitizer would not let into the zones that it keeps between arrays. */
__attribute__((no_sanitize("address"))) static void poison_static()
{
    volatile char *at = __start_cuda_shared, *end = __stop_cuda_shared;
    for (; at != end && (uintptr_t)at % 8 != 0; at++)
        *at = (char)0xff;
    for (; end - at >= 8; at += 8)
        *(volatile uint64_t *)at = ~(uint64_t)0;
    for (; at != end; at++)
        *at = (char)0xff;
}

static void fresh_shared(size_t bytes)
{
    unsigned long first = (unsigned long)__start_cuda_shared,
                  size = (unsigned long)__stop_cuda_shared - first;
    if (__tsan_java_init != nullptr && size > 0) {
        static bool known = false;
        first -= first % 8;
        size = (unsigned long)__stop_cuda_shared + 7 - first;
        size -= size % 8;
        if (!known)
            __tsan_java_init(first, size);
        known = true;
        __tsan_java_alloc(first, size);
    }
    poison_static();
    dynamic = bytes > 0 ? (unsigned char *)malloc(bytes) : nullptr;
    if (bytes > 0 && dynamic == nullptr)
        fail("out of memory", __FILE__, __LINE__);
    if (bytes > 0)
        memset(dynamic, 0xff, bytes);
}

void *dynamic_shared()
{
    if (dynamic == nullptr)
        fail("this launch has no dynamic shared memory", __FILE__, __LINE__);
    return dynamic;
}

static void check_limits(const char *name, dim3 grid, dim3 block, size_t shared)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        fail("a grid outside of CUDA's limits", name, 0);
    if (block.x == 0 || block.x > 1024 || block.y != 1 || block.z != 1)
        fail("a block has 1 to 1024 threads, in one dimension", name, 0);
    if (shared > 48 << 10)
        fail("more than 48 KiB of shared memory", name, 0);
}

void run(const char *name, dim3 grid, dim3 block, size_t shared, const std::function<void()> &kernel)
{
    static std::mutex one_launch;
    std::lock_guard<std::mutex> lock(one_launch);
    std::vector<std::unique_ptr<unsigned char, decltype(&free)>> used;
    check_limits(name, grid, block, shared);
    launches++;
    cuda_shim_block_size = block;
    cuda_shim_grid_size = grid;
    std::vector<uint32_t> list;
    make_order(list, (uint64_t)grid.x * grid.y * grid.z);
    for (uint32_t i : list) {
        fresh_shared(shared);
        used.emplace_back(dynamic, &free);
        run_block({i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, (int)block.x, kernel);
        if (__tsan_java_init == nullptr) /* else it may not be freed before the launch ends */
            used.clear();
    }
    end_launch();
}
} // namespace cuda_shim

__attribute__((weak)) void cuda_shim_enqueue(void *stream, std::function<void()> work)
{
    (void)stream;
    work();
}

extern "C" int64_t cuda_shim_launches(void)
{
    return cuda_shim::launches;
}
