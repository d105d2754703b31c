/* Memory planning: which bytes of one arena each tensor gets, so that tensors alive at the same time never
 * overlap. */
#ifndef HL_GRAPH_PLAN_H
#define HL_GRAPH_PLAN_H

#include "backend/step.h"
#include "base/error.h"

typedef struct hl_plan_item {
    size_t bytes;
    int first, last; /* steps at which it is written first and read last, both included */
    size_t offset;   /* the answer, a multiple of HL_ALIGNMENT */
} hl_plan_item;

/* Fills in the offsets and *total. Greedy by size: the largest item first, each at the lowest offset where it
 * overlaps none that is alive with it and placed already. */
hl_status hl_plan_offsets(hl_plan_item *items, size_t count, size_t *total);

/* Plans the HL_PLACE_ARENA tensors among `tensors` over `steps`, which run in this order: fills in `offset`
 * per tensor (SIZE_MAX for tensors of other places and unused ones). The output of an activation's gradient
 * (ACT_GRAD, RECOMBINE_GRAD) takes the place of one of its gradients where that dies there. */
hl_status hl_plan_arena(hl_step *const *steps, size_t step_count, hl_tensor *const *tensors,
                        size_t tensor_count, size_t *offset, size_t *total);

#endif
