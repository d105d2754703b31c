/* Weight gradient of the depthwise convolution:
 *     dw[ky, kx, c] = sum over n, oy, ox of dy[n, oy, ox, c] x[n, oy sh + ky dh - top, ox sw + kx dw - left,
 * c]
 *
 * x [N, H, W, C] and dy [N, H', W', C] in `elem`, dw f32 [kh, kw, C]: overwritten, aliases nothing.
 *
 * Two stages. A block has a few vectors of channels and a chunk of the outputs, cut into units: a
 * run of neighbouring pixels of a row (weight_row, for windows 3, 5 and 7 wide), or a single pixel
 * (weight_any). A thread sums its units over a row of the window, or over one tap; the block adds its threads
 * in order and writes partial [chunk][tap][channel]. The second stage adds the chunks. */
#include "kernels/columns.cuh"
#include "kernels/elem.cuh"
#include "kernels/launch.cuh"
#include "kernels/tiles.cuh"

enum {
    THREADS = 256,
    LANES = 8,       /* vectors of channels in a block, at most: 128 bytes */
    TALLEST = 8,     /* rows of a window that weight_row takes */
    LEAST_UNITS = 8, /* of a thread */
    MOST_BLOCKS = 1024,
    MOST_TAPS = 65535 /* gridDim.y */
};

/* How the work is cut. Thread t of a block has vector t % lanes, row (t / lanes) % taps of the window and
 * unit t / lanes / taps of the block's; with weight_any taps is 1 and the tap is blockIdx.y. */
typedef struct cut {
    int64_t units, chunk;    /* all; of a block */
    int64_t chunks;          /* blocks along units */
    int unit_columns;        /* units in a row of outputs */
    int strips, vectors;     /* blocks along channels */
    int lanes, taps, levels; /* of a block */
} cut;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static bool is_run(const hl_geometry &a)
{
    bool narrow = (a.kw == 3 || a.kw == 5) && (a.sw == 1 || a.sw == 2);
    return a.dw == 1 && (narrow || (a.kw == 7 && a.sw == 1)) && a.kh <= TALLEST;
}

/* Pixels of a run: as many as registers hold together with the pixels under their windows. */
static __host__ __device__ constexpr int run_of(int kw, int stride)
{
    return kw == 7 ? 1 : kw == 5 ? 4 - stride : 4;
}

/* rows: of all outputs, n h; width: channels of a vector. */
static cut cut_of(const hl_geometry &a, int64_t rows, int width)
{
    cut c;
    bool run = width > 1 && is_run(a);
    int pixels = run ? run_of(a.kw, a.sw) : 1;
    c.unit_columns = (a.y_w + pixels - 1) / pixels;
    c.units = rows * c.unit_columns;
    c.vectors = a.channels / width;
    c.strips = (c.vectors + LANES - 1) / LANES;
    c.lanes = (c.vectors + c.strips - 1) / c.strips;
    c.taps = run ? a.kh : 1;
    c.levels = THREADS / (c.lanes * c.taps);
    int64_t most = c.strips < MOST_BLOCKS ? MOST_BLOCKS / c.strips : 1;
    int64_t passes = ceil_div(c.units, most * c.levels);
    c.chunk = c.levels * (passes < LEAST_UNITS ? (int64_t)LEAST_UNITS : passes);
    c.chunks = ceil_div(c.units, c.chunk);
    return c;
}

struct place {
    int64_t unit, end;
    int chunk, vector, lane, tap, level;
};

/* Threads without a vector of their own have no units. */
static __device__ __forceinline__ place place_of(const cut &c)
{
    place at;
    int rest = (int)threadIdx.x / c.lanes;
    at.lane = (int)threadIdx.x % c.lanes;
    at.tap = rest % c.taps;
    at.level = rest / c.taps;
    at.chunk = (int)blockIdx.x / c.strips;
    at.vector = (int)blockIdx.x % c.strips * c.lanes + at.lane;
    at.end = (at.chunk + 1) * c.chunk < c.units ? (at.chunk + 1) * c.chunk : c.units;
    at.unit = at.level < c.levels && at.vector < c.vectors ? at.chunk * c.chunk + at.level : at.end;
    return at;
}

/* Adds V sums a thread over the levels of the block, in order; to[tap * tap_stride + channel]. All threads
 * come here. */
template <int V>
static __device__ __forceinline__ void reduce(const cut &c, const place &at, const float (&sum)[V],
                                              float *shared, float *to, int64_t tap_stride)
{
    int strip = at.vector - at.lane, left = c.vectors - strip;
    int columns = (left < c.lanes ? left : c.lanes) * V, stride = c.lanes * V, level = stride * c.taps;
    __syncthreads();
    if (at.level < c.levels)
#pragma unroll
        for (int v = 0; v < V; v++)
            shared[at.level * level + at.tap * stride + at.lane * V + v] = sum[v];
    __syncthreads();
    for (int k = (int)threadIdx.x; k < columns * c.taps; k += (int)blockDim.x) {
        int tap = k / columns, column = k % columns;
        float total = 0.0f;
        for (int l = 0; l < c.levels; l++)
            total += shared[l * level + tap * stride + column];
        to[tap * tap_stride + strip * V + column] = total;
    }
}

template <typename T, int V, int K, int STRIDE>
static __global__ void __launch_bounds__(THREADS, 2)
    weight_row(hl_geometry a, cut c, const T *x, const T *dy, float *partial)
{
    enum { RUN = run_of(K, STRIDE) };
    __shared__ float shared[THREADS * V];
    place at = place_of(c);
    int channels = a.channels, channel = at.vector * V;
    float sum[K][V] = {{0}};
#pragma unroll 1
    for (; at.unit < at.end; at.unit += c.levels) {
        int row = (int)(at.unit / c.unit_columns), ox = (int)(at.unit % c.unit_columns) * RUN;
        int iy = row % a.y_h * a.sh + at.tap * a.dh - a.top;
        if (iy < 0 || iy >= a.x_h)
            continue;
        const T *out = dy + hl_pixel(row, a.y_w, 0, channels) + channel;
        const T *in = x + hl_pixel(row / a.y_h * a.x_h + iy, a.x_w, 0, channels) + channel;
        int ix = ox * STRIDE - a.left;
        float d[RUN][V];
#pragma unroll
        for (int p = 0; p < RUN; p++)
            hl_load_inside<T, V>(out, ox + p < a.y_w, (ox + p) * channels, d[p]);
#pragma unroll
        for (int i = 0; i < (RUN - 1) * STRIDE + K; i++) {
            float value[V];
            hl_load_inside<T, V>(in, ix + i >= 0 && ix + i < a.x_w, (ix + i) * channels, value);
#pragma unroll
            for (int p = 0; p < RUN; p++) {
                const int k = i - p * STRIDE;
                if (k >= 0 && k < K)
#pragma unroll
                    for (int v = 0; v < V; v++)
                        sum[k][v] += d[p][v] * value[v];
            }
        }
    }
    float *to = partial + (int64_t)at.chunk * a.kh * K * channels;
#pragma unroll
    for (int k = 0; k < K; k++)
        reduce<V>(c, at, sum[k], shared, to + (int64_t)k * channels, (int64_t)K * channels);
}

template <typename T, int V>
static __global__ void __launch_bounds__(THREADS, 2)
    weight_any(hl_geometry a, cut c, const T *x, const T *dy, float *partial)
{
    __shared__ float shared[THREADS * V];
    place at = place_of(c);
    int channels = a.channels, channel = at.vector * V, taps = a.kh * a.kw;
    for (int tap = (int)blockIdx.y; tap < taps; tap += (int)gridDim.y) {
        int down = tap / a.kw * a.dh - a.top;
        int across = tap % a.kw * a.dw - a.left;
        float sum[V] = {0};
        for (int64_t unit = at.unit; unit < at.end; unit += c.levels) {
            int row = (int)(unit / a.y_w), ox = (int)(unit % a.y_w);
            int iy = row % a.y_h * a.sh + down, ix = ox * a.sw + across;
            if (iy < 0 || iy >= a.x_h || ix < 0 || ix >= a.x_w)
                continue;
            float d[V], value[V];
            hl_load<V>(dy + unit * channels + channel, d);
            hl_load<V>(x + hl_pixel(row / a.y_h * a.x_h + iy, a.x_w, ix, channels) + channel, value);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[v] += d[v] * value[v];
        }
        reduce<V>(c, at, sum, shared, partial + ((int64_t)at.chunk * taps + tap) * channels, 0);
    }
}

static __global__ void __launch_bounds__(HL_FINISH_THREADS)
    weight_finish(const float *partial, int64_t chunks, int64_t columns, float *dw)
{
    __shared__ float shared[HL_FINISH_THREADS];
    int64_t column = hl_finish_column();
    float sum = hl_finish_sum(partial, chunks, columns, column, shared);
    if ((int)threadIdx.x < HL_FINISH_COLUMNS && column < columns)
        dw[column] = sum;
}

template <typename T, int V>
static void launch_row(const hl_geometry &a, const cut &c, const T *x, const T *dy, float *partial,
                       hl_cuda_stream stream)
{
    unsigned blocks = (unsigned)(c.chunks * c.strips);
    if (a.kw == 3 && a.sw == 1)
        HL_LAUNCH((weight_row<T, V, 3, 1>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    else if (a.kw == 3)
        HL_LAUNCH((weight_row<T, V, 3, 2>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    else if (a.kw == 7)
        HL_LAUNCH((weight_row<T, V, 7, 1>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    else if (a.sw == 1)
        HL_LAUNCH((weight_row<T, V, 5, 1>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    else
        HL_LAUNCH((weight_row<T, V, 5, 2>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
}

/* Returns the chunks. */
template <typename T>
static int64_t launch_sums(const hl_geometry &a, int64_t rows, const T *x, const T *dy, float *partial,
                           hl_cuda_stream stream)
{
    enum { V = hl_width<T>::value };
    bool vectors = a.channels % V == 0;
    cut c = cut_of(a, rows, vectors ? V : 1);
    if (vectors && is_run(a)) {
        launch_row<T, V>(a, c, x, dy, partial, stream);
        return c.chunks;
    }
    int taps = a.kh * a.kw;
    dim3 blocks((unsigned)(c.chunks * c.strips), (unsigned)(taps < MOST_TAPS ? taps : MOST_TAPS));
    if (vectors)
        HL_LAUNCH((weight_any<T, V>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    else
        HL_LAUNCH((weight_any<T, 1>), blocks, THREADS, 0, stream, a, c, x, dy, partial);
    return c.chunks;
}

extern "C" size_t hl_depthwise_weight_scratch(const hl_depthwise_args *args)
{
    hl_geometry a;
    int64_t most = 0, columns = args->window.kh * args->window.kw * args->x.c;
    if (hl_shape_count(args->y) == 0 || !hl_geometry_make(args->x, args->y, &args->window, &a))
        return 0;
    /* Whatever the element type: with one channel a vector, four (f32) and eight. */
    for (int width = 1; width <= 8; width = width == 1 ? 4 : 2 * width) {
        int64_t chunks = a.channels % width == 0 ? cut_of(a, args->y.n * args->y.h, width).chunks : 0;
        most = chunks > most ? chunks : most;
    }
    return (size_t)(most * columns) * sizeof(float);
}

extern "C" int hl_launch_depthwise_weight(const hl_depthwise_args *args, const void *x, const void *dy,
                                          float *dw, void *scratch, hl_elem elem, hl_cuda_stream stream)
{
    hl_geometry a;
    int64_t columns = args->window.kh * args->window.kw * args->x.c, chunks = 0;
    if (columns == 0)
        return 0;
    if (!hl_geometry_make(args->x, args->y, &args->window, &a))
        return (int)cudaErrorInvalidValue;
    /* Without outputs there is nothing to sum, and dw is zero. */
    if (hl_shape_count(args->y) > 0)
        HL_DISPATCH_ELEM(elem, T,
                         chunks = launch_sums(a, args->y.n * args->y.h, (const T *)x, (const T *)dy,
                                              (float *)scratch, stream));
    HL_LAUNCH(weight_finish, (unsigned)hl_columns_ceil(columns, HL_FINISH_COLUMNS), HL_FINISH_THREADS, 0,
              stream, (const float *)scratch, chunks, columns, dw);
    return (int)cudaGetLastError();
}
