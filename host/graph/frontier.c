#include "graph/frontier.h"

#include "graph/fuse.h"

/* What the node does is the same in every epoch, given its inputs. (Stochastic depth leaves a branch alone
 * whose inputs are: fuse.h.) */
static bool is_constant(const hl_node *node)
{
    const hl_unit unit = {.node = node, .expr = node->expr};
    bool random = node->op == HL_OP_DROPOUT && node->drop > 0.0f,
         moving = node->op == HL_OP_NORM && node->batch_statistics;
    return !hl_unit_is_trained(&unit) && !random && !moving;
}

static void mark_fixed(const hl_graph *g, hl_frontier *f)
{
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *node = g->nodes[g->order[k]];
        bool fixed = is_constant(node);
        for (int i = 0; i < node->in_count; i++)
            fixed = fixed && f->fixed[node->in[i]];
        f->fixed[node->id] = fixed;
        f->layers += fixed && hl_node_has_weight(node);
    }
}

hl_status hl_frontier_find(const hl_graph *g, hl_arena *arena, hl_frontier *f)
{
    size_t n = g->node_count;
    bool *read = hl_arena_take(arena, n * sizeof *read);
    *f = (hl_frontier){.fixed = hl_arena_take(arena, n * sizeof *f->fixed),
                       .values = hl_arena_take(arena, n * sizeof *f->values)};
    if (read == NULL || f->fixed == NULL || f->values == NULL)
        return HL_E_NOMEM;
    mark_fixed(g, f);
    for (size_t k = 0; k < n; k++)
        for (int i = 0; i < g->nodes[k]->in_count; i++)
            read[g->nodes[k]->in[i]] = read[g->nodes[k]->in[i]] || !f->fixed[g->nodes[k]->id];
    read[g->output] = true;
    for (size_t k = 0; k < n; k++) {
        const hl_node *node = g->nodes[g->order[k]];
        if (!f->fixed[node->id] || !read[node->id])
            continue;
        f->values[f->count++] = node->id;
        f->elements += hl_shape_count(node->shape);
    }
    return HL_OK;
}
