/* Arrays [rows, channels] by columns: every thread keeps to one vector of channels and walks down the rows,
 * so that what belongs to a channel stays in registers and sums over rows need no atomics.
 *
 * A block is `lanes` vectors wide and takes `depth` rows at once, however many channels there are: thread t
 * has vector t % lanes and row t / lanes. Channels are cut into `strips` of lanes, rows into `chunks`; block
 * b is strip b % strips of chunk b / strips. */
#ifndef HL_KERNELS_COLUMNS_CUH
#define HL_KERNELS_COLUMNS_CUH

#include <stdint.h>

#include "kernels/launch.cuh"

enum {
    HL_COLUMNS_THREADS = 256,
    HL_COLUMNS_PASSES = 8,    /* rows that a thread sums at least before its sum is written down */
    HL_COLUMNS_BLOCKS = 1024, /* of sums; more rows make longer chunks */
    HL_FINISH_COLUMNS = 32,
    HL_FINISH_SLICES = 16,
    HL_FINISH_THREADS = HL_FINISH_COLUMNS * HL_FINISH_SLICES
};

typedef struct hl_columns {
    int64_t rows, chunk, chunks; /* of the array; rows in a chunk */
    int vectors, strips;
    int lanes, depth; /* of a block */
} hl_columns;

static inline int64_t hl_columns_ceil(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Chunks of `passes` rows a thread. rows and channels are not 0; width divides channels. */
static inline hl_columns hl_columns_make(int64_t rows, int64_t channels, int width, int64_t passes)
{
    hl_columns c;
    c.rows = rows;
    c.vectors = (int)(channels / width);
    c.strips = (int)hl_columns_ceil(c.vectors, HL_COLUMNS_THREADS);
    c.lanes = (int)hl_columns_ceil(c.vectors, c.strips);
    c.depth = HL_COLUMNS_THREADS / c.lanes;
    c.chunk = passes * c.depth;
    c.chunks = hl_columns_ceil(rows, c.chunk);
    return c;
}

/* The same cut for sums over the rows. */
static inline hl_columns hl_columns_sum(int64_t rows, int64_t channels, int width)
{
    hl_columns c = hl_columns_make(rows, channels, width, HL_COLUMNS_PASSES);
    int64_t most = c.strips < HL_COLUMNS_BLOCKS ? HL_COLUMNS_BLOCKS / c.strips : 1;
    if (c.chunks <= most)
        return c;
    return hl_columns_make(rows, channels, width, hl_columns_ceil(rows, most * c.depth));
}

/* Most chunks that hl_columns_sum makes, whatever the width (1, 4 or 8, where it divides). */
static inline int64_t hl_columns_most_chunks(int64_t rows, int64_t channels)
{
    int64_t most = 0;
    if (rows <= 0 || channels <= 0)
        return 0;
    for (int width = 1; width <= 8; width = width == 1 ? 4 : 2 * width) {
        int64_t chunks = channels % width == 0 ? hl_columns_sum(rows, channels, width).chunks : 0;
        most = chunks > most ? chunks : most;
    }
    return most;
}

static inline unsigned hl_columns_threads(const hl_columns *c)
{
    return ((unsigned)(c->lanes * c->depth) + 31u) / 32u * 32u;
}

/* A thread's vector, and its rows: row, row + depth, ... below end. inside: it has any. */
struct hl_column {
    int64_t row, end;
    int chunk, vector;
    int lane, level; /* in the block */
    bool inside;
};

static __device__ __forceinline__ hl_column hl_columns_at(const hl_columns &c)
{
    hl_column at;
    at.lane = (int)threadIdx.x % c.lanes;
    at.level = (int)threadIdx.x / c.lanes;
    at.chunk = (int)blockIdx.x / c.strips;
    at.vector = (int)blockIdx.x % c.strips * c.lanes + at.lane;
    at.row = at.chunk * c.chunk + at.level;
    at.end = (at.chunk + 1) * c.chunk < c.rows ? (at.chunk + 1) * c.chunk : c.rows;
    at.inside = at.level < c.depth && at.vector < c.vectors;
    if (!at.inside)
        at.row = at.end;
    return at;
}

/* Sums V values a thread over the levels of a block, in order, and writes them to the columns that start at
 * `to`. `shared` holds HL_COLUMNS_THREADS V floats. All threads of the block come here. */
template <int V>
static __device__ __forceinline__ void hl_columns_reduce(const hl_columns &c, const hl_column &at,
                                                         const float (&sum)[V], float *shared, float *to)
{
    int strip = at.vector - at.lane, left = c.vectors - strip;
    int columns = (left < c.lanes ? left : c.lanes) * V, stride = c.lanes * V;
    __syncthreads();
    if (at.level < c.depth)
        for (int v = 0; v < V; v++)
            shared[at.level * stride + at.lane * V + v] = sum[v];
    __syncthreads();
    for (int column = (int)threadIdx.x; column < columns; column += (int)blockDim.x) {
        float total = 0.0f;
        for (int level = 0; level < c.depth; level++)
            total += shared[level * stride + column];
        to[strip * V + column] = total;
    }
}

/* The second stage: the sum of partial[chunk][column] over chunks, for threads below HL_FINISH_COLUMNS of a
 * block of HL_FINISH_THREADS, each with a column of its own; in a fixed order. All threads come here. */
static __device__ __forceinline__ float hl_finish_sum(const float *partial, int64_t chunks, int64_t columns,
                                                      int64_t column, float *shared)
{
    int slice = (int)threadIdx.x / HL_FINISH_COLUMNS;
    float sum = 0.0f;
    if (column < columns)
#pragma unroll 8
        for (int64_t k = slice; k < chunks; k += HL_FINISH_SLICES)
            sum += partial[k * columns + column];
    shared[threadIdx.x] = sum;
    __syncthreads();
    float total = 0.0f;
    if (slice == 0)
#pragma unroll
        for (int k = 0; k < HL_FINISH_SLICES; k++)
            total += shared[k * HL_FINISH_COLUMNS + (int)threadIdx.x];
    return total;
}

/* The column of a thread in the second stage. */
static __device__ __forceinline__ int64_t hl_finish_column(void)
{
    return (int64_t)blockIdx.x * HL_FINISH_COLUMNS + (int)threadIdx.x % HL_FINISH_COLUMNS;
}

#endif
