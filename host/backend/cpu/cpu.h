/* What the files of the CPU backend share. oneDNN types stay in this folder. */
#ifndef HL_BACKEND_CPU_CPU_H
#define HL_BACKEND_CPU_CPU_H

#include <oneapi/dnnl/dnnl.h>

#include "backend/backend.h"

#if DNNL_VERSION_MAJOR != 2 || DNNL_VERSION_MINOR < 6
#error "the CPU backend is written for oneDNN 2.6 or later 2.x (Debian and Ubuntu: libdnnl-dev)"
#endif

typedef struct hl_cpu {
    hl_backend base;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool bf16_native; /* AVX-512 BF16 or AMX */
} hl_cpu;

/* How one kind of step is done. Each file of ops fills in the rows of its kinds (cpu_ops.c holds the table).
 * A function may be NULL where there is nothing to do, except run. */
typedef struct hl_cpu_op {
    /* Records the reason (hl_fail) and returns it, or HL_OK; prepare calls it first. */
    hl_status (*check)(const hl_cpu *cpu, const hl_step *step);
    hl_status (*prepare)(hl_cpu *cpu, hl_step *step);
    hl_status (*bind)(hl_cpu *cpu, hl_step *step, void *scratch);
    hl_status (*run)(hl_cpu *cpu, hl_step *step);
    void (*release)(hl_cpu *cpu, hl_step *step);
} hl_cpu_op;

extern const hl_cpu_op hl_cpu_fold, hl_cpu_conv, hl_cpu_conv_data, hl_cpu_conv_weight, hl_cpu_weight_grad,
    hl_cpu_bias_grad;
extern const hl_cpu_op hl_cpu_recombine, hl_cpu_recombine_grad;
extern const hl_cpu_op hl_cpu_input, hl_cpu_norm, hl_cpu_norm_grad, hl_cpu_norm_batch, hl_cpu_norm_batch_grad,
    hl_cpu_layer_norm, hl_cpu_layer_norm_grad;
extern const hl_cpu_op hl_cpu_act, hl_cpu_act_grad, hl_cpu_add, hl_cpu_mul, hl_cpu_mul_grad;
extern const hl_cpu_op hl_cpu_pool, hl_cpu_pool_grad, hl_cpu_global_pool, hl_cpu_global_pool_grad,
    hl_cpu_grid_pool, hl_cpu_grid_pool_grad;
extern const hl_cpu_op hl_cpu_concat, hl_cpu_concat_grad, hl_cpu_dropout, hl_cpu_dropout_grad,
    hl_cpu_drop_path, hl_cpu_drop_path_grad, hl_cpu_loss, hl_cpu_tally, hl_cpu_spectral_grad, hl_cpu_optimize;

/* What `native` of an opaque tensor points to. */
typedef enum hl_cpu_layout_kind {
    HL_LAYOUT_DNNL, /* one of oneDNN's, in `md` */
    /* Weights for products (product_pack.h), two ways to see a matrix of outputs x inputs: */
    HL_LAYOUT_PANELS_FORWARD, /* columns are its rows: y = x W^T */
    HL_LAYOUT_PANELS_DATA     /* columns are its columns: dx = dy W */
} hl_cpu_layout_kind;

typedef struct hl_cpu_layout {
    hl_cpu_layout_kind kind;
    dnnl_memory_desc_t md;
} hl_cpu_layout;

/* Copies `layout`; the tensor must have none yet. */
hl_status hl_cpu_set_layout(const hl_step *step, hl_tensor *tensor, const hl_cpu_layout *layout,
                            size_t bytes);

/* Turns a oneDNN status into ours, naming the layer. */
hl_status hl_cpu_dnnl_status(dnnl_status_t status, const hl_step *step, const char *what);

#define HL_DNNL(call, step, what) HL_TRY(hl_cpu_dnnl_status((call), (step), (what)))

#endif
