/* Batch norm with running or batch statistics, and its gradients.
 *
 * x, y, dy, dx, residual elem [rows, channels]; statistics and parameters f32 [channels]; without statistics
 * the mean is 0 and the deviation 1. y may be x or the residual, dx may be dy. Sums over rows are
 * deterministic and in two stages: chunks of rows (columns.cuh) leave theirs in scratch, a second launch adds
 * the chunks up in order. Sums are of differences to the first row, variances come from differences to the
 * chunk's own mean, and chunks are combined by the formula of Chan, Golub and LeVeque (1979), so that a large
 * mean cancels nothing. */
#include "kernels/act.cuh"
#include "kernels/norm_params.cuh"

enum { APPLY_ROWS = 8 };

/* ---- statistics ---- */

/* Of each chunk the sum of x less the first row, and the sum of squared differences to the chunk's mean: to
 * partial [chunk][sum, differences][channels]. Behind it, the first row. */
template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    chunk_statistics(hl_columns c, const T *x, float *partial)
{
    __shared__ float shared[HL_COLUMNS_THREADS * V];
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V;
    float *sum_of = partial + at.chunk * 2 * channels, *differences_of = sum_of + channels;
    float rows = (float)((at.chunk + 1) * c.chunk < c.rows ? c.chunk : c.rows - at.chunk * c.chunk);
    float sum[V] = {0}, mean[V] = {0}, first[V] = {0};
    if (at.inside)
        hl_load<V>(x + at.vector * V, first);
    if (at.inside && at.chunk == 0 && at.level == 0)
        for (int i = 0; i < V; i++)
            partial[2 * c.chunks * channels + at.vector * V + i] = first[i];
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float v[V];
        hl_load<V>(x + row * channels + at.vector * V, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum[i] += v[i] - first[i];
    }
    hl_columns_reduce<V>(c, at, sum, shared, sum_of);
    __syncthreads(); /* the sums just written are read by the block that wrote them */
#pragma unroll
    for (int i = 0; i < V; i++) {
        mean[i] = at.inside ? sum_of[at.vector * V + i] / rows : 0.0f;
        sum[i] = 0.0f;
    }
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float v[V];
        hl_load<V>(x + row * channels + at.vector * V, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum[i] += (v[i] - first[i] - mean[i]) * (v[i] - first[i] - mean[i]);
    }
    hl_columns_reduce<V>(c, at, sum, shared, differences_of);
}

/* What is known about some rows of one channel. */
struct moments {
    double count, mean, differences;
};

static __device__ __forceinline__ moments combine(moments a, moments b)
{
    double count = a.count + b.count, step = b.mean - a.mean;
    if (b.count == 0.0)
        return a;
    moments both = {count, a.mean + step * b.count / count,
                    a.differences + b.differences + step * step * a.count * b.count / count};
    return both;
}

static __device__ __forceinline__ void move(float *running, double value, float momentum)
{
    *running = (float)((1.0 - (double)momentum) * (double)*running + (double)momentum * value);
}

static __global__ void __launch_bounds__(HL_FINISH_THREADS)
    finish_statistics(hl_norm_args n, const float *partial, int64_t chunk, int64_t chunks, float *batch_mean,
                      float *inverse_deviation)
{
    __shared__ moments shared[HL_FINISH_THREADS];
    int64_t c = hl_finish_column();
    int slice = (int)threadIdx.x / HL_FINISH_COLUMNS;
    moments all = {0.0, 0.0, 0.0};
    for (int64_t k = slice; k < chunks && c < n.channels; k += HL_FINISH_SLICES) {
        double rows = (double)((k + 1) * chunk < n.rows ? chunk : n.rows - k * chunk);
        moments next = {rows, (double)partial[2 * k * n.channels + c] / rows,
                        (double)partial[(2 * k + 1) * n.channels + c]};
        all = combine(all, next);
    }
    shared[threadIdx.x] = all;
    __syncthreads();
    if (slice == 0 && c < n.channels) {
        for (int k = 1; k < HL_FINISH_SLICES; k++)
            all = combine(all, shared[k * HL_FINISH_COLUMNS + (int)threadIdx.x]);
        double var = all.differences / all.count,
               mean = (double)partial[2 * chunks * n.channels + c] + all.mean;
        batch_mean[c] = (float)mean;
        inverse_deviation[c] = (float)(1.0 / sqrt(var + (double)n.eps));
        if (n.moves) {
            move(&n.mean[c], mean, n.momentum);
            move(&n.var[c], all.count > 1.0 ? all.differences / (all.count - 1.0) : var, n.momentum);
        }
    }
}

/* ---- y = act(scale (x - mean) inverse + shift + residual) ---- */

/* inverse NULL: running statistics, from n.var; both NULL: 1. */
static __device__ __forceinline__ float inverse_of(const hl_norm_args &n, const float *inverse, int64_t c)
{
    if (inverse == NULL && n.var == NULL)
        return 1.0f;
    return inverse != NULL ? inverse[c] : __fdiv_rn(1.0f, __fsqrt_rn(n.var[c] + n.eps));
}

template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    apply(hl_columns c, hl_norm_args n, const float *mean, const float *inverse, const T *x,
          const T *residual, T *y)
{
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V, first = (int64_t)at.vector * V;
    float centre[V] = {0}, factor[V] = {0}, shift[V] = {0};
    for (int i = 0; i < V && at.inside; i++) {
        float inv = inverse_of(n, inverse, first + i);
        centre[i] = mean != NULL ? mean[first + i] : 0.0f;
        factor[i] = n.scale != NULL ? n.scale[first + i] * inv : inv;
        shift[i] = n.shift != NULL ? n.shift[first + i] : 0.0f;
    }
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float v[V], add[V] = {0};
        hl_load<V>(x + row * channels + first, v);
        if (residual != NULL)
            hl_load<V>(residual + row * channels + first, add);
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = hl_act_forward(n.act, (v[i] - centre[i]) * factor[i] + shift[i] + add[i]);
        hl_store<V>(y + row * channels + first, v);
    }
}

template <typename T, int V>
static void launch_apply(const hl_norm_args *n, const float *mean, const float *inverse, const T *x,
                         const T *residual, T *y, hl_cuda_stream stream)
{
    hl_columns c = hl_columns_make(n->rows, n->channels, V, APPLY_ROWS);
    HL_LAUNCH((apply<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c, *n, mean,
              inverse, x, residual, y);
}

extern "C" int hl_launch_norm(const hl_norm_args *args, const void *x, const void *residual, void *y,
                              hl_elem elem, hl_cuda_stream stream)
{
    if (args->rows == 0 || args->channels == 0)
        return 0;
    HL_DISPATCH_ELEM(elem, T,
                     HL_WITH_WIDTH(T, args->channels, V,
                                   launch_apply<T, V>(args, args->mean, NULL, (const T *)x,
                                                      (const T *)residual, (T *)y, stream)));
    return (int)cudaGetLastError();
}

extern "C" size_t hl_norm_batch_scratch(int64_t rows, int64_t channels)
{
    return (size_t)((2 * hl_columns_most_chunks(rows, channels) + 1) * channels) * sizeof(float);
}

template <typename T, int V>
static void launch_statistics(const hl_norm_args *n, const T *x, float *batch_mean, float *inverse,
                              float *partial, hl_cuda_stream stream)
{
    hl_columns c = hl_columns_sum(n->rows, n->channels, V);
    HL_LAUNCH((chunk_statistics<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c,
              x, partial);
    HL_LAUNCH(finish_statistics, (unsigned)hl_columns_ceil(n->channels, HL_FINISH_COLUMNS), HL_FINISH_THREADS,
              0, stream, *n, (const float *)partial, c.chunk, c.chunks, batch_mean, inverse);
}

extern "C" int hl_launch_norm_batch(const hl_norm_args *args, const void *x, const void *residual, void *y,
                                    float *batch_mean, float *inverse_deviation, void *scratch, hl_elem elem,
                                    hl_cuda_stream stream)
{
    if (args->rows == 0 || args->channels == 0)
        return 0;
    HL_DISPATCH_ELEM(elem, T, HL_WITH_WIDTH(T, args->channels, V, {
                         launch_statistics<T, V>(args, (const T *)x, batch_mean, inverse_deviation,
                                                 (float *)scratch, stream);
                         launch_apply<T, V>(args, batch_mean, inverse_deviation, (const T *)x,
                                            (const T *)residual, (T *)y, stream);
                     }));
    return (int)cudaGetLastError();
}

/* ---- gradients ---- */

/* Sums of dy and of dy (x - mean) inverse over a chunk, to partial [chunk][dy, dot][channels]. */
template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    grad_sums(hl_columns c, hl_norm_args n, const float *mean, const float *inverse, const T *dy, const T *x,
              float *partial)
{
    __shared__ float shared[HL_COLUMNS_THREADS * V];
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V, first = (int64_t)at.vector * V;
    float *to = partial + at.chunk * 2 * channels;
    float sum[V] = {0}, dot[V] = {0}, centre[V] = {0}, inv[V] = {0};
    for (int i = 0; i < V && at.inside; i++) {
        centre[i] = mean != NULL ? mean[first + i] : 0.0f;
        inv[i] = inverse_of(n, inverse, first + i);
    }
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float g[V], v[V];
        hl_load<V>(dy + row * channels + first, g);
        hl_load<V>(x + row * channels + first, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            sum[i] += g[i];
            dot[i] += g[i] * ((v[i] - centre[i]) * inv[i]);
        }
    }
    hl_columns_reduce<V>(c, at, sum, shared, to);
    hl_columns_reduce<V>(c, at, dot, shared, to + channels);
}

/* totals NULL: running statistics, whose gradient passes nothing through mean and variance. */
template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    grad_apply(hl_columns c, hl_norm_args n, const float *mean, const float *inverse, const float *totals,
               const T *dy, const T *x, T *dx)
{
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V, first = (int64_t)at.vector * V;
    float centre[V] = {0}, inv[V] = {0}, factor[V] = {0}, sum[V] = {0}, dot[V] = {0};
    for (int i = 0; i < V && at.inside; i++) {
        inv[i] = inverse_of(n, inverse, first + i);
        factor[i] = n.scale != NULL ? n.scale[first + i] * inv[i] : inv[i];
        if (totals != NULL) {
            centre[i] = mean[first + i];
            sum[i] = totals[first + i] / (float)n.rows;
            dot[i] = totals[channels + first + i] / (float)n.rows;
        }
    }
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float g[V], v[V] = {0};
        hl_load<V>(dy + row * channels + first, g);
        if (totals != NULL)
            hl_load<V>(x + row * channels + first, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            g[i] = factor[i] * (totals != NULL ? g[i] - sum[i] - (v[i] - centre[i]) * inv[i] * dot[i] : g[i]);
        hl_store<V>(dx + row * channels + first, g);
    }
}

extern "C" size_t hl_norm_grad_scratch(int64_t rows, int64_t channels)
{
    return (size_t)(2 * (hl_columns_most_chunks(rows, channels) + 1) * channels) * sizeof(float);
}

template <typename T, int V>
static void launch_grad(const hl_norm_args *n, const T *dy, const T *x, const float *batch_mean,
                        const float *inverse, T *dx, float *dscale, float *dshift, const hl_run_state *run,
                        float *scratch, hl_cuda_stream stream)
{
    const bool batch = batch_mean != NULL;
    const float *mean = batch ? batch_mean : n->mean;
    float *totals = scratch, *partial = scratch + 2 * n->channels;
    if (batch || dscale != NULL || dshift != NULL) {
        hl_columns c = hl_columns_sum(n->rows, n->channels, V);
        HL_LAUNCH((grad_sums<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c,
                  *n, mean, inverse, dy, x, partial);
        HL_LAUNCH(hl_finish_norm_grad, (unsigned)hl_columns_ceil(2 * n->channels, HL_FINISH_COLUMNS),
                  HL_FINISH_THREADS, 0, stream, (const float *)partial, c.chunks, n->channels, totals, dscale,
                  dshift, run);
    }
    if (dx == NULL)
        return;
    hl_columns c = hl_columns_make(n->rows, n->channels, V, APPLY_ROWS);
    HL_LAUNCH((grad_apply<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c, *n,
              mean, inverse, (const float *)(batch ? totals : NULL), dy, x, dx);
}

extern "C" int hl_launch_norm_grad(const hl_norm_args *args, const void *dy, const void *x,
                                   const float *batch_mean, const float *inverse_deviation, void *dx,
                                   float *dscale, float *dshift, const hl_run_state *run, void *scratch,
                                   hl_elem elem, hl_cuda_stream stream)
{
    if (args->rows == 0 || args->channels == 0)
        return 0;
    HL_DISPATCH_ELEM(
        elem, T,
        HL_WITH_WIDTH(T, args->channels, V,
                      launch_grad<T, V>(args, (const T *)dy, (const T *)x, batch_mean, inverse_deviation,
                                        (T *)dx, dscale, dshift, run, (float *)scratch, stream)));
    return (int)cudaGetLastError();
}
