/* Windows, and what pools over them: MaxPool, AveragePool, the global ones, ReduceMean. */
#include <math.h>
#include <string.h>

#include "base/grid_cell.h"
#include "models/onnx_convert.h"

/* One dimension of a window. */
typedef struct side {
    int64_t in, kernel, stride, dilation, before, after;
} side;

static void pad_same(side *s, bool upper)
{
    int64_t out = (s->in + s->stride - 1) / s->stride,
            total = (out - 1) * s->stride + (s->kernel - 1) * s->dilation + 1 - s->in;
    total = total > 0 ? total : 0;
    s->before = upper ? total / 2 : total - total / 2;
    s->after = total - s->before;
}

/* The part of a window that hangs over where sizes are rounded up; windows start inside the input or its
 * first padding. */
static void round_up(side *s)
{
    int64_t reach = (s->kernel - 1) * s->dilation + 1, room = s->in + s->before + s->after - reach;
    int64_t out = room / s->stride + 1;
    if (room >= 0 && room % s->stride != 0 && out * s->stride < s->in + s->before)
        s->after += out * s->stride - room;
}

/* Two numbers of an attribute, 1 where it is not there. */
static hl_status two(hl_convert *x, const hl_onnx_node *n, const char *name, int64_t out[HL_CONVERT_INTS])
{
    int count;
    HL_TRY(hl_convert_ints(x, n, name, -1, out, &count));
    if (count < 0)
        out[0] = out[1] = 1;
    if ((count >= 0 && count != 2) || out[0] < 1 || out[1] < 1 || out[0] > 4096 || out[1] > 4096)
        return hl_convert_fail(x, n, NULL, "'%s' is not two numbers from 1 to 4096", name);
    return HL_OK;
}

hl_status hl_convert_window(hl_convert *x, const hl_onnx_node *n, hl_shape in, const int64_t kernel[2],
                            const int64_t *pads, bool ceil_mode, hl_window *window)
{
    int64_t strides[HL_CONVERT_INTS], dilations[HL_CONVERT_INTS], own[HL_CONVERT_INTS];
    int count;
    HL_TRY(two(x, n, "strides", strides));
    HL_TRY(two(x, n, "dilations", dilations));
    HL_TRY(hl_convert_ints(x, n, "pads", -1, own, &count));
    const hl_onnx_attr *automatic = hl_onnx_attr_find(n, "auto_pad");
    const char *mode = automatic != NULL && automatic->s[0] != '\0' ? automatic->s : "NOTSET";
    if (kernel[0] < 1 || kernel[1] < 1 || kernel[0] > 4096 || kernel[1] > 4096)
        return hl_convert_fail(x, n, NULL, "its kernel is not of 1 to 4096 pixels");
    if (count >= 0 && count != 4)
        return hl_convert_fail(x, n, NULL, "'pads' is not four numbers");
    side sides[2];
    for (int i = 0; i < 2; i++) {
        sides[i] = (side){i == 0 ? in.h : in.w, kernel[i], strides[i], dilations[i], pads[i], pads[i + 2]};
        if (strcmp(mode, "NOTSET") == 0 && count == 4) {
            if (own[i] < 0 || own[i + 2] < 0 || own[i] > 4096 || own[i + 2] > 4096)
                return hl_convert_fail(x, n, NULL, "'pads' are not of 0 to 4096 pixels");
            sides[i].before += own[i];
            sides[i].after += own[i + 2];
        } else if (strncmp(mode, "SAME_", 5) == 0) {
            if (pads[i] != 0 || pads[i + 2] != 0)
                return hl_convert_fail(x, n, NULL, "auto_pad behind a Pad");
            pad_same(&sides[i], strcmp(mode, "SAME_UPPER") == 0);
        } else if (strcmp(mode, "VALID") != 0 && strcmp(mode, "NOTSET") != 0) {
            return hl_convert_fail(x, n, NULL, "auto_pad '%.20s' does not exist", mode);
        }
        if (ceil_mode)
            round_up(&sides[i]);
    }
    *window = (hl_window){.kh = kernel[0],
                          .kw = kernel[1],
                          .sh = strides[0],
                          .sw = strides[1],
                          .dh = dilations[0],
                          .dw = dilations[1],
                          .top = sides[0].before,
                          .bottom = sides[0].after,
                          .left = sides[1].before,
                          .right = sides[1].after};
    return HL_OK;
}

static bool is_padded(const hl_window *w)
{
    return w->top != 0 || w->bottom != 0 || w->left != 0 || w->right != 0;
}

/* May zeros in front of a maximum count as no value at all? Where no value is below them. */
static bool is_never_negative(const hl_convert *x, const hl_onnx_value *v)
{
    hl_value id = x->sources[v->source].node;
    const hl_node *node = id != HL_NO_VALUE ? hl_graph_node(x->graph, id) : NULL;
    return node != NULL && node->op == HL_OP_ACT &&
           (node->act == HL_ACT_RELU || node->act == HL_ACT_RELU6 || node->act == HL_ACT_SIGMOID ||
            node->act == HL_ACT_HARDSIGMOID);
}

/* The zeros that a Pad has put around the input become the pooling's own. */
static hl_status take_padding(hl_convert *x, const hl_onnx_node *n, bool max, hl_onnx_value *v,
                              int64_t pads[4], bool *counts)
{
    if (v->kind != HL_ONNX_MAP || v->form != HL_FORM_PADDED)
        return HL_OK;
    bool nothing = max && (v->pad_value == -INFINITY || (v->pad_value == 0.0 && is_never_negative(x, v)));
    if (!nothing && (max || v->pad_value != 0.0))
        return hl_convert_fail(x, n, NULL, "the padding in front of it takes part in the maximum or mean");
    memcpy(pads, v->pads, 4 * sizeof *pads);
    *counts = !max;
    v->form = HL_FORM_PLAIN;
    return HL_OK;
}

static hl_status convert_pool(hl_convert *x, const hl_onnx_node *n)
{
    bool max = n->op[0] == 'M', padded = false;
    hl_onnx_value v = *hl_convert_in(x, n, 0);
    int64_t kernel[HL_CONVERT_INTS], pads[4] = {0};
    int count;
    HL_TRY(hl_convert_ints(x, n, "kernel_shape", -1, kernel, &count));
    if (count != 2)
        return hl_convert_fail(x, n, NULL, "kernel_shape is not two numbers");
    if (n->out_count > 1 && n->out[1][0] != '\0' && x->uses[hl_convert_value(x, n->out[1]) - x->values] > 0)
        return hl_convert_fail(x, n, NULL, "its indices are read");
    HL_TRY(take_padding(x, n, max, &v, pads, &padded));
    hl_value node;
    HL_TRY(hl_convert_nchw(x, n, &v, &node));
    HL_TRY(hl_convert_in_order(x, n, &v));
    hl_shape in = x->sources[v.source].shape;
    bool ceil_mode = hl_convert_int(n, "ceil_mode", 0) != 0;
    hl_window w, plain;
    HL_TRY(hl_convert_window(x, n, in, kernel, pads, false, &plain));
    HL_TRY(hl_convert_window(x, n, in, kernel, pads, ceil_mode, &w));
    if (w.dh != 1 || w.dw != 1)
        return hl_convert_fail(x, n, NULL, "pooling with dilation");
    bool counts = padded || hl_convert_int(n, "count_include_pad", 0) != 0;
    if (!max && counts && is_padded(&plain) && (plain.top != plain.bottom || plain.left != plain.right))
        return hl_convert_fail(x, n, NULL, "a mean with padding that counts and differs by side");
    if (w.kh == 1 && w.kw == 1 && w.sh == 1 && w.sw == 1 && !is_padded(&w))
        return hl_convert_set(x, n, 0, node, v.view, v.source);
    const char *name = hl_convert_name(x, n, NULL);
    if (!max && w.kh == in.h && w.kw == in.w && !is_padded(&w))
        node = hl_graph_global_pool(x->graph, name, node);
    else
        node = hl_graph_pool(x->graph, name, node,
                             (hl_pool_spec){.max = max, .window = &w, .count_padding = !max && counts});
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    return hl_convert_set(x, n, 0, node, hl_view_nchw(hl_graph_node(x->graph, node)->shape, x->batch),
                          v.source);
}

static hl_status convert_global(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    hl_value node;
    HL_TRY(hl_convert_nchw(x, n, v, &node));
    HL_TRY(hl_convert_in_order(x, n, v));
    int like = v->source;
    hl_shape in = x->sources[like].shape;
    const char *name = hl_convert_name(x, n, NULL);
    hl_window w = {.kh = in.h, .kw = in.w, .sh = 1, .sw = 1, .dh = 1, .dw = 1};
    node = strcmp(n->op, "GlobalMaxPool") == 0
               ? hl_graph_pool(x->graph, name, node, (hl_pool_spec){.max = true, .window = &w})
               : hl_graph_global_pool(x->graph, name, node);
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    return hl_convert_set(x, n, 0, node, hl_view_nchw(hl_graph_node(x->graph, node)->shape, x->batch), like);
}

/* A mean over all of height and width, whatever dimensions they are. */
static hl_status convert_reduce(hl_convert *x, const hl_onnx_node *n)
{
    static const char *const todo = "means over all of height and width are supported";
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t axes[HL_CONVERT_INTS];
    int count;
    char text[96];
    HL_TRY(hl_convert_ints(x, n, "axes", 1, axes, &count));
    if (v->kind != HL_ONNX_MAP || count < 1)
        return hl_convert_fail(x, n, todo, "it is over everything");
    HL_TRY(hl_convert_plain(x, n, v));
    HL_TRY(hl_convert_in_order(x, n, v));
    hl_view view = v->view;
    hl_shape s = x->sources[v->source].shape;
    int like = v->source;
    unsigned gone = 0;
    int64_t covered = 1;
    for (int i = 0; i < count; i++) {
        int64_t d = axes[i] < 0 ? axes[i] + view.ndim : axes[i];
        if (d < 0 || d >= view.ndim || (gone >> d & 1) != 0 || !hl_view_is_spatial(&view, (int)d))
            return hl_convert_fail(x, n, todo, "dimension %lld of its input %s is another", (long long)d,
                                   hl_view_text(&view, text, sizeof text));
        gone |= 1u << d;
        covered *= view.dims[d];
    }
    if (covered != s.h * s.w)
        return hl_convert_fail(x, n, todo, "it is over a part of its input %s",
                               hl_view_text(&view, text, sizeof text));
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    node = hl_graph_global_pool(x->graph, hl_convert_name(x, n, NULL), node);
    bool keep = hl_convert_int(n, "keepdims", 1) != 0;
    for (int d = view.ndim - 1; d >= 0; d--) {
        if ((gone >> d & 1) == 0)
            continue;
        hl_view_set_channels(&view, d, 1);
        if (!keep)
            hl_view_drop(&view, d);
    }
    return hl_convert_set(x, n, 0, node, view, like);
}

/* Is it the matrix of what places count in cells, [places, cells], or [cells, places] with `rows`? */
static bool is_shares(const hl_onnx_value *v, int64_t places, bool rows)
{
    const hl_named_tensor *t = &v->tensor;
    if (v->kind != HL_ONNX_CONST || t->dtype != HL_DTYPE_F32 || t->ndim != 2 || t->shape[rows] != places)
        return false;
    int64_t cells = t->shape[!rows];
    const float *values = t->data;
    for (int64_t p = 0; p < places; p++)
        for (int64_t i = 0; i < cells; i++)
            if (values[rows ? i * places + p : p * cells + i] != hl_grid_share(p, places, i, cells))
                return false;
    return true;
}

hl_status hl_convert_cells(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    size_t out = (size_t)(hl_convert_value(x, n->out[0]) - x->values), reader = x->reader[out];
    if (n->in_count != 2 || x->uses[out] != 1 || reader >= x->onnx->node_count)
        return HL_OK;
    const hl_onnx_node *second = &x->onnx->nodes[reader];
    hl_onnx_value *v = hl_convert_in(x, n, 0), *columns = hl_convert_in(x, n, 1);
    if (strcmp(second->op, "MatMul") != 0 || second->in_count != 2 || second->out_count < 1 ||
        strcmp(second->in[1], n->out[0]) != 0 || v->kind != HL_ONNX_MAP || v->view.ndim != 4 ||
        !is_shares(columns, v->view.dims[3], false) ||
        !is_shares(hl_convert_in(x, second, 0), v->view.dims[2], true))
        return HL_OK;
    int64_t cells = columns->tensor.shape[1];
    if (hl_convert_in(x, second, 0)->tensor.shape[0] != cells)
        return HL_OK;
    hl_value node;
    HL_TRY(hl_convert_nchw(x, n, v, &node));
    HL_TRY(hl_convert_in_order(x, n, v));
    int like = v->source;
    node = hl_graph_grid_pool(x->graph, hl_convert_name(x, second, NULL), node, cells);
    if (node == HL_NO_VALUE)
        return hl_fail_text(x->graph->status, x->graph->error);
    *known = x->done[reader] = true;
    return hl_convert_set(x, second, 0, node, hl_view_nchw(hl_graph_node(x->graph, node)->shape, x->batch),
                          like);
}

hl_status hl_convert_pools(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    static const struct {
        const char *op;
        hl_status (*convert)(hl_convert *, const hl_onnx_node *);
    } table[] = {{"MaxPool", convert_pool},
                 {"AveragePool", convert_pool},
                 {"GlobalAveragePool", convert_global},
                 {"GlobalMaxPool", convert_global},
                 {"ReduceMean", convert_reduce}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0)
            continue;
        *known = true;
        if (!hl_convert_has(n, 0))
            return hl_convert_fail(x, n, NULL, "it has no input");
        return table[i].convert(x, n);
    }
    return HL_OK;
}
