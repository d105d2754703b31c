/* residual-adapter: beside each convolution with a window larger than 1x1 a 1x1 convolution (Rebuffi et al.,
 * 2018, arXiv 1803.10082), or in series with it: y + A norm(y) (2017, arXiv 1705.08045). Zero at the start.
 * It has the groups of the convolution that it belongs to, so that it can be merged. Where a 1x1 beside it
 * would give another map (no padding: Inception), it has that convolution's window. */
#include "method/insert.h"
#include "method/layers.h"
#include "method/method.h"

static hl_status parallel(hl_graph *graph, const hl_node *conv)
{
    hl_conv_spec spec = {.out = conv->shape.c, .groups = conv->groups};
    hl_window beside = conv->window;
    if (hl_tap_beside(graph, conv) >= 0) {
        beside.kh = beside.kw = beside.dh = beside.dw = 1;
        beside.top = beside.bottom = beside.left = beside.right = 0;
    }
    spec.window = &beside;
    hl_graph_insert_after(graph, conv->id);
    const hl_node *adapter =
        hl_insert_conv(graph, hl_graph_name(graph, "%s.adapter", conv->name), conv->in[0], spec);
    if (adapter == NULL)
        return graph->status;
    hl_value sum =
        hl_graph_add(graph, hl_graph_name(graph, "%s.adapter_sum", conv->name), conv->id, adapter->id);
    hl_graph_redirect(graph, conv->id, sum, adapter->id);
    return graph->status;
}

static hl_status series(hl_graph *graph, const hl_node *conv)
{
    hl_graph_insert_after(graph, conv->id);
    const hl_node *norm =
        hl_insert_norm(graph, hl_graph_name(graph, "%s.adapter_norm", conv->name), conv->id);
    const hl_node *adapter =
        norm == NULL ? NULL
                     : hl_insert_conv(graph, hl_graph_name(graph, "%s.adapter", conv->name), norm->id,
                                      (hl_conv_spec){.out = conv->shape.c, .groups = conv->groups});
    if (adapter == NULL)
        return graph->status;
    hl_value sum =
        hl_graph_add(graph, hl_graph_name(graph, "%s.adapter_sum", conv->name), conv->id, adapter->id);
    hl_graph_redirect(graph, conv->id, sum, norm->id);
    return graph->status;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    bool in_series = hl_method_flag(method, "series");
    size_t nodes = graph->node_count;
    (void)seed;
    for (size_t v = 0; v < nodes; v++)
        if (hl_is_inner_spatial(graph, graph->nodes[v]))
            HL_TRY(in_series ? series(graph, graph->nodes[v]) : parallel(graph, graph->nodes[v]));
    return HL_OK;
}

const hl_method_info hl_method_residual_adapter = {
    .name = "residual-adapter",
    .summary = "a 1x1 convolution beside each larger one; --norm affine trains norms too, as its paper does",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .options = {{"series", HL_OPTION_FLAG, "0", "behind it instead: y + A norm(y)", 0, 0}},
    .apply = apply,
};
