/* partial: the last blocks or stages, and everything behind them; what lies in front is as it was, and runs
 * once for each image where images repeat (graph/frontier.h). */
#include "method/blocks.h"
#include "method/method.h"

static void set_trained(hl_param *p, bool trained)
{
    if (p != NULL)
        p->trained = trained;
}

/* Norms in front stay frozen whatever --norm says: they are not part of what is trained. */
static void freeze(hl_node *node)
{
    if (node->op == HL_OP_NORM) {
        node->batch_statistics = false;
        node->norm.mean->moves = node->norm.var->moves = false;
    }
    set_trained(node->norm.scale, false);
    set_trained(node->norm.shift, false);
}

static void train(hl_node *node)
{
    set_trained(node->norm.scale, true);
    set_trained(node->norm.shift, true);
    set_trained(node->expr.weight, true);
    set_trained(node->expr.bias, true);
}

/* Where in graph->order the trained part begins. */
static hl_status find_start(const hl_graph *graph, const hl_method *method, hl_arena *arena, size_t *start)
{
    int wanted = (int)hl_method_number(method, "blocks"), stages = (int)hl_method_number(method, "stages");
    hl_blocks blocks;
    HL_TRY(hl_blocks_find(graph, arena, &blocks));
    if (stages > blocks.stages || (stages == 0 && wanted > blocks.count))
        return hl_fail(HL_E_ARG, "--method partial", "choose fewer, or full",
                       "the network has %d blocks in %d stages", blocks.count, blocks.stages);
    int first = blocks.count - wanted;
    for (int b = blocks.count - 1; stages > 0 && b >= 0; b--)
        if (blocks.items[b].stage >= blocks.stages - stages)
            first = b;
    *start = blocks.items[first].first;
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)seed;
    hl_arena *arena;
    size_t start = 0;
    HL_TRY(hl_arena_create(&arena));
    hl_status status = find_start(graph, method, arena, &start);
    hl_arena_destroy(arena);
    if (status != HL_OK)
        return status;
    for (size_t k = 0; k < graph->node_count; k++) {
        hl_node *node = graph->nodes[graph->order[k]];
        if (k >= start)
            train(node);
        else
            freeze(node);
    }
    return HL_OK;
}

const hl_method_info hl_method_partial = {
    .name = "partial",
    .summary = "the last blocks or stages, and what is behind them",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .options = {{"blocks", HL_OPTION_WHOLE, "1", "how many blocks (of ResNet-50: 1 to 16)", 1, 10000},
                {"stages", HL_OPTION_WHOLE, "0", "how many stages instead: blocks whose maps have one size",
                 0, 100}},
    .apply = apply,
};
