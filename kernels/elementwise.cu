/* Elementwise kernels: sums with an activation, gradients of activations, products, channel copies, dropout,
 * stochastic depth, conversions.
 *
 * All arrays are dense, [count] or [n, pixels, channels] with channels innermost. Results overwrite; `out`
 * may be one of the operands of the same shape (each element is read before it is written, by the same
 * thread). The main path moves 128 bits at a time; what is left over at the end goes element by element. */
#include "kernels/act.cuh"
#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/philox.cuh"

/* ---- sums ---- */

template <typename T, int V>
static __device__ __forceinline__ void sum_terms(const hl_terms &terms, int64_t at, float (&sum)[V])
{
    hl_load<V>((const T *)terms.term[0] + at, sum);
    for (int k = 1; k < terms.count; k++) {
        float v[V];
        hl_load<V>((const T *)terms.term[k] + at, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum[i] += v[i];
    }
}

template <typename T, int V>
static __device__ __forceinline__ void add_at(hl_act act, const hl_terms &terms, T *out, int64_t at)
{
    float sum[V];
    sum_terms<T, V>(terms, at, sum);
#pragma unroll
    for (int i = 0; i < V; i++)
        sum[i] = hl_act_forward(act, sum[i]);
    hl_store<V>(out + at, sum);
}

template <typename T>
static __global__ void add(hl_act act, const __grid_constant__ hl_terms terms, T *out, int64_t count)
{
    const int V = hl_width<T>::value;
    int64_t vectors = count / V;
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride())
        add_at<T, V>(act, terms, out, i * V);
    for (int64_t i = vectors * V + hl_thread_first(); i < count; i += hl_thread_stride())
        add_at<T, 1>(act, terms, out, i);
}

template <typename T, int V>
static __device__ __forceinline__ void act_grad_at(hl_act act, const T *operand, const hl_terms &terms,
                                                   T *out, int64_t at)
{
    float sum[V];
    sum_terms<T, V>(terms, at, sum);
    if (operand != NULL) {
        float v[V];
        hl_load<V>(operand + at, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum[i] *= hl_act_slope(act, v[i]);
    }
    hl_store<V>(out + at, sum);
}

template <typename T>
static __global__ void act_grad(hl_act act, const T *operand, const __grid_constant__ hl_terms terms, T *out,
                                int64_t count)
{
    const int V = hl_width<T>::value;
    int64_t vectors = count / V;
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride())
        act_grad_at<T, V>(act, operand, terms, out, i * V);
    for (int64_t i = vectors * V + hl_thread_first(); i < count; i += hl_thread_stride())
        act_grad_at<T, 1>(act, operand, terms, out, i);
}

extern "C" int hl_launch_add(hl_act act, hl_terms terms, void *out, hl_elem elem, int64_t count,
                             hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T,
                     HL_LAUNCH((add<T>), hl_blocks(count / hl_width<T>::value + 1), HL_THREADS, 0, stream,
                               act, terms, (T *)out, count));
    return (int)cudaGetLastError();
}

extern "C" int hl_launch_act_grad(hl_act act, const void *operand, hl_terms terms, void *out, hl_elem elem,
                                  int64_t count, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T,
                     HL_LAUNCH((act_grad<T>), hl_blocks(count / hl_width<T>::value + 1), HL_THREADS, 0,
                               stream, act, (const T *)operand, terms, (T *)out, count));
    return (int)cudaGetLastError();
}

/* ---- products ---- */

template <typename T, int V>
static __global__ void mul(const T *a, const T *b, T *out, int64_t vectors, int64_t image,
                           int channel_vectors)
{
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride()) {
        float x[V], y[V];
        /* image 0: b has a's shape; else b's row is that of the image */
        int64_t at_b = image == 0 ? i : i / image * channel_vectors + i % channel_vectors;
        hl_load<V>(a + i * V, x);
        hl_load<V>(b + at_b * V, y);
#pragma unroll
        for (int k = 0; k < V; k++)
            x[k] *= y[k];
        hl_store<V>(out + i * V, x);
    }
}

template <typename T, int V>
static void launch_mul(const T *a, const T *b, bool broadcast, T *out, int64_t n, int64_t pixels,
                       int64_t channels, hl_cuda_stream stream)
{
    int64_t vectors = n * pixels * channels / V, image = broadcast ? pixels * channels / V : 0;
    HL_LAUNCH((mul<T, V>), hl_blocks(vectors), HL_THREADS, 0, stream, a, b, out, vectors, image,
              (int)(channels / V));
}

extern "C" int hl_launch_mul(const void *a, const void *b, bool broadcast, void *out, hl_elem elem, int64_t n,
                             int64_t pixels, int64_t channels, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T, {
        const int V = hl_width<T>::value;
        if ((broadcast ? channels : n * pixels * channels) % V == 0)
            launch_mul<T, V>((const T *)a, (const T *)b, broadcast, (T *)out, n, pixels, channels, stream);
        else
            launch_mul<T, 1>((const T *)a, (const T *)b, broadcast, (T *)out, n, pixels, channels, stream);
    });
    return (int)cudaGetLastError();
}

/* ---- channels ---- */

template <typename T, int V>
static __global__ void copy_channels(const T *from, int64_t from_channels, T *to, int64_t to_channels,
                                     int64_t width, int64_t vectors)
{
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride()) {
        int64_t row = i / width, c = i % width * V;
        *(hl_vec<T, V> *)(to + row * to_channels + c) =
            *(const hl_vec<T, V> *)(from + row * from_channels + c);
    }
}

extern "C" int hl_launch_copy_channels(const void *from, int64_t from_channels, int64_t from_first, void *to,
                                       int64_t to_channels, int64_t to_first, int64_t width, int64_t rows,
                                       hl_elem elem, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T, {
        const int V = hl_width<T>::value;
        const T *source = (const T *)from + from_first;
        T *target = (T *)to + to_first;
        if (from_channels % V == 0 && from_first % V == 0 && to_channels % V == 0 && to_first % V == 0 &&
            width % V == 0)
            HL_LAUNCH((copy_channels<T, V>), hl_blocks(rows * width / V), HL_THREADS, 0, stream, source,
                      from_channels, target, to_channels, width / V, rows * width / V);
        else
            HL_LAUNCH((copy_channels<T, 1>), hl_blocks(rows * width), HL_THREADS, 0, stream, source,
                      from_channels, target, to_channels, width, rows * width);
    });
    return (int)cudaGetLastError();
}

/* ---- dropout ---- */

/* A thread takes four elements, which share a Philox block (backend/dropout_mask.h). */
template <typename T>
static __global__ void dropout(const T *x, float p, float scale, uint32_t id, const hl_run_state *run, T *out,
                               int64_t count)
{
    uint64_t seed = run->seed, pass = run->micro_step << 36;
    for (int64_t block = hl_thread_first(); block * 4 < count; block += hl_thread_stride()) {
        uint32_t words[4];
        hl_philox_device(seed, HL_STREAM_DROPOUT, id, (uint64_t)block + pass, words);
        int64_t first = block * 4;
        int n = count - first < 4 ? (int)(count - first) : 4;
        for (int i = 0; i < n; i++) {
            bool kept = (float)(words[i] >> 8) * 0x1p-24f >= p;
            out[first + i] = hl_from_float<T>(kept ? hl_to_float(x[first + i]) * scale : 0.0f);
        }
    }
}

extern "C" int hl_launch_dropout(const void *x, float p, uint32_t id, const hl_run_state *run, void *out,
                                 hl_elem elem, int64_t count, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T,
                     HL_LAUNCH((dropout<T>), hl_blocks((count + 3) / 4), HL_THREADS, 0, stream, (const T *)x,
                               p, 1.0f / (1.0f - p), id, run, (T *)out, count));
    return (int)cudaGetLastError();
}

/* ---- stochastic depth ---- */

/* `image`: vectors of a sample. */
template <typename T, int V>
static __global__ void drop_path(const T *x, const T *residual, float p, float scale, uint32_t id,
                                 const hl_run_state *run, T *out, int64_t vectors, int64_t image)
{
    uint64_t seed = run->seed, pass = run->micro_step << 36;
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride()) {
        int64_t sample = i / image;
        uint32_t words[4];
        hl_philox_device(seed, HL_STREAM_DROPOUT, id, ((uint64_t)sample >> 2) + pass, words);
        int word = (int)(sample % 4);
        uint32_t mine = word == 0 ? words[0] : word == 1 ? words[1] : word == 2 ? words[2] : words[3];
        float v[V] = {0}, add[V] = {0};
        if ((float)(mine >> 8) * 0x1p-24f >= p) {
            hl_load<V>(x + i * V, v);
#pragma unroll
            for (int k = 0; k < V; k++)
                v[k] *= scale;
        }
        if (residual != NULL)
            hl_load<V>(residual + i * V, add);
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] += add[k];
        hl_store<V>(out + i * V, v);
    }
}

extern "C" int hl_launch_drop_path(const void *x, const void *residual, float p, uint32_t id,
                                   const hl_run_state *run, void *out, hl_elem elem, int64_t n, int64_t count,
                                   hl_cuda_stream stream)
{
    if (n == 0 || count == 0)
        return 0;
    const float scale = 1.0f / (1.0f - p);
    HL_DISPATCH_ELEM(elem, T, {
        const int V = hl_width<T>::value;
        if (count % V == 0)
            HL_LAUNCH((drop_path<T, V>), hl_blocks(n * count / V), HL_THREADS, 0, stream, (const T *)x,
                      (const T *)residual, p, scale, id, run, (T *)out, n * count / V, count / V);
        else
            HL_LAUNCH((drop_path<T, 1>), hl_blocks(n * count), HL_THREADS, 0, stream, (const T *)x,
                      (const T *)residual, p, scale, id, run, (T *)out, n * count, count);
    });
    return (int)cudaGetLastError();
}

/* ---- conversion, run state ---- */

template <typename F, typename T> static __global__ void convert(const F *from, T *to, int64_t count)
{
    for (int64_t i = hl_thread_first(); i < count; i += hl_thread_stride())
        to[i] = hl_from_float<T>(hl_to_float(from[i]));
}

template <typename F>
static void launch_convert(const F *from, void *to, hl_elem to_elem, int64_t count, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(
        to_elem, T,
        HL_LAUNCH((convert<F, T>), hl_blocks(count), HL_THREADS, 0, stream, from, (T *)to, count));
}

extern "C" int hl_launch_convert(const void *from, hl_elem from_elem, void *to, hl_elem to_elem,
                                 int64_t count, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(from_elem, F, launch_convert<F>((const F *)from, to, to_elem, count, stream));
    return (int)cudaGetLastError();
}

static __global__ void set_run_state(hl_run_state from, hl_run_state *to)
{
    if (threadIdx.x == 0)
        *to = from;
}

extern "C" int hl_launch_set_run_state(hl_run_state from, hl_run_state *to, hl_cuda_stream stream)
{
    HL_LAUNCH(set_run_state, 1, 32, 0, stream, from, to);
    return (int)cudaGetLastError();
}
