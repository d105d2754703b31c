/* Pixels of channels-last maps, cut into blocks that are a few vectors of channels deep and a rectangle of
 * pixels wide, so that neighbouring windows find in the cache what they share.
 *
 * Rows are the rows of all images, n h of them; each is `groups` groups of neighbouring pixels, a thread
 * takes one vector of channels of one group. */
#ifndef HL_KERNELS_TILES_CUH
#define HL_KERNELS_TILES_CUH

#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"

enum { HL_TILES_THREADS = 256, HL_TILES_LANES = 8, HL_TILES_ACROSS = 8 };

/* Shapes and window as kernels read them: coordinates of pixels, and offsets of elements within a row, have
 * 32 bits (other offsets 64). */
typedef struct hl_geometry {
    int channels, x_h, x_w, y_h, y_w;
    int kh, kw, sh, sw, dh, dw, top, left;
} hl_geometry;

/* false: one of these would leave 32 bits. */
static inline bool hl_geometry_make(hl_shape x, hl_shape y, const hl_window *w, hl_geometry *g)
{
    const int64_t coordinates[] = {x.n * x.h,     y.n * y.h,     x.w * x.c,      y.w * y.c,
                                   x.c,           y.w * w->sw,   y.h * w->sh,    w->kh * w->kw,
                                   w->kh * w->dh, w->kw * w->dw, w->top + w->sh, w->left + w->sw};
    for (unsigned i = 0; i < sizeof coordinates / sizeof *coordinates; i++)
        if (coordinates[i] > INT32_MAX / 8)
            return false;
    *g = (hl_geometry){(int)x.c,   (int)x.h,   (int)x.w,   (int)y.h,   (int)y.w,    (int)w->kh,  (int)w->kw,
                       (int)w->sh, (int)w->sw, (int)w->dh, (int)w->dw, (int)w->top, (int)w->left};
    return true;
}

typedef struct hl_tiles {
    int rows, groups, vectors;
    int lane_tiles, across_tiles; /* blocks side by side */
    int lanes, across, down;      /* of a block */
} hl_tiles;

/* None of the counts is 0. */
static inline hl_tiles hl_tiles_make(int64_t rows, int groups, int vectors)
{
    hl_tiles t;
    t.rows = (int)rows;
    t.groups = groups;
    t.vectors = vectors;
    t.lane_tiles = (vectors + HL_TILES_LANES - 1) / HL_TILES_LANES;
    t.across_tiles = (groups + HL_TILES_ACROSS - 1) / HL_TILES_ACROSS;
    /* Tiles of even sizes: 9 vectors are 5 and 4, not 8 and 1. */
    t.lanes = (vectors + t.lane_tiles - 1) / t.lane_tiles;
    t.across = (groups + t.across_tiles - 1) / t.across_tiles;
    int down = HL_TILES_THREADS / (t.lanes * t.across);
    t.down = down < t.rows ? down : t.rows;
    return t;
}

static inline unsigned hl_tiles_blocks(const hl_tiles *t)
{
    return (unsigned)((t->rows + t->down - 1) / t->down) * (unsigned)t->across_tiles *
           (unsigned)t->lane_tiles;
}

static inline unsigned hl_tiles_threads(const hl_tiles *t)
{
    return ((unsigned)(t->lanes * t->across * t->down) + 31u) / 32u * 32u;
}

struct hl_tile_spot {
    int row, group, vector;
    bool inside;
};

static __device__ __forceinline__ hl_tile_spot hl_tiles_at(const hl_tiles &t)
{
    int block = (int)blockIdx.x, strip = block / t.lane_tiles;
    int lane = (int)threadIdx.x % t.lanes, pixel = (int)threadIdx.x / t.lanes;
    hl_tile_spot at;
    at.vector = block % t.lane_tiles * t.lanes + lane;
    at.group = strip % t.across_tiles * t.across + pixel % t.across;
    at.row = strip / t.across_tiles * t.down + pixel / t.across;
    at.inside = pixel / t.across < t.down && at.row < t.rows && at.group < t.groups && at.vector < t.vectors;
    return at;
}

/* Where pixel x of a row starts, in elements. */
static __device__ __forceinline__ int64_t hl_pixel(int64_t row, int width, int x, int channels)
{
    return (row * width + x) * channels;
}

/* V channels of a pixel, `at` elements from the start of its row; zero where it is outside. */
template <typename T, int V>
static __device__ __forceinline__ void hl_load_inside(const T *row, bool inside, int at, float (&value)[V])
{
    if (inside) {
        hl_load<V>(row + at, value);
    } else {
#pragma unroll
        for (int v = 0; v < V; v++)
            value[v] = 0.0f;
    }
}

#endif
