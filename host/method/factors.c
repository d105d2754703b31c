#include "method/factors.h"

#include <math.h>

#include "base/philox.h"

hl_weight_change *hl_add_weight_change(hl_graph *graph, hl_node *node, hl_change_kind kind, float scale)
{
    hl_weight_change *change = hl_arena_take(graph->arena, sizeof *change);
    if (change == NULL)
        return NULL;
    *change = (hl_weight_change){.kind = kind, .scale = scale};
    node->expr.kind = HL_WEIGHT_CHANGED;
    node->expr.change = change;
    return change;
}

hl_param *hl_add_factor(hl_graph *graph, const hl_node *node, const char *name, int ndim,
                        const int64_t *shape)
{
    hl_param *p = hl_graph_add_param(graph, hl_graph_name(graph, "%s.%s", node->name, name), HL_PARAM_FACTOR,
                                     ndim, shape);
    if (p != NULL)
        p->trained = true;
    return p;
}

static hl_rng start(const hl_graph *graph, const hl_param *p, uint64_t seed)
{
    uint32_t index = 0;
    while (index < graph->param_count && graph->params[index] != p)
        index++;
    return hl_rng_make(seed, HL_STREAM_INIT, 1u << 21 | index, 0);
}

void hl_start_normal(const hl_graph *graph, hl_param *p, float deviation, uint64_t seed)
{
    if (p == NULL)
        return;
    hl_rng rng = start(graph, p, seed);
    for (int64_t i = 0; i < p->count; i++)
        p->host[i] = deviation * hl_rng_normal(&rng);
}

void hl_start_kaiming(const hl_graph *graph, hl_param *p, int64_t fan_in, uint64_t seed)
{
    if (p == NULL)
        return;
    float bound = 1.0f / sqrtf((float)fan_in);
    hl_rng rng = start(graph, p, seed);
    for (int64_t i = 0; i < p->count; i++)
        p->host[i] = bound * (2.0f * hl_rng_uniform(&rng) - 1.0f);
}

hl_weight_change *hl_add_lora(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    const hl_weight_matrix m = hl_weight_as_matrix(node);
    const int64_t r = (int64_t)hl_method_number(method, "r");
    const bool conv = node->op == HL_OP_CONV;
    const int64_t a_shape[4] = {m.groups * r, m.inputs, node->window.kh, node->window.kw},
                  b_shape[4] = {m.groups * m.rows, r, 1, 1};
    hl_weight_change *change = hl_add_weight_change(graph, node, HL_CHANGE_ADD,
                                                    (float)(hl_method_number(method, "alpha") / (double)r));
    hl_param *a = hl_add_factor(graph, node, "lora_A.weight", conv ? 4 : 2, a_shape),
             *b = hl_add_factor(graph, node, "lora_B.weight", conv ? 4 : 2, b_shape);
    if (change == NULL || a == NULL || b == NULL)
        return NULL;
    hl_start_kaiming(graph, a, m.columns, seed);
    change->factor[0] = (hl_factor){
        .left = b, .right = a, .blocks = m.groups, .rows = m.rows, .columns = m.columns, .rank = r};
    return change;
}
