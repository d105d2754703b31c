/* 1x1 convolutions and linear layers as products over pixels (product.h): forward pass and data gradient. */
#ifndef HL_BACKEND_CPU_CONV_PRODUCT_H
#define HL_BACKEND_CPU_CONV_PRODUCT_H

#include "backend/cpu/product.h"

/* Should the step, which passed its check, be done so? */
bool hl_conv_product_takes(const hl_step *step);
/* And what a data gradient has behind it as well? */
bool hl_conv_product_takes_behind(const hl_step *step);
/* Lays out the packed weights if nobody has, and says how much scratch is wanted. */
hl_status hl_conv_product_prepare(const hl_cpu *cpu, hl_step *step, hl_product *product);
void hl_conv_product_bind(const hl_step *step, bool behind, hl_product *product, void *scratch);

#endif
