/* Building cuDNN operation graphs, a few lines for each.
 *
 *     hl_cudnn_graph g;
 *     hl_cudnn_begin(&g, cuda, step->name);
 *     int x = hl_cudnn_tensor(&g, shape, elem), ...;
 *     hl_cudnn_conv(&g, HL_CONV_FORWARD, &window, tf32, x, w, y);
 *     status = hl_cudnn_plan(&g, &call);            ends the graph too
 *
 * The first failure sticks and is what hl_cudnn_plan returns. Tensors are numbered from 0 in the order they
 * are made; that order is also the order of pointers at bind time, virtual ones left out. */
#ifndef HL_BACKEND_CUDA_CUDNN_GRAPH_H
#define HL_BACKEND_CUDA_CUDNN_GRAPH_H

#include "backend/cuda/cuda.h"

enum { HL_CUDNN_TENSORS = 16, HL_CUDNN_OPS = 6, HL_CUDNN_MADE = 48, HL_CUDNN_TEXT = 3072 };

typedef struct hl_cudnn_graph {
    hl_cuda *cuda;
    const char *subject; /* the layer, for messages */
    hl_status status;
    cudnnBackendDescriptor_t made[HL_CUDNN_MADE]; /* all descriptors, in order */
    int made_count;
    struct {
        cudnnBackendDescriptor_t desc;
        size_t bytes;
        bool is_virtual, is_scalar;
    } tensors[HL_CUDNN_TENSORS];
    int tensor_count;
    cudnnBackendDescriptor_t ops[HL_CUDNN_OPS];
    int op_count;
    bool tf32;                /* f32 products may be rounded */
    bool single;              /* all tensors are f32: tensor cores would round them */
    char text[HL_CUDNN_TEXT]; /* the graph in words: the key of the plan caches */
    size_t text_length;
} hl_cudnn_graph;

/* A plan with its pointers: what a step keeps and runs. The plan belongs to the backend's cache. */
typedef struct hl_cudnn_call {
    cudnnBackendDescriptor_t plan, pack;
    size_t workspace;
    int64_t uids[HL_CUDNN_TENSORS];
    int operands;
} hl_cudnn_call;

void hl_cudnn_begin(hl_cudnn_graph *g, hl_cuda *cuda, const char *subject);
/* Activations and vectors, channels-last. */
int hl_cudnn_tensor(hl_cudnn_graph *g, hl_shape shape, hl_elem elem);
/* An intermediate that is never stored, f32. */
int hl_cudnn_virtual(hl_cudnn_graph *g, hl_shape shape);
/* [k, kh, kw, c] */
int hl_cudnn_weights(hl_cudnn_graph *g, int64_t k, const hl_window *window, int64_t c, hl_elem elem);
/* An i8 index of a pooling window, channels-last. */
int hl_cudnn_index(hl_cudnn_graph *g, hl_shape shape);
/* One f32 that is read from host memory when the graph is run or captured. */
int hl_cudnn_scalar(hl_cudnn_graph *g);

typedef enum hl_cudnn_pass { HL_CONV_FORWARD, HL_CONV_DATA, HL_CONV_WEIGHT } hl_cudnn_pass;
/* x, w, y: or their gradients, for those that the pass makes or takes. */
void hl_cudnn_conv(hl_cudnn_graph *g, hl_cudnn_pass pass, const hl_window *window, bool tf32, int x, int w,
                   int y);
void hl_cudnn_add(hl_cudnn_graph *g, int a, int b, int y);
/* Can cuDNN compute it as our other backend does? */
bool hl_cudnn_has_act(hl_act act);
void hl_cudnn_act(hl_cudnn_graph *g, hl_act act, int x, int y);
/* index -1: none. */
void hl_cudnn_pool(hl_cudnn_graph *g, const hl_pool_attr *pool, int x, int y, int index);
void hl_cudnn_pool_grad(hl_cudnn_graph *g, const hl_pool_attr *pool, int dy, int dx, int index);

typedef struct hl_cudnn_norm {
    int x, scale, shift, eps, momentum, running_mean, running_var, new_mean, new_var, y, mean,
        inverse_deviation;
} hl_cudnn_norm; /* momentum -1: running statistics do not move */
void hl_cudnn_norm_forward(hl_cudnn_graph *g, const hl_cudnn_norm *norm);
/* Finds a plan, in the caches or by cuDNN's heuristics (timed with autotune), and ends the graph.
 * HL_E_UNSUPPORTED where there is none. */
hl_status hl_cudnn_plan(hl_cudnn_graph *g, hl_cudnn_call *call);
/* `pointers`: of the tensors that are not virtual, in order; `workspace` has call->workspace bytes. */
hl_status hl_cudnn_bind(hl_cudnn_call *call, void *const *pointers, void *workspace, const char *subject);
hl_status hl_cudnn_run(hl_cuda *cuda, const hl_cudnn_call *call, const char *subject);
void hl_cudnn_release(hl_cudnn_call *call); /* of zeros: nothing to do */

/* Leaves NULL; of NULL: nothing to do. */
void hl_cudnn_destroy(cudnnBackendDescriptor_t *desc);

/* cudnn_plan.c */
hl_status hl_cuda_plans_open(hl_cuda *cuda);
void hl_cuda_plans_close(hl_cuda *cuda);

#endif
