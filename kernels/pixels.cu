/* Sums over the pixels of an image and their reverse: global pooling, gradients of per-channel factors.
 *
 * a, b [n, pixels, channels]; sums [n, channels], of the same type or float. A block of 32 x 8 threads has 32
 * channels of one image: lanes read neighbouring channels, levels take every eighth pixel; the levels' sums
 * are added in order. */
#include "kernels/elem.cuh"
#include "kernels/kernels.h"

enum { LANES = 32, LEVELS = 8 };

template <typename T, typename O>
static __global__ void pixel_sum(const T *a, const T *b, float factor, O *out, int64_t pixels,
                                 int64_t channels, int strips)
{
    __shared__ float partial[LEVELS][LANES];
    int lane = (int)threadIdx.x % LANES, level = (int)threadIdx.x / LANES;
    int64_t n = blockIdx.x / (unsigned)strips, c = (int64_t)(blockIdx.x % (unsigned)strips) * LANES + lane;
    const int64_t image = n * pixels * channels + c;
    float sum = 0.0f;
    if (c < channels)
        for (int64_t p = level; p < pixels; p += LEVELS) {
            float v = hl_to_float(a[image + p * channels]);
            sum += b != NULL ? v * hl_to_float(b[image + p * channels]) : v;
        }
    partial[level][lane] = sum;
    __syncthreads();
    if (level == 0 && c < channels) {
        float total = 0.0f;
        for (int k = 0; k < LEVELS; k++)
            total += partial[k][lane];
        out[n * channels + c] = hl_from_float<O>(total * factor);
    }
}

extern "C" int hl_launch_pixel_sum(const void *a, const void *b, float factor, void *out, hl_elem elem,
                                   hl_elem out_elem, int64_t n, int64_t pixels, int64_t channels,
                                   hl_cuda_stream stream)
{
    int64_t strips = (channels + LANES - 1) / LANES;
    if (n * strips > INT32_MAX || (out_elem != elem && out_elem != HL_ELEM_F32))
        return (int)cudaErrorInvalidValue;
    if (n * strips > 0)
        HL_DISPATCH_ELEM(elem, T, {
            if (out_elem == elem)
                HL_LAUNCH((pixel_sum<T, T>), (unsigned)(n * strips), LANES * LEVELS, 0, stream, (const T *)a,
                          (const T *)b, factor, (T *)out, pixels, channels, (int)strips);
            else
                HL_LAUNCH((pixel_sum<T, float>), (unsigned)(n * strips), LANES * LEVELS, 0, stream,
                          (const T *)a, (const T *)b, factor, (float *)out, pixels, channels, (int)strips);
        });
    return (int)cudaGetLastError();
}

template <typename T, int V>
static __global__ void pixel_spread(const T *a, float factor, T *out, int64_t image, int64_t channels,
                                    int64_t vectors)
{
    for (int64_t i = hl_thread_first(); i < vectors; i += hl_thread_stride()) {
        float v[V];
        hl_load<V>(a + (i / image * channels + i % channels) * V, v);
#pragma unroll
        for (int k = 0; k < V; k++)
            v[k] *= factor;
        hl_store<V>(out + i * V, v);
    }
}

extern "C" int hl_launch_pixel_spread(const void *a, float factor, void *out, hl_elem elem, int64_t n,
                                      int64_t pixels, int64_t channels, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(elem, T, {
        const int V = hl_width<T>::value;
        if (channels % V == 0)
            HL_LAUNCH((pixel_spread<T, V>), hl_blocks(n * pixels * channels / V), HL_THREADS, 0, stream,
                      (const T *)a, factor, (T *)out, pixels * channels / V, channels / V,
                      n * pixels * channels / V);
        else
            HL_LAUNCH((pixel_spread<T, 1>), hl_blocks(n * pixels * channels), HL_THREADS, 0, stream,
                      (const T *)a, factor, (T *)out, pixels * channels, channels, n * pixels * channels);
    });
    return (int)cudaGetLastError();
}
