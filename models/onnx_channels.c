/* What moves whole channels: Concat, Split, Slice, Gather. */
#include <string.h>

#include "models/onnx_convert.h"

hl_status hl_convert_halves(hl_convert *x, const hl_onnx_node *n, int source, hl_value halves[2])
{
    hl_value node;
    HL_TRY(hl_convert_node(x, source, &node));
    hl_onnx_source *s = &x->sources[source];
    if (s->halves[0] == HL_NO_VALUE) {
        if (s->shape.c % 2 != 0)
            return hl_convert_fail(x, n, "two equal parts are supported", "%lld channels have no halves",
                                   (long long)s->shape.c);
        hl_graph_halves(x->graph, hl_convert_name(x, n, NULL), node, s->halves);
        if (x->graph->status != HL_OK)
            return hl_fail_text(x->graph->status, x->graph->error);
    }
    memcpy(halves, s->halves, sizeof s->halves);
    return HL_OK;
}

/* A source's channels joined again, one by one, each scaled and shifted on its way (as networks that were
 * trained on differently normalised images begin). *done: it was that. */
static hl_status join_channels(hl_convert *x, const hl_onnx_node *n, int64_t axis, bool *done)
{
    hl_onnx_value y = *hl_convert_in(x, n, 0);
    int64_t c = x->sources[y.source].shape.c;
    *done = false;
    for (int i = 0; i < n->in_count; i++) {
        const hl_onnx_value *v = hl_convert_in(x, n, i);
        if (v->kind != HL_ONNX_MAP || v->channel != i + 1 || v->source != y.source ||
            (v->form != HL_FORM_PLAIN && v->form != HL_FORM_AFFINE) || !hl_view_same(&v->view, &y.view))
            return HL_OK;
    }
    axis = axis < 0 ? axis + y.view.ndim : axis;
    if (n->in_count != c || axis < 0 || axis >= y.view.ndim || y.view.dims[axis] != 1)
        return HL_OK;
    float *ks = hl_arena_take(x->arena, 2 * (size_t)c * sizeof *ks), *bs = ks != NULL ? ks + c : NULL;
    if (ks == NULL)
        return HL_E_NOMEM;
    for (int64_t i = 0; i < c; i++) {
        const hl_onnx_value *v = hl_convert_in(x, n, (int)i);
        ks[i] = v->form == HL_FORM_AFFINE ? (float)v->k : 1.0f;
        bs[i] = v->form == HL_FORM_AFFINE ? (float)v->b : 0.0f;
    }
    hl_view_set_channels(&y.view, (int)axis, c);
    y.form = HL_FORM_AFFINE;
    y.ks = ks;
    y.bs = bs;
    y.channel = 0;
    y.maker = n;
    *hl_convert_value(x, n->out[0]) = y;
    *done = true;
    return HL_OK;
}

/* A single channel. */
static hl_status convert_gather(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t axis = hl_convert_int(n, "axis", 0), index[HL_CONVERT_INTS];
    int count;
    HL_TRY(hl_convert_ints(x, n, NULL, 1, index, &count));
    HL_TRY(hl_convert_plain(x, n, v));
    axis = axis < 0 ? axis + v->view.ndim : axis;
    hl_shape s = x->sources[v->source].shape;
    int64_t at = index[0] < 0 ? index[0] + s.c : index[0];
    if (count != 1 || axis < 0 || axis >= v->view.ndim || !hl_view_is(&v->view, (int)axis, HL_AXIS_C, s) ||
        at < 0 || at >= s.c)
        return hl_convert_fail(x, n, "single channels can be gathered", "it gathers something else");
    hl_onnx_value y = *v;
    y.channel = (int)at + 1;
    hl_view_set_channels(&y.view, (int)axis, 1);
    if (hl_convert_in(x, n, 1)->tensor.ndim == 0)
        hl_view_drop(&y.view, (int)axis);
    *hl_convert_value(x, n->out[0]) = y;
    return HL_OK;
}

static hl_status convert_concat(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *first = hl_convert_in(x, n, 0);
    int64_t axis = hl_convert_int(n, "axis", 1), total = 0;
    char text[96];
    bool done = false;
    if (first->kind == HL_ONNX_MAP && first->channel > 0)
        HL_TRY(join_channels(x, n, axis, &done));
    if (done)
        return HL_OK;
    hl_onnx_source made = {.node = HL_NO_VALUE, .halves = {HL_NO_VALUE, HL_NO_VALUE}};
    made.parts = hl_arena_take(x->arena, (size_t)n->in_count * sizeof *made.parts);
    if (made.parts == NULL)
        return HL_E_NOMEM;
    for (int i = 0; i < n->in_count; i++) {
        hl_onnx_value *v = hl_convert_in(x, n, i);
        HL_TRY(hl_convert_plain(x, n, v));
        HL_TRY(hl_convert_in_order(x, n, v));
        hl_shape s = x->sources[v->source].shape;
        if (i == 0) {
            axis = axis < 0 ? axis + v->view.ndim : axis;
            made.shape = s;
        }
        bool fits = axis >= 0 && axis < v->view.ndim && v->view.ndim == first->view.ndim &&
                    hl_view_is(&v->view, (int)axis, HL_AXIS_C, s) && s.h == made.shape.h &&
                    s.w == made.shape.w;
        for (int d = 0; fits && d < v->view.ndim; d++)
            fits = d == axis || hl_view_same_dim(&v->view, &first->view, d);
        if (!fits)
            return hl_convert_fail(x, n, "channels of maps of one size can be joined",
                                   "input %d, %s, does not go with the others along dimension %lld", i,
                                   hl_view_text(&v->view, text, sizeof text), (long long)axis);
        HL_TRY(hl_convert_node(x, v->source, &made.parts[made.part_count++]));
        total += s.c;
    }
    if (total > 1 << 24)
        return hl_convert_fail(x, n, NULL, "it joins %lld channels", (long long)total);
    made.shape.c = total;
    made.name = hl_convert_name(x, n, NULL);
    hl_view view = first->view;
    hl_view_set_channels(&view, (int)axis, total);
    void *grown = x->sources;
    hl_status status =
        hl_grow(&grown, &x->source_capacity, x->source_count + 1, sizeof *x->sources, "ONNX graph");
    x->sources = grown;
    HL_TRY(status);
    x->sources[x->source_count] = made;
    *hl_convert_value(x, n->out[0]) =
        (hl_onnx_value){.kind = HL_ONNX_MAP, .source = (int)x->source_count++, .view = view};
    return HL_OK;
}

/* Is dimension d of a plain value all of its channels? */
static hl_status check_channels(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v, int64_t *d)
{
    char text[96];
    HL_TRY(hl_convert_plain(x, n, v));
    HL_TRY(hl_convert_in_order(x, n, v));
    *d = *d < 0 ? *d + v->view.ndim : *d;
    if (*d >= 0 && *d < v->view.ndim && hl_view_is(&v->view, (int)*d, HL_AXIS_C, x->sources[v->source].shape))
        return HL_OK;
    return hl_convert_fail(x, n, "channels can be cut in two halves",
                           "dimension %lld of its input %s is not that of channels", (long long)*d,
                           hl_view_text(&v->view, text, sizeof text));
}

static hl_status set_half(hl_convert *x, const hl_onnx_node *n, int out, int half, int64_t d)
{
    hl_onnx_value v = *hl_convert_in(x, n, 0);
    hl_value halves[2];
    HL_TRY(hl_convert_halves(x, n, v.source, halves));
    hl_view_set_channels(&v.view, (int)d, x->sources[v.source].shape.c / 2);
    return hl_convert_set(x, n, out, halves[half], v.view, v.source);
}

static hl_status convert_split(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t axis = hl_convert_int(n, "axis", 0), sizes[HL_CONVERT_INTS];
    int count;
    HL_TRY(hl_convert_ints(x, n, "split", 1, sizes, &count));
    if (n->out_count != 2 || (count >= 0 && (count != 2 || sizes[0] != sizes[1])))
        return hl_convert_fail(x, n, "two equal parts are supported",
                               "it splits into %d parts, or unequal ones", n->out_count);
    HL_TRY(check_channels(x, n, v, &axis));
    HL_TRY(set_half(x, n, 0, 0, axis));
    return set_half(x, n, 1, 1, axis);
}

static hl_status convert_slice(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t starts[HL_CONVERT_INTS], ends[HL_CONVERT_INTS], axes[HL_CONVERT_INTS], steps[HL_CONVERT_INTS];
    int count[4];
    HL_TRY(hl_convert_ints(x, n, "starts", 1, starts, &count[0]));
    HL_TRY(hl_convert_ints(x, n, "ends", 2, ends, &count[1]));
    HL_TRY(hl_convert_ints(x, n, "axes", 3, axes, &count[2]));
    HL_TRY(hl_convert_ints(x, n, NULL, 4, steps, &count[3]));
    axes[0] = count[2] < 0 ? 0 : axes[0];
    if (count[0] != 1 || count[1] != 1 || (count[2] >= 0 && count[2] != 1) ||
        (count[3] >= 0 && (count[3] != 1 || steps[0] != 1)))
        return hl_convert_fail(x, n, "channels can be cut in two halves",
                               "it cuts several dimensions, or in steps");
    HL_TRY(check_channels(x, n, v, &axes[0]));
    int64_t c = x->sources[v->source].shape.c, from = starts[0] < 0 ? starts[0] + c : starts[0],
            to = ends[0] < 0 ? ends[0] + c : ends[0];
    from = from < 0 ? 0 : from > c ? c : from;
    to = to < from ? from : to > c ? c : to;
    if (from == 0 && to == c) {
        *hl_convert_value(x, n->out[0]) = *v;
        return HL_OK;
    }
    if (2 * (to - from) != c || (from != 0 && to != c))
        return hl_convert_fail(x, n, "channels can be cut in two halves",
                               "channels %lld to %lld of %lld are no half", (long long)from, (long long)to,
                               (long long)c);
    return set_half(x, n, 0, from == 0 ? 0 : 1, axes[0]);
}

hl_status hl_convert_channels(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    static const struct {
        const char *op;
        hl_status (*convert)(hl_convert *, const hl_onnx_node *);
    } table[] = {{"Concat", convert_concat},
                 {"Split", convert_split},
                 {"Slice", convert_slice},
                 {"Gather", convert_gather}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0)
            continue;
        *known = true;
        bool all = strcmp(n->op, "Concat") == 0;
        for (int k = 0; k < (all ? n->in_count : 1) || k < 1; k++)
            if (!hl_convert_has(n, k))
                return hl_convert_fail(x, n, NULL, "it has no input %d", k);
        if (hl_convert_in(x, n, 0)->kind != HL_ONNX_MAP)
            return hl_convert_fail(x, n, NULL, "its input 0 is not an image or what is made of one");
        return table[i].convert(x, n);
    }
    return HL_OK;
}
