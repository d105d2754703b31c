/* Channels-last tensors as a table of rows (n, h, w) and columns (channels), for loops with one set of
 * coefficients or one sum a channel. Few channels make short loops, so narrow tables are read as if `repeat`
 * rows were one, with the coefficients (or sums) repeated as often: see `width`. */
#ifndef HL_BACKEND_CPU_COLUMNS_H
#define HL_BACKEND_CPU_COLUMNS_H

#include "backend/cpu/row_blocks.h"
#include "backend/cpu/tile.h"

typedef struct hl_columns {
    int64_t rows, channels, count; /* count = rows * channels */
    int64_t repeat, width;         /* width = repeat * channels */
    int64_t blocks;                /* of rows, for sums */
    int64_t chunk; /* elements that one turn of a parallel loop works on; a multiple of width */
} hl_columns;

hl_columns hl_columns_of(const hl_tensor *t);

/* How many elements from `at` (counted from the start of a row) to treat as one tile, and where in the
 * pattern of `width` coefficients they start. */
static inline int64_t hl_columns_tile(const hl_columns *c, int64_t at, int64_t end, int64_t *offset)
{
    *offset = c->width > HL_TILE ? at % c->width : 0;
    int64_t most = c->width > HL_TILE ? c->width - *offset : HL_TILE / c->width * c->width;
    most = most < HL_TILE ? most : HL_TILE;
    return end - at < most ? end - at : most;
}

/* Bytes for hl_columns_sums; they start at a multiple of 8. */
size_t hl_columns_sums_bytes(const hl_columns *c);

/* Sums over the rows, the same with any number of threads: float over a few rows, then double.
 *     sum[c] = sum of a,    dot[c] = sum of a (b - mean[c]);   with b NULL: dot[c] = sum of a^2
 * From the latter sum[c]^2 can be taken away without fear of cancellation. The results stay at the start of
 * `memory`: [channels] each. `mean` is `width` long. */
void hl_columns_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                     double *memory, double **sum, double **dot);

/* v[0 .. width) = v[0 .. channels) again and again. */
void hl_columns_repeat(const hl_columns *c, float *v);

#endif
