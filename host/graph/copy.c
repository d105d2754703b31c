#include "graph/copy.h"

#include <stdlib.h>
#include <string.h>

typedef struct copier {
    const hl_graph *from;
    const hl_graph_part *part;
    hl_graph *to;
    hl_value *made; /* by the values of `from`; HL_NO_VALUE: not yet */
} copier;

int64_t hl_graph_part_channels(const hl_graph *graph, const hl_graph_part *part, hl_value v)
{
    int64_t channels = hl_graph_node(graph, v)->shape.c, count = 0;
    if (part->kept[v] == NULL)
        return channels;
    for (int64_t c = 0; c < channels; c++)
        count += part->kept[v][c];
    return count;
}

static bool is_kept(const copier *c, hl_value v, int64_t channel)
{
    return c->part->kept[v] == NULL || c->part->kept[v][channel];
}

/* The kept ones of a value for each channel. */
static void copy_vector(const copier *c, hl_value v, const hl_param *from, hl_param *to)
{
    if (from == NULL || to == NULL)
        return;
    int64_t at = 0;
    for (int64_t k = 0; k < from->count; k++)
        if (is_kept(c, v, k))
            to->host[at++] = from->host[k];
    to->head = from->head;
}

/* A depthwise filter has no input of its own to choose; others with groups keep all of theirs. */
static void copy_weight(const copier *c, const hl_node *node, hl_param *to)
{
    const hl_param *from = node->expr.weight;
    int64_t window = node->window.kh * node->window.kw;
    float *at = to->host;
    for (int64_t o = 0; o < from->shape[0]; o++)
        for (int64_t i = 0; is_kept(c, node->id, o) && i < from->shape[1]; i++) {
            if (node->groups == 1 && !is_kept(c, node->in[0], i))
                continue;
            memcpy(at, from->host + (o * from->shape[1] + i) * window, (size_t)window * sizeof *at);
            at += window;
        }
    to->head = from->head;
}

static bool gains(const copier *c, const hl_node *node)
{
    const double *gain = c->part->gain[node->id];
    for (int64_t o = 0; gain != NULL && o < node->shape.c; o++)
        if (gain[o] != 0.0)
            return true;
    return false;
}

static void copy_bias(const copier *c, const hl_node *node, hl_param *to)
{
    const double *gain = c->part->gain[node->id];
    const hl_param *from = node->expr.bias;
    int64_t at = 0;
    for (int64_t o = 0; to != NULL && o < node->shape.c; o++)
        if (is_kept(c, node->id, o))
            to->host[at++] =
                (float)((from != NULL ? (double)from->host[o] : 0.0) + (gain != NULL ? gain[o] : 0.0));
    if (to != NULL)
        to->head = node->expr.weight->head;
}

static hl_value copy_weighted(copier *c, const hl_node *node, hl_value x)
{
    int64_t out = hl_graph_part_channels(c->from, c->part, node->id);
    bool bias = node->expr.bias != NULL || gains(c, node), chained = c->part->kept[node->in[0]] != NULL;
    hl_value made;
    if (node->op == HL_OP_LINEAR && node->expr.weight->flat)
        made = hl_graph_flat_linear(c->to, node->name, x, out, bias);
    else if (node->op == HL_OP_LINEAR)
        made = hl_graph_linear(c->to, node->name, x, out, bias);
    else
        made = hl_graph_conv(c->to, node->name, x,
                             (hl_conv_spec){.out = out,
                                            .window = &node->window,
                                            .groups = chained && node->groups > 1 ? out : node->groups,
                                            .bias = bias});
    if (made == HL_NO_VALUE)
        return made;
    hl_node *layer = hl_graph_node(c->to, made);
    layer->head = node->head;
    copy_weight(c, node, layer->expr.weight);
    copy_bias(c, node, layer->expr.bias);
    return made;
}

static hl_value copy_norm(copier *c, const hl_node *node, hl_value x)
{
    const hl_norm_attr *n = &node->norm;
    hl_value made = node->op == HL_OP_NORM    ? hl_graph_norm(c->to, node->name, x, n->eps, n->momentum)
                    : node->op == HL_OP_SCALE ? hl_graph_scale(c->to, node->name, x)
                                              : hl_graph_layer_norm(c->to, node->name, x, n->eps);
    if (made == HL_NO_VALUE)
        return made;
    const hl_norm_attr *to = &hl_graph_node(c->to, made)->norm;
    copy_vector(c, node->id, n->scale, to->scale);
    copy_vector(c, node->id, n->shift, to->shift);
    copy_vector(c, node->id, n->mean, to->mean);
    copy_vector(c, node->id, n->var, to->var);
    return made;
}

/* Both halves are made when the first of them comes. */
static hl_value copy_halves(copier *c, const hl_node *node, hl_value x)
{
    hl_value halves[2];
    const char *dot = strrchr(node->name, '.');
    if (c->made[node->id] != HL_NO_VALUE)
        return c->made[node->id];
    hl_graph_halves(c->to, hl_graph_name(c->to, "%.*s", (int)(dot - node->name), node->name), x, halves);
    for (size_t v = 0; v < c->from->node_count; v++) {
        const hl_node *other = c->from->nodes[v];
        if (other->op == HL_OP_HALF && other->in[0] == node->in[0])
            c->made[v] = halves[other->half];
    }
    return halves[node->half];
}

static hl_value copy_concat(copier *c, const hl_node *node)
{
    hl_value *values = hl_arena_take(c->to->arena, (size_t)node->in_count * sizeof *values);
    for (int i = 0; values != NULL && i < node->in_count; i++)
        values[i] = c->made[node->in[i]];
    return values != NULL ? hl_graph_concat(c->to, node->name, values, node->in_count) : HL_NO_VALUE;
}

static hl_value copy_node(copier *c, const hl_node *n)
{
    hl_value a = n->in_count > 0 ? c->made[n->in[0]] : HL_NO_VALUE,
             b = n->in_count > 1 ? c->made[n->in[1]] : HL_NO_VALUE;
    switch (n->op) {
    case HL_OP_INPUT:
        return hl_graph_input(c->to, n->shape.h, n->shape.w, n->shape.c);
    case HL_OP_CONV:
    case HL_OP_LINEAR:
        return copy_weighted(c, n, a);
    case HL_OP_NORM:
    case HL_OP_LAYER_NORM:
    case HL_OP_SCALE:
        return copy_norm(c, n, a);
    case HL_OP_ACT:
        return hl_graph_act(c->to, n->name, a, n->act);
    case HL_OP_POOL:
        return hl_graph_pool(
            c->to, n->name, a,
            (hl_pool_spec){.max = n->pool_max, .count_padding = n->count_padding, .window = &n->window});
    case HL_OP_GLOBAL_POOL:
        return hl_graph_global_pool(c->to, n->name, a);
    case HL_OP_GRID_POOL:
        return hl_graph_grid_pool(c->to, n->name, a, n->shape.h);
    case HL_OP_ADD:
        return hl_graph_add(c->to, n->name, a, b);
    case HL_OP_MUL:
        return hl_graph_mul(c->to, n->name, a, b);
    case HL_OP_CONCAT:
        return copy_concat(c, n);
    case HL_OP_HALF:
        return copy_halves(c, n, a);
    case HL_OP_INTERLEAVE:
        return hl_graph_interleave(c->to, n->name, a, b);
    case HL_OP_DROPOUT:
        return hl_graph_dropout(c->to, n->name, a, n->drop);
    case HL_OP_DROP_PATH:
        return hl_graph_drop_path(c->to, n->name, a, c->from->drop_path, n->depth);
    }
    return HL_NO_VALUE;
}

static hl_status copy_nodes(copier *c)
{
    for (size_t k = 0; k < c->from->node_count; k++) {
        const hl_node *node = c->from->nodes[c->from->order[k]];
        if (hl_node_has_weight(node) && node->expr.kind != HL_WEIGHT_PLAIN)
            return hl_fail(HL_E_INTERNAL, node->name, NULL, "a graph is copied after its method is merged");
        c->made[node->id] = copy_node(c, node);
        if (c->to->status != HL_OK)
            return hl_fail_text(c->to->status, c->to->error);
        if (c->made[node->id] == HL_NO_VALUE)
            return HL_E_NOMEM;
    }
    return hl_graph_finish(c->to, c->made[c->from->output]);
}

hl_status hl_graph_copy_part(const hl_graph *graph, const hl_graph_part *part, hl_graph **copy)
{
    copier c = {.from = graph, .part = part};
    HL_TRY(hl_graph_create(copy));
    c.to = *copy;
    c.made = hl_arena_take(c.to->arena, graph->node_count * sizeof *c.made);
    for (size_t v = 0; c.made != NULL && v < graph->node_count; v++)
        c.made[v] = HL_NO_VALUE;
    hl_status status = c.made != NULL ? copy_nodes(&c) : HL_E_NOMEM;
    if (status != HL_OK) {
        hl_graph_destroy(*copy);
        *copy = NULL;
    }
    return status;
}

hl_status hl_graph_copy(const hl_graph *graph, hl_graph **copy)
{
    hl_graph_part part = {0};
    void *nothing;
    *copy = NULL;
    HL_TRY(hl_alloc_array(graph->node_count, sizeof *part.kept + sizeof *part.gain, "graph", &nothing));
    part.kept = nothing;
    part.gain = (double **)(part.kept + graph->node_count);
    hl_status status = hl_graph_copy_part(graph, &part, copy);
    free(nothing);
    return status;
}
