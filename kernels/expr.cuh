/* Weight expressions on the device: the formulas of backend/weight_expr.c with the same roundings (no fused
 * multiply-add), so that f32 results are equal bit by bit. */
#ifndef HL_KERNELS_EXPR_CUH
#define HL_KERNELS_EXPR_CUH

#include "kernels/kernels.h"
#include "kernels/launch.cuh"

/* s_o. */
static __device__ __forceinline__ float hl_expr_scale(const hl_expr_args &e, int64_t o)
{
    float scale = e.norm_scale != NULL ? e.norm_scale[o] : 1.0f;
    return e.norm_var != NULL ? __fdiv_rn(scale, __fsqrt_rn(__fadd_rn(e.norm_var[o], e.eps))) : scale;
}

/* r_o, the factor of a row. */
static __device__ __forceinline__ float hl_expr_row(const hl_expr_args &e, int64_t o)
{
    return e.row_gate != NULL ? __fadd_rn(1.0f, e.row_gate[o]) : 1.0f;
}

/* s_o r_o. */
static __device__ __forceinline__ float hl_expr_row_scale(const hl_expr_args &e, int64_t o)
{
    return __fmul_rn(hl_expr_scale(e, o), hl_expr_row(e, o));
}

/* 1 + delta of a pair (o, i); 1 without a gate. */
static __device__ __forceinline__ float hl_expr_gate(const float *gate, int64_t pair)
{
    return gate != NULL ? __fadd_rn(1.0f, gate[pair]) : 1.0f;
}

/* b_eff. */
static __device__ __forceinline__ float hl_expr_bias(const hl_expr_args &e, int64_t o)
{
    float b = e.bias != NULL ? __fmul_rn(hl_expr_row(e, o), e.bias[o]) : 0.0f;
    if (e.offset != NULL)
        b = __fadd_rn(b, e.offset[o]);
    if (e.norm_mean != NULL)
        b = __fadd_rn(b, -e.norm_mean[o]);
    b = __fmul_rn(b, hl_expr_scale(e, o));
    return e.norm_shift != NULL ? __fadd_rn(b, e.norm_shift[o]) : b;
}

/* ---- how (o, i) pairs are cut into blocks ---- */

enum {
    HL_PAIRS_THREADS = 256,
    HL_PAIRS_TILE = 4096, /* weights that a block holds */
    HL_PAIRS_WIDEST = 128 /* windows larger than this are not held in shared memory */
};

/* Pairs that a block takes: as many windows as its memory holds. */
static __host__ __device__ __forceinline__ int hl_pairs_of_block(int window)
{
    if (window > HL_PAIRS_WIDEST)
        return HL_PAIRS_THREADS;
    return window == 1 ? HL_PAIRS_TILE : HL_PAIRS_TILE / window / 32 * 32;
}

/* A pair seen from the first pair of its block: no 64-bit division for each. */
struct hl_pair {
    int64_t output;
    int input;
};

static __device__ __forceinline__ hl_pair hl_pair_at(hl_pair first, int offset, int inputs)
{
    int input = first.input + offset;
    hl_pair p = {first.output + input / inputs, input % inputs};
    return p;
}

/* Where the window of a pair lies in packed form: element t at first + t stride. */
struct hl_packed_window {
    int64_t first, stride;
};

static __device__ __forceinline__ hl_packed_window hl_packed_at(const hl_expr_args &e, hl_packing packing,
                                                                hl_pair p)
{
    hl_packed_window at;
    if (packing == HL_PACK_DEPTHWISE) {
        at.first = p.output; /* one input */
        at.stride = e.outputs;
    } else {
        at.first = p.output * e.window * e.inputs + p.input;
        at.stride = e.inputs;
    }
    return at;
}

#endif
