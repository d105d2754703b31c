/* How a side of n places divides into m cells, as torch's adaptive average pooling has it: cell i of m is
 * [floor(i n / m), ceil((i + 1) n / m)). Cells overlap where m does not divide n, and hold a place more than
 * once where m > n. The same with n and m exchanged gives the cells that place i lies in. */
#ifndef HL_BASE_GRID_CELL_H
#define HL_BASE_GRID_CELL_H

#include <stdint.h>

#ifdef __CUDACC__
#define HL_GRID_CELL static __host__ __device__ __forceinline__
typedef int hl_grid_int; /* kernels take sides up to HL_GRID_MOST: division is slow, in 64 bits very */
#else
#define HL_GRID_CELL static inline
typedef int64_t hl_grid_int;
#endif

enum { HL_GRID_MOST = 32767 };

typedef struct hl_grid_cell {
    hl_grid_int first, end;
} hl_grid_cell;

HL_GRID_CELL hl_grid_cell hl_grid_cell_at(hl_grid_int i, hl_grid_int n, hl_grid_int m)
{
    hl_grid_cell cell;
    cell.first = i * n / m;
    cell.end = ((i + 1) * n + m - 1) / m;
    return cell;
}

/* What place p of n counts in the mean of cell i of m. */
HL_GRID_CELL float hl_grid_share(hl_grid_int p, hl_grid_int n, hl_grid_int i, hl_grid_int m)
{
    hl_grid_cell cell = hl_grid_cell_at(i, n, m);
    return p >= cell.first && p < cell.end ? 1.0f / (float)(cell.end - cell.first) : 0.0f;
}

#undef HL_GRID_CELL

#endif
