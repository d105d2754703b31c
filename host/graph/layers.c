/* The layers that builders are made of: their shapes, parameters and checks. */
#include "graph/build.h"
#include "graph/window.h"

hl_value hl_graph_input(hl_graph *g, int64_t h, int64_t w, int64_t c)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_INPUT, "input", NULL, 0);
    if (node == NULL)
        return HL_NO_VALUE;
    if (h < 1 || w < 1 || c < 1 || h > HL_MAX_EXTENT || w > HL_MAX_EXTENT || c > HL_MAX_EXTENT)
        return hl_graph_stick(g, hl_fail(HL_E_ARG, "input", "choose another image size",
                                         "%lld x %lld x %lld is out of range", (long long)h, (long long)w,
                                         (long long)c));
    node->shape = (hl_shape){1, h, w, c};
    return g->input = node->id;
}

static hl_value misfit(hl_graph *g, const hl_node *node, int64_t kernel)
{
    hl_shape s = node->shape;
    return hl_graph_stick(g, hl_fail(HL_E_ARG, node->name, "use a larger --image-size",
                                     "a window of %lld does not fit its input of %lld x %lld",
                                     (long long)kernel, (long long)s.h, (long long)s.w));
}

static int64_t or_one(int64_t value)
{
    return value == 0 ? 1 : value;
}

hl_value hl_graph_conv(hl_graph *g, const char *name, hl_value x, hl_conv_spec spec)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_CONV, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    int64_t kh = or_one(spec.kernel_h != 0 ? spec.kernel_h : spec.kernel);
    int64_t kw = or_one(spec.kernel_w != 0 ? spec.kernel_w : spec.kernel);
    int64_t stride = or_one(spec.stride), dilation = or_one(spec.dilation), groups = or_one(spec.groups);
    int64_t padding_h = spec.padding_h != 0 ? spec.padding_h : spec.padding,
            padding_w = spec.padding_w != 0 ? spec.padding_w : spec.padding;
    hl_shape in = node->shape;
    if (spec.out < 1 || spec.out > HL_MAX_EXTENT || groups < 1 || in.c % groups != 0 ||
        spec.out % groups != 0)
        return hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL,
                                         "%lld groups do not divide %lld inputs and %lld outputs",
                                         (long long)groups, (long long)in.c, (long long)spec.out));
    if (kh < 1 || kw < 1 || stride < 1 || dilation < 1 || padding_h < 0 || padding_w < 0 || kh > 4096 ||
        kw > 4096 || stride > 4096 || dilation > 4096 || padding_h > 4096 || padding_w > 4096)
        return hl_graph_stick(
            g, hl_fail(HL_E_ARG, name, NULL, "kernel, stride, dilation or padding is out of range"));
    hl_window *win = &node->window;
    *win = (hl_window){.kh = kh, .kw = kw, .sh = stride, .sw = stride, .dh = dilation, .dw = dilation};
    int64_t h = hl_window_extent(in.h, kh, stride, dilation, padding_h, spec.padding_same, false, &win->top,
                                 &win->bottom);
    int64_t w = hl_window_extent(in.w, kw, stride, dilation, padding_w, spec.padding_same, false, &win->left,
                                 &win->right);
    if (spec.window != NULL) {
        *win = *spec.window;
        if (!hl_window_is_fit(win))
            return hl_graph_stick(
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
    node->expr.weight = hl_graph_layer_param(g, node, "weight", HL_PARAM_WEIGHT, 4, shape);
    if (spec.bias)
        node->expr.bias = hl_graph_layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
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
    hl_node *node = hl_graph_add_node(g, HL_OP_LINEAR, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape in = node->shape;
    if (out < 1 || out > HL_MAX_EXTENT)
        return hl_graph_stick(g,
                              hl_fail(HL_E_ARG, name, NULL, "%lld outputs are out of range", (long long)out));
    node->window.kh = in.h;
    node->window.kw = in.w;
    node->shape = (hl_shape){1, 1, 1, out};
    const int64_t shape[4] = {out, in.c, in.h, in.w};
    node->expr.weight = hl_graph_layer_param(g, node, "weight", HL_PARAM_WEIGHT, 4, shape);
    if (node->expr.weight != NULL)
        node->expr.weight->flat = true;
    if (bias)
        node->expr.bias = hl_graph_layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
    return node->id;
}

static hl_value add_linear(hl_graph *g, const char *name, hl_value x, int64_t out, bool bias, bool head)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_LINEAR, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    if (out < 1 || out > HL_MAX_EXTENT)
        return hl_graph_stick(g,
                              hl_fail(HL_E_ARG, name, NULL, "%lld outputs are out of range", (long long)out));
    node->head = head;
    const int64_t shape[2] = {out, node->shape.c};
    node->shape.c = out;
    node->expr.weight = hl_graph_layer_param(g, node, "weight", HL_PARAM_WEIGHT, 2, shape);
    if (bias)
        node->expr.bias = hl_graph_layer_param(g, node, "bias", HL_PARAM_BIAS, 1, shape);
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
    hl_node *node = hl_graph_add_node(g, HL_OP_NORM, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const int64_t shape[1] = {node->shape.c};
    node->norm.scale = hl_graph_layer_param(g, node, "weight", HL_PARAM_NORM_SCALE, 1, shape);
    node->norm.shift = hl_graph_layer_param(g, node, "bias", HL_PARAM_NORM_SHIFT, 1, shape);
    node->norm.mean = hl_graph_layer_param(g, node, "running_mean", HL_PARAM_NORM_MEAN, 1, shape);
    node->norm.var = hl_graph_layer_param(g, node, "running_var", HL_PARAM_NORM_VAR, 1, shape);
    node->norm.eps = eps;
    node->norm.momentum = momentum;
    return node->id;
}

hl_value hl_graph_layer_norm(hl_graph *g, const char *name, hl_value x, float eps)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_LAYER_NORM, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const int64_t shape[1] = {node->shape.c};
    node->norm.scale = hl_graph_layer_param(g, node, "weight", HL_PARAM_NORM_SCALE, 1, shape);
    node->norm.shift = hl_graph_layer_param(g, node, "bias", HL_PARAM_NORM_SHIFT, 1, shape);
    node->norm.eps = eps;
    return node->id;
}

hl_value hl_graph_scale(hl_graph *g, const char *name, hl_value x)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_SCALE, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const int64_t shape[3] = {node->shape.c, 1, 1};
    node->norm.scale = hl_graph_add_param(g, name, HL_PARAM_SCALE, 3, shape);
    return node->id;
}

hl_value hl_graph_affine(hl_graph *g, const char *name, hl_value x)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_SCALE, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const int64_t shape[1] = {node->shape.c};
    node->norm.scale = hl_graph_layer_param(g, node, "scale", HL_PARAM_ADAPTER, 1, shape);
    node->norm.shift = hl_graph_layer_param(g, node, "shift", HL_PARAM_ADAPTER, 1, shape);
    for (int64_t c = 0; node->norm.scale != NULL && c < shape[0]; c++)
        node->norm.scale->host[c] = 1.0f;
    return node->norm.shift != NULL ? node->id : HL_NO_VALUE;
}

hl_value hl_graph_act(hl_graph *g, const char *name, hl_value x, hl_act act)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_ACT, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    node->act = act;
    return node->id;
}

hl_value hl_graph_pool(hl_graph *g, const char *name, hl_value x, hl_pool_spec spec)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_POOL, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    const bool whole = spec.window != NULL;
    int64_t k = whole ? spec.window->kh : spec.kernel, stride = or_one(spec.stride);
    if (whole ? !hl_window_is_fit(spec.window)
              : k < 1 || k > 4096 || stride < 1 || stride > 4096 || spec.padding < 0 || spec.padding * 2 > k)
        return hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL, "kernel, stride or padding is out of range"));
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
    hl_node *node = hl_graph_add_node(g, HL_OP_GLOBAL_POOL, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    node->shape.h = node->shape.w = 1;
    return node->id;
}

hl_value hl_graph_grid_pool(hl_graph *g, const char *name, hl_value x, int64_t size)
{
    if (g->status != HL_OK || x == HL_NO_VALUE)
        return HL_NO_VALUE;
    hl_shape in = g->nodes[x]->shape;
    int64_t cell = in.h / size;
    if (in.h == size && in.w == size)
        return x;
    if (cell > 0 && in.h == cell * size && in.w == in.h)
        return hl_graph_pool(g, name, x, (hl_pool_spec){.kernel = cell, .stride = cell});
    hl_node *node = hl_graph_add_node(g, HL_OP_GRID_POOL, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    node->shape.h = node->shape.w = size;
    return node->id;
}

static bool same_extent(hl_shape a, hl_shape b)
{
    return a.h == b.h && a.w == b.w;
}

static hl_value mismatch(hl_graph *g, const char *name, hl_shape a, hl_shape b)
{
    return hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL,
                                     "inputs of %lldx%lldx%lld and %lldx%lldx%lld do not go together",
                                     (long long)a.h, (long long)a.w, (long long)a.c, (long long)b.h,
                                     (long long)b.w, (long long)b.c));
}

hl_value hl_graph_add(hl_graph *g, const char *name, hl_value a, hl_value b)
{
    const hl_value in[2] = {a, b};
    hl_node *node = hl_graph_add_node(g, HL_OP_ADD, name, in, 2);
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
    hl_node *node = hl_graph_add_node(g, HL_OP_MUL, name, in, 2);
    if (node == NULL)
        return HL_NO_VALUE;
    hl_shape other = g->nodes[b]->shape;
    if (node->shape.c != other.c || !(same_extent(node->shape, other) || (other.h == 1 && other.w == 1)))
        return mismatch(g, name, node->shape, other);
    return node->id;
}

hl_value hl_graph_concat(hl_graph *g, const char *name, const hl_value *values, int count)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_CONCAT, name, values, count);
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
        hl_node *node = hl_graph_add_node(g, HL_OP_HALF, hl_graph_name(g, "%s.%d", name, i), &x, 1);
        halves[i] = node == NULL ? HL_NO_VALUE : node->id;
        if (node == NULL)
            continue;
        if (node->shape.c % 2 != 0)
            hl_graph_stick(
                g, hl_fail(HL_E_ARG, name, NULL, "%lld channels have no halves", (long long)node->shape.c));
        node->shape.c /= 2;
        node->half = i;
    }
}

hl_value hl_graph_interleave(hl_graph *g, const char *name, hl_value a, hl_value b)
{
    const hl_value in[2] = {a, b};
    hl_node *node = hl_graph_add_node(g, HL_OP_INTERLEAVE, name, in, 2);
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
    hl_node *node = hl_graph_add_node(g, HL_OP_DROPOUT, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    if (!(p >= 0.0f && p < 1.0f))
        return hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL, "drop rate %g is not in [0, 1)", (double)p));
    node->drop = p;
    return node->id;
}

hl_value hl_graph_drop_path(hl_graph *g, const char *name, hl_value x, float rate, float depth)
{
    hl_node *node = hl_graph_add_node(g, HL_OP_DROP_PATH, name, &x, 1);
    if (node == NULL)
        return HL_NO_VALUE;
    if (!(rate >= 0.0f && rate < 1.0f && depth >= 0.0f && depth <= 1.0f))
        return hl_graph_stick(g, hl_fail(HL_E_ARG, name, NULL,
                                         "drop rate %g is not in [0, 1) or depth %g not in [0, 1]",
                                         (double)rate, (double)depth));
    node->depth = depth;
    g->drop_path_branches += depth > 0.0f;
    hl_graph_set_drop_path(g, rate);
    return node->id;
}

void hl_graph_set_drop_path(hl_graph *g, float rate)
{
    g->drop_path = rate;
    for (size_t v = 0; v < g->node_count; v++)
        if (g->nodes[v]->op == HL_OP_DROP_PATH)
            g->nodes[v]->drop = rate * g->nodes[v]->depth;
}
