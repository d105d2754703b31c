/* Input: bytes to normalised values in the network's element type, mirrored and mixed where asked for.
 *
 * images u8 (or f32 with raw) [n, h, w, channels], out elem [n, h, w, channels]; one thread a pixel. A
 * mirrored image is read from its other end; mixing takes the partner's value at the same place of the
 * output, mirrored by the partner's own flag. (x / 255 - mean) / std is computed as written, with the CPU
 * backend's roundings. */
#include "kernels/elem.cuh"
#include "kernels/kernels.h"

/* The value of channel c at pixel (y, x) of image n as the network would see it alone. */
static __device__ __forceinline__ float pixel(const hl_input_args &a, int64_t n, int64_t y, int64_t x, int c)
{
    if (a.raw)
        return ((const float *)a.images)[((n * a.h + y) * a.w + x) * a.channels + c];
    int64_t from = a.flips != NULL && a.flips[n] != 0 ? a.w - 1 - x : x;
    float byte = (float)((const uint8_t *)a.images)[((n * a.h + y) * a.w + from) * a.channels + c];
    return __fdiv_rn(__fadd_rn(__fdiv_rn(byte, 255.0f), -a.mean[c]), a.std[c]);
}

template <typename T> static __global__ void input(const __grid_constant__ hl_input_args a)
{
    int64_t pixels = a.n * a.h * a.w;
    for (int64_t i = hl_thread_first(); i < pixels; i += hl_thread_stride()) {
        int64_t x = i % a.w, y = i / a.w % a.h, n = i / a.w / a.h;
        hl_mix mix = {0, 1.0f, 0, 0, 0, 0};
        if (a.mixes != NULL)
            mix = a.mixes[n];
        bool box = mix.bottom > mix.top && mix.right > mix.left;
        bool inside = box && y >= mix.top && y < mix.bottom && x >= mix.left && x < mix.right;
        for (int c = 0; c < (int)a.channels; c++) {
            float v = pixel(a, inside ? mix.partner : n, y, x, c);
            if (!box && mix.share != 1.0f)
                v = __fadd_rn(__fmul_rn(mix.share, v),
                              __fmul_rn(1.0f - mix.share, pixel(a, mix.partner, y, x, c)));
            ((T *)a.out)[i * a.channels + c] = hl_from_float<T>(v);
        }
    }
}

extern "C" int hl_launch_input(const hl_input_args *args, hl_elem elem, hl_cuda_stream stream)
{
    HL_DISPATCH_ELEM(
        elem, T, HL_LAUNCH((input<T>), hl_blocks(args->n * args->h * args->w), HL_THREADS, 0, stream, *args));
    return (int)cudaGetLastError();
}
