/* Layer norm over the channels of each row, and its gradients.
 *
 * x, y, dy, dx elem [rows, channels]; scale, shift and their gradients f32 [channels]. A group of 4 to 32
 * neighbouring threads has a row and goes over it in turns of a vector each; what it reads again is in the
 * first-level cache. Mean and squares are taken one after the other, so that a large mean cancels nothing.
 *
 * The gradients of scale and shift are sums over rows: the first kernel leaves each row's mean and 1 /
 * deviation in scratch, the second adds up chunks of rows by columns (columns.cuh), the third the chunks, all
 * in order. */
#include "kernels/norm_params.cuh"

enum { ROW_THREADS = 256, FEWEST_LANES = 4, MOST_LANES = 32 };

/* How a row is divided: vector p * lanes + lane in turn p. */
typedef struct layer_rows {
    int64_t rows;
    int vectors, lanes, turns;
} layer_rows;

/* As many lanes as leave the fewest of them idle. */
static layer_rows divide(int64_t rows, int64_t channels, int width)
{
    layer_rows best = {0, 0, 0, 0};
    for (int lanes = FEWEST_LANES; lanes <= MOST_LANES; lanes *= 2) {
        int vectors = (int)(channels / width), turns = (vectors + lanes - 1) / lanes;
        if (best.lanes == 0 || turns * lanes <= best.turns * best.lanes)
            best = {rows, vectors, lanes, turns};
    }
    return best;
}

static unsigned blocks_of(const layer_rows *l)
{
    return (unsigned)hl_columns_ceil(l->rows * l->lanes, ROW_THREADS);
}

struct row_spot {
    int64_t row;
    int lane;
    bool inside;
};

static __device__ __forceinline__ row_spot row_at(const layer_rows &l)
{
    int64_t thread = (int64_t)blockIdx.x * ROW_THREADS + threadIdx.x;
    row_spot at = {thread / l.lanes, (int)(thread % l.lanes), thread / l.lanes < l.rows};
    return at;
}

/* Over the lanes of a row; every one of them gets the sum. All threads of the warp come here. */
static __device__ __forceinline__ float row_sum(float value, int lanes)
{
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

/* x is at the row's start. All threads of the warp come here. */
template <typename T, int V>
static __device__ __forceinline__ void row_statistics(const layer_rows &l, const row_spot &at, const T *x,
                                                      float eps, float *mean, float *inverse)
{
    const float channels = (float)(l.vectors * V);
    float sum = 0.0f, square = 0.0f;
    for (int vector = at.lane; at.inside && vector < l.vectors; vector += l.lanes) {
        float v[V];
        hl_load<V>(x + vector * V, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum += v[i];
    }
    const float centre = row_sum(sum, l.lanes) / channels;
    for (int vector = at.lane; at.inside && vector < l.vectors; vector += l.lanes) {
        float v[V];
        hl_load<V>(x + vector * V, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            square += (v[i] - centre) * (v[i] - centre);
    }
    *mean = centre;
    *inverse = __fdiv_rn(1.0f, __fsqrt_rn(row_sum(square, l.lanes) / channels + eps));
}

/* V values of a parameter; `otherwise` where there is none. */
template <int V>
static __device__ __forceinline__ void load_param(const float *p, int at, float otherwise, float (&out)[V])
{
    if (p != NULL) {
#pragma unroll
        for (int i = 0; i < V; i++)
            out[i] = p[at + i];
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            out[i] = otherwise;
    }
}

template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS)
    normalise(layer_rows l, const T *x, const float *scale, const float *shift, float eps, T *y)
{
    row_spot at = row_at(l);
    int64_t start = at.row * l.vectors * V;
    float mean, inverse;
    row_statistics<T, V>(l, at, x + start, eps, &mean, &inverse);
    for (int vector = at.lane; at.inside && vector < l.vectors; vector += l.lanes) {
        float v[V], factor[V], offset[V];
        hl_load<V>(x + start + vector * V, v);
        load_param<V>(scale, vector * V, 1.0f, factor);
        load_param<V>(shift, vector * V, 0.0f, offset);
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = (v[i] - mean) * inverse * factor[i] + offset[i];
        hl_store<V>(y + start + vector * V, v);
    }
}

extern "C" int hl_launch_layer_norm(const void *x, const float *scale, const float *shift, float eps, void *y,
                                    int64_t rows, int64_t channels, hl_elem elem, hl_cuda_stream stream)
{
    if (rows == 0 || channels == 0)
        return 0;
    HL_DISPATCH_ELEM(elem, T, HL_WITH_WIDTH(T, channels, V, {
                         layer_rows l = divide(rows, channels, V);
                         HL_LAUNCH((normalise<T, V>), blocks_of(&l), ROW_THREADS, 0, stream, l, (const T *)x,
                                   scale, shift, eps, (T *)y);
                     }));
    return (int)cudaGetLastError();
}

/* ---- gradients ---- */

/* With xhat = (x - mean) / deviation and g = scale dy:
 *     dx = (g - mean of g - xhat * mean of g xhat) / deviation
 * statistics [rows][mean, 1 / deviation], or NULL; dx or NULL. */
template <typename T, int V>
static __global__ void __launch_bounds__(ROW_THREADS)
    row_grad(layer_rows l, const T *dy, const T *x, const float *scale, float eps, T *dx, float *statistics)
{
    row_spot at = row_at(l);
    int64_t start = at.row * l.vectors * V;
    const float channels = (float)(l.vectors * V);
    float mean, inverse, sum = 0.0f, dot = 0.0f;
    row_statistics<T, V>(l, at, x + start, eps, &mean, &inverse);
    if (statistics != NULL && at.inside && at.lane == 0) {
        statistics[2 * at.row] = mean;
        statistics[2 * at.row + 1] = inverse;
    }
    if (dx == NULL) /* the same for all threads */
        return;
    for (int vector = at.lane; at.inside && vector < l.vectors; vector += l.lanes) {
        float v[V], g[V], factor[V];
        hl_load<V>(x + start + vector * V, v);
        hl_load<V>(dy + start + vector * V, g);
        load_param<V>(scale, vector * V, 1.0f, factor);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum += g[i] * factor[i];
            dot += g[i] * factor[i] * ((v[i] - mean) * inverse);
        }
    }
    sum = row_sum(sum, l.lanes) / channels;
    dot = row_sum(dot, l.lanes) / channels;
    for (int vector = at.lane; at.inside && vector < l.vectors; vector += l.lanes) {
        float v[V], g[V], factor[V];
        hl_load<V>(x + start + vector * V, v);
        hl_load<V>(dy + start + vector * V, g);
        load_param<V>(scale, vector * V, 1.0f, factor);
#pragma unroll
        for (int i = 0; i < V; i++)
            g[i] = inverse * (g[i] * factor[i] - sum - (v[i] - mean) * inverse * dot);
        hl_store<V>(dx + start + vector * V, g);
    }
}

/* Sums of dy and of dy xhat over a chunk, to partial [chunk][dy, dot][channels]. */
template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    column_sums(hl_columns c, const T *dy, const T *x, const float *statistics, float *partial)
{
    __shared__ float shared[HL_COLUMNS_THREADS * V];
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V, first = (int64_t)at.vector * V;
    float *to = partial + at.chunk * 2 * channels;
    float sum[V] = {0}, dot[V] = {0};
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float g[V], v[V], mean = statistics[2 * row], inverse = statistics[2 * row + 1];
        hl_load<V>(dy + row * channels + first, g);
        hl_load<V>(x + row * channels + first, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum[i] += g[i];
            dot[i] += g[i] * ((v[i] - mean) * inverse);
        }
    }
    hl_columns_reduce<V>(c, at, sum, shared, to);
    hl_columns_reduce<V>(c, at, dot, shared, to + channels);
}

extern "C" size_t hl_layer_norm_grad_scratch(int64_t rows, int64_t channels)
{
    return (size_t)(2 * rows + 2 * hl_columns_most_chunks(rows, channels) * channels) * sizeof(float);
}

template <typename T, int V>
static void launch_grad(const T *dy, const T *x, const float *scale, float eps, T *dx, float *dscale,
                        float *dshift, const hl_run_state *run, float *scratch, int64_t rows,
                        int64_t channels, hl_cuda_stream stream)
{
    const bool sums = dscale != NULL || dshift != NULL;
    float *statistics = sums ? scratch : (float *)NULL, *partial = scratch + 2 * rows;
    layer_rows l = divide(rows, channels, V);
    HL_LAUNCH((row_grad<T, V>), blocks_of(&l), ROW_THREADS, 0, stream, l, dy, x, scale, eps, dx, statistics);
    if (!sums)
        return;
    hl_columns c = hl_columns_sum(rows, channels, V);
    HL_LAUNCH((column_sums<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c, dy,
              x, (const float *)statistics, partial);
    HL_LAUNCH(hl_finish_norm_grad, (unsigned)hl_columns_ceil(2 * channels, HL_FINISH_COLUMNS),
              HL_FINISH_THREADS, 0, stream, (const float *)partial, c.chunks, channels, (float *)NULL, dscale,
              dshift, run);
}

extern "C" int hl_launch_layer_norm_grad(const void *dy, const void *x, const float *scale, float eps,
                                         void *dx, float *dscale, float *dshift, const hl_run_state *run,
                                         void *scratch, int64_t rows, int64_t channels, hl_elem elem,
                                         hl_cuda_stream stream)
{
    if (rows == 0 || channels == 0)
        return 0;
    HL_DISPATCH_ELEM(elem, T,
                     HL_WITH_WIDTH(T, channels, V,
                                   launch_grad<T, V>((const T *)dy, (const T *)x, scale, eps, (T *)dx, dscale,
                                                     dshift, run, (float *)scratch, rows, channels, stream)));
    return (int)cudaGetLastError();
}
