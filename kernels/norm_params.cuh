/* What norm.cu and layer_norm.cu share: the width of their vectors, and the gradients of scale and shift from
 * the sums that chunks of rows have left. */
#ifndef HL_KERNELS_NORM_PARAMS_CUH
#define HL_KERNELS_NORM_PARAMS_CUH

#include "kernels/columns.cuh"
#include "kernels/elem.cuh"
#include "kernels/kernels.h"

/* Runs the statement with V as wide as the channels admit. */
#define HL_WITH_WIDTH(T, channels, V, ...)                                                                   \
    do {                                                                                                     \
        if ((channels) % hl_width<T>::value == 0) {                                                          \
            enum { V = hl_width<T>::value };                                                                 \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            enum { V = 1 };                                                                                  \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

/* partial [chunk][dy, dot][channels] summed to totals [dy, dot][channels] (or NULL); and the parameters'
 * gradients where wanted. */
static __global__ void __launch_bounds__(HL_FINISH_THREADS)
    hl_finish_norm_grad(const float *partial, int64_t chunks, int64_t channels, float *totals, float *dscale,
                        float *dshift, const hl_run_state *run)
{
    __shared__ float shared[HL_FINISH_THREADS];
    int64_t column = hl_finish_column();
    float sum = hl_finish_sum(partial, chunks, 2 * channels, column, shared);
    if ((int)threadIdx.x >= HL_FINISH_COLUMNS || column >= 2 * channels)
        return;
    if (totals != NULL)
        totals[column] = sum;
    bool keep = run->grad_keep != 0.0f;
    float *to = column < channels ? dshift : dscale;
    int64_t c = column < channels ? column : column - channels;
    if (to != NULL)
        to[c] = (keep ? to[c] : 0.0f) + sum;
}

#endif
