/* norm: scale and shift of every norm (BatchNorm tuning; Frankle et al., 2020, arXiv 2003.00152). */
#include "method/method.h"

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)method;
    (void)seed;
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i]->role == HL_PARAM_NORM_SCALE || graph->params[i]->role == HL_PARAM_NORM_SHIFT)
            graph->params[i]->trained = true;
    return HL_OK;
}

const hl_method_info hl_method_norm = {
    .name = "norm",
    .summary = "scale and shift of every norm",
    .norm = HL_NORM_AFFINE,
    .lr_adam = 3e-3,
    .lr_sgd = 3e-2,
    .apply = apply,
};
