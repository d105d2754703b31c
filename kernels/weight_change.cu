/* Weights that are changed as a whole: f(W) and the gradients of its factors (backend/weight_change.c).
 *
 * All arrays are f32 in C order. hl_launch_change_value reads W and the factors and writes f(W), one thread
 * an element; factors of low rank are multiplied out where they are needed. hl_launch_change_grad turns dv
 * into the gradients of the factors' matrices, and those into the gradients of what the matrices are products
 * of: of `left` by rows, of `right` by columns, in chunks of rows that are added in order. f(W) has the
 * roundings of the CPU (no fused multiply-add); sums over rows and columns have an order of their own. */
#include "kernels/kernels.h"
#include "kernels/launch.cuh"
#include "kernels/reduce.cuh"

enum {
    RIGHT_COLUMNS = 32, /* columns of a block of right_grad, and lanes that share its rows */
    RIGHT_LANES = 8,
    RIGHT_RANKS = 8, /* ranks that a thread sums at once */
    RIGHT_CHUNK = 2048
};

static __device__ __forceinline__ float factor_at(const hl_factor_args &f, int64_t row, int64_t column)
{
    if (f.right == NULL)
        return f.left[row * f.columns + column];
    const float *left = f.left + row * f.rank;
    const float *right = f.right + row / f.rows * f.rank * f.columns + column;
    float sum = 0.0f;
    for (int64_t r = 0; r < f.rank; r++)
        sum = __fadd_rn(sum, __fmul_rn(left[r], right[r * f.columns]));
    return sum;
}

/* Where element k of W lies in the matrices of a Kronecker product. */
struct kronecker_place {
    int64_t outer_row, outer_column, inner_row, inner_column;
};

static __device__ __forceinline__ kronecker_place kronecker_at(const hl_change_args &a, int64_t k)
{
    int64_t length = a.inputs * a.window, o = k / length, in_row = k % length;
    const hl_factor_args &inner = a.factor[1];
    kronecker_place p = {o / inner.rows, in_row / inner.columns, o % inner.rows, in_row % inner.columns};
    return p;
}

/* f(W) at element k, but for the magnitude. */
static __device__ float value_at(const hl_change_args &a, int64_t k)
{
    const hl_factor_args &f = a.factor[0];
    float w = a.weight[k], change;
    switch (a.kind) {
    case HL_CHANGE_GATE:
        return __fmul_rn(__fadd_rn(1.0f, factor_at(f, k / a.window / a.inputs, k / a.window % a.inputs)), w);
    case HL_CHANGE_MASK:
        return f.left[k] > a.scale ? w : 0.0f;
    case HL_CHANGE_KRONECKER: {
        kronecker_place p = kronecker_at(a, k);
        change = __fmul_rn(factor_at(f, p.outer_row, p.outer_column),
                           factor_at(a.factor[1], p.inner_row, p.inner_column));
        break;
    }
    default:
        change = factor_at(f, k / f.columns, k % f.columns);
        if (a.kind == HL_CHANGE_HADAMARD)
            change = __fmul_rn(change, factor_at(a.factor[1], k / f.columns, k % f.columns));
    }
    return __fadd_rn(w, __fmul_rn(a.scale, change));
}

static __global__ void __launch_bounds__(HL_THREADS)
    change_value(hl_change_args a, float *value, int64_t count)
{
    for (int64_t k = hl_thread_first(); k < count; k += hl_thread_stride())
        value[k] = value_at(a, k);
}

/* A block has an output channel. */
static __global__ void __launch_bounds__(HL_THREADS) scale_to_magnitude(hl_change_args a, float *value)
{
    __shared__ float shared[32];
    int64_t length = a.inputs * a.window;
    float *row = value + blockIdx.x * length;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < length; j += HL_THREADS)
        sum += row[j] * row[j];
    float norm = sqrtf(hl_block_sum(sum, shared)),
          factor = norm > 0.0f ? a.magnitude[blockIdx.x] / norm : 0.0f;
    for (int64_t j = threadIdx.x; j < length; j += HL_THREADS)
        row[j] *= factor;
}

static __device__ __forceinline__ float kept(const hl_run_state *run, const float *grad, int64_t at)
{
    return run->grad_keep != 0.0f ? grad[at] : 0.0f;
}

/* dv <- dv magnitude / |V|, dmagnitude = dv V / |V|, a block an output channel. */
static __global__ void __launch_bounds__(HL_THREADS)
    magnitude_grad(hl_change_args a, float *dv, const hl_run_state *run)
{
    __shared__ float shared[32];
    int64_t length = a.inputs * a.window, o = blockIdx.x;
    float squares = 0.0f, product = 0.0f;
    for (int64_t j = threadIdx.x; j < length; j += HL_THREADS) {
        float v = value_at(a, o * length + j);
        squares += v * v;
        product += dv[o * length + j] * v;
    }
    float norm = sqrtf(hl_block_sum(squares, shared)), inverse = norm > 0.0f ? 1.0f / norm : 0.0f;
    product = hl_block_sum(product, shared);
    if (threadIdx.x == 0 && a.dmagnitude != NULL)
        a.dmagnitude[o] = kept(run, a.dmagnitude, o) + product * inverse;
    float factor = a.magnitude[o] * inverse;
    for (int64_t j = threadIdx.x; j < length; j += HL_THREADS)
        dv[o * length + j] *= factor;
}

/* ---- from dv to the gradient of a factor's matrices, but for the coefficient ---- */

/* HADAMARD, GATE, MASK: one thread an element. */
static __global__ void __launch_bounds__(HL_THREADS)
    matrix_grad(hl_change_args a, int index, const float *dv, float *df, int64_t count)
{
    const hl_factor_args &other = a.factor[1 - index];
    for (int64_t k = hl_thread_first(); k < count; k += hl_thread_stride()) {
        float sum = 0.0f;
        if (a.kind == HL_CHANGE_HADAMARD)
            sum = dv[k] * factor_at(other, k / other.columns, k % other.columns);
        else if (a.kind == HL_CHANGE_MASK)
            sum = dv[k] * a.weight[k];
        else
            for (int64_t t = k * a.window; t < (k + 1) * a.window; t++)
                sum += dv[t] * a.weight[t];
        df[k] = sum;
    }
}

/* KRONECKER: a block an element of the outer matrix. */
static __global__ void __launch_bounds__(HL_THREADS)
    kronecker_outer_grad(hl_change_args a, const float *dv, float *df)
{
    __shared__ float shared[32];
    const hl_factor_args &outer = a.factor[0], &inner = a.factor[1];
    int64_t at = blockIdx.x, length = a.inputs * a.window;
    const float *from = dv + at / outer.columns * inner.rows * length + at % outer.columns * inner.columns;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x; j < inner.rows * inner.columns; j += HL_THREADS) {
        int64_t row = j / inner.columns, column = j % inner.columns;
        sum += from[row * length + column] * factor_at(inner, row, column);
    }
    sum = hl_block_sum(sum, shared);
    if (threadIdx.x == 0)
        df[at] = sum;
}

/* KRONECKER: a thread an element of the inner matrix. */
static __global__ void __launch_bounds__(HL_THREADS)
    kronecker_inner_grad(hl_change_args a, const float *dv, float *df, int64_t count)
{
    const hl_factor_args &outer = a.factor[0], &inner = a.factor[1];
    int64_t length = a.inputs * a.window;
    for (int64_t k = hl_thread_first(); k < count; k += hl_thread_stride()) {
        int64_t row = k / inner.columns, column = k % inner.columns;
        float sum = 0.0f;
        for (int64_t at = 0; at < outer.rows * outer.columns; at++)
            sum += factor_at(outer, at / outer.columns, at % outer.columns) *
                   dv[(at / outer.columns * inner.rows + row) * length + at % outer.columns * inner.columns +
                      column];
        df[k] = sum;
    }
}

/* ---- from there to parameters ---- */

/* grad = keep grad + factor from[0] + factor from[count] + ... */
static __global__ void __launch_bounds__(HL_THREADS)
    set_grad(const float *from, int64_t parts, float factor, float *grad, int64_t count,
             const hl_run_state *run)
{
    for (int64_t k = hl_thread_first(); k < count; k += hl_thread_stride()) {
        float sum = 0.0f;
        for (int64_t part = 0; part < parts; part++)
            sum += from[part * count + k];
        grad[k] = kept(run, grad, k) + factor * sum;
    }
}

/* A warp an element of left. */
static __global__ void __launch_bounds__(HL_THREADS)
    left_grad(hl_factor_args f, float factor, const float *df, const hl_run_state *run)
{
    int64_t at = (int64_t)blockIdx.x * (HL_THREADS / 32) + threadIdx.x / 32;
    bool inside = at < f.blocks * f.rows * f.rank;
    int64_t row = inside ? at / f.rank : 0, r = inside ? at % f.rank : 0;
    const float *d = df + row * f.columns, *right = f.right + (row / f.rows * f.rank + r) * f.columns;
    float sum = 0.0f;
    for (int64_t j = threadIdx.x % 32; j < f.columns && inside; j += 32)
        sum += d[j] * right[j];
    sum = hl_warp_sum(sum);
    if (inside && threadIdx.x % 32 == 0)
        f.dleft[at] = kept(run, f.dleft, at) + factor * sum;
}

static __host__ __device__ __forceinline__ int64_t right_chunks(const hl_factor_args &f)
{
    return (f.rows + RIGHT_CHUNK - 1) / RIGHT_CHUNK;
}

/* Sums of a chunk of rows to partial [chunk][blocks, rank, columns]: a block has some columns, threads of a
 * column share its rows. */
static __global__ void __launch_bounds__(RIGHT_COLUMNS *RIGHT_LANES)
    right_grad(hl_factor_args f, const float *df, float *partial)
{
    __shared__ float shared[RIGHT_LANES][RIGHT_COLUMNS];
    int64_t strips = (f.columns + RIGHT_COLUMNS - 1) / RIGHT_COLUMNS, chunks = right_chunks(f);
    int64_t chunk = blockIdx.x % chunks, strip = blockIdx.x / chunks % strips,
            block = blockIdx.x / chunks / strips;
    int column = (int)threadIdx.x % RIGHT_COLUMNS, lane = (int)threadIdx.x / RIGHT_COLUMNS;
    int64_t at = strip * RIGHT_COLUMNS + column, end = (chunk + 1) * RIGHT_CHUNK;
    end = end < f.rows ? end : f.rows;
    for (int64_t first = 0; first < f.rank; first += RIGHT_RANKS) {
        float sum[RIGHT_RANKS] = {0};
        for (int64_t row = chunk * RIGHT_CHUNK + lane; row < end && at < f.columns; row += RIGHT_LANES) {
            int64_t full = block * f.rows + row;
            float d = df[full * f.columns + at];
            for (int r = 0; r < RIGHT_RANKS; r++)
                if (first + r < f.rank)
                    sum[r] += f.left[full * f.rank + first + r] * d;
        }
        for (int r = 0; r < RIGHT_RANKS; r++) {
            __syncthreads();
            shared[lane][column] = sum[r];
            __syncthreads();
            if (lane != 0 || at >= f.columns || first + r >= f.rank)
                continue;
            float total = 0.0f;
            for (int k = 0; k < RIGHT_LANES; k++)
                total += shared[k][column];
            partial[((chunk * f.blocks + block) * f.rank + first + r) * f.columns + at] = total;
        }
    }
}

static int64_t matrix_count(const hl_factor_args &f)
{
    return f.blocks * f.rows * f.columns;
}

static bool is_trained(const hl_factor_args &f)
{
    return f.dleft != NULL || f.dright != NULL;
}

static bool has_own_matrix_grad(const hl_change_args &a, int i)
{
    return is_trained(a.factor[i]) && a.kind != HL_CHANGE_ADD;
}

extern "C" int hl_launch_change_value(const hl_change_args *args, float *value, hl_cuda_stream stream)
{
    int64_t count = args->outputs * args->inputs * args->window;
    if (count == 0)
        return 0;
    HL_LAUNCH(change_value, hl_blocks(count), HL_THREADS, 0, stream, *args, value, count);
    if (args->magnitude != NULL)
        HL_LAUNCH(scale_to_magnitude, (unsigned)args->outputs, HL_THREADS, 0, stream, *args, value);
    return (int)cudaGetLastError();
}

extern "C" size_t hl_change_grad_scratch(const hl_change_args *args)
{
    int64_t floats = 0, partial = 0;
    for (int i = 0; i < 2; i++) {
        const hl_factor_args &f = args->factor[i];
        if (has_own_matrix_grad(*args, i))
            floats += matrix_count(f);
        int64_t wanted = f.dright != NULL ? right_chunks(f) * f.blocks * f.rank * f.columns : 0;
        partial = wanted > partial ? wanted : partial;
    }
    return (size_t)(floats + partial) * sizeof(float);
}

static void launch_matrix_grad(const hl_change_args &a, int i, const float *dv, float *df,
                               hl_cuda_stream stream)
{
    int64_t count = matrix_count(a.factor[i]);
    if (a.kind != HL_CHANGE_KRONECKER)
        HL_LAUNCH(matrix_grad, hl_blocks(count), HL_THREADS, 0, stream, a, i, dv, df, count);
    else if (i == 0)
        HL_LAUNCH(kronecker_outer_grad, (unsigned)count, HL_THREADS, 0, stream, a, dv, df);
    else
        HL_LAUNCH(kronecker_inner_grad, hl_blocks(count), HL_THREADS, 0, stream, a, dv, df, count);
}

static void launch_factor_grad(const hl_factor_args &f, float factor, const float *df,
                               const hl_run_state *run, float *partial, hl_cuda_stream stream)
{
    if (f.right == NULL) {
        int64_t count = matrix_count(f);
        HL_LAUNCH(set_grad, hl_blocks(count), HL_THREADS, 0, stream, df, (int64_t)1, factor, f.dleft, count,
                  run);
        return;
    }
    int64_t lefts = f.blocks * f.rows * f.rank, rights = f.blocks * f.rank * f.columns,
            chunks = right_chunks(f);
    if (f.dleft != NULL)
        HL_LAUNCH(left_grad, (unsigned)((lefts + HL_THREADS / 32 - 1) / (HL_THREADS / 32)), HL_THREADS, 0,
                  stream, f, factor, df, run);
    if (f.dright == NULL)
        return;
    int64_t strips = (f.columns + RIGHT_COLUMNS - 1) / RIGHT_COLUMNS;
    HL_LAUNCH(right_grad, (unsigned)(f.blocks * strips * chunks), RIGHT_COLUMNS * RIGHT_LANES, 0, stream, f,
              df, partial);
    HL_LAUNCH(set_grad, hl_blocks(rights), HL_THREADS, 0, stream, (const float *)partial, chunks, factor,
              f.dright, rights, run);
}

extern "C" int hl_launch_change_grad(const hl_change_args *args, float *dv, const hl_run_state *run,
                                     void *scratch, hl_cuda_stream stream)
{
    const hl_change_args &a = *args;
    if (a.outputs * a.inputs * a.window == 0)
        return 0;
    float *df[2] = {dv, dv}, *next = (float *)scratch;
    if (a.magnitude != NULL)
        HL_LAUNCH(magnitude_grad, (unsigned)a.outputs, HL_THREADS, 0, stream, a, dv, run);
    for (int i = 0; i < 2; i++) {
        if (!has_own_matrix_grad(a, i))
            continue;
        df[i] = next;
        next += matrix_count(a.factor[i]);
        launch_matrix_grad(a, i, dv, df[i], stream);
    }
    float factor = a.kind == HL_CHANGE_GATE || a.kind == HL_CHANGE_MASK ? 1.0f : a.scale;
    for (int i = 0; i < 2; i++)
        if (is_trained(a.factor[i]))
            launch_factor_grad(a.factor[i], factor, df[i], run, next, stream);
    return (int)cudaGetLastError();
}
