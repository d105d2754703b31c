/* What the files of the CUDA backend share. CUDA, cuDNN and cuBLASLt types stay in this folder. */
#ifndef HL_BACKEND_CUDA_CUDA_H
#define HL_BACKEND_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_backend.h"
#include "kernels/kernels.h"

#if CUDNN_MAJOR < 9
#error "the CUDA backend is written for cuDNN 9"
#endif
#if CUDART_VERSION < 12000
#error "the CUDA backend is written for CUDA 12 or later"
#endif

typedef struct hl_cuda_plans hl_cuda_plans;   /* cudnn_plan.c */
typedef struct hl_cuda_memory hl_cuda_memory; /* memory.c */

typedef struct hl_cuda {
    hl_backend base;
    int number;
    bool planner; /* hl_cuda_planner_open: there is no device */
    bool deterministic, autotune;
    size_t workspace_limit; /* of one cuDNN or cuBLASLt call */
    cudnnHandle_t cudnn;
    cudnnBackendDescriptor_t device_properties; /* planner */
    cublasLtHandle_t blas;
    cudaStream_t compute, copy;
    hl_cuda_plans *plans;
    hl_cuda_memory *memory;
    hl_run_state *run; /* the device's copy, as of the list that runs */
} hl_cuda;

/* How one kind of step is done; a function may be NULL where there is nothing to do, except run. FOLD
 * steps of a list are run at once (sealed.c), unless hl_cuda_fold_is_apart. */
typedef struct hl_cuda_op {
    hl_status (*check)(const hl_cuda *cuda, const hl_step *step);
    hl_status (*prepare)(hl_cuda *cuda, hl_step *step);
    hl_status (*bind)(hl_cuda *cuda, hl_step *step, void *scratch);
    hl_status (*run)(hl_cuda *cuda, hl_step *step);
    void (*release)(hl_cuda *cuda, hl_step *step);
} hl_cuda_op;

extern const hl_cuda_op hl_cuda_fold, hl_cuda_conv, hl_cuda_conv_data, hl_cuda_conv_weight,
    hl_cuda_weight_grad, hl_cuda_bias_grad, hl_cuda_recombine, hl_cuda_recombine_grad;
extern const hl_cuda_op hl_cuda_input, hl_cuda_act, hl_cuda_act_grad, hl_cuda_add, hl_cuda_mul,
    hl_cuda_mul_grad, hl_cuda_concat, hl_cuda_concat_grad, hl_cuda_dropout, hl_cuda_drop_path,
    hl_cuda_global_pool, hl_cuda_global_pool_grad, hl_cuda_grid_pool, hl_cuda_grid_pool_grad;
extern const hl_cuda_op hl_cuda_norm, hl_cuda_norm_grad, hl_cuda_norm_batch, hl_cuda_norm_batch_grad,
    hl_cuda_layer_norm, hl_cuda_layer_norm_grad;
extern const hl_cuda_op hl_cuda_pool, hl_cuda_pool_grad, hl_cuda_loss, hl_cuda_tally, hl_cuda_spectral_grad,
    hl_cuda_optimize;
/* By kind; cuda.c. */
extern const hl_cuda_op *const hl_cuda_ops[HL_STEP_KIND_COUNT];

/* Turn a library's status into ours: "SUBJECT: could not WHAT: the library's text". */
hl_status hl_cuda_status(cudaError_t status, const char *subject, const char *what);
hl_status hl_cudnn_status(cudnnStatus_t status, const char *subject, const char *what);
hl_status hl_blas_status(cublasStatus_t status, const char *subject, const char *what);
#define HL_CUDA(call, subject, what)  HL_TRY(hl_cuda_status((call), (subject), (what)))
#define HL_CUDNN(call, subject, what) HL_TRY(hl_cudnn_status((call), (subject), (what)))
#define HL_BLAS(call, subject, what)  HL_TRY(hl_blas_status((call), (subject), (what)))
/* For kernel launchers, which return a cudaError_t as an int. */
#define HL_LAUNCHED(call, step) hl_cuda_status((cudaError_t)(call), (step)->name, "launch a kernel")

/* memory.c: the backend's memory functions. */
hl_status hl_cuda_memory_open(hl_cuda *cuda);
void hl_cuda_memory_close(hl_cuda *cuda);
hl_status hl_cuda_alloc(hl_backend *backend, size_t bytes, const char *what, void **memory);
void hl_cuda_free(hl_backend *backend, void *memory);
hl_status hl_cuda_alloc_host(hl_backend *backend, size_t bytes, void **memory);
void hl_cuda_free_host(hl_backend *backend, void *memory);
hl_status hl_cuda_upload(hl_backend *backend, void *to, const void *from_host, size_t bytes);
hl_status hl_cuda_download(hl_backend *backend, void *to_host, const void *from, size_t bytes);
hl_status hl_cuda_feed(hl_backend *backend, const hl_feed *parts, int count);
void hl_cuda_memory_use(hl_backend *backend, size_t *available, size_t *peak);

/* sealed.c: lists. */
hl_status hl_cuda_seal(hl_backend *backend, hl_step *const *steps, int count, hl_sealed **list);
void hl_cuda_unseal(hl_backend *backend, hl_sealed *list);
hl_status hl_cuda_run(hl_backend *backend, hl_sealed *list);

/* weights.c: FOLD steps that run by themselves, not with the others of their list: those of changed weights.
 */
bool hl_cuda_fold_is_apart(const hl_step *step);
/* What a FOLD step does, as the kernel wants it. Bound steps only. */
hl_fold_item hl_cuda_fold_item(const hl_step *step);
/* The arguments of a weight expression on the device. */
hl_expr_args hl_cuda_expr(const hl_weight_expr *expr);

/* How a convolution is computed, decided here alone (conv.c). */
typedef enum hl_cuda_conv_form { HL_FORM_DEPTHWISE, HL_FORM_LINEAR, HL_FORM_CUDNN } hl_cuda_conv_form;
hl_cuda_conv_form hl_cuda_form(const hl_conv_attr *conv, hl_shape x, hl_shape y);
/* One filter a channel: what our own kernels compute, with weights packed for them. */
bool hl_cuda_is_depthwise(const hl_conv_attr *conv);

static inline hl_tensor *hl_operand(const hl_step *step, int i)
{
    return i < step->in_count ? step->in[i] : NULL;
}

static inline void *hl_data(const hl_tensor *t)
{
    return t != NULL ? t->data : NULL;
}

static inline int64_t hl_rows(const hl_tensor *t)
{
    return t->shape.n * t->shape.h * t->shape.w;
}

/* A check function: every operand (NULL passes) of one floating-point type? */
hl_status hl_cuda_check_floats(const hl_cuda *cuda, const hl_step *step);
/* Keeps `scratch` as the step's exec: for ops that need nothing else. */
hl_status hl_cuda_bind_scratch(hl_cuda *cuda, hl_step *step, void *scratch);

#endif
