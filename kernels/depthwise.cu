/* Depthwise convolution, one filter a channel: forward and data gradient (the weight gradient is in
 * depthwise_weight.cu).
 *
 * x, dx [N, H, W, C], y, dy, residual [N, H', W', C] and w [kh, kw, C] in `elem`, bias [C]. Results
 * overwrite; y may be the residual, else nothing is aliased. Any stride, dilation and padding.
 *
 * The *_row kernels are for windows 3 and 5 wide of stride 1 and 2, and 7 wide of stride 1, not dilated along
 * the row: a thread makes a run of neighbouring pixels of a row, loads every pixel under their windows once
 * for each row of the window, and a row of weights once for all of them. The *_any kernels make one pixel a
 * thread. */
#include "kernels/act.cuh"
#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/tiles.cuh"

/* Pixels of a run: as many as registers hold together with the pixels under their windows. The data gradient
 * has fewer of those; its runs are a multiple of the stride. */
static __host__ __device__ constexpr int forward_run(int kw, int stride)
{
    return kw == 5 && stride == 2 ? 2 : 4;
}

static __host__ __device__ constexpr int data_run(int kw)
{
    return kw == 7 ? 2 : 4;
}

typedef struct epilogue {
    const void *bias, *residual;
    hl_elem bias_elem;
    hl_act act;
} epilogue;

/* y = act(sum + bias + residual) of one pixel. */
template <typename T, int V>
static __device__ __forceinline__ void finish(const epilogue &last, const float (&shift)[V], float (&sum)[V],
                                              int64_t at, T *y)
{
    float add[V] = {0};
    if (last.residual != NULL)
        hl_load<V>((const T *)last.residual + at, add);
#pragma unroll
    for (int v = 0; v < V; v++)
        sum[v] = hl_act_forward(last.act, sum[v] + shift[v] + add[v]);
    hl_store<V>(y + at, sum);
}

/* K weights of a row of the window. */
template <typename T, int V, int K>
static __device__ __forceinline__ void load_taps(const T *w, int64_t channels, float (&taps)[K][V])
{
#pragma unroll
    for (int k = 0; k < K; k++)
        hl_load<V>(w + k * channels, taps[k]);
}

template <typename T, int V, int K, int STRIDE>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 2)
    forward_row(hl_geometry a, hl_tiles tiles, const T *x, const T *w, epilogue last, T *y)
{
    enum { RUN = forward_run(K, STRIDE) };
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V, channels = a.channels, ox = at.group * RUN, ix = ox * STRIDE - a.left;
    int top = at.row % a.y_h * a.sh - a.top, image = at.row / a.y_h * a.x_h;
    float sum[RUN][V] = {{0}};
#pragma unroll 1
    for (int ky = 0; ky < a.kh; ky++) {
        int iy = top + ky * a.dh;
        if (iy < 0 || iy >= a.x_h)
            continue;
        float taps[K][V];
        load_taps<T, V, K>(w + (int64_t)ky * K * channels + c, channels, taps);
        const T *from = x + hl_pixel(image + iy, a.x_w, 0, channels) + c;
#pragma unroll
        for (int i = 0; i < (RUN - 1) * STRIDE + K; i++) {
            float value[V];
            hl_load_inside<T, V>(from, ix + i >= 0 && ix + i < a.x_w, (ix + i) * channels, value);
#pragma unroll
            for (int p = 0; p < RUN; p++) {
                const int k = i - p * STRIDE;
                if (k >= 0 && k < K)
#pragma unroll
                    for (int v = 0; v < V; v++)
                        sum[p][v] += taps[k][v] * value[v];
            }
        }
    }
    float shift[V] = {0};
    if (last.bias != NULL)
        hl_load_as<V>(last.bias, last.bias_elem, c, shift);
#pragma unroll
    for (int p = 0; p < RUN; p++)
        if (ox + p < a.y_w)
            finish<T, V>(last, shift, sum[p], hl_pixel(at.row, a.y_w, ox + p, channels) + c, y);
}

template <typename T, int V>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 2)
    forward_any(hl_geometry a, hl_tiles tiles, const T *x, const T *w, epilogue last, T *y)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V, channels = a.channels, left = at.group * a.sw - a.left;
    int top = at.row % a.y_h * a.sh - a.top, image = at.row / a.y_h * a.x_h;
    float sum[V] = {0}, shift[V] = {0};
    for (int ky = 0; ky < a.kh; ky++)
        for (int kx = 0; kx < a.kw; kx++) {
            int iy = top + ky * a.dh, ix = left + kx * a.dw;
            if (iy < 0 || iy >= a.x_h || ix < 0 || ix >= a.x_w)
                continue;
            float value[V], tap[V];
            hl_load<V>(x + hl_pixel(image + iy, a.x_w, ix, channels) + c, value);
            hl_load<V>(w + (int64_t)(ky * a.kw + kx) * channels + c, tap);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += tap[v] * value[v];
        }
    if (last.bias != NULL)
        hl_load_as<V>(last.bias, last.bias_elem, c, shift);
    finish<T, V>(last, shift, sum, hl_pixel(at.row, a.y_w, at.group, channels) + c, y);
}

/* The output coordinate whose window has input coordinate i (padding added) under tap k; -1 where there is
 * none. */
static __device__ __forceinline__ int output_of(int i, int k, int dilation, int stride, int outputs)
{
    int t = i - k * dilation;
    return t < 0 || t % stride != 0 || t / stride >= outputs ? -1 : t / stride;
}

/* Pixels left of the image that a run may start with, so that runs start under the same tap of a window. */
static __host__ __device__ __forceinline__ int lead(const hl_geometry &a, int stride)
{
    return a.left % stride;
}

template <typename T, int V, int K, int STRIDE>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 2)
    data_row(hl_geometry a, hl_tiles tiles, const T *dy, const T *w, T *dx)
{
    enum { RUN = data_run(K) };
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    /* Pixel p of the run, ix + p, is under tap k of output ox + (p - k) / STRIDE, where that is a whole
     * number. */
    int c = at.vector * V, channels = a.channels, ix = at.group * RUN - lead(a, STRIDE);
    int ox = (ix + a.left) / STRIDE;
    int iy = at.row % a.x_h + a.top, image = at.row / a.x_h * a.y_h;
    float sum[RUN][V] = {{0}};
#pragma unroll 1
    for (int ky = 0; ky < a.kh; ky++) {
        int oy = output_of(iy, ky, a.dh, a.sh, a.y_h);
        if (oy < 0)
            continue;
        float taps[K][V];
        load_taps<T, V, K>(w + (int64_t)ky * K * channels + c, channels, taps);
        const T *from = dy + hl_pixel(image + oy, a.y_w, 0, channels) + c;
#pragma unroll
        for (int i = -((K - 1) / STRIDE); i <= (RUN - 1) / STRIDE; i++) {
            float value[V];
            hl_load_inside<T, V>(from, ox + i >= 0 && ox + i < a.y_w, (ox + i) * channels, value);
#pragma unroll
            for (int p = 0; p < RUN; p++) {
                const int k = p - i * STRIDE;
                if (k >= 0 && k < K)
#pragma unroll
                    for (int v = 0; v < V; v++)
                        sum[p][v] += taps[k][v] * value[v];
            }
        }
    }
#pragma unroll
    for (int p = 0; p < RUN; p++)
        if (ix + p >= 0 && ix + p < a.x_w)
            hl_store<V>(dx + hl_pixel(at.row, a.x_w, ix + p, channels) + c, sum[p]);
}

template <typename T, int V>
static __global__ void __launch_bounds__(HL_TILES_THREADS, 2)
    data_any(hl_geometry a, hl_tiles tiles, const T *dy, const T *w, T *dx)
{
    hl_tile_spot at = hl_tiles_at(tiles);
    if (!at.inside)
        return;
    int c = at.vector * V, channels = a.channels, image = at.row / a.x_h * a.y_h;
    int iy = at.row % a.x_h + a.top, ix = at.group + a.left;
    float sum[V] = {0};
    for (int ky = 0; ky < a.kh; ky++) {
        int oy = output_of(iy, ky, a.dh, a.sh, a.y_h);
        if (oy < 0)
            continue;
        for (int kx = 0; kx < a.kw; kx++) {
            int ox = output_of(ix, kx, a.dw, a.sw, a.y_w);
            if (ox < 0)
                continue;
            float value[V], tap[V];
            hl_load<V>(dy + hl_pixel(image + oy, a.y_w, ox, channels) + c, value);
            hl_load<V>(w + (int64_t)(ky * a.kw + kx) * channels + c, tap);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += tap[v] * value[v];
        }
    }
    hl_store<V>(dx + hl_pixel(at.row, a.x_w, at.group, channels) + c, sum);
}

static bool is_run(const hl_geometry &a)
{
    bool narrow = (a.kw == 3 || a.kw == 5) && (a.sw == 1 || a.sw == 2);
    return a.dw == 1 && (narrow || (a.kw == 7 && a.sw == 1));
}

static int runs(int pixels, int run)
{
    return (pixels + run - 1) / run;
}

/* The instance for the window's width and stride. */
#define LAUNCH_ROW(kernel, T, V, a, tiles, stream, ...)                                                      \
    do {                                                                                                     \
        unsigned blocks_ = hl_tiles_blocks(&(tiles)), threads_ = hl_tiles_threads(&(tiles));                 \
        if ((a).kw == 3 && (a).sw == 1)                                                                      \
            HL_LAUNCH((kernel<T, V, 3, 1>), blocks_, threads_, 0, stream, a, tiles, __VA_ARGS__);            \
        else if ((a).kw == 3)                                                                                \
            HL_LAUNCH((kernel<T, V, 3, 2>), blocks_, threads_, 0, stream, a, tiles, __VA_ARGS__);            \
        else if ((a).kw == 7)                                                                                \
            HL_LAUNCH((kernel<T, V, 7, 1>), blocks_, threads_, 0, stream, a, tiles, __VA_ARGS__);            \
        else if ((a).sw == 1)                                                                                \
            HL_LAUNCH((kernel<T, V, 5, 1>), blocks_, threads_, 0, stream, a, tiles, __VA_ARGS__);            \
        else                                                                                                 \
            HL_LAUNCH((kernel<T, V, 5, 2>), blocks_, threads_, 0, stream, a, tiles, __VA_ARGS__);            \
    } while (0)

template <typename T>
static void launch_forward(const hl_geometry &a, int64_t rows, const T *x, const T *w, epilogue last, T *y,
                           hl_cuda_stream stream)
{
    enum { V = hl_width<T>::value };
    bool vectors = a.channels % V == 0, run = vectors && is_run(a);
    hl_tiles tiles = hl_tiles_make(rows, run ? runs(a.y_w, forward_run(a.kw, a.sw)) : a.y_w,
                                   vectors ? a.channels / V : a.channels);
    unsigned blocks = hl_tiles_blocks(&tiles), threads = hl_tiles_threads(&tiles);
    if (run)
        LAUNCH_ROW(forward_row, T, V, a, tiles, stream, x, w, last, y);
    else if (vectors)
        HL_LAUNCH((forward_any<T, V>), blocks, threads, 0, stream, a, tiles, x, w, last, y);
    else
        HL_LAUNCH((forward_any<T, 1>), blocks, threads, 0, stream, a, tiles, x, w, last, y);
}

template <typename T>
static void launch_data(const hl_geometry &a, int64_t rows, const T *dy, const T *w, T *dx,
                        hl_cuda_stream stream)
{
    enum { V = hl_width<T>::value };
    bool vectors = a.channels % V == 0, run = vectors && is_run(a);
    hl_tiles tiles = hl_tiles_make(rows, run ? runs(a.x_w + lead(a, a.sw), data_run(a.kw)) : a.x_w,
                                   vectors ? a.channels / V : a.channels);
    unsigned blocks = hl_tiles_blocks(&tiles), threads = hl_tiles_threads(&tiles);
    if (run)
        LAUNCH_ROW(data_row, T, V, a, tiles, stream, dy, w, dx);
    else if (vectors)
        HL_LAUNCH((data_any<T, V>), blocks, threads, 0, stream, a, tiles, dy, w, dx);
    else
        HL_LAUNCH((data_any<T, 1>), blocks, threads, 0, stream, a, tiles, dy, w, dx);
}

extern "C" int hl_launch_depthwise(const hl_depthwise_args *args, const void *x, const void *w,
                                   const void *bias, hl_elem bias_elem, const void *residual, hl_act act,
                                   void *y, hl_elem elem, hl_cuda_stream stream)
{
    hl_geometry a;
    if (hl_shape_count(args->y) == 0)
        return 0;
    if (!hl_geometry_make(args->x, args->y, &args->window, &a))
        return (int)cudaErrorInvalidValue;
    epilogue last = {bias, residual, bias_elem, act};
    HL_DISPATCH_ELEM(
        elem, T, launch_forward(a, args->y.n * args->y.h, (const T *)x, (const T *)w, last, (T *)y, stream));
    return (int)cudaGetLastError();
}

extern "C" int hl_launch_depthwise_data(const hl_depthwise_args *args, const void *dy, const void *w,
                                        void *dx, hl_elem elem, hl_cuda_stream stream)
{
    hl_geometry a;
    if (hl_shape_count(args->x) == 0)
        return 0;
    if (!hl_geometry_make(args->x, args->y, &args->window, &a))
        return (int)cudaErrorInvalidValue;
    HL_DISPATCH_ELEM(elem, T,
                     launch_data(a, args->x.n * args->x.h, (const T *)dy, (const T *)w, (T *)dx, stream));
    return (int)cudaGetLastError();
}
