/* From the gradient of effective weights to those of gates, weights and biases. (A row's factor is no part of
 * a gate's gradient: a layer has the one or the other.)
 *
 * weight_grad: reads dw [O, window, I/G] or [window, O] (f32 or 16-bit), W f32 [O, I/G, window], the gate and
 * the norm; writes dgate f32 [O, I/G] and dweight f32 [O, I/G, window]. bias_grad: reads dy [rows, channels],
 * writes up to three f32 [channels]. Results add to what is there where run->grad_keep is not 0, else they
 * overwrite. They alias no operand.
 *
 * A block of weight_grad has some (o, i) pairs: it turns their windows of dw into the order of W in shared
 * memory, where the contraction with W is a sum over neighbours. */
#include "kernels/columns.cuh"
#include "kernels/elem.cuh"
#include "kernels/expr.cuh"

typedef struct grads {
    float *dgate, *dweight;
    const hl_run_state *run;
} grads;

static __device__ __forceinline__ bool keeps(const grads &g)
{
    return g.run != NULL && g.run->grad_keep != 0.0f;
}

static __device__ __forceinline__ float kept(bool keep, const float *grad, int64_t at)
{
    return keep ? grad[at] : 0.0f;
}

/* Windows of one element: pairs [first, first + count), each row a whole number of vectors. */
template <typename T>
static __global__ void __launch_bounds__(HL_PAIRS_THREADS)
    weight_grad_flat(hl_expr_args e, const T *dw, grads g, int64_t pairs)
{
    enum { V = 8 };
    int64_t at = ((int64_t)blockIdx.x * HL_PAIRS_THREADS + threadIdx.x) * V;
    if (at >= pairs)
        return;
    bool keep = keeps(g);
    float d[V], w[V], old[V] = {0}, scale = hl_expr_row_scale(e, at / e.inputs);
    hl_load<V>(dw + at, d);
    if (g.dgate != NULL) {
        hl_load<V>(e.weight + at, w);
        if (keep)
            hl_load<V>(g.dgate + at, old);
        for (int v = 0; v < V; v++)
            w[v] = old[v] + scale * (d[v] * w[v]);
        hl_store<V>(g.dgate + at, w);
    }
    if (g.dweight != NULL) {
        float delta[V] = {0};
        for (int v = 0; v < V; v++)
            old[v] = 0.0f;
        if (e.gate != NULL)
            hl_load<V>(e.gate + at, delta);
        if (keep)
            hl_load<V>(g.dweight + at, old);
        for (int v = 0; v < V; v++)
            w[v] = old[v] + scale * (1.0f + delta[v]) * d[v];
        hl_store<V>(g.dweight + at, w);
    }
}

/* Everything of pairs [first, first + count) from windows of dw that lie as they do in W: `turned`, in shared
 * memory. */
static __device__ void turned_grads(const hl_expr_args &e, const grads &g, hl_pair start, int64_t first,
                                    int count, float *turned)
{
    bool keep = keeps(g);
    const float *w = e.weight + first * e.window;
    for (int k = (int)threadIdx.x; k < count * e.window; k += HL_PAIRS_THREADS) {
        int64_t at = first * e.window + k;
        if (g.dweight != NULL) {
            hl_pair p = hl_pair_at(start, k / e.window, e.inputs);
            float factor = hl_expr_row_scale(e, p.output) * hl_expr_gate(e.gate, first + k / e.window);
            g.dweight[at] = kept(keep, g.dweight, at) + factor * turned[k];
        }
        turned[k] *= w[k];
    }
    __syncthreads();
    for (int k = (int)threadIdx.x; k < count && g.dgate != NULL; k += HL_PAIRS_THREADS) {
        float sum = 0.0f;
        for (int t = 0; t < e.window; t++)
            sum += turned[k * e.window + t];
        float scale = hl_expr_scale(e, hl_pair_at(start, k, e.inputs).output);
        g.dgate[first + k] = kept(keep, g.dgate, first + k) + scale * sum;
    }
}

template <typename T>
static __global__ void __launch_bounds__(HL_PAIRS_THREADS)
    weight_grad_turned(hl_expr_args e, hl_packing packing, const T *dw, grads g)
{
    __shared__ float turned[HL_PAIRS_TILE];
    int take = hl_pairs_of_block(e.window);
    int64_t first = (int64_t)blockIdx.x * take, left = (int64_t)e.outputs * e.inputs - first;
    int count = (int)(left < take ? left : take);
    hl_pair start = {first / e.inputs, (int)(first % e.inputs)};
    for (int k = (int)threadIdx.x; k < count; k += HL_PAIRS_THREADS) {
        hl_packed_window from = hl_packed_at(e, packing, hl_pair_at(start, k, e.inputs));
        for (int t = 0; t < e.window; t++)
            turned[k * e.window + t] = hl_to_float(dw[from.first + t * from.stride]);
    }
    __syncthreads();
    turned_grads(e, g, start, first, count, turned);
}

/* Windows too large for shared memory: a thread has a pair. */
template <typename T>
static __global__ void __launch_bounds__(HL_PAIRS_THREADS)
    weight_grad_wide(hl_expr_args e, hl_packing packing, const T *dw, grads g)
{
    int64_t pair = (int64_t)blockIdx.x * HL_PAIRS_THREADS + threadIdx.x;
    if (pair >= (int64_t)e.outputs * e.inputs)
        return;
    hl_pair p = {pair / e.inputs, (int)(pair % e.inputs)};
    hl_packed_window from = hl_packed_at(e, packing, p);
    bool keep = keeps(g);
    float scale = hl_expr_row_scale(e, p.output), factor = scale * hl_expr_gate(e.gate, pair), sum = 0.0f;
    for (int t = 0; t < e.window; t++) {
        float d = hl_to_float(dw[from.first + t * from.stride]);
        int64_t at = pair * e.window + t;
        if (g.dweight != NULL)
            g.dweight[at] = kept(keep, g.dweight, at) + factor * d;
        sum += d * e.weight[at];
    }
    if (g.dgate != NULL)
        g.dgate[pair] = kept(keep, g.dgate, pair) + scale * sum;
}

/* Column sums of a chunk of rows to partial [chunk][channels]. */
template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS)
    bias_sums(hl_columns c, const T *dy, float *partial)
{
    __shared__ float shared[HL_COLUMNS_THREADS * V];
    hl_column at = hl_columns_at(c);
    int64_t channels = c.vectors * V;
    float sum[V] = {0};
    for (int64_t row = at.row; row < at.end; row += c.depth) {
        float d[V];
        hl_load<V>(dy + row * channels + at.vector * V, d);
        for (int v = 0; v < V; v++)
            sum[v] += d[v];
    }
    hl_columns_reduce<V>(c, at, sum, shared, partial + at.chunk * channels);
}

static __global__ void __launch_bounds__(HL_FINISH_THREADS)
    bias_finish(hl_expr_args e, const float *partial, int64_t chunks, int64_t channels, hl_bias_grads g,
                const hl_run_state *run)
{
    __shared__ float shared[HL_FINISH_THREADS];
    int64_t column = hl_finish_column();
    float sum = hl_finish_sum(partial, chunks, channels, column, shared);
    if ((int)threadIdx.x >= HL_FINISH_COLUMNS || column >= channels)
        return;
    bool keep = run->grad_keep != 0.0f;
    float scaled = hl_expr_scale(e, column) * sum;
    if (g.dbias != NULL)
        g.dbias[column] = kept(keep, g.dbias, column) + hl_expr_row(e, column) * scaled;
    if (g.doffset != NULL)
        g.doffset[column] = kept(keep, g.doffset, column) + scaled;
    if (g.dshift != NULL)
        g.dshift[column] = kept(keep, g.dshift, column) + sum;
}

template <typename T>
static void launch_weight_grad(const hl_expr_args *expr, hl_packing packing, const T *dw, const grads &g,
                               hl_cuda_stream stream)
{
    int64_t pairs = (int64_t)expr->outputs * expr->inputs;
    int take = hl_pairs_of_block(expr->window);
    unsigned blocks = (unsigned)hl_columns_ceil(pairs, take);
    if (expr->window == 1 && expr->inputs % 8 == 0)
        HL_LAUNCH((weight_grad_flat<T>), (unsigned)hl_columns_ceil(pairs, 8 * HL_PAIRS_THREADS),
                  HL_PAIRS_THREADS, 0, stream, *expr, dw, g, pairs);
    else if (expr->window <= HL_PAIRS_WIDEST)
        HL_LAUNCH((weight_grad_turned<T>), blocks, HL_PAIRS_THREADS, 0, stream, *expr, packing, dw, g);
    else
        HL_LAUNCH((weight_grad_wide<T>), blocks, HL_PAIRS_THREADS, 0, stream, *expr, packing, dw, g);
}

extern "C" int hl_launch_weight_grad(const hl_expr_args *expr, hl_packing packing, const void *dw,
                                     hl_elem dw_elem, float *dgate, float *dweight, const hl_run_state *run,
                                     hl_cuda_stream stream)
{
    if ((int64_t)expr->outputs * expr->inputs * expr->window == 0)
        return 0;
    grads g = {dgate, dweight, run};
    HL_DISPATCH_ELEM(dw_elem, T, launch_weight_grad(expr, packing, (const T *)dw, g, stream));
    return (int)cudaGetLastError();
}

extern "C" size_t hl_bias_grad_scratch(int64_t rows, int64_t channels)
{
    return (size_t)(hl_columns_most_chunks(rows, channels) * channels) * sizeof(float);
}

/* Returns the chunks. */
template <typename T, int V>
static int64_t launch_bias_sums(const T *dy, int64_t rows, int64_t channels, float *partial,
                                hl_cuda_stream stream)
{
    hl_columns c = hl_columns_sum(rows, channels, V);
    HL_LAUNCH((bias_sums<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c, dy,
              partial);
    return c.chunks;
}

extern "C" int hl_launch_bias_grad(const hl_expr_args *expr, const void *dy, hl_elem elem, int64_t rows,
                                   int64_t channels, hl_bias_grads to, const hl_run_state *run, void *scratch,
                                   hl_cuda_stream stream)
{
    int64_t chunks = 0;
    if (channels == 0)
        return 0;
    if (rows > 0)
        HL_DISPATCH_ELEM(elem, T, {
            enum { V = hl_width<T>::value };
            if (channels % V == 0)
                chunks = launch_bias_sums<T, V>((const T *)dy, rows, channels, (float *)scratch, stream);
            else
                chunks = launch_bias_sums<T, 1>((const T *)dy, rows, channels, (float *)scratch, stream);
        });
    HL_LAUNCH(bias_finish, (unsigned)hl_columns_ceil(channels, HL_FINISH_COLUMNS), HL_FINISH_THREADS, 0,
              stream, *expr, (const float *)scratch, chunks, channels, to, run);
    return (int)cudaGetLastError();
}
