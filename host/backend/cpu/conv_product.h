/* 1x1 convolutions and linear layers as products over pixels (product.h): forward pass and data gradient. */
#ifndef HL_BACKEND_CPU_CONV_PRODUCT_H
#define HL_BACKEND_CPU_CONV_PRODUCT_H

#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/product.h"

/* A CONV or CONV_DATA step is done by kernels of ours where is_product, else by oneDNN. What a data gradient
 * has behind it (another gradient, a derivative) goes over the result once more where is_behind. */
typedef struct hl_conv_exec {
    bool is_product, is_behind;
    hl_product product;
    hl_dnnl_exec dnnl;
} hl_conv_exec;

typedef hl_status hl_conv_prepare_dnnl(hl_cpu *cpu, hl_step *step, hl_dnnl_exec *exec);

/* Rows of a hl_cpu_op; preparing takes how it is put to oneDNN. */
hl_status hl_conv_exec_prepare(hl_cpu *cpu, hl_step *step, hl_conv_prepare_dnnl *prepare_dnnl);
hl_status hl_conv_exec_bind(hl_cpu *cpu, hl_step *step, void *scratch);
hl_status hl_conv_exec_run(hl_cpu *cpu, hl_step *step);
void hl_conv_exec_release(hl_cpu *cpu, hl_step *step);

#endif
