/* Channels-last tensors as a table of rows (n, h, w) and columns (channels), for loops with one set of
 * coefficients or one sum a channel. Few channels make short loops, so narrow tables are read as if `repeat`
 * rows were one, with the coefficients (or sums) repeated as often: see `width`. bf16 is read in pairs
 * (backend/cpu/pairs.h), and what belongs to the columns 0, 2, 4, ... of the `width` lies in front of what
 * belongs to 1, 3, 5, ...: that is `lane order`; with f32 it is the plain one. */
#ifndef HL_BACKEND_CPU_COLUMNS_H
#define HL_BACKEND_CPU_COLUMNS_H

#include "backend/cpu/row_blocks.h"
#include "backend/cpu/tile.h"

typedef struct hl_columns {
    int64_t rows, channels, count; /* count = rows * channels */
    int64_t repeat, width;         /* width = repeat * channels, even */
    int64_t blocks;                /* of rows, for sums */
    int64_t chunk; /* elements that one turn of a parallel loop works on; a multiple of width */
    bool pairs;    /* bf16 */
} hl_columns;

hl_columns hl_columns_of(const hl_tensor *t);

/* Bytes for hl_columns_sums; they start at a multiple of 8. */
size_t hl_columns_sums_bytes(const hl_columns *c);

/* Sums over the rows, the same with any number of threads: float over a few rows, then double.
 *     sum[c] = sum of a,    dot[c] = sum of a (b - mean[c]);   with b NULL: dot[c] = sum of a^2
 * From the latter sum[c]^2 can be taken away without fear of cancellation. The results stay at the start of
 * `memory`: [channels] each, in plain order. `mean` is `width` long, in lane order. a and b have one type. */
void hl_columns_sums(const hl_columns *c, const hl_tensor *a, const hl_tensor *b, const float *mean,
                     double *memory, double **sum, double **dot);

/* lanes[0 .. width), in lane order, from one value a channel. */
void hl_columns_spread(const hl_columns *c, const float *channels, float *lanes);

#endif
