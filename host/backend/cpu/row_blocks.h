/* Sums over the rows n, h, w of a channels-last tensor. Rows are cut into blocks whose number depends on
 * nothing but the number of rows, each block has a partial sum of its own, and those are added in order: the
 * result is the same with any number of threads. */
#ifndef HL_BACKEND_CPU_ROW_BLOCKS_H
#define HL_BACKEND_CPU_ROW_BLOCKS_H

#include <stddef.h>
#include <stdint.h>

enum { HL_MAX_ROW_BLOCKS = 32, HL_MIN_BLOCK_ROWS = 64 };

static inline int64_t hl_row_blocks(int64_t rows)
{
    int64_t blocks = (rows + HL_MIN_BLOCK_ROWS - 1) / HL_MIN_BLOCK_ROWS;
    return blocks < 1 ? 1 : blocks > HL_MAX_ROW_BLOCKS ? HL_MAX_ROW_BLOCKS : blocks;
}

/* First row of block b; of block `blocks`: the number of rows. */
static inline int64_t hl_row_block_first(int64_t rows, int64_t blocks, int64_t b)
{
    return rows / blocks * b + (b < rows % blocks ? b : rows % blocks);
}

/* Sum of partial[b][c] over the blocks, in order. */
static inline float hl_row_blocks_sum(const float *partial, int64_t blocks, int64_t channels, int64_t c)
{
    float sum = 0.0f;
    for (int64_t b = 0; b < blocks; b++)
        sum += partial[b * channels + c];
    return sum;
}

#endif
