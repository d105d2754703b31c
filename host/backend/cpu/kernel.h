/* Kernels of ours for processors with AVX-512, by intrinsics. Those for float are compiled for the same
 * target as those for bfloat16 but contain none of its instructions, which compilers make from nothing but
 * their intrinsics. */
#ifndef HL_BACKEND_CPU_KERNEL_H
#define HL_BACKEND_CPU_KERNEL_H

#include <immintrin.h>

#include "backend/cpu/cpu.h"

#define HL_KERNEL_TARGET   "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
#define HL_KERNEL_FUNCTION __attribute__((target(HL_KERNEL_TARGET)))
#define HL_KERNEL_INLINE   static inline __attribute__((always_inline, target(HL_KERNEL_TARGET)))

enum { HL_KERNEL_LANES = 16 /* of a register */ };

/* Can this machine (as far as oneDNN's own limit on instruction sets allows) run them for `elem`? */
bool hl_kernel_is_native(hl_elem elem);

/* The first `count` of 16 lanes; none where it is negative. */
static inline __mmask16 hl_kernel_lanes(int64_t count)
{
    return (__mmask16)(count >= HL_KERNEL_LANES ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

#endif
