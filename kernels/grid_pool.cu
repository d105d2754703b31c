/* Means over the cells of a map (base/grid_cell.h) and their gradient.
 *
 * in [N, H, W, C] and out [N, H', W', C] in `elem`; out is overwritten and aliases nothing. Every pixel of
 * `out` gathers, in order, from the pixels of `in` that it has a part in: in the forward pass those of its
 * cell, in the backward pass the cells that it lies in. */
#include "base/grid_cell.h"
#include "kernels/elem.cuh"
#include "kernels/launch.cuh"
#include "kernels/tiles.cuh"

struct grid_map {
    int channels, in_h, in_w, out_h, out_w;
};

static __device__ __forceinline__ int length_of(hl_grid_cell cell)
{
    return cell.end - cell.first;
}

template <typename T, int V, bool GRAD>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 3)
    grid_pool(grid_map g, hl_tiles tiles, const T *in, T *out)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V;
    hl_grid_cell rows = hl_grid_cell_at(at.row % g.out_h, g.in_h, g.out_h);
    hl_grid_cell columns = hl_grid_cell_at(at.group, g.in_w, g.out_w);
    const T *image = in + hl_pixel((int64_t)(at.row / g.out_h) * g.in_h, g.in_w, 0, g.channels) + c;
    float sum[V] = {0}, share = 1.0f / (float)(length_of(rows) * length_of(columns));
    for (int y = rows.first; y < rows.end; y++)
        for (int x = columns.first; x < columns.end; x++) {
            float value[V];
            hl_load<V>(image + hl_pixel(y, g.in_w, x, g.channels), value);
            if (GRAD)
                share = 1.0f / (float)(length_of(hl_grid_cell_at(y, g.out_h, g.in_h)) *
                                       length_of(hl_grid_cell_at(x, g.out_w, g.in_w)));
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += share * value[v];
        }
    hl_store<V>(out + hl_pixel(at.row, g.out_w, at.group, g.channels) + c, sum);
}

template <typename T, int V>
static void launch(const grid_map &g, int64_t rows, bool grad, const T *in, T *out, hl_cuda_stream stream)
{
    hl_tiles tiles = hl_tiles_make(rows, g.out_w, g.channels / V);
    unsigned blocks = hl_tiles_blocks(&tiles), threads = hl_tiles_threads(&tiles);
    if (grad)
        HL_LAUNCH((grid_pool<T, V, true>), blocks, threads, 0, stream, g, tiles, in, out);
    else
        HL_LAUNCH((grid_pool<T, V, false>), blocks, threads, 0, stream, g, tiles, in, out);
}

extern "C" int hl_launch_grid_pool(const void *in, hl_shape in_shape, void *out, hl_shape out_shape,
                                   bool grad, hl_elem elem, hl_cuda_stream stream)
{
    const int64_t sides[] = {in_shape.h, in_shape.w, out_shape.h, out_shape.w};
    for (unsigned i = 0; i < sizeof sides / sizeof *sides; i++)
        if (sides[i] > HL_GRID_MOST)
            return (int)cudaErrorInvalidValue;
    if (out_shape.n * out_shape.h > INT32_MAX / 8 || in_shape.c > INT32_MAX / 8)
        return (int)cudaErrorInvalidValue;
    if (hl_shape_count(out_shape) == 0)
        return 0;
    grid_map g = {(int)in_shape.c, (int)in_shape.h, (int)in_shape.w, (int)out_shape.h, (int)out_shape.w};
    HL_DISPATCH_ELEM(elem, T, {
        enum { V = hl_width<T>::value };
        if (g.channels % V == 0)
            launch<T, V>(g, out_shape.n * out_shape.h, grad, (const T *)in, (T *)out, stream);
        else
            launch<T, 1>(g, out_shape.n * out_shape.h, grad, (const T *)in, (T *)out, stream);
    });
    return (int)cudaGetLastError();
}
