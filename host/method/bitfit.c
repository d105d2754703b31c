/* bitfit: every bias of the backbone, of norms too (Ben-Zaken et al., 2021, arXiv 2106.10199). The shift of a
 * norm on running statistics is part of the bias of the convolution that it is folded into, so nothing is
 * computed for it but the sum of that convolution's gradient. */
#include "method/method.h"

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)method;
    (void)seed;
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i]->role == HL_PARAM_BIAS || graph->params[i]->role == HL_PARAM_NORM_SHIFT)
            graph->params[i]->trained = true;
    return HL_OK;
}

const hl_method_info hl_method_bitfit = {
    .name = "bitfit",
    .summary = "every bias, shifts of norms included",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 3e-3,
    .lr_sgd = 3e-2,
    .apply = apply,
};
