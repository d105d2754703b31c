#include "graph/build.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

hl_status hl_graph_create(hl_graph **graph)
{
    *graph = calloc(1, sizeof **graph);
    if (*graph == NULL)
        return hl_fail_nomem("graph", sizeof **graph);
    (*graph)->input = (*graph)->output = HL_NO_VALUE;
    hl_status status = hl_arena_create(&(*graph)->arena);
    if (status != HL_OK) {
        free(*graph);
        *graph = NULL;
    }
    return status;
}

hl_value hl_graph_stick(hl_graph *g, hl_status status)
{
    if (g->status == HL_OK && status != HL_OK) {
        g->status = status;
        snprintf(g->error, sizeof g->error, "%s", hl_last_error());
    }
    return HL_NO_VALUE;
}

hl_param *hl_graph_add_param(hl_graph *g, const char *name, hl_param_role role, int ndim,
                             const int64_t *shape)
{
    if (g->status != HL_OK)
        return NULL;
    size_t count = 1;
    for (int i = 0; i < ndim; i++)
        if (shape[i] <= 0 || !hl_size_mul(count, (size_t)shape[i], &count) || count > (size_t)1 << 40) {
            hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL, "dimension %d of its shape is %lld", i,
                                      (long long)shape[i]));
            return NULL;
        }
    hl_status status =
        hl_grow((void **)&g->params, &g->param_capacity, g->param_count + 1, sizeof *g->params, name);
    hl_param *p = status == HL_OK ? hl_arena_take(g->arena, sizeof *p) : NULL;
    char *copy = p != NULL ? hl_arena_copy(g->arena, name) : NULL;
    if (copy == NULL) {
        hl_graph_stick(g, HL_E_NOMEM);
        return NULL;
    }
    *p = (hl_param){.name = copy, .role = role, .ndim = ndim, .count = (int64_t)count};
    for (int i = 0; i < ndim; i++)
        p->shape[i] = shape[i];
    status = hl_alloc_lazy(count, sizeof(float), name, (void **)&p->host);
    if (status != HL_OK) {
        hl_graph_stick(g, status);
        return NULL;
    }
    p->value = p->host;
    g->params[g->param_count++] = p;
    return p;
}

void hl_graph_remove_param(hl_graph *g, hl_param *param)
{
    for (size_t i = 0; param != NULL && i < g->param_count; i++) {
        if (g->params[i] != param)
            continue;
        free(param->host);
        param->host = param->value = NULL;
        memmove(g->params + i, g->params + i + 1, (g->param_count - i - 1) * sizeof *g->params);
        g->param_count--;
        return;
    }
}

hl_param *hl_graph_find_param(const hl_graph *g, const char *name)
{
    for (size_t i = 0; i < g->param_count; i++)
        if (strcmp(g->params[i]->name, name) == 0)
            return g->params[i];
    return NULL;
}

const char *hl_graph_name(hl_graph *g, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *copy = hl_arena_copy(g->arena, text);
    if (copy == NULL)
        hl_graph_stick(g, HL_E_NOMEM);
    return copy != NULL ? copy : "";
}

hl_node *hl_graph_add_node(hl_graph *g, hl_op op, const char *name, const hl_value *in, int in_count)
{
    if (g->status != HL_OK)
        return NULL;
    for (int i = 0; i < in_count; i++)
        if (in[i] < 0 || (size_t)in[i] >= g->node_count) {
            hl_graph_stick(g, hl_fail(HL_E_INTERNAL, name, NULL, "input %d does not exist", i));
            return NULL;
        }
    hl_status status =
        hl_grow((void **)&g->nodes, &g->node_capacity, g->node_count + 1, sizeof *g->nodes, name);
    if (status == HL_OK)
        status = hl_grow((void **)&g->order, &g->order_capacity, g->node_count + 1, sizeof *g->order, name);
    hl_node *node = status == HL_OK ? hl_arena_take(g->arena, sizeof *node) : NULL;
    hl_value *inputs = node != NULL ? hl_arena_take(g->arena, (size_t)in_count * sizeof *inputs) : NULL;
    char *copy = inputs != NULL ? hl_arena_copy(g->arena, name) : NULL;
    if (copy == NULL) {
        hl_graph_stick(g, HL_E_NOMEM);
        return NULL;
    }
    for (int i = 0; i < in_count; i++)
        inputs[i] = in[i];
    *node = (hl_node){.op = op,
                      .id = (hl_value)g->node_count,
                      .name = copy,
                      .in = inputs,
                      .in_count = in_count,
                      .groups = 1,
                      .window = {.kh = 1, .kw = 1, .sh = 1, .sw = 1, .dh = 1, .dw = 1}};
    if (in_count > 0)
        node->shape = g->nodes[in[0]]->shape;
    memmove(g->order + g->cursor + 1, g->order + g->cursor, (g->node_count - g->cursor) * sizeof *g->order);
    g->order[g->cursor++] = node->id;
    g->nodes[g->node_count++] = node;
    return node;
}

hl_param *hl_graph_layer_param(hl_graph *g, const hl_node *node, const char *suffix, hl_param_role role,
                               int ndim, const int64_t *shape)
{
    hl_param *p = hl_graph_add_param(g, hl_graph_name(g, "%s.%s", node->name, suffix), role, ndim, shape);
    if (p != NULL)
        p->head = node->head;
    return p;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static hl_status check_unique(const char **names, size_t count)
{
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 1; i < count; i++)
        if (strcmp(names[i - 1], names[i]) == 0)
            return hl_fail(HL_E_INTERNAL, names[i], NULL, "two layers or parameters have this name");
    return HL_OK;
}

hl_status hl_graph_finish(hl_graph *g, hl_value output)
{
    if (g->status != HL_OK)
        return hl_fail_text(g->status, g->error);
    if (output < 0 || g->input < 0)
        return hl_fail(HL_E_INTERNAL, "graph", NULL, "it has no input or no output");
    size_t most = g->node_count > g->param_count ? g->node_count : g->param_count;
    const char **names;
    HL_TRY(hl_alloc_array(most, sizeof *names, "graph", (void **)&names));
    for (size_t i = 0; i < g->node_count; i++)
        names[i] = g->nodes[i]->name;
    hl_status status = check_unique(names, g->node_count);
    for (size_t i = 0; i < g->param_count; i++)
        names[i] = g->params[i]->name;
    if (status == HL_OK)
        status = check_unique(names, g->param_count);
    free(names);
    g->output = output;
    return status;
}

void hl_graph_insert_after(hl_graph *g, hl_value value)
{
    for (size_t i = 0; i < g->node_count; i++)
        if (g->order[i] == value)
            g->cursor = i + 1;
}

void hl_graph_remove_node(hl_graph *g, hl_value value)
{
    hl_value instead = g->nodes[value]->in[0];
    size_t kept = 0;
    hl_graph_redirect(g, value, instead, (hl_value)g->node_count);
    for (size_t k = 0; k < g->node_count; k++)
        if (g->order[k] != value)
            g->order[kept++] = g->order[k] - (g->order[k] > value);
    memmove(g->nodes + value, g->nodes + value + 1, (g->node_count - (size_t)value - 1) * sizeof *g->nodes);
    g->cursor = --g->node_count;
    for (size_t v = 0; v < g->node_count; v++) {
        g->nodes[v]->id = (hl_value)v;
        for (int i = 0; i < g->nodes[v]->in_count; i++)
            g->nodes[v]->in[i] -= g->nodes[v]->in[i] > value;
    }
    g->output -= g->output > value;
    g->input -= g->input > value;
}

void hl_graph_redirect(hl_graph *g, hl_value old, hl_value replacement, hl_value first_new)
{
    if (g->status == HL_OK) {
        for (hl_value v = 0; v < first_new; v++)
            for (int i = 0; i < g->nodes[v]->in_count; i++)
                if (g->nodes[v]->in[i] == old)
                    g->nodes[v]->in[i] = replacement;
        if (g->output == old)
            g->output = replacement;
    }
    g->cursor = g->node_count;
}
