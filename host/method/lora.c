/* lora: low-rank adaptation (Hu et al., 2021, arXiv 2106.09685) of convolutions: beside each a convolution of
 * its window, stride, padding and dilation to r channels, then a 1x1 convolution; as one change of the
 * weight.
 */
#include "method/factors.h"

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    return hl_change_status(graph, hl_add_lora(graph, node, method, seed));
}

const hl_method_info hl_method_lora = {
    .name = "lora",
    .summary = "W + alpha/r B A: a convolution to r channels and a 1x1 beside each, filters frozen",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 3e-2,
    .options = {{"r", HL_OPTION_WHOLE, "8", "rank, in each group", 1, 1024},
                {"alpha", HL_OPTION_NUMBER, "16", "the change is multiplied by alpha / r", 0, 1e6},
                HL_OPTION_SPATIAL,
                HL_OPTION_SCOPE,
                HL_OPTION_LINEAR},
    .change = change,
};
