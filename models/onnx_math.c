/* Element by element: activations, sums and products, and the chains of them that are one activation for us.
 */
#include <math.h>
#include <string.h>

#include "models/onnx_convert.h"

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 2e-6 * fabs(b);
}

static bool is_uniform(const hl_onnx_value *v, double k, double b)
{
    return v->form == HL_FORM_AFFINE && v->ks == NULL && v->bs == NULL && is_near(v->k, k) &&
           (b == 0.0 ? v->b == 0.0 : is_near(v->b, b));
}

/* The source with an activation behind it. */
static hl_status add_act(hl_convert *x, const hl_onnx_node *n, int like, hl_act act, int *source)
{
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    return hl_convert_source(x, hl_graph_act(x->graph, hl_convert_name(x, n, NULL), node, act), like, source);
}

/* k x by channel. */
static hl_value add_scale(hl_convert *x, const char *name, const hl_onnx_value *v, hl_value node,
                          bool reversed)
{
    node = hl_graph_scale(x->graph, name, node);
    hl_param *scale = node != HL_NO_VALUE ? hl_graph_node(x->graph, node)->norm.scale : NULL;
    for (int64_t i = 0; scale != NULL && i < scale->count; i++)
        scale->host[i] = v->ks != NULL ? v->ks[reversed ? scale->count - 1 - i : i] : (float)v->k;
    return node;
}

/* k x + b by channel: a depthwise 1x1 convolution. */
static hl_status add_affine(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v, int like,
                            int *source)
{
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    int64_t c = x->sources[like].shape.c;
    bool reversed = x->sources[like].reversed;
    if (v->bs == NULL && v->b == 0.0)
        return hl_convert_source(x, add_scale(x, hl_convert_name(x, n, NULL), v, node, reversed), like,
                                 source);
    node = hl_graph_conv(x->graph, hl_convert_name(x, n, NULL), node,
                         (hl_conv_spec){.out = c, .groups = c, .bias = true});
    if (node != HL_NO_VALUE) {
        const hl_weight_expr *e = &hl_graph_node(x->graph, node)->expr;
        for (int64_t i = 0; i < c; i++) {
            int64_t from = reversed ? c - 1 - i : i;
            e->weight->host[i] = v->ks != NULL ? v->ks[from] : (float)v->k;
            e->bias->host[i] = v->bs != NULL ? v->bs[from] : (float)v->b;
        }
    }
    return hl_convert_source(x, node, like, source);
}

hl_status hl_convert_plain(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v)
{
    hl_onnx_value shift = {.k = 1.0, .b = 3.0}, scale = {.k = 6.0};
    const hl_onnx_node *maker = v->maker != NULL ? v->maker : n;
    if (v->kind != HL_ONNX_MAP)
        return hl_convert_fail(x, n, NULL, "its input is constant where an image belongs");
    if (v->channel > 0)
        return hl_convert_fail(x, n, "channels can be read one by one where they are joined again",
                               "its input is a single channel");
    switch (v->form) {
    case HL_FORM_PLAIN:
        return HL_OK;
    case HL_FORM_AFFINE:
        HL_TRY(add_affine(x, maker, v, v->source, &v->source));
        break;
    case HL_FORM_SIGMOID:
        HL_TRY(add_act(x, maker, v->source, HL_ACT_SIGMOID, &v->source));
        break;
    case HL_FORM_HARDSIGMOID:
        HL_TRY(add_act(x, maker, v->source, HL_ACT_HARDSIGMOID, &v->source));
        break;
    case HL_FORM_RELU6_PLUS3:
        HL_TRY(add_affine(x, maker, &shift, v->source, &v->source));
        HL_TRY(add_act(x, maker, v->source, HL_ACT_RELU6, &v->source));
        break;
    case HL_FORM_SWISH6:
        HL_TRY(add_act(x, maker, v->source, HL_ACT_HARDSWISH, &v->source));
        HL_TRY(add_affine(x, maker, &scale, v->source, &v->source));
        break;
    case HL_FORM_GELU2:
        scale.k = 2.0;
        HL_TRY(add_act(x, maker, v->source, HL_ACT_GELU, &v->source));
        HL_TRY(add_affine(x, maker, &scale, v->source, &v->source));
        break;
    case HL_FORM_ERF:
    case HL_FORM_ERF_PLUS1:
    case HL_FORM_NORMAL:
        return hl_convert_fail(x, maker, "Erf is read as a part of x (1 + erf(x / sqrt 2)) / 2",
                               "an Erf that is not part of a GELU");
    case HL_FORM_PADDED:
        return hl_convert_fail(x, n, "Pad is read in front of Conv, MaxPool and AveragePool",
                               "its input is padded");
    }
    v->form = HL_FORM_PLAIN;
    return HL_OK;
}

/* Output 0 is `v` with a form pending. */
static hl_status pending(hl_convert *x, const hl_onnx_node *n, hl_onnx_value v)
{
    v.maker = n;
    *hl_convert_value(x, n->out[0]) = v;
    return HL_OK;
}

/* Output 0 is an activation of the source of `v`. */
static hl_status activated(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v, hl_act act)
{
    hl_onnx_value y = {.kind = HL_ONNX_MAP, .view = v->view};
    HL_TRY(add_act(x, n, v->source, act, &y.source));
    return pending(x, n, y);
}

/* A constant as one number, or as a value for each channel of `like`. */
static hl_status by_channel(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *constant,
                            const hl_onnx_value *like, double *number, const float **vector)
{
    const hl_named_tensor *t = &constant->tensor;
    const float *values;
    hl_shape s = x->sources[like->source].shape;
    HL_TRY(hl_convert_floats(x, n, constant, &values));
    *vector = NULL;
    if (hl_named_tensor_count(t) == 1) {
        *number = (double)values[0];
        return HL_OK;
    }
    if (like->channel > 0)
        return hl_convert_fail(x, n, NULL, "a constant of several numbers for a single channel");
    for (int k = 0; k < t->ndim; k++) {
        int d = k + like->view.ndim - t->ndim;
        if (t->shape[k] == 1)
            continue;
        if (d < 0 || (int64_t)hl_named_tensor_count(t) != t->shape[k] ||
            !hl_view_is(&like->view, d, HL_AXIS_C, s))
            break;
        *vector = values;
        return HL_OK;
    }
    return hl_convert_fail(x, n, NULL,
                           "a constant that is neither one number nor one for each of the %lld channels",
                           (long long)s.c);
}

/* values[c] (or number) op other[c] (or other_number) into a new vector. */
static hl_status combine(hl_convert *x, const hl_onnx_node *n, int64_t c, bool multiply, const float *values,
                         double number, const float *others, double other, const float **out)
{
    size_t bytes = (size_t)c * sizeof(float);
    if (bytes > x->fold_bytes)
        return hl_convert_fail(x, n, "simplify the file, e.g. with onnxsim", "its constants grow too large");
    x->fold_bytes -= bytes;
    float *made = hl_arena_take(x->arena, bytes);
    if (made == NULL)
        return HL_E_NOMEM;
    for (int64_t i = 0; i < c; i++) {
        double a = values != NULL ? (double)values[i] : number,
               b = others != NULL ? (double)others[i] : other;
        made[i] = (float)(multiply ? a * b : a + b);
    }
    *out = made;
    return HL_OK;
}

/* What is not affine yet becomes x times 1 plus 0. */
static hl_status start_affine(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v)
{
    if (v->form == HL_FORM_AFFINE)
        return HL_OK;
    if (v->channel == 0)
        HL_TRY(hl_convert_plain(x, n, v));
    v->form = HL_FORM_AFFINE;
    v->k = 1.0;
    v->b = 0.0;
    v->ks = v->bs = NULL;
    return HL_OK;
}

/* v times a constant; what that completes is an activation. */
static hl_status scaled(hl_convert *x, const hl_onnx_node *n, hl_onnx_value v, double number,
                        const float *vector)
{
    if (vector == NULL && v.form == HL_FORM_RELU6_PLUS3 && is_near(number, 1.0 / 6.0)) {
        v.form = HL_FORM_HARDSIGMOID;
        return pending(x, n, v);
    }
    if (vector == NULL && v.form == HL_FORM_ERF_PLUS1 && is_near(number, 0.5)) {
        v.form = HL_FORM_NORMAL;
        return pending(x, n, v);
    }
    if (vector == NULL && v.form == HL_FORM_SWISH6 && is_near(number, 1.0 / 6.0))
        return activated(x, n, &v, HL_ACT_HARDSWISH);
    if (vector == NULL && v.form == HL_FORM_GELU2 && is_near(number, 0.5))
        return activated(x, n, &v, HL_ACT_GELU);
    HL_TRY(start_affine(x, n, &v));
    int64_t c = x->sources[v.source].shape.c;
    if (vector != NULL || v.ks != NULL)
        HL_TRY(combine(x, n, c, true, v.ks, v.k, vector, number, &v.ks));
    if (v.bs != NULL || (vector != NULL && v.b != 0.0))
        HL_TRY(combine(x, n, c, true, v.bs, v.b, vector, number, &v.bs));
    v.k *= number;
    v.b *= number;
    return pending(x, n, v);
}

static hl_status shifted(hl_convert *x, const hl_onnx_node *n, hl_onnx_value v, double number,
                         const float *vector)
{
    if (vector == NULL && v.form == HL_FORM_ERF && is_near(number, 1.0)) {
        v.form = HL_FORM_ERF_PLUS1;
        return pending(x, n, v);
    }
    HL_TRY(start_affine(x, n, &v));
    if (vector != NULL || v.bs != NULL)
        HL_TRY(combine(x, n, x->sources[v.source].shape.c, false, v.bs, v.b, vector, number, &v.bs));
    v.b += number;
    return pending(x, n, v);
}

static hl_status with_constant(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v,
                               const hl_onnx_value *constant, bool constant_first)
{
    double number = 0.0;
    const float *vector;
    HL_TRY(by_channel(x, n, constant, v, &number, &vector));
    if (strcmp(n->op, "Mul") == 0)
        return scaled(x, n, *v, vector != NULL ? 1.0 : number, vector);
    if (strcmp(n->op, "Add") == 0)
        return shifted(x, n, *v, vector != NULL ? 0.0 : number, vector);
    if (strcmp(n->op, "Sub") == 0 && !constant_first) {
        if (vector != NULL)
            HL_TRY(combine(x, n, x->sources[v->source].shape.c, true, vector, 0.0, NULL, -1.0, &vector));
        return shifted(x, n, *v, vector != NULL ? 0.0 : -number, vector);
    }
    if (strcmp(n->op, "Div") == 0 && !constant_first) {
        int64_t c = x->sources[v->source].shape.c;
        if (vector != NULL)
            HL_TRY(combine(x, n, c, true, vector, 0.0, NULL, 1.0, &vector)); /* a copy to be changed */
        for (int64_t i = 0; vector != NULL && i < c; i++)
            ((float *)(uintptr_t)vector)[i] = 1.0f / vector[i];
        for (int64_t i = 0; i < (vector != NULL ? c : 1); i++)
            if (!isfinite(vector != NULL ? (double)vector[i] : 1.0 / number))
                return hl_convert_fail(x, n, "the file is damaged", "it divides by zero");
        return scaled(x, n, *v, vector != NULL ? 1.0 : 1.0 / number, vector);
    }
    return hl_convert_fail(x, n, NULL, "a constant %s of something",
                           n->op[0] == 'D' ? "divided by" : "minus");
}

/* x times a function of the same x. *done: it was one of those. */
static hl_status multiply_self(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *a,
                               const hl_onnx_value *f, bool *done)
{
    *done = false;
    if (a->source != f->source || a->channel + f->channel > 0 || !hl_view_same(&a->view, &f->view))
        return HL_OK;
    hl_onnx_value v = *a;
    *done = true;
    if (a->form == HL_FORM_PLAIN && f->form == HL_FORM_SIGMOID)
        return activated(x, n, a, HL_ACT_SILU);
    if (a->form == HL_FORM_PLAIN && f->form == HL_FORM_HARDSIGMOID)
        return activated(x, n, a, HL_ACT_HARDSWISH);
    if (f->form == HL_FORM_RELU6_PLUS3 && is_uniform(a, 1.0 / 6.0, 0.0))
        return activated(x, n, a, HL_ACT_HARDSWISH);
    if ((f->form == HL_FORM_ERF_PLUS1 && is_uniform(a, 0.5, 0.0)) ||
        (f->form == HL_FORM_NORMAL && a->form == HL_FORM_PLAIN))
        return activated(x, n, a, HL_ACT_GELU);
    if (a->form == HL_FORM_PLAIN && (f->form == HL_FORM_RELU6_PLUS3 || f->form == HL_FORM_ERF_PLUS1)) {
        v.form = f->form == HL_FORM_RELU6_PLUS3 ? HL_FORM_SWISH6 : HL_FORM_GELU2;
        return pending(x, n, v);
    }
    *done = false;
    return HL_OK;
}

/* `small` with ones in front, as long as `view`. */
static bool lengthen(hl_view *small, int ndim)
{
    int64_t dims[HL_TENSOR_MAX_NDIM];
    int more = ndim - small->ndim;
    for (int d = 0; d < ndim; d++)
        dims[d] = d < more ? 1 : small->dims[d - more];
    return more >= 0 && hl_view_reshape(small, ndim, dims);
}

/* Does b go with a, element by element, or spread over height and width? */
static bool goes_with(const hl_view *a, const hl_view *b, bool *spread)
{
    *spread = false;
    for (int d = 0; d < a->ndim; d++) {
        if (hl_view_same_dim(a, b, d))
            continue;
        if (b->dims[d] != 1 || !hl_view_is_spatial(a, d))
            return false;
        *spread = true;
    }
    return true;
}

/* The sum or product of two values. */
static hl_status of_two(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *a, hl_onnx_value *b)
{
    bool product = strcmp(n->op, "Mul") == 0, spread;
    char first[96], second[96];
    HL_TRY(hl_convert_plain(x, n, a));
    HL_TRY(hl_convert_plain(x, n, b));
    HL_TRY(hl_convert_in_order(x, n, a));
    HL_TRY(hl_convert_in_order(x, n, b));
    hl_view va = a->view, vb = b->view;
    int source_a = a->source, source_b = b->source;
    bool fits = va.ndim >= vb.ndim ? lengthen(&vb, va.ndim) : lengthen(&va, vb.ndim);
    if (fits && !goes_with(&va, &vb, &spread)) {
        const hl_view kept = va;
        va = vb;
        vb = kept;
        source_a = b->source;
        source_b = a->source;
        fits = goes_with(&va, &vb, &spread);
    }
    if (!fits || (spread && !product))
        return hl_convert_fail(x, n, "equal shapes, or for Mul one value for each channel, are supported",
                               "its inputs are %s and %s", hl_view_text(&a->view, first, sizeof first),
                               hl_view_text(&b->view, second, sizeof second));
    hl_value left, right;
    HL_TRY(hl_convert_node(x, source_a, &left));
    HL_TRY(hl_convert_node(x, source_b, &right));
    const char *name = hl_convert_name(x, n, NULL);
    hl_value node =
        product ? hl_graph_mul(x->graph, name, left, right) : hl_graph_add(x->graph, name, left, right);
    return hl_convert_set(x, n, 0, node, va, source_a);
}

static hl_status convert_binary(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *a = hl_convert_in(x, n, 0), *b = hl_convert_in(x, n, 1);
    bool done;
    if (a->kind == HL_ONNX_CONST || b->kind == HL_ONNX_CONST)
        return with_constant(x, n, a->kind == HL_ONNX_CONST ? b : a, a->kind == HL_ONNX_CONST ? a : b,
                             a->kind == HL_ONNX_CONST);
    if (strcmp(n->op, "Mul") == 0) {
        HL_TRY(multiply_self(x, n, a, b, &done));
        if (!done)
            HL_TRY(multiply_self(x, n, b, a, &done));
        if (done)
            return HL_OK;
    } else if (strcmp(n->op, "Add") != 0) {
        return hl_convert_fail(x, n, "Add and Mul of two are supported", "both of its inputs are computed");
    }
    return of_two(x, n, a, b);
}

/* A bound of Clip: attribute or constant input. */
static hl_status bound(hl_convert *x, const hl_onnx_node *n, const char *name, int input, double fallback,
                       double *value)
{
    const hl_onnx_attr *attr = hl_onnx_attr_find(n, name);
    *value = attr != NULL ? (double)attr->f : fallback;
    if (attr == NULL && hl_convert_has(n, input))
        return hl_convert_number(x, n, input, value);
    return HL_OK;
}

static hl_status convert_clip(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    double low, high;
    HL_TRY(bound(x, n, "min", 1, -INFINITY, &low));
    HL_TRY(bound(x, n, "max", 2, INFINITY, &high));
    bool six = low == 0.0 && high == 6.0;
    if (six && is_uniform(v, 1.0, 3.0)) {
        hl_onnx_value y = *v;
        y.form = HL_FORM_RELU6_PLUS3;
        return pending(x, n, y);
    }
    if (low == 0.0 && high == 1.0 && is_uniform(v, 1.0 / 6.0, 0.5)) {
        hl_onnx_value y = *v;
        y.form = HL_FORM_HARDSIGMOID;
        return pending(x, n, y);
    }
    HL_TRY(hl_convert_plain(x, n, v));
    if (low <= -(double)3.4e38F && high >= (double)3.4e38F)
        return pending(x, n, *v);
    if (!six && !(low == 0.0 && high >= (double)3.4e38F))
        return hl_convert_fail(x, n, "0 to 6, and 0 without an upper bound, are supported",
                               "bounds %g and %g", low, high);
    return activated(x, n, v, six ? HL_ACT_RELU6 : HL_ACT_RELU);
}

static hl_status convert_unary(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    if (strcmp(n->op, "Clip") == 0)
        return convert_clip(x, n);
    if (strcmp(n->op, "Erf") == 0) {
        if (!is_uniform(v, sqrt(0.5), 0.0))
            return hl_convert_fail(x, n, "Erf is read as a part of x (1 + erf(x / sqrt 2)) / 2",
                                   "an Erf that is not part of a GELU");
        hl_onnx_value y = *v;
        y.form = HL_FORM_ERF;
        return pending(x, n, y);
    }
    HL_TRY(hl_convert_plain(x, n, v));
    hl_onnx_value y = *v;
    if (strcmp(n->op, "Relu") == 0)
        return activated(x, n, v, HL_ACT_RELU);
    if (strcmp(n->op, "HardSwish") == 0)
        return activated(x, n, v, HL_ACT_HARDSWISH);
    if (strcmp(n->op, "Tanh") == 0)
        return activated(x, n, v, HL_ACT_TANH);
    if (strcmp(n->op, "Gelu") == 0) {
        const hl_onnx_attr *approximate = hl_onnx_attr_find(n, "approximate");
        if (approximate != NULL && strcmp(approximate->s, "none") != 0)
            return hl_convert_fail(x, n, "the exact GELU is supported", "approximate is '%.20s'",
                                   approximate->s);
        return activated(x, n, v, HL_ACT_GELU);
    }
    if (strcmp(n->op, "Sigmoid") == 0) {
        y.form = HL_FORM_SIGMOID;
        return pending(x, n, y);
    }
    double alpha = (double)hl_convert_float(n, "alpha", 0.2f),
           beta = (double)hl_convert_float(n, "beta", 0.5f);
    if (!is_near(alpha, 1.0 / 6.0) || !is_near(beta, 0.5))
        return hl_convert_fail(x, n, "alpha 1/6 and beta 1/2 are supported", "alpha is %g and beta %g", alpha,
                               beta);
    y.form = HL_FORM_HARDSIGMOID;
    return pending(x, n, y);
}

static hl_status convert_dropout(hl_convert *x, const hl_onnx_node *n)
{
    hl_onnx_value *v = hl_convert_in(x, n, 0);
    double ratio = (double)hl_convert_float(n, "ratio", 0.5f);
    if (hl_convert_has(n, 1))
        HL_TRY(hl_convert_number(x, n, 1, &ratio));
    HL_TRY(hl_convert_plain(x, n, v));
    HL_TRY(hl_convert_in_order(x, n, v));
    hl_view view = v->view;
    int like = v->source;
    hl_value node;
    HL_TRY(hl_convert_node(x, like, &node));
    node = hl_graph_dropout(x->graph, hl_convert_name(x, n, NULL), node, (float)ratio);
    return hl_convert_set(x, n, 0, node, view, like);
}

hl_status hl_convert_math(hl_convert *x, const hl_onnx_node *n, bool *known)
{
    static const struct {
        const char *op;
        hl_status (*convert)(hl_convert *, const hl_onnx_node *);
        int inputs;
    } table[] = {
        {"Relu", convert_unary, 1},        {"Clip", convert_unary, 1},      {"Sigmoid", convert_unary, 1},
        {"HardSigmoid", convert_unary, 1}, {"HardSwish", convert_unary, 1}, {"Gelu", convert_unary, 1},
        {"Erf", convert_unary, 1},         {"Tanh", convert_unary, 1},      {"Add", convert_binary, 2},
        {"Mul", convert_binary, 2},        {"Sub", convert_binary, 2},      {"Div", convert_binary, 2},
        {"Dropout", convert_dropout, 1}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0)
            continue;
        *known = true;
        for (int k = 0; k < table[i].inputs; k++)
            if (!hl_convert_has(n, k))
                return hl_convert_fail(x, n, NULL, "it has no input %d", k);
        if (hl_convert_in(x, n, 0)->kind != HL_ONNX_MAP && table[i].inputs == 1)
            return hl_convert_fail(x, n, NULL, "its input is constant where an image belongs");
        return table[i].convert(x, n);
    }
    return HL_OK;
}
