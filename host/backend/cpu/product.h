/* Products over pixels, by kernels of our own for processors with AVX-512 (and, in bf16, AVX-512 BF16):
 *
 *     y[p, :] = behind(x[p, :] B)
 *
 * is a 1x1 convolution, forward, or its data gradient (behind: kernel_behind.h); oneDNN 2.6 reaches half to
 * three quarters of the machine's speed on them, these kernels nine tenths (docs/performance.md).
 *
 * B lies in panels (product_pack.h). Pixels come in lines, so that strided convolutions skip pixels on either
 * side. */
#ifndef HL_BACKEND_CPU_PRODUCT_H
#define HL_BACKEND_CPU_PRODUCT_H

#include "backend/cpu/kernel_behind.h"

/* The pixels of a tensor that a product goes over: `lines` an image, their distances in bytes. */
typedef struct hl_product_pixels {
    int64_t lines, image, line, pixel;
} hl_product_pixels;

typedef struct hl_product {
    hl_elem elem;          /* of x, B and what is behind: f32 or bf16 */
    int64_t lines, pixels; /* lines of all images, pixels a line */
    hl_product_pixels of_x, of_y;
    int64_t x_channels, y_channels; /* bf16: x_channels is even */
    size_t y_clear; /* y has pixels that no line reaches: it has as many bytes, set to 0 first; else 0 */
    int threads;
    hl_kernel_behind behind; /* where y_clear: neither residual nor before */
    /* Bound: addresses. */
    const void *x, *panels;
    char *stage; /* hl_product_stage_bytes, or NULL where that is 0 */
} hl_product;

/* Scratch for rows of x that would fall on one another in the first-level cache. */
size_t hl_product_stage_bytes(const hl_product *product);

void hl_product_run(const hl_product *product);

#endif
