/* full: every weight, bias and layer scale (full fine-tuning); norms as --norm says, by default everything in
 * them too. */
#include "method/method.h"

hl_status hl_method_train_all(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)method;
    (void)seed;
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i]->role == HL_PARAM_WEIGHT || graph->params[i]->role == HL_PARAM_BIAS ||
            graph->params[i]->role == HL_PARAM_SCALE)
            graph->params[i]->trained = true;
    return HL_OK;
}

const hl_method_info hl_method_full = {
    .name = "full",
    .summary = "every parameter",
    .norm = HL_NORM_FULL,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .apply = hl_method_train_all,
};
