/* Constants: reading them, and computing beforehand what depends on nothing but constants and shapes, as the
 * targets of reshapes do in exported networks. */
#include <math.h>
#include <string.h>

#include "models/onnx_convert.h"

/* Elements of a constant that is computed with; weights are only reordered. */
enum { SMALL = 4096 };

static bool is_whole(hl_dtype dtype)
{
    return dtype == HL_DTYPE_I64 || dtype == HL_DTYPE_I32 || dtype == HL_DTYPE_BOOL;
}

static bool is_floating(hl_dtype dtype)
{
    return dtype == HL_DTYPE_F32 || dtype == HL_DTYPE_F64 || dtype == HL_DTYPE_F16 || dtype == HL_DTYPE_BF16;
}

static int64_t whole_at(const hl_named_tensor *t, size_t i)
{
    return t->dtype == HL_DTYPE_I64   ? ((const int64_t *)t->data)[i]
           : t->dtype == HL_DTYPE_I32 ? ((const int32_t *)t->data)[i]
                                      : ((const uint8_t *)t->data)[i];
}

hl_status hl_convert_ints(hl_convert *x, const hl_onnx_node *n, const char *name, int input,
                          int64_t out[HL_CONVERT_INTS], int *count)
{
    const hl_onnx_attr *attr = name != NULL ? hl_onnx_attr_find(n, name) : NULL;
    *count = -1;
    if (attr != NULL) {
        if (attr->type != HL_ONNX_INTS || attr->count > HL_CONVERT_INTS)
            return hl_convert_fail(x, n, NULL, "'%s' is no short list of whole numbers", name);
        *count = attr->count;
        for (int i = 0; i < attr->count; i++)
            out[i] = attr->ints[i];
        return HL_OK;
    }
    if (input < 0 || !hl_convert_has(n, input))
        return HL_OK;
    const hl_onnx_value *v = hl_convert_in(x, n, input);
    size_t size = hl_named_tensor_count(&v->tensor);
    if (v->kind != HL_ONNX_CONST || !is_whole(v->tensor.dtype) || size > HL_CONVERT_INTS)
        return hl_convert_fail(x, n, "simplify the file, e.g. with onnxsim",
                               "its input %d is not a constant list of whole numbers", input);
    *count = (int)size;
    for (size_t i = 0; i < size; i++)
        out[i] = whole_at(&v->tensor, i);
    return HL_OK;
}

bool hl_convert_is_range(const hl_onnx_value *v, int64_t count)
{
    bool range = v->kind == HL_ONNX_CONST && is_whole(v->tensor.dtype) &&
                 (int64_t)hl_named_tensor_count(&v->tensor) == count;
    for (int64_t i = 0; range && i < count; i++)
        range = whole_at(&v->tensor, (size_t)i) == i;
    return range;
}

hl_status hl_convert_number(hl_convert *x, const hl_onnx_node *n, int i, double *number)
{
    const hl_onnx_value *v = hl_convert_in(x, n, i);
    float f;
    if (v->kind != HL_ONNX_CONST || hl_named_tensor_count(&v->tensor) != 1)
        return hl_convert_fail(x, n, NULL, "its input %d is not a constant number", i);
    hl_named_tensor_to_f32(&v->tensor, &f);
    *number = (double)f;
    return HL_OK;
}

hl_status hl_convert_floats(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v, const float **out)
{
    const hl_named_tensor *t = &v->tensor;
    if (v->kind != HL_ONNX_CONST)
        return hl_convert_fail(x, n, NULL, "its weights are not constant");
    if (!is_floating(t->dtype))
        return hl_convert_fail(x, n, "export it in float32", "its weights are of type %s",
                               hl_dtype_name(t->dtype));
    size_t count = hl_named_tensor_count(t);
    float *values = hl_arena_take(x->arena, count * sizeof *values);
    if (values == NULL)
        return HL_E_NOMEM;
    hl_named_tensor_to_f32(t, values);
    for (size_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return hl_convert_fail(x, n, "the file is damaged or training had diverged",
                                   "its weights hold a value that is not finite");
    *out = values;
    return HL_OK;
}

/* A new constant of that shape as output 0, its elements to be filled in. */
static hl_status make(hl_convert *x, const hl_onnx_node *n, hl_dtype dtype, int ndim, const int64_t *shape,
                      hl_named_tensor **made)
{
    hl_onnx_value *v = hl_convert_value(x, n->out[0]);
    hl_named_tensor t = {.name = n->out[0], .dtype = dtype, .ndim = ndim};
    HL_TRY(hl_tensor_extent(n->out[0], dtype, ndim, shape, NULL, &t.bytes));
    if (t.bytes > x->fold_bytes)
        return hl_convert_fail(x, n, "simplify the file, e.g. with onnxsim", "its constants grow too large");
    x->fold_bytes -= t.bytes;
    if (ndim > 0)
        memcpy(t.shape, shape, (size_t)ndim * sizeof *shape);
    t.data = hl_arena_take(x->arena, t.bytes);
    if (t.data == NULL)
        return HL_E_NOMEM;
    *v = (hl_onnx_value){.kind = HL_ONNX_CONST, .tensor = t};
    *made = &v->tensor;
    return HL_OK;
}

static hl_status make_whole(hl_convert *x, const hl_onnx_node *n, int ndim, int64_t count, int64_t **out)
{
    hl_named_tensor *t;
    HL_TRY(make(x, n, HL_DTYPE_I64, ndim, &count, &t));
    *out = (int64_t *)(uintptr_t)t->data;
    return HL_OK;
}

/* The same data in another shape. */
static hl_status reshaped(hl_convert *x, const hl_onnx_node *n, int ndim, const int64_t *shape)
{
    hl_named_tensor t = hl_convert_in(x, n, 0)->tensor;
    size_t bytes;
    HL_TRY(hl_tensor_extent(n->out[0], t.dtype, ndim, shape, NULL, &bytes));
    if (bytes != t.bytes)
        return hl_convert_fail(x, n, NULL, "a constant does not have that shape");
    t.ndim = ndim;
    if (ndim > 0)
        memcpy(t.shape, shape, (size_t)ndim * sizeof *shape);
    *hl_convert_value(x, n->out[0]) = (hl_onnx_value){.kind = HL_ONNX_CONST, .tensor = t};
    return HL_OK;
}

static hl_status fold_constant(hl_convert *x, const hl_onnx_node *n)
{
    const hl_onnx_attr *a = hl_onnx_attr_find(n, "value");
    hl_named_tensor *t;
    int64_t *ints;
    if (a != NULL && a->type == HL_ONNX_TENSOR) {
        *hl_convert_value(x, n->out[0]) = (hl_onnx_value){.kind = HL_ONNX_CONST, .tensor = *a->tensor};
        return HL_OK;
    }
    if ((a = hl_onnx_attr_find(n, "value_int")) != NULL) {
        HL_TRY(make_whole(x, n, 0, 1, &ints));
        ints[0] = a->i;
        return HL_OK;
    }
    if ((a = hl_onnx_attr_find(n, "value_ints")) != NULL && a->type == HL_ONNX_INTS) {
        HL_TRY(make_whole(x, n, 1, a->count, &ints));
        if (a->count > 0)
            memcpy(ints, a->ints, (size_t)a->count * sizeof *ints);
        return HL_OK;
    }
    if ((a = hl_onnx_attr_find(n, "value_float")) != NULL) {
        HL_TRY(make(x, n, HL_DTYPE_F32, 0, NULL, &t));
        memcpy((void *)(uintptr_t)t->data, &a->f, sizeof a->f);
        return HL_OK;
    }
    return hl_convert_fail(x, n, NULL, "a constant that is no tensor or number");
}

static hl_status fold_shape(hl_convert *x, const hl_onnx_node *n)
{
    const hl_onnx_value *v = hl_convert_in(x, n, 0);
    int64_t dims[HL_TENSOR_MAX_NDIM], *out;
    int ndim = v->kind == HL_ONNX_MAP ? v->view.ndim : v->tensor.ndim;
    if (v->form == HL_FORM_PADDED)
        return hl_convert_fail(x, n, NULL, "the shape of what a Pad made");
    memcpy(dims, v->kind == HL_ONNX_MAP ? v->view.dims : v->tensor.shape, sizeof dims);
    int64_t start = hl_convert_int(n, "start", 0), end = hl_convert_int(n, "end", ndim);
    start = start < 0 ? start + ndim : start;
    end = end < 0 ? end + ndim : end;
    start = start < 0 ? 0 : start;
    end = end > ndim ? ndim : end;
    int64_t count = end > start ? end - start : 0;
    HL_TRY(make_whole(x, n, 1, count, &out));
    for (int64_t i = 0; i < count; i++)
        out[i] = dims[start + i];
    return HL_OK;
}

static hl_status fold_gather(hl_convert *x, const hl_onnx_node *n)
{
    hl_named_tensor data = hl_convert_in(x, n, 0)->tensor, index = hl_convert_in(x, n, 1)->tensor;
    size_t count = hl_named_tensor_count(&index);
    int64_t *out, extent = data.shape[0];
    if (data.ndim != 1 || index.ndim > 1 || !is_whole(data.dtype) || !is_whole(index.dtype) || count > SMALL)
        return hl_convert_fail(x, n, NULL, "it gathers from what is no list of whole numbers");
    HL_TRY(make_whole(x, n, index.ndim, (int64_t)count, &out));
    for (size_t i = 0; i < count; i++) {
        int64_t at = whole_at(&index, i);
        at = at < 0 ? at + extent : at;
        if (at < 0 || at >= extent)
            return hl_convert_fail(x, n, NULL, "index %lld is outside of %lld", (long long)at,
                                   (long long)extent);
        out[i] = whole_at(&data, (size_t)at);
    }
    return HL_OK;
}

static hl_status fold_slice(hl_convert *x, const hl_onnx_node *n)
{
    hl_named_tensor data = hl_convert_in(x, n, 0)->tensor;
    int64_t starts[HL_CONVERT_INTS], ends[HL_CONVERT_INTS], steps[HL_CONVERT_INTS], *out;
    int count[3];
    HL_TRY(hl_convert_ints(x, n, "starts", 1, starts, &count[0]));
    HL_TRY(hl_convert_ints(x, n, "ends", 2, ends, &count[1]));
    HL_TRY(hl_convert_ints(x, n, NULL, 4, steps, &count[2]));
    if (data.ndim != 1 || !is_whole(data.dtype) || count[0] != 1 || count[1] != 1 ||
        (count[2] == 1 && steps[0] != 1))
        return hl_convert_fail(x, n, NULL, "it cuts what is no list of whole numbers");
    int64_t extent = data.shape[0], from = starts[0] < 0 ? starts[0] + extent : starts[0],
            to = ends[0] < 0 ? ends[0] + extent : ends[0];
    from = from < 0 ? 0 : from > extent ? extent : from;
    to = to < from ? from : to > extent ? extent : to;
    HL_TRY(make_whole(x, n, 1, to - from, &out));
    for (int64_t i = from; i < to; i++)
        out[i - from] = whole_at(&data, (size_t)i);
    return HL_OK;
}

static hl_status fold_concat(hl_convert *x, const hl_onnx_node *n)
{
    int64_t total = 0, *out;
    for (int i = 0; i < n->in_count; i++) {
        const hl_named_tensor *t = &hl_convert_in(x, n, i)->tensor;
        if (t->ndim != 1 || !is_whole(t->dtype) || t->shape[0] > SMALL)
            return hl_convert_fail(x, n, NULL, "it joins constants that are no lists of whole numbers");
        total += t->shape[0];
    }
    HL_TRY(make_whole(x, n, 1, total, &out));
    for (int i = 0; i < n->in_count; i++) {
        const hl_named_tensor *t = &hl_convert_in(x, n, i)->tensor;
        for (int64_t k = 0; k < t->shape[0]; k++)
            *out++ = whole_at(t, (size_t)k);
    }
    return HL_OK;
}

static hl_status fold_transpose(hl_convert *x, const hl_onnx_node *n)
{
    hl_named_tensor in = hl_convert_in(x, n, 0)->tensor, *out;
    int64_t perm[HL_CONVERT_INTS], shape[HL_TENSOR_MAX_NDIM], step[HL_TENSOR_MAX_NDIM],
        at[HL_TENSOR_MAX_NDIM] = {0};
    int count;
    unsigned seen = 0;
    HL_TRY(hl_convert_ints(x, n, "perm", -1, perm, &count));
    for (int d = 0; count < 0 && d < in.ndim; d++)
        perm[d] = in.ndim - 1 - d;
    for (int d = 0; d < in.ndim && (count < 0 || count == in.ndim); d++)
        seen |= perm[d] >= 0 && perm[d] < in.ndim ? 1u << perm[d] : 0;
    if ((count >= 0 && count != in.ndim) || seen != (1u << in.ndim) - 1)
        return hl_convert_fail(x, n, NULL, "its permutation is none");
    for (int d = 0; d < in.ndim; d++) {
        shape[d] = in.shape[perm[d]];
        step[d] = 1;
        for (int k = (int)perm[d] + 1; k < in.ndim; k++)
            step[d] *= in.shape[k];
    }
    HL_TRY(make(x, n, in.dtype, in.ndim, shape, &out));
    size_t size = hl_dtype_size(in.dtype), elements = hl_named_tensor_count(&in);
    uint8_t *to = (uint8_t *)(uintptr_t)out->data;
    for (size_t i = 0; i < elements; i++) {
        int64_t from = 0;
        for (int d = 0; d < in.ndim; d++)
            from += at[d] * step[d];
        memcpy(to + i * size, (const uint8_t *)in.data + (size_t)from * size, size);
        for (int d = in.ndim - 1; d >= 0 && ++at[d] == shape[d]; d--)
            at[d] = 0;
    }
    return HL_OK;
}

static hl_status fold_cast(hl_convert *x, const hl_onnx_node *n)
{
    hl_named_tensor in = hl_convert_in(x, n, 0)->tensor, *out;
    int64_t to = hl_convert_int(n, "to", 0);
    size_t count = hl_named_tensor_count(&in);
    if (to == 1) {
        HL_TRY(make(x, n, HL_DTYPE_F32, in.ndim, in.shape, &out));
        hl_named_tensor_to_f32(&in, (float *)(uintptr_t)out->data);
        return HL_OK;
    }
    if ((to != 6 && to != 7) || !is_whole(in.dtype))
        return hl_convert_fail(x, n, NULL, "a constant is cast to type %lld", (long long)to);
    HL_TRY(make(x, n, HL_DTYPE_I64, in.ndim, in.shape, &out));
    for (size_t i = 0; i < count; i++)
        ((int64_t *)(uintptr_t)out->data)[i] = whole_at(&in, i);
    return HL_OK;
}

static double number_at(const hl_named_tensor *t, size_t i)
{
    hl_named_tensor one = *t;
    float f;
    one.data = (const uint8_t *)t->data + i * hl_dtype_size(t->dtype);
    one.bytes = hl_dtype_size(t->dtype);
    hl_named_tensor_to_f32(&one, &f);
    return (double)f;
}

static double combine(char op, double a, double b)
{
    return op == 'A' ? a + b : op == 'S' ? a - b : op == 'M' ? a * b : a / b;
}

/* Add, Sub, Mul, Div of small constants, one of which may be a single number. */
static hl_status fold_binary(hl_convert *x, const hl_onnx_node *n)
{
    hl_named_tensor a = hl_convert_in(x, n, 0)->tensor, b = hl_convert_in(x, n, 1)->tensor, *out;
    size_t count_a = hl_named_tensor_count(&a), count_b = hl_named_tensor_count(&b),
           count = count_a > count_b ? count_a : count_b;
    bool whole = is_whole(a.dtype) && is_whole(b.dtype);
    const hl_named_tensor *shape = count_a > count_b || (count_a == count_b && a.ndim >= b.ndim) ? &a : &b;
    if (count > SMALL || count_a == 0 || count_b == 0 || (count_a != count_b && count_a != 1 && count_b != 1))
        return hl_convert_fail(x, n, "simplify the file, e.g. with onnxsim",
                               "it computes with constants of different shapes");
    HL_TRY(make(x, n, whole ? HL_DTYPE_I64 : HL_DTYPE_F32, shape->ndim, shape->shape, &out));
    for (size_t i = 0; i < count; i++) {
        size_t ia = count_a == 1 ? 0 : i, ib = count_b == 1 ? 0 : i;
        if (!whole) {
            ((float *)(uintptr_t)out->data)[i] =
                (float)combine(n->op[0], number_at(&a, ia), number_at(&b, ib));
            continue;
        }
        double p = (double)whole_at(&a, ia), q = (double)whole_at(&b, ib), r = combine(n->op[0], p, q);
        if (!(fabs(r) < 0x1p52))
            return hl_convert_fail(x, n, NULL, "%g and %g are out of range", p, q);
        ((int64_t *)(uintptr_t)out->data)[i] = (int64_t)r; /* division rounds towards zero */
    }
    return HL_OK;
}

static hl_status fold_fill(hl_convert *x, const hl_onnx_node *n)
{
    int64_t dims[HL_CONVERT_INTS], *out, total = 1;
    int count;
    const hl_onnx_attr *value = hl_onnx_attr_find(n, "value");
    HL_TRY(hl_convert_ints(x, n, NULL, 0, dims, &count));
    for (int i = 0; i < count; i++)
        total = dims[i] >= 0 && dims[i] <= SMALL && total <= SMALL ? total * dims[i] : SMALL + 1;
    if (count > 1 || total > SMALL || value == NULL || value->type != HL_ONNX_TENSOR ||
        !is_whole(value->tensor->dtype) || hl_named_tensor_count(value->tensor) != 1)
        return hl_convert_fail(x, n, NULL, "it makes more than a short list of whole numbers");
    HL_TRY(make_whole(x, n, count, total, &out));
    for (int64_t i = 0; i < total; i++)
        out[i] = whole_at(value->tensor, 0);
    return HL_OK;
}

/* Reshape, Flatten, Squeeze, Unsqueeze and Identity of a constant. */
static hl_status fold_reshape(hl_convert *x, const hl_onnx_node *n)
{
    const hl_named_tensor *in = &hl_convert_in(x, n, 0)->tensor;
    int64_t list[HL_CONVERT_INTS], shape[HL_TENSOR_MAX_NDIM], rest = (int64_t)hl_named_tensor_count(in);
    int count = -1, ndim = 0, from = 0;
    if (strcmp(n->op, "Identity") == 0)
        return reshaped(x, n, in->ndim, in->shape);
    HL_TRY(hl_convert_ints(x, n, strcmp(n->op, "Reshape") == 0 ? NULL : "axes", 1, list, &count));
    if (count > HL_TENSOR_MAX_NDIM || strcmp(n->op, "Flatten") == 0)
        return hl_convert_fail(x, n, NULL, "a constant of that shape");
    if (strcmp(n->op, "Reshape") == 0) {
        int open = -1;
        for (int d = 0; d < count; d++) {
            shape[d] = list[d] == 0 && d < in->ndim ? in->shape[d] : list[d];
            if (list[d] == -1)
                open = d;
            else
                rest = shape[d] > 0 && rest % shape[d] == 0 ? rest / shape[d] : 0;
        }
        if (open >= 0)
            shape[open] = rest;
        return reshaped(x, n, count < 0 ? 0 : count, shape);
    }
    bool squeeze = strcmp(n->op, "Squeeze") == 0;
    int total = squeeze ? in->ndim : in->ndim + (count > 0 ? count : 0);
    if (total > HL_TENSOR_MAX_NDIM)
        return hl_convert_fail(x, n, NULL, "a constant has more than 8 dimensions");
    for (int d = 0; d < total; d++) {
        bool listed = squeeze && count < 0 && in->shape[d] == 1;
        for (int i = 0; i < count; i++)
            listed = listed || list[i] == d || list[i] == d - total;
        if (squeeze && !listed)
            shape[ndim++] = in->shape[d];
        else if (!squeeze)
            shape[ndim++] = listed ? 1 : from < in->ndim ? in->shape[from++] : 1;
    }
    return reshaped(x, n, ndim, shape);
}

hl_status hl_convert_fold(hl_convert *x, const hl_onnx_node *n, bool *folded)
{
    static const struct {
        const char *op;
        hl_status (*fold)(hl_convert *, const hl_onnx_node *);
        int inputs;
    } table[] = {
        {"Constant", fold_constant, 0}, {"Shape", fold_shape, 1},         {"Gather", fold_gather, 2},
        {"Slice", fold_slice, 1},       {"Concat", fold_concat, 1},       {"Transpose", fold_transpose, 1},
        {"Cast", fold_cast, 1},         {"Identity", fold_reshape, 1},    {"Reshape", fold_reshape, 2},
        {"Flatten", fold_reshape, 1},   {"Squeeze", fold_reshape, 1},     {"Unsqueeze", fold_reshape, 1},
        {"Add", fold_binary, 2},        {"Sub", fold_binary, 2},          {"Mul", fold_binary, 2},
        {"Div", fold_binary, 2},        {"ConstantOfShape", fold_fill, 1}};
    *folded = false;
    bool constant = true;
    for (int i = 0; i < n->in_count; i++)
        constant = constant && (!hl_convert_has(n, i) || hl_convert_in(x, n, i)->kind == HL_ONNX_CONST);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(n->op, table[i].op) != 0 || !(constant || table[i].fold == fold_shape))
            continue;
        *folded = true;
        for (int k = 0; k < table[i].inputs; k++)
            if (!hl_convert_has(n, k))
                return hl_convert_fail(x, n, NULL, "it has no input %d", k);
        return table[i].fold(x, n);
    }
    return HL_OK;
}
