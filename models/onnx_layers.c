/* Layers with parameters: Conv, Gemm, MatMul, BatchNormalization. */
#include <math.h>
#include <string.h>

#include "models/onnx_convert.h"

static const char *const simplify = "simplify the file, e.g. with onnxsim";

static hl_status wrong_size(hl_convert *x, const hl_onnx_node *n, const char *what, size_t have, int64_t want)
{
    return hl_convert_fail(x, n, "export it again", "its %s has %zu values where %lld belong", what, have,
                           (long long)want);
}

static hl_status fill(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v, const char *what,
                      hl_param *p)
{
    const float *values;
    HL_TRY(hl_convert_floats(x, n, v, &values));
    size_t count = hl_named_tensor_count(&v->tensor);
    if ((int64_t)count != p->count)
        return wrong_size(x, n, what, count, p->count);
    memcpy(p->host, values, count * sizeof *values);
    return HL_OK;
}

/* Is the shape of a constant [.., count, ..], all else 1, with `count` at dimension d of `ndim`? */
static bool lies_along(const hl_named_tensor *t, int ndim, int d, int64_t count)
{
    int at = d - (ndim - t->ndim);
    if (t->ndim > ndim || at < 0)
        return false;
    for (int k = 0; k < t->ndim; k++)
        if (t->shape[k] != (k == at ? count : 1))
            return false;
    return true;
}

/* A bias that is added right behind a layer, along dimension d of its output: that node is done too, and
 * *last is the node whose output the layer makes. NULL where there is none. */
static const hl_onnx_value *following_bias(hl_convert *x, const hl_onnx_node *n, int ndim, int d,
                                           int64_t count, const hl_onnx_node **last)
{
    size_t out = (size_t)(hl_convert_value(x, n->out[0]) - x->values), reader = x->reader[out];
    *last = n;
    if (x->uses[out] != 1 || reader >= x->onnx->node_count)
        return NULL;
    const hl_onnx_node *add = &x->onnx->nodes[reader];
    if (strcmp(add->op, "Add") != 0 || add->in_count != 2 || add->out_count < 1)
        return NULL;
    int other = strcmp(add->in[0], n->out[0]) == 0 ? 1 : 0;
    const hl_onnx_value *bias = hl_convert_in(x, add, other);
    if (bias->kind != HL_ONNX_CONST || !lies_along(&bias->tensor, ndim, d, count))
        return NULL;
    x->done[reader] = true;
    *last = add;
    return bias;
}

/* How many outputs a layer gets that has `own` in the file. */
static int64_t outputs_of(hl_convert *x, bool head, int64_t own)
{
    if (!head)
        return own;
    x->old_classes = own;
    if (x->classes == 0)
        x->classes = own;
    return x->classes;
}

/* The head has its file's weights unless another number of classes is wanted. */
static bool is_fresh(const hl_convert *x, bool head)
{
    return head && x->classes != x->old_classes;
}

static hl_status conv_weight(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *w, bool reversed,
                             hl_param *p)
{
    HL_TRY(fill(x, n, w, "weight", p));
    int64_t window = p->shape[2] * p->shape[3], in = p->shape[1];
    for (int64_t row = 0; reversed && row < p->shape[0] * (in / 2); row++) {
        float *a = p->host + (row / (in / 2) * in + row % (in / 2)) * window,
              *b = p->host + (row / (in / 2) * in + in - 1 - row % (in / 2)) * window;
        for (int64_t k = 0; k < window; k++) {
            float kept = a[k];
            a[k] = b[k];
            b[k] = kept;
        }
    }
    return HL_OK;
}

static hl_status convert_conv(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value v = *hl_convert_in(x, n, 0);
    const hl_onnx_value *w = hl_convert_in(x, n, 1);
    int64_t kernel[HL_CONVERT_INTS], pads[4] = {0}, groups = hl_convert_int(n, "group", 1);
    int count;
    if (w->kind != HL_ONNX_CONST || w->tensor.ndim != 4)
        return hl_convert_fail(x, n, simplify, "its weight is not a constant of 4 dimensions");
    if (v.kind == HL_ONNX_MAP && v.form == HL_FORM_PADDED && v.pad_value == 0.0) {
        memcpy(pads, v.pads, sizeof pads);
        v.form = HL_FORM_PLAIN;
    }
    hl_value node;
    HL_TRY(hl_convert_nchw(x, n, &v, &node));
    const hl_onnx_source *source = &x->sources[v.source];
    const int64_t *shape = w->tensor.shape;
    hl_shape in = source->shape;
    if (groups < 1 || shape[0] < 1 || shape[1] < 1 || in.c % groups != 0 || shape[0] % groups != 0 ||
        shape[1] != in.c / groups)
        return hl_convert_fail(x, n, NULL,
                               "a weight of %lldx%lld channels in %lld groups does not fit %lld inputs",
                               (long long)shape[0], (long long)shape[1], (long long)groups, (long long)in.c);
    bool reversed = source->reversed;
    if (reversed && groups != 1)
        return hl_convert_fail(x, n, "leave --channel-order out", "grouped channels cannot be reversed");
    HL_TRY(hl_convert_ints(x, n, "kernel_shape", -1, kernel, &count));
    if (count >= 0 && (count != 2 || kernel[0] != shape[2] || kernel[1] != shape[3]))
        return hl_convert_fail(x, n, "export it again", "kernel_shape is not that of its weight");
    hl_window window;
    HL_TRY(hl_convert_window(x, n, in, shape + 2, pads, false, &window));

    const hl_onnx_node *last = n;
    const hl_onnx_value *bias =
        hl_convert_has(n, 2) ? hl_convert_in(x, n, 2) : following_bias(x, n, 4, 1, shape[0], &last);
    bool head = x->at == x->head;
    const char *name = hl_convert_name(x, n, n->in[1]);
    int64_t out = outputs_of(x, head, shape[0]);
    if (head) {
        if (groups != 1 || shape[2] != 1 || shape[3] != 1 || window.sh != 1 || window.sw != 1 ||
            window.top + window.bottom + window.left + window.right > 0)
            return hl_convert_fail(x, n, "a classifier is a Gemm, a MatMul or a 1x1 Conv",
                                   "the network's output comes from this convolution of %lldx%lld",
                                   (long long)shape[2], (long long)shape[3]);
        x->head_name = name;
        node = hl_graph_head_conv(x->graph, name, node, out);
    } else {
        node = hl_graph_conv(
            x->graph, name, node,
            (hl_conv_spec){.out = out, .window = &window, .groups = groups, .bias = bias != NULL});
    }
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    const hl_weight_expr *e = &hl_graph_node(x->graph, node)->expr;
    if (!is_fresh(x, head)) {
        HL_TRY(conv_weight(x, n, w, reversed, e->weight));
        if (bias != NULL)
            HL_TRY(fill(x, n, bias, "bias", e->bias));
    }
    int like = v.source;
    HL_TRY(
        hl_convert_set(x, last, 0, node, hl_view_nchw(hl_graph_node(x->graph, node)->shape, x->batch), like));
    return HL_OK;
}

/* Column k of a flattened map, in the order that ONNX sees it: which [c, h, w] it is for us. */
static int64_t own_column(const hl_view *v, int d, hl_shape s, int64_t k)
{
    int64_t column = 0;
    for (int i = v->begin[d + 1] - 1; i >= v->begin[d]; i--) {
        const hl_atom *a = &v->atoms[i];
        int64_t at = k % a->extent;
        k /= a->extent;
        column += at * (a->axis == HL_AXIS_C ? s.h * s.w : a->axis == HL_AXIS_H ? s.w : 1);
    }
    return column;
}

/* Is dimension d all of a map, in any order of its axes? */
static bool is_flat(const hl_view *v, int d, hl_shape s)
{
    for (int i = v->begin[d]; i < v->begin[d + 1]; i++)
        if (v->atoms[i].stride != 1 || v->atoms[i].axis == HL_AXIS_N)
            return false;
    return v->dims[d] == s.h * s.w * s.c;
}

static hl_status fill_matrix(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *matrix,
                             bool transposed, const hl_view *view, hl_shape s, bool flat, hl_param *p)
{
    const float *b;
    int64_t inputs = view->dims[view->ndim - 1], outputs = p->shape[0];
    HL_TRY(hl_convert_floats(x, n, matrix, &b));
    for (int64_t k = 0; k < inputs; k++) {
        int64_t column = flat ? own_column(view, view->ndim - 1, s, k) : k;
        for (int64_t o = 0; o < outputs; o++)
            p->host[o * inputs + column] = transposed ? b[o * inputs + k] : b[k * outputs + o];
    }
    return HL_OK;
}

/* y = x B + bias over the last dimension of input 0; transposed: B is [outputs, inputs]. */
static hl_status convert_product(hl_convert *x, const hl_onnx_node *n, bool transposed)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    const hl_onnx_value *matrix = hl_convert_in(x, n, 1);
    if (matrix->kind != HL_ONNX_CONST || matrix->tensor.ndim != 2)
        return hl_convert_fail(x, n, simplify, "its matrix is not a constant of 2 dimensions");
    if (v->kind != HL_ONNX_MAP || v->view.ndim < 1)
        return hl_convert_fail(x, n, NULL, "its input 0 is not an image or what is made of one");
    HL_TRY(hl_convert_plain(x, n, v));
    HL_TRY(hl_convert_in_order(x, n, v));
    hl_view view = v->view;
    int d = view.ndim - 1, like = v->source;
    hl_shape s = x->sources[like].shape;
    int64_t outputs = matrix->tensor.shape[transposed ? 0 : 1],
            inputs = matrix->tensor.shape[transposed ? 1 : 0];
    char text[96];
    if (inputs != view.dims[d] || outputs < 1)
        return hl_convert_fail(x, n, "choose the image size it was exported for",
                               "a matrix of %lldx%lld does not fit its input %s", (long long)inputs,
                               (long long)outputs, hl_view_text(&view, text, sizeof text));
    bool flat = !hl_view_is(&view, d, HL_AXIS_C, s);
    if (flat && !is_flat(&view, d, s))
        return hl_convert_fail(x, n, "channels, or a whole map, can be the last dimension",
                               "in its input %s the last dimension is neither",
                               hl_view_text(&view, text, sizeof text));

    const hl_onnx_node *last = n;
    const hl_onnx_value *bias =
        hl_convert_has(n, 2) ? hl_convert_in(x, n, 2) : following_bias(x, n, view.ndim, d, outputs, &last);
    bool head = x->at == x->head;
    const char *name = hl_convert_name(x, n, n->in[1]);
    int64_t out = outputs_of(x, head, outputs);
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    if (flat)
        node = hl_graph_flat_linear(x->graph, name, node, out, bias != NULL || head);
    else if (head)
        node = hl_graph_head(x->graph, name, node, out);
    else
        node = hl_graph_linear(x->graph, name, node, out, bias != NULL);
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    hl_node *layer = hl_graph_node(x->graph, node);
    if (head) {
        x->head_name = name;
        layer->head = layer->expr.weight->head = layer->expr.bias->head = true;
    }
    if (!is_fresh(x, head)) {
        HL_TRY(fill_matrix(x, n, matrix, transposed, &view, s, flat, layer->expr.weight));
        if (bias != NULL)
            HL_TRY(fill(x, n, bias, "bias", layer->expr.bias));
    }
    hl_view_set_channels(&view, d, out);
    return hl_convert_set(x, last, 0, node, view, like);
}

static hl_status convert_gemm(hl_convert *x, const hl_onnx_node *n)
{
    if (hl_convert_int(n, "transA", 0) != 0 || hl_convert_float(n, "alpha", 1.0f) != 1.0f ||
        (hl_convert_has(n, 2) && hl_convert_float(n, "beta", 1.0f) != 1.0f))
        return hl_convert_fail(x, n, simplify, "transA is not 0, or alpha or beta not 1");
    return convert_product(x, n, hl_convert_int(n, "transB", 0) != 0);
}

static hl_status convert_matmul(hl_convert *x, const hl_onnx_node *n)
{
    bool cells = false;
    HL_TRY(hl_convert_cells(x, n, &cells));
    return cells ? HL_OK : convert_product(x, n, false);
}

/* What a norm reads: a map with nothing pending, its channels in our order. */
static hl_status take_map(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v)
{
    if (v->kind != HL_ONNX_MAP)
        return hl_convert_fail(x, n, NULL, "its input 0 is not an image or what is made of one");
    HL_TRY(hl_convert_plain(x, n, v));
    return hl_convert_in_order(x, n, v);
}

static hl_status convert_norm(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    char text[96];
    if (hl_convert_int(n, "training_mode", 0) != 0)
        return hl_convert_fail(x, n, "export the network in its evaluation mode",
                               "it normalises with the statistics of the batch");
    for (int i = 1; i < 5; i++)
        if (!hl_convert_has(n, i))
            return hl_convert_fail(x, n, NULL, "it has no input %d", i);
    HL_TRY(take_map(x, n, v));
    hl_view view = v->view;
    int like = v->source;
    if (view.ndim < 2 || !hl_view_is(&view, 1, HL_AXIS_C, x->sources[like].shape))
        return hl_convert_fail(x, n, NULL, "dimension 1 of its input %s is not that of channels",
                               hl_view_text(&view, text, sizeof text));
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    const char *name = hl_convert_name(x, n, n->in[1]);
    float eps = hl_convert_float(n, "epsilon", 1e-5f), kept = hl_convert_float(n, "momentum", 0.9f);
    if (!(eps >= 0.0f) || !isfinite(eps) || !(kept >= 0.0f && kept <= 1.0f))
        return hl_convert_fail(x, n, NULL, "epsilon %g or momentum %g is out of range", (double)eps,
                               (double)kept);
    node = hl_graph_norm(x->graph, name, node, eps, 1.0f - kept);
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    const hl_norm_attr *norm = &hl_graph_node(x->graph, node)->norm;
    HL_TRY(fill(x, n, hl_convert_in(x, n, 1), "scale", norm->scale));
    HL_TRY(fill(x, n, hl_convert_in(x, n, 2), "shift", norm->shift));
    HL_TRY(fill(x, n, hl_convert_in(x, n, 3), "mean", norm->mean));
    HL_TRY(fill(x, n, hl_convert_in(x, n, 4), "variance", norm->var));
    for (int64_t c = 0; c < norm->var->count; c++)
        if (!(norm->var->host[c] >= 0.0f) || norm->var->host[c] + eps <= 0.0f)
            return hl_convert_fail(x, n, "the file is damaged", "a variance is not positive (channel %lld)",
                                   (long long)c);
    return hl_convert_set(x, n, 0, node, view, like);
}

/* Over channels, which are the last dimension there. */
static hl_status convert_layer_norm(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    char text[96];
    HL_TRY(take_map(x, n, v));
    hl_view view = v->view;
    int like = v->source;
    int64_t axis = hl_convert_int(n, "axis", -1);
    if ((axis != -1 && axis != view.ndim - 1) ||
        !hl_view_is(&view, view.ndim - 1, HL_AXIS_C, x->sources[like].shape))
        return hl_convert_fail(x, n, "layer norms are over the channels, the last dimension",
                               "axis %lld of its input %s is something else", (long long)axis,
                               hl_view_text(&view, text, sizeof text));
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    float eps = hl_convert_float(n, "epsilon", 1e-5f);
    if (!(eps > 0.0f) || !isfinite(eps))
        return hl_convert_fail(x, n, NULL, "epsilon %g is out of range", (double)eps);
    node = hl_graph_layer_norm(x->graph, hl_convert_name(x, n, n->in[1]), node, eps);
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    const hl_norm_attr *norm = &hl_graph_node(x->graph, node)->norm;
    HL_TRY(fill(x, n, hl_convert_in(x, n, 1), "scale", norm->scale));
    if (hl_convert_has(n, 2))
        HL_TRY(fill(x, n, hl_convert_in(x, n, 2), "shift", norm->shift));
    return hl_convert_set(x, n, 0, node, view, like);
}

hl_status hl_convert_layers(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    static const struct {
        const char *op;
        hl_status (*convert)(hl_convert *, const hl_onnx_node *);
    } table[] = {{"Conv", convert_conv},
                 {"Gemm", convert_gemm},
                 {"MatMul", convert_matmul},
                 {"BatchNormalization", convert_norm},
                 {"LayerNormalization", convert_layer_norm}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0)
            continue;
        *known = true;
        if (!hl_convert_has(n, 0) || !hl_convert_has(n, 1))
            return hl_convert_fail(x, n, NULL, "it has fewer than 2 inputs");
        return table[i].convert(x, n);
    }
    return HL_OK;
}
