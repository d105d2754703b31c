/* Choosing how cuDNN computes a graph: engines that its heuristics propose, tried in order or timed. Private
 * to cudnn_plan.c, which keeps what was chosen. */
#ifndef HL_BACKEND_CUDA_CUDNN_CHOOSE_H
#define HL_BACKEND_CUDA_CUDNN_CHOOSE_H

#include "backend/cuda/cudnn_graph.h"
#include "backend/cuda/plan_store.h"

/* One way to compute a graph: an engine with its knobs, and the plan once that is made. */
typedef struct hl_cudnn_candidate {
    cudnnBackendDescriptor_t config, plan;
    cudnnBackendDescriptor_t engine, knobs[HL_PLAN_KNOBS]; /* of a choice kept on disk */
    size_t workspace;
    bool compiled;
    hl_plan_choice choice;
} hl_cudnn_candidate;

/* The operations of a graph, as engines and heuristics take them. */
hl_status hl_cudnn_operations(const hl_cudnn_graph *g, cudnnBackendDescriptor_t *operations);
/* The first candidate that will do; with autotune the fastest of the first few. HL_E_UNSUPPORTED where there
 * is none. */
hl_status hl_cudnn_choose(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations,
                          hl_cudnn_candidate *chosen);
/* Makes the plan of c->choice, which is of an earlier run. False where it does not work any more. */
bool hl_cudnn_restore(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations, hl_cudnn_candidate *c);
void hl_cudnn_drop(hl_cudnn_candidate *c); /* of zeros: nothing to do */

#endif
