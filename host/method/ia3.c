/* ia3: a factor for each output of every convolution, one at the start (Liu et al., 2022, arXiv 2205.05638,
 * who scale keys, values and hidden activations of transformers). */
#include "method/method.h"
#include "method/row.h"

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)method;
    (void)seed;
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_node *node = graph->nodes[v];
        if (node->op == HL_OP_CONV && !node->head && hl_row_add_factor(graph, node, "ia3") == NULL)
            return HL_E_NOMEM;
    }
    return HL_OK;
}

const hl_method_info hl_method_ia3 = {
    .name = "ia3",
    .summary = "one factor for every output of every convolution",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-2,
    .lr_sgd = 1e-1,
    .apply = apply,
};
