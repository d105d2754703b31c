/* Recombination of kept sub-function outputs, and its gradient.
 *
 * S [rows, G I/G O/G] in `elem`, sub-function (g, j, o') at channel (g I/G + j) O/G + o'; delta f32 [O, I/G];
 * y, residual, gradients, dz [rows, O] in `elem`; bias [O]. y may be the residual, dz one of the gradients;
 * no other aliasing. dgate adds to what is there where run->grad_keep is not 0, else it overwrites.
 *
 * Threads keep to one vector of outputs (columns.cuh), so that gates and biases are read once for several
 * rows. In depthwise layers I/G = 1: S and y have the same channels and the layer is a scale, a shift and an
 * activation. */
#include "kernels/act.cuh"
#include "kernels/columns.cuh"
#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/launch.cuh"

enum {
    ROWS = 4, /* of a thread, forward */
    BATCH = 4 /* inputs that the gradient sums in registers at once */
};

/* Shape in the kernels' terms. With one input a group all groups are one: S and y have the same channels. */
typedef struct form {
    int outputs, subfunctions; /* channels of y and S */
    int group_outputs, inputs;
} form;

static form form_of(const hl_recombine_args *args)
{
    form f;
    f.outputs = (int)args->channels;
    f.subfunctions = (int)(args->channels * args->inputs);
    f.inputs = args->inputs;
    f.group_outputs = (int)(args->inputs == 1 ? args->channels : args->channels / args->groups);
    return f;
}

/* Where output o's first sub-function lies in a row of S; the next ones follow at group_outputs. */
static __device__ __forceinline__ int first_subfunction(const form &f, int o)
{
    int group = o / f.group_outputs;
    return group * f.inputs * f.group_outputs + o % f.group_outputs;
}

/* 1 + delta of outputs [o, o + V) of input j. */
template <int V>
static __device__ __forceinline__ void load_gates(const form &f, const float *gate, int o, int j,
                                                  float (&factor)[V])
{
    if (f.inputs == 1) {
        hl_load<V>(gate + o, factor);
    } else {
#pragma unroll
        for (int v = 0; v < V; v++)
            factor[v] = gate[(int64_t)(o + v) * f.inputs + j];
    }
#pragma unroll
    for (int v = 0; v < V; v++)
        factor[v] += 1.0f;
}

template <typename T, int V>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS, 2)
    recombine(hl_columns c, form f, hl_act act, const float *gate, const T *s, const void *bias,
              hl_elem bias_elem, const T *residual, T *y)
{
    hl_column at = hl_columns_at(c);
    if (!at.inside)
        return;
    int o = at.vector * V, first = first_subfunction(f, o);
    float sum[ROWS][V], shift[V] = {0};
    if (bias != NULL)
        hl_load_as<V>(bias, bias_elem, o, shift);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int64_t row = at.row + r * c.depth;
        float add[V] = {0};
        if (residual != NULL && row < at.end)
            hl_load<V>(residual + row * f.outputs + o, add);
#pragma unroll
        for (int v = 0; v < V; v++)
            sum[r][v] = shift[v] + add[v];
    }
    for (int j = 0; j < f.inputs; j++) {
        float factor[V];
        load_gates<V>(f, gate, o, j, factor);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int64_t row = at.row + r * c.depth;
            float x[V] = {0};
            if (row < at.end)
                hl_load<V>(s + row * f.subfunctions + first + j * f.group_outputs, x);
#pragma unroll
            for (int v = 0; v < V; v++)
                sum[r][v] += factor[v] * x[v];
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        int64_t row = at.row + r * c.depth;
        if (row >= at.end)
            continue;
#pragma unroll
        for (int v = 0; v < V; v++)
            sum[r][v] = hl_act_forward(act, sum[r][v]);
        hl_store<V>(y + row * f.outputs + o, sum[r]);
    }
}

/* The derivative at output y, for the activations that hl_act_from_output admits. Constants leave the others
 * out of the code. */
static __device__ __forceinline__ float slope_at(hl_act act, float y)
{
    switch (act) {
    case HL_ACT_RELU:
        return hl_act_slope(HL_ACT_RELU, y);
    case HL_ACT_RELU6:
        return hl_act_slope(HL_ACT_RELU6, y);
    case HL_ACT_SIGMOID:
        return hl_act_slope(HL_ACT_SIGMOID, y);
    case HL_ACT_TANH:
        return hl_act_slope(HL_ACT_TANH, y);
    default:
        return 1.0f;
    }
}

/* act'(y) (sum of the gradients), as stored. */
template <typename T, int V>
static __device__ __forceinline__ void gradient_at(hl_act act, const T *y, const hl_terms &terms, int64_t at,
                                                   float (&dz)[V])
{
    hl_load<V>((const T *)terms.term[0] + at, dz);
    /* Unrolled, so that the pointers stay where parameters are and are not copied to be indexed. */
#pragma unroll
    for (int k = 1; k < HL_KERNEL_MAX_TERMS; k++) {
        if (k >= terms.count)
            break;
        float d[V];
        hl_load<V>((const T *)terms.term[k] + at, d);
#pragma unroll
        for (int v = 0; v < V; v++)
            dz[v] += d[v];
    }
    if (y != NULL) {
        float out[V];
        hl_load<V>(y + at, out);
#pragma unroll
        for (int v = 0; v < V; v++)
            dz[v] *= slope_at(act, out[v]);
    }
#pragma unroll
    for (int v = 0; v < V; v++)
        dz[v] = hl_to_float(hl_from_float<T>(dz[v]));
}

/* dz, and its products with S summed over a chunk of rows: partial [chunk][input][output]. Inputs are taken J
 * at a time; from the second time on dz is read back, as the gradients may have been overwritten by it. */
template <typename T, int V, int J>
static __global__ void __launch_bounds__(HL_COLUMNS_THREADS, J == 1 ? 3 : 2)
    recombine_grad(hl_columns c, form f, hl_act act, const T *s, const T *y, hl_terms terms, T *dz,
                   float *partial)
{
    __shared__ float shared[HL_COLUMNS_THREADS * V];
    hl_column at = hl_columns_at(c);
    int o = at.vector * V, first = at.inside ? first_subfunction(f, o) : 0;
    for (int j0 = 0; j0 < f.inputs; j0 += J) {
        float sum[J][V] = {{0}};
        for (int64_t row = at.row; row < at.end; row += c.depth) {
            float d[V];
            if (j0 == 0 || dz == NULL)
                gradient_at<T, V>(act, y, terms, row * f.outputs + o, d);
            else
                hl_load<V>((const T *)dz + row * f.outputs + o, d);
            if (j0 == 0 && dz != NULL)
                hl_store<V>(dz + row * f.outputs + o, d);
#pragma unroll
            for (int j = 0; j < J; j++) {
                float x[V] = {0};
                if (j0 + j < f.inputs)
                    hl_load<V>(s + row * f.subfunctions + first + (j0 + j) * f.group_outputs, x);
#pragma unroll
                for (int v = 0; v < V; v++)
                    sum[j][v] += d[v] * x[v];
            }
        }
#pragma unroll
        for (int j = 0; j < J; j++)
            if (j0 + j < f.inputs)
                hl_columns_reduce<V>(c, at, sum[j], shared,
                                     partial + ((int64_t)at.chunk * f.inputs + j0 + j) * f.outputs);
    }
}

static __global__ void __launch_bounds__(HL_FINISH_THREADS)
    recombine_finish(form f, const float *partial, int64_t chunks, float *dgate, const hl_run_state *run)
{
    __shared__ float shared[HL_FINISH_THREADS];
    int64_t column = hl_finish_column();
    float sum = hl_finish_sum(partial, chunks, f.subfunctions, column, shared);
    if ((int)threadIdx.x >= HL_FINISH_COLUMNS || column >= f.subfunctions)
        return;
    float *to = dgate + column % f.outputs * f.inputs + column / f.outputs;
    *to = (run->grad_keep != 0.0f ? *to : 0.0f) + sum;
}

/* Do vectors of `width` outputs stay within a group? */
static bool splits(const form &f, int width)
{
    return f.group_outputs % width == 0;
}

template <typename T, int V>
static void launch_forward(const hl_recombine_args *args, const T *s, const void *bias, hl_elem bias_elem,
                           const T *residual, T *y, hl_cuda_stream stream)
{
    hl_columns c = hl_columns_make(args->rows, args->channels, V, ROWS);
    HL_LAUNCH((recombine<T, V>), (unsigned)(c.chunks * c.strips), hl_columns_threads(&c), 0, stream, c,
              form_of(args), args->act, args->gate, s, bias, bias_elem, residual, y);
}

extern "C" int hl_launch_recombine(const hl_recombine_args *args, const void *s, const void *bias,
                                   hl_elem bias_elem, const void *residual, void *y, hl_elem elem,
                                   hl_cuda_stream stream)
{
    if (args->rows == 0 || args->channels == 0)
        return 0;
    HL_DISPATCH_ELEM(elem, T, {
        enum { V = hl_width<T>::value };
        if (splits(form_of(args), V))
            launch_forward<T, V>(args, (const T *)s, bias, bias_elem, (const T *)residual, (T *)y, stream);
        else
            launch_forward<T, 1>(args, (const T *)s, bias, bias_elem, (const T *)residual, (T *)y, stream);
    });
    return (int)cudaGetLastError();
}

/* Returns the chunks. */
template <typename T, int V>
static int64_t launch_sums(const hl_recombine_args *args, const T *s, const T *y, const hl_terms &terms,
                           T *dz, float *partial, hl_cuda_stream stream)
{
    hl_columns c = hl_columns_sum(args->rows, args->channels, V);
    unsigned blocks = (unsigned)(c.chunks * c.strips), threads = hl_columns_threads(&c);
    if (args->inputs == 1)
        HL_LAUNCH((recombine_grad<T, V, 1>), blocks, threads, 0, stream, c, form_of(args), args->act, s, y,
                  terms, dz, partial);
    else
        HL_LAUNCH((recombine_grad<T, V, BATCH>), blocks, threads, 0, stream, c, form_of(args), args->act, s,
                  y, terms, dz, partial);
    return c.chunks;
}

extern "C" size_t hl_recombine_grad_scratch(const hl_recombine_args *args)
{
    int64_t chunks = hl_columns_most_chunks(args->rows, args->channels);
    return (size_t)(chunks * args->channels * args->inputs) * sizeof(float);
}

extern "C" int hl_launch_recombine_grad(const hl_recombine_args *args, const void *s, const void *y,
                                        hl_terms gradients, void *dz, float *dgate, const hl_run_state *run,
                                        void *scratch, hl_elem elem, hl_cuda_stream stream)
{
    form f = form_of(args);
    int64_t chunks = 0;
    if (f.subfunctions == 0)
        return 0;
    if (args->rows > 0)
        HL_DISPATCH_ELEM(elem, T, {
            enum { V = hl_width<T>::value };
            if (splits(f, V))
                chunks = launch_sums<T, V>(args, (const T *)s, (const T *)y, gradients, (T *)dz,
                                           (float *)scratch, stream);
            else
                chunks = launch_sums<T, 1>(args, (const T *)s, (const T *)y, gradients, (T *)dz,
                                           (float *)scratch, stream);
        });
    HL_LAUNCH(recombine_finish, (unsigned)hl_columns_ceil(f.subfunctions, HL_FINISH_COLUMNS),
              HL_FINISH_THREADS, 0, stream, f, (const float *)scratch, chunks, dgate, run);
    return (int)cudaGetLastError();
}
