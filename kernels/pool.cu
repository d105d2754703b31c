/* Maximum and average over windows, and their gradients.
 *
 * x, dx [N, H, W, C] and y, dy [N, H', W', C] in `elem`; index (u8 or i32) shaped like y. Results overwrite
 * and alias nothing. Windows lie where padding and stride put them and are cut at the image's edge; each has
 * a part inside it. A gradient is gathered: every input pixel looks at the outputs whose windows cover it, in
 * order, so that nobody else writes to it. */
#include "kernels/elem.cuh"
#include "kernels/launch.cuh"
#include "kernels/tiles.cuh"

/* What kernels read of hl_pool_args. */
struct pool : hl_geometry {
    bool count_padding;
};

/* The part of an output pixel's window that lies inside the image: rows [y0, y1), columns [x0, x1); the
 * window itself starts at (top, left). */
struct extent {
    int y0, y1, x0, x1, top, left;
};

static __device__ __forceinline__ int lesser(int a, int b)
{
    return a < b ? a : b;
}

static __device__ __forceinline__ extent extent_of(const pool &p, int oy, int ox)
{
    extent e;
    e.top = oy * p.sh - p.top;
    e.left = ox * p.sw - p.left;
    e.y0 = e.top < 0 ? 0 : e.top;
    e.x0 = e.left < 0 ? 0 : e.left;
    e.y1 = lesser(e.top + p.kh, p.x_h);
    e.x1 = lesser(e.left + p.kw, p.x_w);
    return e;
}

/* What an average divides by. With count_padding the window counts as far as the padding reaches (the top and
 * left paddings, on both sides); what ceil mode adds beyond that does not, as in PyTorch. */
static __device__ __forceinline__ float divisor_of(const pool &p, const extent &e)
{
    if (!p.count_padding)
        return (float)((e.y1 - e.y0) * (e.x1 - e.x0));
    int h = lesser(e.top + p.kh, p.x_h + p.top) - e.top;
    int v = lesser(e.left + p.kw, p.x_w + p.left) - e.left;
    return (float)(h * v);
}

/* The first of equal maxima wins; a NaN wins over everything before it. */
template <typename T, typename I, int V>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 3)
    pool_max(pool p, hl_tiles tiles, const T *x, T *y, I *index)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V;
    int64_t out = hl_pixel(at.row, p.y_w, at.group, p.channels) + c;
    extent e = extent_of(p, at.row % p.y_h, at.group);
    const T *image = x + hl_pixel(at.row / p.y_h * p.x_h, p.x_w, 0, p.channels) + c;
    float best[V];
    int place[V], start = (int)((e.y0 - e.top) * p.kw + e.x0 - e.left);
#pragma unroll
    for (int v = 0; v < V; v++) {
        best[v] = -INFINITY;
        place[v] = start;
    }
    for (int iy = e.y0; iy < e.y1; iy++)
        for (int ix = e.x0; ix < e.x1; ix++) {
            int here = (int)((iy - e.top) * p.kw + ix - e.left);
            float value[V];
            hl_load<V>(image + hl_pixel(iy, p.x_w, ix, p.channels), value);
#pragma unroll
            for (int v = 0; v < V; v++) {
                bool better = value[v] > best[v] || value[v] != value[v];
                best[v] = better ? value[v] : best[v];
                place[v] = better ? here : place[v];
            }
        }
    hl_store<V>(y + out, best);
    if (index != NULL)
        hl_store_index<V>(index + out, place);
}

template <typename T, int V>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 3)
    pool_average(pool p, hl_tiles tiles, const T *x, T *y)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V;
    extent e = extent_of(p, at.row % p.y_h, at.group);
    const T *image = x + hl_pixel(at.row / p.y_h * p.x_h, p.x_w, 0, p.channels) + c;
    float sum[V] = {0}, divisor = divisor_of(p, e);
    for (int iy = e.y0; iy < e.y1; iy++)
        for (int ix = e.x0; ix < e.x1; ix++) {
            float value[V];
            hl_load<V>(image + hl_pixel(iy, p.x_w, ix, p.channels), value);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += value[v];
        }
#pragma unroll
    for (int v = 0; v < V; v++)
        sum[v] /= divisor;
    hl_store<V>(y + hl_pixel(at.row, p.y_w, at.group, p.channels) + c, sum);
}

/* Outputs [first, end) whose windows cover input coordinate i. */
struct cover {
    int first, end;
};

static __device__ __forceinline__ cover covering(int i, int before, int kernel, int stride, int outputs)
{
    int from = i + before - kernel + 1;
    cover c;
    c.first = from <= 0 ? 0 : (from + stride - 1) / stride;
    c.end = lesser((i + before) / stride + 1, outputs);
    return c;
}

/* index NULL: of an average. */
template <typename T, typename I, int V>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 3)
    pool_grad(pool p, hl_tiles tiles, const T *dy, const I *index, T *dx)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V, iy = at.row % p.x_h, image = at.row / p.x_h * p.y_h;
    cover rows = covering(iy, p.top, p.kh, p.sh, p.y_h);
    cover columns = covering(at.group, p.left, p.kw, p.sw, p.y_w);
    float sum[V] = {0};
    for (int oy = rows.first; oy < rows.end; oy++)
        for (int ox = columns.first; ox < columns.end; ox++) {
            extent e = extent_of(p, oy, ox);
            int64_t from = hl_pixel(image + oy, p.y_w, ox, p.channels) + c;
            float d[V];
            hl_load<V>(dy + from, d);
            if (index == NULL) {
                float share = 1.0f / divisor_of(p, e);
#pragma unroll
                for (int v = 0; v < V; v++)
                    sum[v] += share * d[v];
                continue;
            }
            int here = (int)((iy - e.top) * p.kw + at.group - e.left), place[V];
            hl_load_index<V>(index + from, place);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += place[v] == here ? d[v] : 0.0f;
        }
    hl_store<V>(dx + hl_pixel(at.row, p.x_w, at.group, p.channels) + c, sum);
}

template <typename T, int V>
static void launch_pool(const pool &p, int64_t rows, bool max, bool wide_index, const T *x, T *y, void *index,
                        hl_cuda_stream stream)
{
    hl_tiles tiles = hl_tiles_make(rows, p.y_w, p.channels / V);
    unsigned blocks = hl_tiles_blocks(&tiles), threads = hl_tiles_threads(&tiles);
    if (!max)
        HL_LAUNCH((pool_average<T, V>), blocks, threads, 0, stream, p, tiles, x, y);
    else if (wide_index)
        HL_LAUNCH((pool_max<T, int32_t, V>), blocks, threads, 0, stream, p, tiles, x, y, (int32_t *)index);
    else
        HL_LAUNCH((pool_max<T, uint8_t, V>), blocks, threads, 0, stream, p, tiles, x, y, (uint8_t *)index);
}

template <typename T, int V>
static void launch_grad(const pool &p, int64_t rows, bool wide_index, const T *dy, const void *index, T *dx,
                        hl_cuda_stream stream)
{
    hl_tiles tiles = hl_tiles_make(rows, p.x_w, p.channels / V);
    unsigned blocks = hl_tiles_blocks(&tiles), threads = hl_tiles_threads(&tiles);
    if (wide_index)
        HL_LAUNCH((pool_grad<T, int32_t, V>), blocks, threads, 0, stream, p, tiles, dy,
                  (const int32_t *)index, dx);
    else
        HL_LAUNCH((pool_grad<T, uint8_t, V>), blocks, threads, 0, stream, p, tiles, dy,
                  (const uint8_t *)index, dx);
}

static bool pool_make(const hl_pool_args *args, pool *p)
{
    p->count_padding = args->count_padding;
    return hl_geometry_make(args->x, args->y, &args->window, p);
}

extern "C" int hl_launch_pool(const hl_pool_args *args, const void *x, void *y, void *index, hl_elem elem,
                              hl_cuda_stream stream)
{
    pool p;
    int64_t rows = args->y.n * args->y.h;
    if (hl_shape_count(args->y) == 0)
        return 0;
    if (!pool_make(args, &p))
        return (int)cudaErrorInvalidValue;
    HL_DISPATCH_ELEM(elem, T, {
        enum { V = hl_width<T>::value };
        if (p.channels % V == 0)
            launch_pool<T, V>(p, rows, args->max, args->wide_index, (const T *)x, (T *)y, index, stream);
        else
            launch_pool<T, 1>(p, rows, args->max, args->wide_index, (const T *)x, (T *)y, index, stream);
    });
    return (int)cudaGetLastError();
}

extern "C" int hl_launch_pool_grad(const hl_pool_args *args, const void *dy, const void *index, void *dx,
                                   hl_elem elem, hl_cuda_stream stream)
{
    pool p;
    int64_t rows = args->x.n * args->x.h;
    if (hl_shape_count(args->x) == 0)
        return 0;
    if (!pool_make(args, &p))
        return (int)cudaErrorInvalidValue;
    HL_DISPATCH_ELEM(elem, T, {
        enum { V = hl_width<T>::value };
        if (p.channels % V == 0)
            launch_grad<T, V>(p, rows, args->wide_index, (const T *)dy, index, (T *)dx, stream);
        else
            launch_grad<T, 1>(p, rows, args->wide_index, (const T *)dy, index, (T *)dx, stream);
    });
    return (int)cudaGetLastError();
}
