#include "method/merge.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "method/insert.h"

/* ---- constants ---- */

static bool is_read(const hl_graph *g, hl_value value)
{
    for (size_t v = 0; v < g->node_count; v++)
        for (int i = 0; i < g->nodes[v]->in_count; i++)
            if (g->nodes[v]->in[i] == value)
                return true;
    return false;
}

/* A pooling gives a constant back as it is, unless it counts zeros at the edge. */
static bool passes_constants(const hl_node *pool)
{
    const hl_window *w = &pool->window;
    return pool->op != HL_OP_POOL || pool->pool_max || !pool->count_padding ||
           w->top + w->bottom + w->left + w->right == 0;
}

/* Channels [first, first + count) of `value` will be less by `constant`: its readers make up for it. false:
 * one of them cannot. `apply`: do it, not only see whether it can be done. */
static bool move_constant(hl_graph *g, hl_value value, int64_t first, const float *constant, int64_t count,
                          bool apply)
{
    if (value == g->output || !is_read(g, value))
        return false;
    for (size_t v = 0; v < g->node_count; v++) {
        hl_node *node = g->nodes[v];
        int64_t before = 0; /* channels of a concatenation's inputs before this one */
        for (int i = 0; i < node->in_count; before += g->nodes[node->in[i]]->shape.c, i++) {
            if (node->in[i] != value)
                continue;
            if (node->op == HL_OP_NORM) {
                for (int64_t c = 0; apply && c < count; c++)
                    node->norm.mean->host[first + c] -= constant[c];
                continue;
            }
            bool pool =
                (node->op == HL_OP_POOL || node->op == HL_OP_GLOBAL_POOL || node->op == HL_OP_GRID_POOL) &&
                passes_constants(node);
            int64_t place = node->op == HL_OP_CONCAT ? before + first : first;
            if ((!pool && node->op != HL_OP_CONCAT) ||
                !move_constant(g, node->id, place, constant, count, apply))
                return false;
        }
    }
    return true;
}

hl_status hl_merge_constant(hl_graph *graph, hl_node *node, const float *constant)
{
    int64_t outputs = node->expr.weight->shape[0];
    if (node->expr.bias == NULL && move_constant(graph, node->id, 0, constant, outputs, false)) {
        move_constant(graph, node->id, 0, constant, outputs, true);
        return HL_OK;
    }
    if (node->expr.bias == NULL)
        node->expr.bias = hl_graph_add_param(graph, hl_graph_name(graph, "%s.bias", node->name),
                                             HL_PARAM_BIAS, 1, &outputs);
    if (node->expr.bias == NULL)
        return HL_E_NOMEM;
    for (int64_t o = 0; o < outputs; o++)
        node->expr.bias->host[o] += constant[o];
    return HL_OK;
}

/* ---- inserted layers ---- */

static bool is_inserted(const hl_param *p)
{
    return p != NULL && p->role == HL_PARAM_ADAPTER;
}

/* scale x + shift behind a norm. */
static void merge_affine(hl_graph *g, hl_node *affine)
{
    const hl_node *norm = g->nodes[affine->in[0]];
    hl_param *s = affine->norm.scale, *t = affine->norm.shift;
    if (!is_inserted(s) || (norm->op != HL_OP_NORM && norm->op != HL_OP_LAYER_NORM))
        return;
    for (int64_t c = 0; c < s->count; c++) {
        norm->norm.scale->host[c] *= s->host[c];
        norm->norm.shift->host[c] = s->host[c] * norm->norm.shift->host[c] + t->host[c];
    }
    hl_graph_remove_node(g, affine->id);
    hl_graph_remove_param(g, s);
    hl_graph_remove_param(g, t);
}

static int readers(const hl_graph *g, hl_value value)
{
    int count = g->output == value;
    for (size_t v = 0; v < g->node_count; v++)
        for (int i = 0; i < g->nodes[v]->in_count; i++)
            count += g->nodes[v]->in[i] == value;
    return count;
}

static bool is_inserted_conv(const hl_node *node)
{
    return node->op == HL_OP_CONV && is_inserted(node->expr.weight);
}

/* Takes an inserted layer out, with its parameters. */
static void discard(hl_graph *g, hl_node *node)
{
    hl_param *const params[] = {node->expr.weight, node->expr.bias, node->norm.scale,
                                node->norm.shift,  node->norm.mean, node->norm.var};
    hl_graph_remove_node(g, node->id);
    for (size_t i = 0; i < sizeof params / sizeof *params; i++)
        hl_graph_remove_param(g, params[i]);
}

/* conv(x) + adapter(x), the adapter with the convolution's window or 1x1. */
static void merge_parallel(hl_graph *g, hl_node *sum, hl_node *conv, hl_node *adapter)
{
    const hl_param *w = conv->expr.weight, *a = adapter->expr.weight;
    int64_t window = w->shape[2] * w->shape[3], tap = hl_tap_beside(g, conv);
    for (int64_t i = 0; i < a->count; i++)
        w->host[a->count == w->count ? i : i * window + tap] += a->host[i];
    hl_graph_remove_node(g, sum->id);
    discard(g, adapter);
}

/* y + A norm(y), y = conv(x): W <- W + A S W, of each group by itself, and the bias likewise, S being the
 * norm's scales; and a constant A (shift - S mean). */
static hl_status merge_series(hl_graph *g, hl_node *sum, hl_node *conv, hl_node *norm, hl_node *adapter)
{
    const hl_param *w = conv->expr.weight, *a = adapter->expr.weight;
    const hl_norm_attr *n = &norm->norm;
    int64_t outputs = w->shape[0], row = w->count / outputs, group = outputs / conv->groups;
    float *merged, *constant;
    HL_TRY(hl_alloc_array((size_t)w->count, sizeof *merged, w->name, (void **)&merged));
    hl_status status = hl_alloc_array((size_t)outputs, sizeof *constant, w->name, (void **)&constant);
    if (status != HL_OK) {
        free(merged);
        return status;
    }
    memcpy(merged, w->host, (size_t)w->count * sizeof *merged);
    for (int64_t o = 0; o < outputs; o++) {
        double c = 0.0;
        for (int64_t k = 0; k < group; k++) {
            int64_t from = o / group * group + k;
            double s = (double)n->scale->host[from] / sqrt((double)n->var->host[from] + (double)n->eps),
                   factor = (double)a->host[o * group + k] * s,
                   bias = conv->expr.bias != NULL ? (double)conv->expr.bias->host[from] : 0.0;
            for (int64_t j = 0; j < row; j++)
                merged[o * row + j] += (float)(factor * (double)w->host[from * row + j]);
            c += factor * (bias - (double)n->mean->host[from]) +
                 (double)a->host[o * group + k] * (double)n->shift->host[from];
        }
        constant[o] = (float)c;
    }
    memcpy(w->host, merged, (size_t)w->count * sizeof *merged);
    free(merged);
    hl_graph_remove_node(g, sum->id);
    discard(g, adapter);
    discard(g, norm);
    status = hl_merge_constant(g, conv, constant);
    free(constant);
    return status;
}

/* ---- x + B(A x) in front of convolutions ---- */

/* Can a map of channels in front of it be multiplied into its weight? A constant would be missing from the
 * padding. */
static bool takes_map(const hl_node *node)
{
    const hl_window *w = &node->window;
    return hl_node_has_weight(node) && node->groups == 1 && w->top + w->bottom + w->left + w->right == 0;
}

/* W <- W (I + B A), and what the constant B a + b becomes behind W. */
static hl_status merge_map_into(hl_graph *g, hl_node *node, const hl_node *a, const hl_node *b)
{
    const hl_param *w = node->expr.weight, *wa = a->expr.weight, *wb = b->expr.weight;
    int64_t outputs = w->shape[0], channels = w->shape[1], window = w->count / (outputs * channels),
            r = wa->shape[0], per_group = wb->shape[1], group = channels / b->groups;
    float *constant, *through;
    HL_TRY(hl_alloc_array((size_t)(outputs + r), sizeof *constant, w->name, (void **)&constant));
    through = constant + outputs; /* a row of W B */
    for (int64_t o = 0; o < outputs; o++) {
        double c = 0.0;
        for (int64_t t = 0; t < window; t++) {
            float *row = w->host + o * channels * window + t;
            memset(through, 0, (size_t)r * sizeof *through);
            for (int64_t i = 0; i < channels; i++) {
                int64_t first = i / group * per_group;
                for (int64_t k = 0; k < per_group; k++)
                    through[first + k] += row[i * window] * wb->host[i * per_group + k];
                c += (double)row[i * window] * (double)b->expr.bias->host[i];
            }
            for (int64_t k = 0; k < r; k++) {
                c += (double)through[k] * (double)a->expr.bias->host[k];
                for (int64_t i = 0; i < channels; i++)
                    row[i * window] += through[k] * wa->host[k * channels + i];
            }
        }
        constant[o] = (float)c;
    }
    hl_status status = hl_merge_constant(g, node, constant);
    free(constant);
    return status;
}

static hl_status merge_map(hl_graph *g, hl_node *sum, hl_node *a, hl_node *b)
{
    for (size_t v = 0; v < g->node_count; v++)
        for (int i = 0; i < g->nodes[v]->in_count; i++)
            if (g->nodes[v]->in[i] == sum->id && !takes_map(g->nodes[v]))
                return HL_OK;
    for (size_t v = 0; v < g->node_count; v++)
        if (hl_node_has_weight(g->nodes[v]) && g->nodes[v]->in[0] == sum->id)
            HL_TRY(merge_map_into(g, g->nodes[v], a, b));
    hl_graph_remove_node(g, sum->id);
    discard(g, b);
    discard(g, a);
    return HL_OK;
}

static hl_status merge_sum(hl_graph *g, hl_node *sum)
{
    hl_node *kept = g->nodes[sum->in[0]], *adapter = g->nodes[sum->in[1]];
    if (!is_inserted_conv(adapter) || readers(g, adapter->id) != 1)
        return HL_OK;
    hl_node *before = g->nodes[adapter->in[0]];
    bool conv = kept->op == HL_OP_CONV && !is_inserted_conv(kept);
    if (conv && adapter->in[0] == kept->in[0] && adapter->expr.bias == NULL && readers(g, kept->id) == 1)
        merge_parallel(g, sum, kept, adapter);
    else if (conv && before->op == HL_OP_NORM && is_inserted(before->norm.scale) &&
             before->in[0] == kept->id && readers(g, kept->id) == 2)
        return merge_series(g, sum, kept, before, adapter);
    else if (is_inserted_conv(before) && before->in[0] == kept->id && readers(g, before->id) == 1)
        return merge_map(g, sum, before, adapter);
    return HL_OK;
}

hl_status hl_merge_insertions(hl_graph *graph)
{
    /* From the last one on: a node that goes renumbers those behind it. */
    for (size_t v = graph->node_count; v-- > 0;) {
        if (v >= graph->node_count)
            continue;
        if (graph->nodes[v]->op == HL_OP_SCALE)
            merge_affine(graph, graph->nodes[v]);
        else if (graph->nodes[v]->op == HL_OP_ADD)
            HL_TRY(merge_sum(graph, graph->nodes[v]));
    }
    return HL_OK;
}
