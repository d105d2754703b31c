#include "graph/graph.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/window.h"

enum { MAX_EXTENT = 1 << 24 }; /* of any dimension: products of three fit in 64 bits with room to spare */

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

/* Keeps the first error of building. */
static hl_value stick(hl_graph *g, hl_status status)
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
            stick(g,
                  hl_fail(HL_E_ARG, name, NULL, "dimension %d of its shape is %lld", i, (long long)shape[i]));
            return NULL;
        }
    hl_status status =
        hl_grow((void **)&g->params, &g->param_capacity, g->param_count + 1, sizeof *g->params, name);
    hl_param *p = status == HL_OK ? hl_arena_take(g->arena, sizeof *p) : NULL;
    char *copy = p != NULL ? hl_arena_copy(g->arena, name) : NULL;
    if (copy == NULL) {
        stick(g, HL_E_NOMEM);
        return NULL;
    }
    *p = (hl_param){.name = copy, .role = role, .ndim = ndim, .count = (int64_t)count};
    for (int i = 0; i < ndim; i++)
        p->shape[i] = shape[i];
    status = hl_alloc_lazy(count, sizeof(float), name, (void **)&p->host);
    if (status != HL_OK) {
        stick(g, status);
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
        stick(g, HL_E_NOMEM);
    return copy != NULL ? copy : "";
}

/* Appends a node at the cursor with inputs and name filled in; NULL after an error. */
static hl_node *add_node(hl_graph *g, hl_op op, const char *name, const hl_value *in, int in_count)
{
    if (g->status != HL_OK)
        return NULL;
    for (int i = 0; i < in_count; i++)
        if (in[i] < 0 || (size_t)in[i] >= g->node_count) {
            stick(g, hl_fail(HL_E_INTERNAL, name, NULL, "input %d does not exist", i));
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
        stick(g, HL_E_NOMEM);
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

static hl_param *layer_param(hl_graph *g, const hl_node *node, const char *suffix, hl_param_role role,
                             int ndim, const int64_t *shape)
{
    hl_param *p = hl_graph_add_param(g, hl_graph_name(g, "%s.%s", node->name, suffix), role, ndim, shape);
    if (p != NULL)
        p->head = node->head;
    return p;
}

hl_value hl_graph_input(hl_graph *g, int64_t h, int64_t w, int64_t c)
{
    hl_node *node = add_node(g, HL_OP_INPUT, "input", NULL, 0);
    if (node == NULL)
        return HL_NO_VALUE;
    if (h < 1 || w < 1 || c < 1 || h > MAX_EXTENT || w > MAX_EXTENT || c > MAX_EXTENT)
        return stick(g,
                     hl_fail(HL_E_ARG, "input", "choose another image size",
                             "%lld x %lld x %lld is out of range", (long long)h, (long long)w, (long long)c));
    node->shape = (hl_shape){1, h, w, c};
    return g->input = node->id;
}

static hl_value misfit(hl_graph *g, const hl_node *node, int64_t kernel)
{
    hl_shape s = node->shape;
    return stick(g, hl_fail(HL_E_ARG, node->name, "use a larger --image-size",
                            "a window of %lld does not fit its input of %lld x %lld", (long long)kernel,
                            (long long)s.h, (long long)s.w));
}

static int64_t or_one(int64_t value)
{
    return value == 0 ? 1 : value;
}

hl_value hl_graph_conv(hl_graph *g, const char *name, hl_value x, hl_conv_spec spec)
{
    hl_node *node = add_node(g, HL_OP_CONV, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    int64_t kh = or_one(spec.kernel_h != 0 ? spec.kernel_h : spec.kernel);
    int64_t kw = or_one(spec.kernel_w != 0 ? spec.kernel_w : spec.kernel);
    int64_t stride = or_one(spec.stride), dilation = or_one(spec.dilation), groups = or_one(spec.groups);
    int64_t padding_h = spec.padding_h != 0 ? spec.padding_h : spec.padding,
            padding_w = spec.padding_w != 0 ? spec.padding_w : spec.padding;
    hl_shape in = node->shape;
    if (spec.out < 1 || spec.out > MAX_EXTENT || groups < 1 || in.c % groups != 0 || spec.out % groups != 0)
        return stick(g,
                     hl_fail(HL_E_ARG, name, NULL, "%lld groups do not divide %lld inputs and %lld outputs",
                             (long long)groups, (long long)in.c, (long long)spec.out));
    if (kh < 1 || kw < 1 || stride < 1 || dilation < 1 || padding_h < 0 || padding_w < 0 || kh > 4096 ||
        kw > 4096 || stride > 4096 || dilation > 4096 || padding_h > 4096 || padding_w > 4096)
        return stick(g, hl_fail(HL_E_ARG, name, NULL, "kernel, stride, dilation or padding is out of range"));
    hl_window *win = &node->window;
    *win = (hl_window){.kh = kh, .kw = kw, .sh = stride, .sw = stride, .dh = dilation, .dw = dilation};
    int64_t h = hl_window_extent(in.h, kh, stride, dilation, padding_h, spec.padding_same, false, &win->top,
                                 &win->bottom);
    int64_t w = hl_window_extent(in.w, kw, stride, dilation, padding_w, spec.padding_same, false, &win->left,
                                 &win->right);
    if (spec.window != NULL) {
        *win = *spec.window;
        if (!hl_window_is_fit(win))
            return stick(
                g, hl_fail(HL_E_ARG, name, NULL, "kernel, stride, dilation or padding is out of range"));
        kh = win->kh;
        kw = win->kw;
        h = hl_window_count(in.h, kh, win->sh, win->dh, win->top + win->bottom);
        w = hl_window_count(in.w, kw, win->sw, win->dw, win->left + win->right);
    }
    if (h < 1 || w < 1)
        return misfit(g, node, h < 1 ? kh : kw);
    node->groups = groups;
    node->shape = (hl_shape){1, h, w, spec.out};
    const int64_t shape[4] = {spec.out, in.c / groups, kh, kw};
    node->expr.weight = layer_param(g, node, "weight", HL_PARAM_WEIGHT, 4, shape);
    if (spec.bias)
        node->expr.bias = layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
    return node->id;
}

hl_value hl_graph_head_conv(hl_graph *g, const char *name, hl_value x, int64_t classes)
{
    hl_value value = hl_graph_conv(g, name, x, (hl_conv_spec){.out = classes, .bias = true});
    if (value == HL_NO_VALUE || g->status != HL_OK)
        return HL_NO_VALUE;
    hl_node *node = g->nodes[value];
    node->head = node->expr.weight->head = node->expr.bias->head = true;
    return value;
}

hl_value hl_graph_flat_linear(hl_graph *g, const char *name, hl_value x, int64_t out, bool bias)
{
    hl_node *node = add_node(g, HL_OP_LINEAR, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape in = node->shape;
    if (out < 1 || out > MAX_EXTENT)
        return stick(g, hl_fail(HL_E_ARG, name, NULL, "%lld outputs are out of range", (long long)out));
    node->window.kh = in.h;
    node->window.kw = in.w;
    node->shape = (hl_shape){1, 1, 1, out};
    const int64_t shape[4] = {out, in.c, in.h, in.w};
    node->expr.weight = layer_param(g, node, "weight", HL_PARAM_WEIGHT, 4, shape);
    if (node->expr.weight != NULL)
        node->expr.weight->flat = true;
    if (bias)
        node->expr.bias = layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
    return node->id;
}

static hl_value add_linear(hl_graph *g, const char *name, hl_value x, int64_t out, bool bias, bool head)
{
    hl_node *node = add_node(g, HL_OP_LINEAR, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    if (out < 1 || out > MAX_EXTENT)
        return stick(g, hl_fail(HL_E_ARG, name, NULL, "%lld outputs are out of range", (long long)out));
    node->head = head;
    const int64_t shape[2] = {out, node->shape.c};
    node->shape.c = out;
    node->expr.weight = layer_param(g, node, "weight", HL_PARAM_WEIGHT, 2, shape);
    if (bias)
        node->expr.bias = layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
    return node->id;
}

hl_value hl_graph_linear(hl_graph *g, const char *name, hl_value x, int64_t out, bool bias)
{
    return add_linear(g, name, x, out, bias, false);
}

hl_value hl_graph_head(hl_graph *g, const char *name, hl_value x, int64_t classes)
{
    return add_linear(g, name, x, classes, true, true);
}

hl_value hl_graph_norm(hl_graph *g, const char *name, hl_value x, float eps, float momentum)
{
    hl_node *node = add_node(g, HL_OP_NORM, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const int64_t shape[1] = {node->shape.c};
    node->norm.scale = layer_param(g, node, "weight", HL_PARAM_NORM_SCALE, 1, shape);
    node->norm.shift = layer_param(g, node, "bias", HL_PARAM_NORM_SHIFT, 1, shape);
    node->norm.mean = layer_param(g, node, "running_mean", HL_PARAM_NORM_MEAN, 1, shape);
    node->norm.var = layer_param(g, node, "running_var", HL_PARAM_NORM_VAR, 1, shape);
    node->norm.eps = eps;
    node->norm.momentum = momentum;
    return node->id;
}

hl_value hl_graph_act(hl_graph *g, const char *name, hl_value x, hl_act act)
{
    hl_node *node = add_node(g, HL_OP_ACT, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    node->act = act;
    return node->id;
}

hl_value hl_graph_pool(hl_graph *g, const char *name, hl_value x, hl_pool_spec spec)
{
    hl_node *node = add_node(g, HL_OP_POOL, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const bool whole = spec.window != NULL;
    int64_t k = whole ? spec.window->kh : spec.kernel, stride = or_one(spec.stride);
    if (whole ? !hl_window_is_fit(spec.window)
              : k < 1 || k > 4096 || stride < 1 || stride > 4096 || spec.padding < 0 || spec.padding * 2 > k)
        return stick(g, hl_fail(HL_E_ARG, name, NULL, "kernel, stride or padding is out of range"));
    hl_window *win = &node->window;
    *win = (hl_window){.kh = k, .kw = k, .sh = stride, .sw = stride, .dh = 1, .dw = 1};
    hl_shape in = node->shape;
    int64_t h = hl_window_extent(in.h, k, stride, 1, spec.padding, spec.padding_same, spec.ceil_mode,
                                 &win->top, &win->bottom);
    int64_t w = hl_window_extent(in.w, k, stride, 1, spec.padding, spec.padding_same, spec.ceil_mode,
                                 &win->left, &win->right);
    if (whole) {
        *win = *spec.window;
        h = hl_window_count(in.h, win->kh, win->sh, 1, win->top + win->bottom);
        w = hl_window_count(in.w, win->kw, win->sw, 1, win->left + win->right);
    }
    if (h < 1 || w < 1)
        return misfit(g, node, k);
    node->shape.h = h;
    node->shape.w = w;
    node->pool_max = spec.max;
    node->count_padding = spec.count_padding;
    return node->id;
}

hl_value hl_graph_global_pool(hl_graph *g, const char *name, hl_value x)
{
    hl_node *node = add_node(g, HL_OP_GLOBAL_POOL, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    node->shape.h = node->shape.w = 1;
    return node->id;
}

hl_value hl_graph_grid_pool(hl_graph *g, const char *name, hl_value x, int64_t size, const char *todo)
{
    if (g->status != HL_OK || x == HL_NO_VALUE)
        return HL_NO_VALUE;
    hl_shape in = g->nodes[x]->shape;
    int64_t cell = in.h / size;
    if (in.h == size && in.w == size)
        return x;
    if (cell < 1 || in.h != cell * size || in.w != in.h)
        return stick(g, hl_fail(HL_E_ARG, name, todo,
                                "a map of %lld x %lld does not divide into %lld x %lld cells",
                                (long long)in.h, (long long)in.w, (long long)size, (long long)size));
    return hl_graph_pool(g, name, x, (hl_pool_spec){.kernel = cell, .stride = cell});
}

static bool same_extent(hl_shape a, hl_shape b)
{
    return a.h == b.h && a.w == b.w;
}

static hl_value mismatch(hl_graph *g, const char *name, hl_shape a, hl_shape b)
{
    return stick(g, hl_fail(HL_E_ARG, name, NULL,
                            "inputs of %lldx%lldx%lld and %lldx%lldx%lld do not go together", (long long)a.h,
                            (long long)a.w, (long long)a.c, (long long)b.h, (long long)b.w, (long long)b.c));
}

hl_value hl_graph_add(hl_graph *g, const char *name, hl_value a, hl_value b)
{
    const hl_value in[2] = {a, b};
    hl_node *node = add_node(g, HL_OP_ADD, name, in, 2);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape other = g->nodes[b]->shape;
    if (!same_extent(node->shape, other) || node->shape.c != other.c)
        return mismatch(g, name, node->shape, other);
    return node->id;
}

hl_value hl_graph_mul(hl_graph *g, const char *name, hl_value a, hl_value b)
{
    const hl_value in[2] = {a, b};
    hl_node *node = add_node(g, HL_OP_MUL, name, in, 2);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape other = g->nodes[b]->shape;
    if (node->shape.c != other.c || !(same_extent(node->shape, other) || (other.h == 1 && other.w == 1)))
        return mismatch(g, name, node->shape, other);
    return node->id;
}

hl_value hl_graph_concat(hl_graph *g, const char *name, const hl_value *values, int count)
{
    hl_node *node = add_node(g, HL_OP_CONCAT, name, values, count);
    if (node == NULL)
        return HL_NO_VALUE;
    for (int i = 1; i < count; i++) {
        hl_shape other = g->nodes[values[i]]->shape;
        if (!same_extent(node->shape, other))
            return mismatch(g, name, node->shape, other);
        node->shape.c += other.c;
    }
    return node->id;
}

void hl_graph_halves(hl_graph *g, const char *name, hl_value x, hl_value halves[2])
{
    for (int i = 0; i < 2; i++) {
        hl_node *node = add_node(g, HL_OP_HALF, hl_graph_name(g, "%s.%d", name, i), &x, 1);
        halves[i] = node == NULL ? HL_NO_VALUE : node->id;
        if (node == NULL)
            continue;
        if (node->shape.c % 2 != 0)
            stick(g, hl_fail(HL_E_ARG, name, NULL, "%lld channels have no halves", (long long)node->shape.c));
        node->shape.c /= 2;
        node->half = i;
    }
}

hl_value hl_graph_interleave(hl_graph *g, const char *name, hl_value a, hl_value b)
{
    const hl_value in[2] = {a, b};
    hl_node *node = add_node(g, HL_OP_INTERLEAVE, name, in, 2);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape other = g->nodes[b]->shape;
    if (!same_extent(node->shape, other) || node->shape.c != other.c)
        return mismatch(g, name, node->shape, other);
    node->shape.c *= 2;
    return node->id;
}

hl_value hl_graph_dropout(hl_graph *g, const char *name, hl_value x, float p)
{
    hl_node *node = add_node(g, HL_OP_DROPOUT, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    if (!(p >= 0.0f && p < 1.0f))
        return stick(g, hl_fail(HL_E_ARG, name, NULL, "drop rate %g is not in [0, 1)", (double)p));
    node->drop = p;
    return node->id;
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

static void init_param(hl_param *p, uint64_t seed, uint32_t index)
{
    float deviation = 0.0f, constant = 0.0f;
    if (hl_param_is_conv(p))
        deviation = sqrtf(2.0f / (float)(p->shape[0] * p->shape[2] * p->shape[3]));
    else if (p->role == HL_PARAM_WEIGHT)
        deviation = 0.01f;
    else if (p->role == HL_PARAM_NORM_SCALE || p->role == HL_PARAM_NORM_VAR)
        constant = 1.0f;
    hl_rng rng = hl_rng_make(seed, HL_STREAM_INIT, index, 0);
    for (int64_t i = 0; i < p->count; i++)
        p->host[i] = deviation > 0.0f ? deviation * hl_rng_normal(&rng) : constant;
}

void hl_graph_init(hl_graph *g, uint64_t seed)
{
    for (size_t i = 0; i < g->param_count; i++)
        if (g->params[i]->role != HL_PARAM_GATE)
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
