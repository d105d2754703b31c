#include "method/row.h"

#include "base/philox.h"

static hl_param *add(hl_graph *graph, const hl_node *node, const char *suffix)
{
    hl_param *p = hl_graph_add_param(graph, hl_graph_name(graph, "%s.%s", node->name, suffix),
                                     HL_PARAM_ADAPTER, 1, node->expr.weight->shape);
    if (p != NULL)
        p->trained = true;
    return p;
}

hl_param *hl_row_add_factor(hl_graph *graph, hl_node *node, const char *suffix)
{
    node->expr.gate = add(graph, node, suffix);
    node->expr.kind = node->expr.gate != NULL ? HL_WEIGHT_ROW : HL_WEIGHT_PLAIN;
    return node->expr.gate;
}

hl_param *hl_row_add_offset(hl_graph *graph, hl_node *node, const char *suffix)
{
    return node->expr.offset = add(graph, node, suffix);
}

/* FNV-1a. */
static uint32_t hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name != '\0'; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return h;
}

void hl_param_scatter(hl_param *param, float deviation, uint64_t seed)
{
    hl_rng rng = hl_rng_make(seed, HL_STREAM_INIT, hash(param->name), 1);
    for (int64_t i = 0; i < param->count; i++)
        param->host[i] = deviation * hl_rng_normal(&rng);
}
