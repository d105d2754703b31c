#include "method/layer_depth.h"

#include "method/blocks.h"

static bool owns(const hl_node *node, const hl_param *p)
{
    hl_param *own[HL_EXPR_PARAMS];
    for (int i = hl_weight_expr_params(&node->expr, own); i-- > 0;)
        if (own[i] == p)
            return true;
    return node->expr.weight == p || node->expr.bias == p || node->expr.offset == p ||
           node->norm.scale == p || node->norm.shift == p;
}

/* Where in the order the node of a parameter is; node_count: nowhere. */
static size_t place_of(const hl_graph *g, const hl_param *p)
{
    size_t k = 0;
    while (k < g->node_count && !owns(g->nodes[g->order[k]], p))
        k++;
    return k;
}

static int depth_at(const hl_blocks *blocks, size_t place, int tail)
{
    int in_front = 0; /* blocks that begin at or before it */
    while (in_front < blocks->count && blocks->items[in_front].first <= place)
        in_front++;
    bool behind = in_front == blocks->count && (in_front == 0 || place > blocks->items[in_front - 1].last);
    return behind ? tail : tail + blocks->count - in_front + 1;
}

static hl_status find(const hl_graph *g, hl_arena *arena, hl_param *const *params, int count, int *depth)
{
    hl_blocks blocks;
    HL_TRY(hl_blocks_find(g, arena, &blocks));
    int tail = 0; /* 1: there are layers behind the last block */
    for (size_t k = blocks.count > 0 ? blocks.items[blocks.count - 1].last + 1 : 0; k < g->node_count; k++)
        if (hl_node_has_parameters(g->nodes[g->order[k]]) && !g->nodes[g->order[k]]->head)
            tail = 1;
    for (int i = 0; i < count; i++) {
        size_t place = place_of(g, params[i]);
        bool head = params[i]->head || place == g->node_count;
        depth[i] = head ? 0 : depth_at(&blocks, place, tail);
    }
    return HL_OK;
}

hl_status hl_layer_depths(const hl_graph *graph, hl_param *const *params, int count, int *depth)
{
    hl_arena *arena;
    HL_TRY(hl_arena_create(&arena));
    hl_status status = find(graph, arena, params, count, depth);
    hl_arena_destroy(arena);
    return status;
}
