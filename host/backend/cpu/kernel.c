#include "backend/cpu/kernel.h"

bool hl_kernel_is_native(hl_elem elem)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa(), base = (unsigned)dnnl_cpu_isa_avx512_core;
    bool allowed = isa == (unsigned)dnnl_cpu_isa_all || (isa & base) == base;
    bool float32 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (elem == HL_ELEM_BF16)
        return allowed && float32 && __builtin_cpu_supports("avx512bf16");
    return allowed && float32 && elem == HL_ELEM_F32;
}
