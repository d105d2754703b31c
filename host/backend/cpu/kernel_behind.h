/* What follows sums in registers until they are stored, the same for all kernels of ours:
 *
 *     y = clamp(sum + bias + residual)         behind a forward pass
 *     y = act'(before) (sum + residual)        behind a data gradient, of a ReLU or ReLU6 that put out
 * `before`
 *
 * `at` is where a pixel lies in y, in bytes; residual and before are placed as y is. */
#ifndef HL_BACKEND_CPU_KERNEL_BEHIND_H
#define HL_BACKEND_CPU_KERNEL_BEHIND_H

#include "backend/cpu/kernel.h"

typedef struct hl_kernel_behind {
    hl_elem y_elem;    /* that of the operands, or f32 */
    float low, high;   /* clamp; -INFINITY, INFINITY: none */
    float before_high; /* the upper end of `before`; NAN: it has none */
    bool streams;      /* y is too large to stay in the cache: it is written past it */
    /* Bound: addresses. bias (f32), residual and before may be NULL. */
    const float *bias;
    const void *residual, *before;
    void *y;
} hl_kernel_behind;

HL_KERNEL_INLINE __m512 hl_kernel_load(bool bf16, const char *row, int64_t column, __mmask16 lanes)
{
    if (!bf16)
        return _mm512_maskz_loadu_ps(lanes, row + column * 4);
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, row + column * 2));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* So that it is there when the sums are: `rows` pixels from `at` on, `pixel` bytes apart. */
HL_KERNEL_INLINE void hl_kernel_fetch(int rows, int vectors, bool bf16, const void *operand, int64_t at,
                                      int64_t pixel, int64_t column)
{
    if (operand == NULL)
        return;
    const char *first = (const char *)operand + at + column * (bf16 ? 2 : 4);
    int lines = bf16 ? 1 : vectors;
    for (int r = 0; r < rows; r++)
        for (int line = 0; line < lines; line++)
            _mm_prefetch(first + r * pixel + line * 64, _MM_HINT_T0);
}

HL_KERNEL_INLINE __m512 hl_kernel_finish(const hl_kernel_behind *b, bool bf16, int64_t at, int64_t column,
                                         __mmask16 lanes, __m512 sum)
{
    if (b->bias != NULL)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, b->bias + column));
    if (b->residual != NULL)
        sum = _mm512_add_ps(sum, hl_kernel_load(bf16, (const char *)b->residual + at, column, lanes));
    if (b->before != NULL) {
        /* Comparisons in which a NaN passes gradients on, as PyTorch's. */
        __m512 before = hl_kernel_load(bf16, (const char *)b->before + at, column, lanes);
        __mmask16 passes = _mm512_cmp_ps_mask(before, _mm512_setzero_ps(), _CMP_NLE_UQ);
        passes &= _mm512_cmp_ps_mask(before, _mm512_set1_ps(b->before_high), _CMP_NGE_UQ);
        return _mm512_maskz_mov_ps(passes, sum);
    }
    /* In this order of operands a NaN stays one. */
    sum = _mm512_max_ps(_mm512_set1_ps(b->low), sum);
    return _mm512_min_ps(_mm512_set1_ps(b->high), sum);
}

HL_KERNEL_INLINE void hl_kernel_store_vector(const hl_kernel_behind *b, bool bf16, char *row, int64_t column,
                                             __mmask16 lanes, __m512 value)
{
    if (bf16 && b->y_elem == HL_ELEM_BF16)
        _mm256_mask_storeu_epi16(row + column * 2, lanes, (__m256i)_mm512_cvtneps_pbh(value));
    else if (b->streams && lanes == 0xffff)
        _mm512_stream_ps((float *)(void *)(row + column * 4), value);
    else
        _mm512_mask_storeu_ps(row + column * 4, lanes, value);
}

/* Finishes and stores the sums of one pixel, of 16 columns each from `column` on. */
HL_KERNEL_INLINE void hl_kernel_put(const hl_kernel_behind *b, int vectors, bool bf16, int64_t at,
                                    int64_t column, const __mmask16 *lanes, __m512 *sums)
{
    char *row = (char *)b->y + at;
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
        sums[v] = hl_kernel_finish(b, bf16, at, column + v * HL_KERNEL_LANES, lanes[v], sums[v]);
    if (bf16 && vectors == 2 && b->y_elem == HL_ELEM_BF16 && lanes[vectors - 1] == 0xffff) {
        /* 32 columns of bf16 are a cache line. */
        __m512i line = (__m512i)_mm512_cvtne2ps_pbh(sums[vectors - 1], sums[0]);
        if (b->streams)
            _mm512_stream_si512((__m512i *)(void *)(row + column * 2), line);
        else
            _mm512_storeu_si512(row + column * 2, line);
        return;
    }
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
        hl_kernel_store_vector(b, bf16, row, column + v * HL_KERNEL_LANES, lanes[v], sums[v]);
}

#endif
