/* The inner loops of dense products: a tile of C = A B is summed in registers, for processors with AVX-512.
 *
 * Depth, which is summed over, goes in steps of 4 bytes: one float, or two bfloat16 behind one another, which
 * one instruction multiplies and adds to a float. A step of A is broadcast, B lies in panels
 *     [step][16 * vectors] of 4 bytes
 * so that a step of B is one or two registers. Everything here is inlined with constant `rows`, `vectors` and
 * `bf16`; loops over them disappear and `sums` stays in registers: 14 x 2 of them leave 4 for operands.
 */
#ifndef HL_BACKEND_CPU_PRODUCT_KERNEL_H
#define HL_BACKEND_CPU_PRODUCT_KERNEL_H

#include <string.h>

#include "backend/cpu/kernel.h"

enum { HL_KERNEL_ROWS = 14, HL_KERNEL_VECTORS = 2 };

typedef __m512 hl_kernel_sums[HL_KERNEL_ROWS][HL_KERNEL_VECTORS];

/* Steps of A lie `step` bytes apart, rows `row` bytes. */
typedef struct hl_kernel_rows {
    const char *at;
    int64_t row, step;
} hl_kernel_rows;

/* Memory that is fetched on the way, `step` bytes a step, since it will be read soon: into the first-level
 * cache, or only the second where it is much. */
typedef struct hl_kernel_ahead {
    const char *at;
    int64_t step;
} hl_kernel_ahead;

typedef enum hl_kernel_level { HL_KERNEL_FIRST_LEVEL, HL_KERNEL_SECOND_LEVEL } hl_kernel_level;

HL_KERNEL_INLINE __m512 hl_kernel_multiply_add(bool bf16, __m512 sum, __m512i a, __m512i b)
{
    return bf16 ? _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b)
                : _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
}

/* sums[r][v] = sum over `depth` steps of A[r] B[v]. */
HL_KERNEL_INLINE void hl_kernel_sum(int rows, int vectors, bool bf16, hl_kernel_rows a, const char *b,
                                    int64_t depth, hl_kernel_ahead ahead, hl_kernel_level level,
                                    hl_kernel_sums sums)
{
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sums[r][v] = _mm512_setzero_ps();
    for (int64_t k = 0; k < depth; k++) {
        __m512i step[HL_KERNEL_VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            step[v] = _mm512_loadu_si512(b + (k * vectors + v) * 64);
        if (level == HL_KERNEL_FIRST_LEVEL)
            _mm_prefetch(ahead.at + k * ahead.step, _MM_HINT_T0);
        else
            _mm_prefetch(ahead.at + k * ahead.step, _MM_HINT_T1);
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++) {
            int32_t bits;
            memcpy(&bits, a.at + r * a.row + k * a.step, sizeof bits);
            __m512i of_row = _mm512_set1_epi32(bits);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sums[r][v] = hl_kernel_multiply_add(bf16, sums[r][v], of_row, step[v]);
        }
    }
}

#endif
