/* How a CONV or CONV_DATA step is done: by kernels of ours where they take it, else by oneDNN. */
#ifndef HL_BACKEND_CPU_CONV_EXEC_H
#define HL_BACKEND_CPU_CONV_EXEC_H

#include "backend/cpu/depthwise_map.h"
#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/product.h"

typedef enum hl_conv_by { HL_CONV_BY_DNNL, HL_CONV_BY_PRODUCT, HL_CONV_BY_MAP } hl_conv_by;

typedef struct hl_conv_exec {
    hl_conv_by by;
    /* What a data gradient has behind it (another gradient, a derivative) goes over the result once more. */
    bool again;
    hl_product product;
    hl_depthwise_map map;
    hl_dnnl_exec dnnl;
} hl_conv_exec;

typedef hl_status hl_conv_prepare_dnnl(hl_cpu *cpu, hl_step *step, hl_dnnl_exec *exec);

/* Rows of a hl_cpu_op; preparing takes how it is put to oneDNN. */
hl_status hl_conv_exec_prepare(hl_cpu *cpu, hl_step *step, hl_conv_prepare_dnnl *prepare_dnnl);
hl_status hl_conv_exec_bind(hl_cpu *cpu, hl_step *step, void *scratch);
hl_status hl_conv_exec_run(hl_cpu *cpu, hl_step *step);
void hl_conv_exec_release(hl_cpu *cpu, hl_step *step);

#endif
