/* Products over pixels, by kernels of our own for processors with AVX-512 (and, in bf16, AVX-512 BF16):
 *
 *     y[p, :] = clamp(x[p, :] B + bias + residual[p, :])
 *
 * is a 1x1 convolution, forward. Its data gradient has, in place of bias and clamp, the derivative of the
 * activation before it: y is 0 where that activation's output `before` is 0 or at its upper end. oneDNN 2.6
 * reaches half to three quarters of the machine's speed on them, these kernels nine tenths
 * (docs/performance.md).
 *
 * B lies in panels (product_pack.h). Pixels come in lines, so that strided convolutions skip pixels on either
 * side. */
#ifndef HL_BACKEND_CPU_PRODUCT_H
#define HL_BACKEND_CPU_PRODUCT_H

#include "backend/cpu/cpu.h"

/* Can this machine (as far as oneDNN's own limit on instruction sets allows) compute products in `elem`? */
bool hl_product_is_native(hl_elem elem);

/* The pixels of a tensor that a product goes over: `lines` an image, their distances in bytes. */
typedef struct hl_product_pixels {
    int64_t lines, image, line, pixel;
} hl_product_pixels;

typedef struct hl_product {
    hl_elem elem;          /* of x, residual and B: f32 or bf16 */
    hl_elem y_elem;        /* the same, or f32 */
    int64_t lines, pixels; /* lines of all images, pixels a line */
    hl_product_pixels of_x, of_y;
    int64_t x_channels, y_channels; /* bf16: x_channels is even */
    float low, high;                /* clamp; -INFINITY, INFINITY: none */
    float before_high;              /* the upper end of `before`; NAN: it has none */
    size_t y_clear; /* y has pixels that no line reaches: it has as many bytes, set to 0 first; else 0 */
    bool streams;   /* y is too large to stay in the cache: it is written past it */
    int threads;
    /* Bound: addresses. bias (f32), residual and before (both of type elem, placed as y is) may be NULL. */
    const void *x, *panels, *residual, *before;
    const float *bias;
    void *y;
    char *stage; /* hl_product_stage_bytes, or NULL where that is 0 */
} hl_product;

/* Scratch for rows of x that would fall on one another in the first-level cache. */
size_t hl_product_stage_bytes(const hl_product *product);

void hl_product_run(const hl_product *product);

#endif
