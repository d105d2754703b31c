/* What launch.cpp and the two ways of running a block share. */
#ifndef CUDA_SHIM_BLOCK_HPP
#define CUDA_SHIM_BLOCK_HPP

#include "cuda_shim/cuda_runtime.h"
#include "cuda_shim/shim.h"

namespace cuda_shim
{
struct order_t {
    cuda_shim_order order;
    uint32_t seed;
};
extern order_t current_order;

[[noreturn]] void fail(const char *what, const char *file, int line);
void run_block(uint3 block, int threads, const std::function<void()> &kernel);
} // namespace cuda_shim

#endif
