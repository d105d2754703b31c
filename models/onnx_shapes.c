/* What moves no numbers: Reshape and its like, Transpose, a Gather of everything; Pad. */
#include <math.h>
#include <string.h>

#include "models/onnx_convert.h"

/* Output 0 is input 0, seen differently; what is pending stays so. */
static hl_status seen_as(hl_convert *x, const hl_onnx_node *n, hl_view view)
{
    hl_onnx_value v = *hl_convert_in(x, n, 0);
    v.view = view;
    *hl_convert_value(x, n->out[0]) = v;
    return HL_OK;
}

/* Where a Reshape has swapped the two parts of channels that one before it split them in: a channel shuffle.
 */
static hl_status settle_shuffle(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_value(x, n->out[0]);
    for (int d = 0; d < v->view.ndim; d++) {
        int64_t groups = hl_view_shuffle(&v->view, d);
        if (groups == 0)
            continue;
        const hl_onnx_source *s = &x->sources[v->source];
        if (groups != 2 || v->view.dims[d] != s->shape.c)
            return hl_convert_fail(x, n, "shuffles of two groups are supported",
                                   "a channel shuffle of %lld groups", (long long)groups);
        HL_TRY(hl_convert_plain(x, n, v));
        HL_TRY(hl_convert_in_order(x, n, v));
        hl_value sides[2];
        s = &x->sources[v->source];
        if (s->node == HL_NO_VALUE && s->part_count == 2 &&
            hl_graph_node(x->graph, s->parts[0])->shape.c == hl_graph_node(x->graph, s->parts[1])->shape.c)
            memcpy(sides, s->parts, sizeof sides);
        else
            HL_TRY(hl_convert_halves(x, n, v->source, sides));
        hl_value node = hl_graph_interleave(x->graph, hl_convert_name(x, n, NULL), sides[0], sides[1]);
        HL_TRY(hl_convert_source(x, node, v->source, &v->source));
        hl_view_set_channels(&v->view, d, x->sources[v->source].shape.c);
    }
    return HL_OK;
}

static hl_status reshape_to(hl_convert *x, const hl_onnx_node *n, int ndim, const int64_t *dims)
{
    const hl_onnx_value *v = hl_convert_in(x, n, 0);
    hl_view view = v->view;
    char text[96], wanted[96];
    hl_named_tensor target = {.ndim = ndim};
    if (v->form == HL_FORM_PADDED)
        return hl_convert_fail(x, n, NULL, "its input is padded");
    if (!hl_view_reshape(&view, ndim, dims)) {
        memcpy(target.shape, dims, (size_t)ndim * sizeof *dims);
        return hl_convert_fail(x, n, "channels can be split, and dimensions joined",
                               "%s cannot be seen as %s", hl_view_text(&v->view, text, sizeof text),
                               hl_tensor_shape_text(&target, wanted, sizeof wanted));
    }
    HL_TRY(seen_as(x, n, view));
    return settle_shuffle(x, n);
}

static hl_status convert_reshape(hl_convert *x, const hl_onnx_node *n)
{
    const hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t dims[HL_CONVERT_INTS], known = 1, total = hl_view_count(&v->view);
    int count, open = -1;
    HL_TRY(hl_convert_ints(x, n, NULL, 1, dims, &count));
    if (count < 1 || count > HL_TENSOR_MAX_NDIM)
        return hl_convert_fail(x, n, NULL, "its target is not of 1 to 8 dimensions");
    const hl_onnx_source *s = &x->sources[v->source];
    for (int d = 0; d < count; d++) {
        if (dims[d] == 0 && d < v->view.ndim)
            dims[d] = v->view.dims[d];
        /* A number of classes that has become another one. */
        if (s->from_head && dims[d] == x->old_classes)
            dims[d] = x->classes;
        if (dims[d] == -1 && open < 0)
            open = d;
        else if (dims[d] < 1 || dims[d] > total || known > total / dims[d])
            return hl_convert_fail(x, n, "choose the image size it was exported for",
                                   "%lld elements do not have its target shape", (long long)total);
        else
            known *= dims[d];
    }
    if (open >= 0)
        dims[open] = total / known;
    return reshape_to(x, n, count, dims);
}

/* A Gather of all that there is, in its order, as exporters write a strided view of what lies in one piece:
 * the shape of its indices takes the place of a dimension. Of one element it would be the choice of an image.
 */
static hl_status convert_gather_all(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    if (!hl_convert_has(n, 0) || !hl_convert_has(n, 1) || hl_convert_in(x, n, 0)->kind != HL_ONNX_MAP)
        return HL_OK;
    const hl_view *view = &hl_convert_in(x, n, 0)->view;
    const hl_onnx_value *index = hl_convert_in(x, n, 1);
    int64_t axis = hl_convert_int(n, "axis", 0), dims[2 * HL_TENSOR_MAX_NDIM];
    int ndim = 0;
    axis = axis < 0 ? axis + view->ndim : axis;
    if (axis < 0 || axis >= view->ndim || view->dims[axis] < 2 ||
        !hl_convert_is_range(index, view->dims[axis]) ||
        view->ndim - 1 + index->tensor.ndim > HL_TENSOR_MAX_NDIM)
        return HL_OK;
    *known = true;
    for (int d = 0; d < view->ndim; d++) {
        if (d != axis)
            dims[ndim++] = view->dims[d];
        for (int i = 0; d == axis && i < index->tensor.ndim; i++)
            dims[ndim++] = index->tensor.shape[i];
    }
    return reshape_to(x, n, ndim, dims);
}

static hl_status convert_flatten(hl_convert *x, const hl_onnx_node *n)
{
    const hl_view *view = &hl_convert_in(x, n, 0)->view;
    int64_t axis = hl_convert_int(n, "axis", 1), dims[2] = {1, 1};
    axis = axis < 0 ? axis + view->ndim : axis;
    for (int d = 0; d < view->ndim; d++)
        dims[d < axis ? 0 : 1] *= view->dims[d];
    return reshape_to(x, n, 2, dims);
}

static hl_status convert_squeeze(hl_convert *x, const hl_onnx_node *n)
{
    const hl_view *view = &hl_convert_in(x, n, 0)->view;
    bool squeeze = n->op[0] == 'S';
    int64_t axes[HL_CONVERT_INTS], dims[HL_TENSOR_MAX_NDIM];
    int count, ndim = 0, from = 0;
    HL_TRY(hl_convert_ints(x, n, "axes", 1, axes, &count));
    int total = squeeze ? view->ndim : view->ndim + (count > 0 ? count : 0);
    if (total > HL_TENSOR_MAX_NDIM)
        return hl_convert_fail(x, n, NULL, "its output has more than 8 dimensions");
    for (int d = 0; d < total; d++) {
        bool listed = squeeze && count < 0 && view->dims[d] == 1;
        for (int i = 0; i < count; i++)
            listed = listed || axes[i] == d || axes[i] == d - total;
        if (squeeze && listed && view->dims[d] != 1)
            return hl_convert_fail(x, n, NULL, "dimension %d is %lld, not 1", d, (long long)view->dims[d]);
        if (squeeze && !listed)
            dims[ndim++] = view->dims[d];
        else if (!squeeze)
            dims[ndim++] = listed || from == view->ndim ? 1 : view->dims[from++];
    }
    return reshape_to(x, n, ndim, dims);
}

static hl_status convert_transpose(hl_convert *x, const hl_onnx_node *n)
{
    hl_view view = hl_convert_in(x, n, 0)->view;
    int64_t perm[HL_CONVERT_INTS];
    int count;
    unsigned seen = 0;
    HL_TRY(hl_convert_ints(x, n, "perm", -1, perm, &count));
    for (int d = 0; count < 0 && d < view.ndim; d++)
        perm[d] = view.ndim - 1 - d;
    for (int d = 0; d < view.ndim && (count < 0 || count == view.ndim); d++)
        seen |= perm[d] >= 0 && perm[d] < view.ndim ? 1u << perm[d] : 0;
    if (seen != (1u << view.ndim) - 1)
        return hl_convert_fail(x, n, NULL, "its permutation is none of %d dimensions", view.ndim);
    hl_view_transpose(&view, perm);
    return seen_as(x, n, view);
}

static hl_status convert_same(hl_convert *x, const hl_onnx_node *n)
{
    int64_t to = hl_convert_int(n, "to", 1);
    if (n->op[0] == 'C' && to != 1 && to != 10 && to != 11 && to != 16)
        return hl_convert_fail(x, n, NULL, "values are cast to a type that is not floating (%lld)",
                               (long long)to);
    return seen_as(x, n, hl_convert_in(x, n, 0)->view);
}

static hl_status convert_pad(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t pads[HL_CONVERT_INTS];
    int count;
    const hl_onnx_attr *mode = hl_onnx_attr_find(n, "mode");
    double value = (double)hl_convert_float(n, "value", 0.0f);
    HL_TRY(hl_convert_ints(x, n, "pads", 1, pads, &count));
    if (hl_convert_has(n, 2))
        HL_TRY(hl_convert_number(x, n, 2, &value));
    HL_TRY(hl_convert_plain(x, n, v));
    if (mode != NULL && strcmp(mode->s, "constant") != 0)
        return hl_convert_fail(x, n, "padding with a constant is supported", "mode is '%.20s'", mode->s);
    if (count != 2 * v->view.ndim || hl_convert_has(n, 3))
        return hl_convert_fail(x, n, NULL, "its pads are not two for each dimension");
    hl_onnx_value y = *v;
    y.pad_value = value;
    hl_shape s = x->sources[v->source].shape;
    bool any = false;
    for (int d = 0; d < v->view.ndim; d++) {
        int64_t before = pads[d], after = pads[d + v->view.ndim];
        if (before == 0 && after == 0)
            continue;
        bool high = hl_view_is(&v->view, d, HL_AXIS_H, s) && (s.h > 1 || y.pads[0] + y.pads[2] == 0),
             wide = !high && hl_view_is(&v->view, d, HL_AXIS_W, s);
        if ((!high && !wide) || before < 0 || after < 0 || before > 4096 || after > 4096)
            return hl_convert_fail(x, n, "height and width can be padded, by 0 to 4096",
                                   "dimension %d is padded by %lld and %lld", d, (long long)before,
                                   (long long)after);
        y.pads[high ? 0 : 1] = before;
        y.pads[high ? 2 : 3] = after;
        any = true;
    }
    if (any)
        y.form = HL_FORM_PADDED;
    y.maker = n;
    *hl_convert_value(x, n->out[0]) = y;
    return HL_OK;
}

hl_status hl_convert_shapes(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    static const struct {
        const char *op;
        hl_status (*convert)(hl_convert *, const hl_onnx_node *);
        int inputs;
    } table[] = {{"Reshape", convert_reshape, 2},     {"Flatten", convert_flatten, 1},
                 {"Squeeze", convert_squeeze, 1},     {"Unsqueeze", convert_squeeze, 1},
                 {"Transpose", convert_transpose, 1}, {"Pad", convert_pad, 1},
                 {"Identity", convert_same, 1},       {"Cast", convert_same, 1}};
    if (strcmp(n->op, "Gather") == 0)
        return convert_gather_all(x, n, known);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0)
            continue;
        *known = true;
        for (int k = 0; k < table[i].inputs; k++)
            if (!hl_convert_has(n, k))
                return hl_convert_fail(x, n, NULL, "it has no input %d", k);
        if (hl_convert_in(x, n, 0)->kind != HL_ONNX_MAP)
            return hl_convert_fail(x, n, NULL, "its input 0 is not an image or what is made of one");
        return table[i].convert(x, n);
    }
    return HL_OK;
}
