/* dora: LoRA that is brought to a trained length (Liu et al., 2024, arXiv 2402.09353): f(W)_o = m_o V_o /
 * |V_o| with V = W + alpha / r B A, |V_o| a constant in the backward pass, m = |W_o| at the start. */
#include "backend/weight_change.h"
#include "method/factors.h"

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    hl_weight_change *c = hl_add_lora(graph, node, method, seed);
    hl_param *magnitude = hl_add_factor(graph, node, "lora_magnitude_vector", 1, node->expr.weight->shape);
    HL_TRY(hl_change_status(graph, c));
    HL_TRY(hl_change_status(graph, magnitude));
    HL_TRY(hl_weight_change_norms(&node->expr, magnitude->host));
    c->magnitude = magnitude;
    return HL_OK;
}

const hl_method_info hl_method_dora = {
    .name = "dora",
    .summary = "lora, and the length of every output channel's filter",
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
