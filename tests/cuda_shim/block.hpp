/* What launch.cpp and fibers.cpp share. */
#ifndef CUDA_SHIM_BLOCK_HPP
#define CUDA_SHIM_BLOCK_HPP

#include <vector>

#include "cuda_shim/cuda_runtime.h"
#include "cuda_shim/shim.h"

namespace cuda_shim
{
[[noreturn]] void fail(const char *what, const char *file, int line);
/* 0 to count - 1 in the order that is set, of threads or of blocks. */
void make_order(std::vector<uint32_t> &list, uint64_t count);
void run_block(uint3 block, int threads, const std::function<void()> &kernel);
/* After the last block: what comes now sees what the threads of the launch did. */
void end_launch();
} // namespace cuda_shim

#endif
