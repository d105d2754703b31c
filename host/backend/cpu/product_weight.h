/* Weight gradients of dense convolutions and linear layers, by kernels of our own (see product.h):
 *
 *     dW[o, u, v, i] = sum over pixels p of dy[p, o] x[p stride + (u, v), i]
 *
 * a product over pixels. Both factors are packed chunk by chunk, x with the windows laid out, so that the
 * kernel reads 14 outputs and 32 inputs a step (bf16: of two pixels) one behind the other. */
#ifndef HL_BACKEND_CPU_PRODUCT_WEIGHT_H
#define HL_BACKEND_CPU_PRODUCT_WEIGHT_H

#include "backend/cpu/cpu.h"

typedef struct hl_product_weight hl_product_weight;

/* Of a CONV_WEIGHT step that passed its check: should it be done here? */
bool hl_product_weight_takes(const hl_step *step);

/* The result is [O, kh, kw, I]. `scratch_bytes` is what binding wants. */
hl_status hl_product_weight_create(const hl_step *step, int threads, hl_product_weight **product,
                                   size_t *scratch_bytes);
void hl_product_weight_destroy(hl_product_weight *product); /* NULL is fine */
void hl_product_weight_bind(hl_product_weight *product, const hl_step *step, void *scratch);
void hl_product_weight_run(const hl_product_weight *product);

#endif
