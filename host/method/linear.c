/* linear: the classifier head alone (a linear probe). */
#include "method/method.h"

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)graph;
    (void)method;
    (void)seed;
    return HL_OK; /* the head is trained anyway */
}

const hl_method_info hl_method_linear = {
    .name = "linear",
    .summary = "the head only",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-2,
    .lr_sgd = 1e-1,
    .apply = apply,
};
