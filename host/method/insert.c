#include "method/insert.h"

#include <math.h>

#include "method/row.h"

static void adopt(hl_param *p, bool trained)
{
    if (p == NULL)
        return;
    p->role = HL_PARAM_ADAPTER;
    p->trained = trained;
}

hl_node *hl_insert_conv(hl_graph *graph, const char *name, hl_value x, hl_conv_spec spec)
{
    hl_value value = hl_graph_conv(graph, name, x, spec);
    if (value == HL_NO_VALUE || graph->status != HL_OK)
        return NULL;
    hl_node *node = graph->nodes[value];
    adopt(node->expr.weight, true);
    adopt(node->expr.bias, true);
    return node;
}

hl_node *hl_insert_norm(hl_graph *graph, const char *name, hl_value x)
{
    hl_value value = hl_graph_norm(graph, name, x, 1e-5f, 0.1f);
    if (value == HL_NO_VALUE || graph->status != HL_OK)
        return NULL;
    hl_node *node = graph->nodes[value];
    for (int64_t c = 0; c < node->shape.c; c++)
        node->norm.scale->host[c] = node->norm.var->host[c] = 1.0f;
    adopt(node->norm.scale, true);
    adopt(node->norm.shift, true);
    adopt(node->norm.mean, false);
    adopt(node->norm.var, false);
    node->batch_statistics = node->norm.mean->moves = node->norm.var->moves = true;
    return node;
}

void hl_insert_scatter(hl_node *conv, uint64_t seed)
{
    hl_param *w = conv->expr.weight;
    hl_param_scatter(w, sqrtf(2.0f / (float)(w->count / w->shape[0])), seed);
}

int64_t hl_gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

int64_t hl_tap_beside(const hl_graph *graph, const hl_node *conv)
{
    const hl_window *w = &conv->window;
    hl_shape x = graph->nodes[conv->in[0]]->shape;
    int64_t row = w->top / w->dh, column = w->left / w->dw;
    bool there = w->top % w->dh == 0 && w->left % w->dw == 0 && row < w->kh && column < w->kw &&
                 (x.h - 1) / w->sh + 1 == conv->shape.h && (x.w - 1) / w->sw + 1 == conv->shape.w;
    return there ? row * w->kw + column : -1;
}
