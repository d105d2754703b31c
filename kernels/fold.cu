/* Gate fold: effective weights and biases of all layers in one launch.
 *
 * Reads every item's weight f32 [O, I/G, window], gate f32 [O, I/G] and norm [O]; writes `packed` ([O,
 * window, I/G], [window, O], or the sub-function forms of kernels.h) and `bias` [O]. Results overwrite; they
 * alias nothing. f32 results equal hl_weight_expr_fold and hl_weight_expr_bias bit by bit.
 *
 * Every block finds its item in the list. Its share are some (o, i) pairs: their windows are folded in the
 * order of W into shared memory, and leave it in the order of the packed form, so that both sides are read
 * and written in runs. Windows of one element, most of a network's weights, need no turning and go straight
 * through in vectors. */
#include "kernels/elem.cuh"
#include "kernels/expr.cuh"

static __host__ __device__ __forceinline__ int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static __host__ __device__ int64_t weight_blocks(const hl_fold_item &item)
{
    int64_t pairs = (int64_t)item.expr.outputs * item.expr.inputs;
    return item.packed != NULL ? ceil_div(pairs, hl_pairs_of_block(item.expr.window)) : 0;
}

/* The item that a block belongs to: the one that starts at or before it while the next one, if there is one,
 * starts after it. Every thread looks at some items, one of them finds it. All threads come here. */
static __device__ int item_of(const hl_fold_item *items, int count, int64_t block, int *found)
{
    for (int k = (int)threadIdx.x; k < count; k += HL_PAIRS_THREADS)
        if (items[k].first_block <= block && (k + 1 == count || items[k + 1].first_block > block))
            *found = k;
    __syncthreads();
    return *found;
}

/* Where the window of pair p goes. */
static __device__ __forceinline__ hl_packed_window target_of(const hl_fold_item &item, hl_pair p)
{
    const hl_expr_args &e = item.expr;
    if (item.subfunction_groups == 0)
        return hl_packed_at(e, item.packing, p);
    int outputs = e.outputs / item.subfunction_groups;
    int64_t group = p.output / outputs, input = group * e.inputs + p.input;
    int64_t filter = input * outputs + p.output % outputs;
    hl_packed_window at = {filter * e.window, 1};
    if (item.packing == HL_PACK_DEPTHWISE) {
        at.first = filter;
        at.stride = (int64_t)e.outputs * e.inputs;
    }
    return at;
}

/* Pairs [first, first + count) of one-element windows whose packed form has the order of W; a row is a whole
 * number of vectors. */
template <typename T>
static __device__ void fold_flat(const hl_fold_item &item, const float *gate, int64_t first, int count)
{
    enum { V = 8 };
    const hl_expr_args &e = item.expr;
    for (int k = (int)threadIdx.x * V; k < count; k += HL_PAIRS_THREADS * V) {
        float w[V], delta[V] = {0};
        hl_load<V>(e.weight + first + k, w);
        if (gate != NULL)
            hl_load<V>(gate + first + k, delta);
        float scale = hl_expr_row_scale(e, (first + k) / e.inputs);
        for (int v = 0; v < V; v++)
            w[v] = __fmul_rn(scale, __fmul_rn(__fadd_rn(1.0f, delta[v]), w[v]));
        hl_store<V>((T *)item.packed + first + k, w);
    }
}

/* Pairs [first, first + count), whose windows lie in `windows`. */
template <typename T>
static __device__ void fold_pairs(const hl_fold_item &item, const float *gate, int64_t first, int count,
                                  const float *windows)
{
    const hl_expr_args &e = item.expr;
    hl_pair start = {first / e.inputs, (int)(first % e.inputs)};
    for (int k = (int)threadIdx.x; k < count; k += HL_PAIRS_THREADS) {
        hl_pair pair = hl_pair_at(start, k, e.inputs);
        hl_packed_window at = target_of(item, pair);
        float scale = hl_expr_row_scale(e, pair.output), factor = hl_expr_gate(gate, first + k);
        const float *w = windows + (int64_t)k * e.window;
        T *to = (T *)item.packed + at.first;
        for (int t = 0; t < e.window; t++)
            to[t * at.stride] = hl_from_float<T>(__fmul_rn(scale, __fmul_rn(factor, w[t])));
    }
}

template <typename T>
static __device__ void fold_weights(const hl_fold_item &item, int64_t block, float *tile)
{
    const hl_expr_args &e = item.expr;
    const float *gate = item.subfunction_groups != 0 ? NULL : e.gate;
    int take = hl_pairs_of_block(e.window);
    int64_t first = block * take, left = (int64_t)e.outputs * e.inputs - first;
    int count = (int)(left < take ? left : take);
    bool in_order = item.subfunction_groups == 0 || e.inputs == 1;
    const float *windows = e.weight + first * e.window;
    if (e.window == 1 && in_order && e.inputs % 8 == 0) {
        fold_flat<T>(item, gate, first, count);
        return;
    }
    if (e.window > 1 && e.window <= HL_PAIRS_WIDEST) {
        for (int k = (int)threadIdx.x; k < count * e.window; k += HL_PAIRS_THREADS)
            tile[k] = windows[k];
        __syncthreads();
        windows = tile;
    }
    fold_pairs<T>(item, gate, first, count, windows);
}

template <typename T> static __device__ void fold_bias(const hl_fold_item &item, int64_t block)
{
    int64_t o = block * HL_PAIRS_THREADS + threadIdx.x;
    if (o < item.expr.outputs)
        ((T *)item.bias)[o] = hl_from_float<T>(hl_expr_bias(item.expr, o));
}

static __global__ void __launch_bounds__(HL_PAIRS_THREADS) fold(const hl_fold_item *items, int count)
{
    __shared__ float tile[HL_PAIRS_TILE];
    __shared__ int found;
    const hl_fold_item item = items[item_of(items, count, blockIdx.x, &found)];
    int64_t block = blockIdx.x - item.first_block, weights = weight_blocks(item);
    hl_elem elem = block < weights ? item.packed_elem : item.bias_elem;
    if (block < weights && elem == HL_ELEM_BF16)
        fold_weights<__nv_bfloat16>(item, block, tile);
    else if (block < weights && elem == HL_ELEM_F16)
        fold_weights<__half>(item, block, tile);
    else if (block < weights)
        fold_weights<float>(item, block, tile);
    else if (elem == HL_ELEM_BF16)
        fold_bias<__nv_bfloat16>(item, block - weights);
    else if (elem == HL_ELEM_F16)
        fold_bias<__half>(item, block - weights);
    else
        fold_bias<float>(item, block - weights);
}

extern "C" int64_t hl_fold_blocks(hl_fold_item *items, int count)
{
    int64_t blocks = 0;
    for (int i = 0; i < count; i++) {
        items[i].first_block = blocks;
        blocks += weight_blocks(items[i]);
        blocks += items[i].bias != NULL ? ceil_div(items[i].expr.outputs, HL_PAIRS_THREADS) : 0;
    }
    return blocks;
}

extern "C" int hl_launch_fold(const hl_fold_item *items, int count, int64_t blocks, hl_cuda_stream stream)
{
    if (blocks == 0)
        return 0;
    HL_LAUNCH(fold, (unsigned)blocks, HL_PAIRS_THREADS, 0, stream, items, count);
    return (int)cudaGetLastError();
}
