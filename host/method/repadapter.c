/* repadapter (Luo et al., 2023, arXiv 2302.08106): x + s B(A x) in front of the layers that read a block's
 * input, A 1x1 to r channels, B 1x1 in two groups back to all of them and zero at the start. What skips the
 * block, and its poolings, read x as it was. */
#include "method/blocks.h"
#include "method/insert.h"
#include "method/method.h"
#include "method/row.h"

/* Does it take x in, rather than pass it by? */
static bool takes_in(const hl_node *node)
{
    return hl_node_has_weight(node) || node->op == HL_OP_NORM || node->op == HL_OP_LAYER_NORM ||
           node->op == HL_OP_HALF;
}

static hl_status add_factor(hl_graph *graph, hl_node *b, float s)
{
    hl_param *factor = hl_row_add_factor(graph, b, "s");
    if (factor == NULL)
        return HL_E_NOMEM;
    factor->trained = false;
    for (int64_t o = 0; o < factor->count; o++)
        factor->host[o] = s - 1.0f;
    return HL_OK;
}

/* The adapter behind x: its sum with x. */
static hl_value add_adapter(hl_graph *graph, const char *name, hl_value x, const hl_method *method,
                            uint64_t seed)
{
    int64_t channels = graph->nodes[x]->shape.c, r = (int64_t)hl_method_number(method, "r");
    float s = (float)hl_method_number(method, "s");
    hl_node *a = hl_insert_conv(graph, hl_graph_name(graph, "%s.adapter_a", name), x,
                                (hl_conv_spec){.out = r, .bias = true});
    if (a == NULL)
        return HL_NO_VALUE;
    hl_insert_scatter(a, seed);
    hl_node *b = hl_insert_conv(
        graph, hl_graph_name(graph, "%s.adapter_b", name), a->id,
        (hl_conv_spec){.out = channels, .groups = hl_gcd(2, hl_gcd(channels, r)), .bias = true});
    if (b == NULL || (s != 1.0f && add_factor(graph, b, s) != HL_OK))
        return HL_NO_VALUE;
    return hl_graph_add(graph, hl_graph_name(graph, "%s.adapter_sum", name), x, b->id);
}

static hl_status insert(hl_graph *graph, const hl_blocks *blocks, int index, size_t nodes,
                        const hl_method *method, uint64_t seed)
{
    const hl_block *block = &blocks->items[index];
    hl_value x = block->input, sum = HL_NO_VALUE;
    for (size_t v = 0; v < nodes; v++) {
        hl_node *node = graph->nodes[v];
        for (int i = 0; blocks->of[v] == index && takes_in(node) && i < node->in_count; i++) {
            if (node->in[i] != x)
                continue;
            if (sum == HL_NO_VALUE) {
                hl_graph_insert_after(graph, x);
                sum = add_adapter(graph, block->name, x, method, seed);
                graph->cursor = graph->node_count;
            }
            if (sum == HL_NO_VALUE)
                return graph->status != HL_OK ? graph->status : HL_E_NOMEM;
            node->in[i] = sum;
        }
    }
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    hl_arena *arena;
    hl_blocks blocks;
    size_t nodes = graph->node_count;
    HL_TRY(hl_arena_create(&arena));
    hl_status status = hl_blocks_find(graph, arena, &blocks);
    for (int b = 0; status == HL_OK && b < blocks.count; b++)
        status = insert(graph, &blocks, b, nodes, method, seed);
    hl_arena_destroy(arena);
    return status;
}

const hl_method_info hl_method_repadapter = {
    .name = "repadapter",
    .summary = "x + s B(A x) at each block's input, which can be merged into convolutions without padding",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .options = {{"r", HL_OPTION_WHOLE, "8", "channels of A", 1, 4096},
                {"s", HL_OPTION_NUMBER, "1", "the fixed factor of the sum", 0.001, 1000}},
    .apply = apply,
};
