/* Fresh weights. */
#include <math.h>
#include <string.h>

#include "base/philox.h"
#include "graph/graph.h"

static void init_param(hl_param *p, uint64_t seed, uint32_t index)
{
    float deviation = 0.0f, constant = 0.0f;
    if (hl_param_is_conv(p))
        deviation = sqrtf(2.0f / (float)(p->shape[0] * p->shape[2] * p->shape[3]));
    else if (p->role == HL_PARAM_WEIGHT)
        deviation = 0.01f;
    else if (p->role == HL_PARAM_NORM_SCALE || p->role == HL_PARAM_NORM_VAR)
        constant = 1.0f;
    else if (p->role == HL_PARAM_SCALE)
        constant = 1e-6f;
    hl_rng rng = hl_rng_make(seed, HL_STREAM_INIT, index, 0);
    for (int64_t i = 0; i < p->count; i++)
        p->host[i] = deviation > 0.0f ? deviation * hl_rng_normal(&rng) : constant;
}

void hl_graph_init(hl_graph *g, uint64_t seed)
{
    for (size_t i = 0; i < g->param_count; i++)
        if (!hl_param_is_added(g->params[i]))
            init_param(g->params[i], seed, (uint32_t)i);
}

void hl_graph_init_head(hl_graph *g, uint64_t seed, bool zero)
{
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        if (p->head && zero)
            memset(p->host, 0, (size_t)p->count * sizeof *p->host);
        else if (p->head)
            init_param(p, seed, (uint32_t)i);
    }
}
