/* ssf: y <- s y + t for each output of every convolution, and with norms=1 of every norm (Lian et al., 2022,
 * arXiv 2210.08823), s ~ normal(1, 0.02), t ~ normal(0, 0.02). The scale of a convolution is stored as s - 1.
 *
 * The paper's networks normalise what they shift. A convolution in front of a norm may have outputs that are
 * smaller than such a t, which is not a small change then: init-noise=0 starts from the pretrained network.
 */
#include "method/method.h"
#include "method/row.h"

static hl_status scale_conv(hl_graph *graph, hl_node *node, float deviation, uint64_t seed)
{
    hl_param *s = hl_row_add_factor(graph, node, "ssf_scale"),
             *t = hl_row_add_offset(graph, node, "ssf_shift");
    if (s == NULL || t == NULL)
        return HL_E_NOMEM;
    hl_param_scatter(s, deviation, seed);
    hl_param_scatter(t, deviation, seed);
    return HL_OK;
}

static hl_status scale_norm(hl_graph *graph, const hl_node *norm, float deviation, uint64_t seed)
{
    hl_graph_insert_after(graph, norm->id);
    hl_value value = hl_graph_affine(graph, hl_graph_name(graph, "%s.ssf", norm->name), norm->id);
    if (value == HL_NO_VALUE)
        return graph->status;
    hl_graph_redirect(graph, norm->id, value, value);
    hl_norm_attr *affine = &graph->nodes[value]->norm;
    affine->scale->trained = affine->shift->trained = true;
    hl_param_scatter(affine->scale, deviation, seed);
    for (int64_t i = 0; i < affine->scale->count; i++)
        affine->scale->host[i] += 1.0f;
    hl_param_scatter(affine->shift, deviation, seed);
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    size_t nodes = graph->node_count;
    bool norms = hl_method_flag(method, "norms");
    float deviation = (float)hl_method_number(method, "init-noise");
    for (size_t v = 0; v < nodes; v++) {
        hl_node *node = graph->nodes[v];
        if (node->op == HL_OP_CONV && !node->head)
            HL_TRY(scale_conv(graph, node, deviation, seed));
        else if (norms && (node->op == HL_OP_NORM || node->op == HL_OP_LAYER_NORM))
            HL_TRY(scale_norm(graph, node, deviation, seed));
    }
    return HL_OK;
}

const hl_method_info hl_method_ssf = {
    .name = "ssf",
    .summary = "a scale and a shift for every output of every convolution",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 3e-2,
    .options = {{"norms", HL_OPTION_FLAG, "0", "scale and shift the outputs of norms too", 0, 0},
                {"init-noise", HL_OPTION_NUMBER, "0.02", "deviation of scales and shifts at the start", 0,
                 10}},
    .apply = apply,
};
