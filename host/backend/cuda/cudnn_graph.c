#include "backend/cuda/cudnn_graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void hl_cudnn_begin(hl_cudnn_graph *g, hl_cuda *cuda, const char *subject)
{
    memset(g, 0, sizeof *g);
    g->cuda = cuda;
    g->subject = subject;
    g->single = true;
}

HL_PRINTF(2, 3) static void describe(hl_cudnn_graph *g, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    size_t room = sizeof g->text - g->text_length;
    int n = vsnprintf(g->text + g->text_length, room, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= room)
        g->status = hl_fail(HL_E_INTERNAL, g->subject, NULL, "the graph's description is too long");
    else
        g->text_length += (size_t)n;
}

static cudnnBackendDescriptor_t make(hl_cudnn_graph *g, cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t desc = NULL;
    if (g->status == HL_OK && g->made_count == HL_CUDNN_MADE)
        g->status = hl_fail(HL_E_INTERNAL, g->subject, NULL, "the graph has too many parts");
    if (g->status == HL_OK)
        g->status =
            hl_cudnn_status(cudnnBackendCreateDescriptor(type, &desc), g->subject, "describe a graph");
    if (g->status == HL_OK)
        g->made[g->made_count++] = desc;
    return desc;
}

static void set(hl_cudnn_graph *g, cudnnBackendDescriptor_t desc, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    if (g->status == HL_OK)
        g->status = hl_cudnn_status(cudnnBackendSetAttribute(desc, name, type, count, value), g->subject,
                                    "describe a graph");
}

static void set_desc(hl_cudnn_graph *g, cudnnBackendDescriptor_t desc, cudnnBackendAttributeName_t name,
                     int tensor)
{
    set(g, desc, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->tensors[tensor].desc);
}

static void finalize(hl_cudnn_graph *g, cudnnBackendDescriptor_t desc)
{
    if (g->status == HL_OK)
        g->status = hl_cudnn_status(cudnnBackendFinalize(desc), g->subject, "describe a graph");
}

static cudnnDataType_t data_type(hl_elem elem)
{
    switch (elem) {
    case HL_ELEM_BF16:
        return CUDNN_DATA_BFLOAT16;
    case HL_ELEM_F16:
        return CUDNN_DATA_HALF;
    case HL_ELEM_U8:
        return CUDNN_DATA_INT8; /* pooling indices; no other bytes reach cuDNN */
    case HL_ELEM_I32:
        return CUDNN_DATA_INT32;
    case HL_ELEM_F32:
        break;
    }
    return CUDNN_DATA_FLOAT;
}

/* dims n, c, h, w with channels innermost in memory. */
typedef enum tensor_kind { STORED, VIRTUAL, SCALAR } tensor_kind;

static int add_tensor(hl_cudnn_graph *g, const int64_t dims[4], hl_elem elem, tensor_kind kind)
{
    const bool yes = true;
    int index = g->tensor_count;
    if (g->status == HL_OK && index == HL_CUDNN_TENSORS)
        g->status = hl_fail(HL_E_INTERNAL, g->subject, NULL, "the graph has too many tensors");
    if (g->status != HL_OK)
        return 0;
    int64_t n = dims[0], c = dims[1], h = dims[2], w = dims[3];
    const int64_t strides[4] = {h * w * c, 1, w * c, c}, uid = index + 1, alignment = 16;
    cudnnDataType_t type = data_type(elem);
    cudnnBackendDescriptor_t desc = make(g, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set(g, desc, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, desc, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(g, desc, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set(g, desc, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(g, desc, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (kind == VIRTUAL)
        set(g, desc, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (kind == SCALAR)
        set(g, desc, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    finalize(g, desc);
    describe(g, "%s%d[%lld,%lld,%lld,%lld];",
             kind == VIRTUAL  ? "v"
             : kind == SCALAR ? "s"
                              : "t",
             (int)type, (long long)n, (long long)c, (long long)h, (long long)w);
    g->tensors[index].desc = desc;
    g->tensors[index].bytes = (size_t)(n * c * h * w) * hl_elem_size(elem);
    g->tensors[index].is_virtual = kind == VIRTUAL;
    g->tensors[index].is_scalar = kind == SCALAR;
    g->single = g->single && (elem == HL_ELEM_F32 || elem == HL_ELEM_U8);
    g->tensor_count++;
    return index;
}

int hl_cudnn_tensor(hl_cudnn_graph *g, hl_shape s, hl_elem elem)
{
    return add_tensor(g, (const int64_t[]){s.n, s.c, s.h, s.w}, elem, STORED);
}

int hl_cudnn_virtual(hl_cudnn_graph *g, hl_shape s)
{
    bool single = g->single;
    int index = add_tensor(g, (const int64_t[]){s.n, s.c, s.h, s.w}, HL_ELEM_F32, VIRTUAL);
    g->single = single;
    return index;
}

int hl_cudnn_weights(hl_cudnn_graph *g, int64_t k, const hl_window *window, int64_t c, hl_elem elem)
{
    return add_tensor(g, (const int64_t[]){k, c, window->kh, window->kw}, elem, STORED);
}

int hl_cudnn_index(hl_cudnn_graph *g, hl_shape s)
{
    return add_tensor(g, (const int64_t[]){s.n, s.c, s.h, s.w}, HL_ELEM_U8, STORED);
}

int hl_cudnn_scalar(hl_cudnn_graph *g)
{
    return add_tensor(g, (const int64_t[]){1, 1, 1, 1}, HL_ELEM_F32, SCALAR);
}

static void add_op(hl_cudnn_graph *g, cudnnBackendDescriptor_t op)
{
    finalize(g, op);
    if (g->status == HL_OK && g->op_count == HL_CUDNN_OPS)
        g->status = hl_fail(HL_E_INTERNAL, g->subject, NULL, "the graph has too many operations");
    if (g->status == HL_OK)
        g->ops[g->op_count++] = op;
}

static cudnnBackendDescriptor_t conv_desc(hl_cudnn_graph *g, const hl_window *w)
{
    /* Dilation counts from 1, as hl_window's. */
    const int64_t dims = 2, pre[2] = {w->top, w->left}, post[2] = {w->bottom, w->right},
                  strides[2] = {w->sh, w->sw}, dilations[2] = {w->dh, w->dw};
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    cudnnBackendDescriptor_t conv = make(g, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pre);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, post);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    set(g, conv, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, dilations);
    finalize(g, conv);
    return conv;
}

void hl_cudnn_conv(hl_cudnn_graph *g, hl_cudnn_pass pass, const hl_window *window, bool tf32, int x, int w,
                   int y)
{
    static const struct {
        cudnnBackendDescriptorType_t type;
        cudnnBackendAttributeName_t conv, x, w, y, alpha, beta;
    } names[] = {
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
         CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA},
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA},
        {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA},
    };
    const float one = 1.0f, zero = 0.0f;
    cudnnBackendDescriptor_t conv = conv_desc(g, window), op = make(g, names[pass].type);
    set(g, op, names[pass].conv, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &conv);
    set_desc(g, op, names[pass].x, x);
    set_desc(g, op, names[pass].w, w);
    set_desc(g, op, names[pass].y, y);
    set(g, op, names[pass].alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(g, op, names[pass].beta, CUDNN_TYPE_FLOAT, 1, &zero);
    add_op(g, op);
    g->tf32 = tf32;
    describe(g, "conv%d(%d,%d,%d) stride %lld,%lld dilation %lld,%lld padding %lld,%lld,%lld,%lld%s;",
             (int)pass, x, w, y, (long long)window->sh, (long long)window->sw, (long long)window->dh,
             (long long)window->dw, (long long)window->top, (long long)window->bottom,
             (long long)window->left, (long long)window->right, tf32 ? " tf32" : "");
}

static cudnnBackendDescriptor_t pointwise_desc(hl_cudnn_graph *g, cudnnPointwiseMode_t mode)
{
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t desc = make(g, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(g, desc, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set(g, desc, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type);
    return desc;
}

static void pointwise(hl_cudnn_graph *g, cudnnBackendDescriptor_t desc, int x, int b, int y)
{
    finalize(g, desc);
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    set(g, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b >= 0)
        set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    set_desc(g, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    add_op(g, op);
}

void hl_cudnn_add(hl_cudnn_graph *g, int a, int b, int y)
{
    pointwise(g, pointwise_desc(g, CUDNN_POINTWISE_ADD), a, b, y);
    describe(g, "add(%d,%d,%d);", a, b, y);
}

/* The rest is computed by our own kernel behind it: cuDNN has no hard sigmoid or hard swish, and compiles
 * kernels at run time for the curved ones. */
bool hl_cudnn_has_act(hl_act act)
{
    return act == HL_ACT_RELU || act == HL_ACT_RELU6;
}

void hl_cudnn_act(hl_cudnn_graph *g, hl_act act, int x, int y)
{
    const double upper = 6.0;
    cudnnBackendDescriptor_t desc = pointwise_desc(g, CUDNN_POINTWISE_RELU_FWD);
    if (act == HL_ACT_RELU6)
        set(g, desc, CUDNN_ATTR_POINTWISE_RELU_UPPER_CLIP, CUDNN_TYPE_DOUBLE, 1, &upper);
    pointwise(g, desc, x, -1, y);
    describe(g, "act%d(%d,%d);", (int)act, x, y);
}

static cudnnBackendDescriptor_t resample_desc(hl_cudnn_graph *g, const hl_pool_attr *pool)
{
    const hl_window *w = &pool->window;
    /* cuDNN takes sizes as fractions here, although they are whole. */
    const cudnnFraction_t window[2] = {{w->kh, 1}, {w->kw, 1}}, strides[2] = {{w->sh, 1}, {w->sw, 1}},
                          pre[2] = {{w->top, 1}, {w->left, 1}}, post[2] = {{w->bottom, 1}, {w->right, 1}};
    const int64_t dims = 2;
    const cudnnDataType_t type = CUDNN_DATA_FLOAT;
    const cudnnNanPropagation_t nan = CUDNN_PROPAGATE_NAN;
    const cudnnResampleMode_t mode = pool->max             ? CUDNN_RESAMPLE_MAXPOOL
                                     : pool->count_padding ? CUDNN_RESAMPLE_AVGPOOL_INCLUDE_PADDING
                                                           : CUDNN_RESAMPLE_AVGPOOL_EXCLUDE_PADDING;
    const cudnnPaddingMode_t padding = pool->max ? CUDNN_NEG_INF_PAD : CUDNN_ZERO_PAD;
    cudnnBackendDescriptor_t desc = make(g, CUDNN_BACKEND_RESAMPLE_DESCRIPTOR);
    set(g, desc, CUDNN_ATTR_RESAMPLE_MODE, CUDNN_TYPE_RESAMPLE_MODE, 1, &mode);
    set(g, desc, CUDNN_ATTR_RESAMPLE_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(g, desc, CUDNN_ATTR_RESAMPLE_NAN_PROPAGATION, CUDNN_TYPE_NAN_PROPOGATION, 1, &nan);
    set(g, desc, CUDNN_ATTR_RESAMPLE_PADDING_MODE, CUDNN_TYPE_PADDING_MODE, 1, &padding);
    set(g, desc, CUDNN_ATTR_RESAMPLE_SPATIAL_DIMS, CUDNN_TYPE_INT64, 1, &dims);
    set(g, desc, CUDNN_ATTR_RESAMPLE_WINDOW_DIMS, CUDNN_TYPE_FRACTION, 2, window);
    set(g, desc, CUDNN_ATTR_RESAMPLE_STRIDES, CUDNN_TYPE_FRACTION, 2, strides);
    set(g, desc, CUDNN_ATTR_RESAMPLE_PRE_PADDINGS, CUDNN_TYPE_FRACTION, 2, pre);
    set(g, desc, CUDNN_ATTR_RESAMPLE_POST_PADDINGS, CUDNN_TYPE_FRACTION, 2, post);
    finalize(g, desc);
    describe(g, "pool%d window %lld,%lld stride %lld,%lld padding %lld,%lld,%lld,%lld", (int)mode,
             (long long)w->kh, (long long)w->kw, (long long)w->sh, (long long)w->sw, (long long)w->top,
             (long long)w->bottom, (long long)w->left, (long long)w->right);
    return desc;
}

void hl_cudnn_pool(hl_cudnn_graph *g, const hl_pool_attr *pool, int x, int y, int index)
{
    cudnnBackendDescriptor_t desc = resample_desc(g, pool),
                             op = make(g, CUDNN_BACKEND_OPERATION_RESAMPLE_FWD_DESCRIPTOR);
    set(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_XDESC, x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_YDESC, y);
    if (index >= 0)
        set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_FWD_IDXDESC, index);
    add_op(g, op);
    describe(g, " forward(%d,%d,%d);", x, y, index);
}

void hl_cudnn_pool_grad(hl_cudnn_graph *g, const hl_pool_attr *pool, int dy, int dx, int index)
{
    cudnnBackendDescriptor_t desc = resample_desc(g, pool),
                             op = make(g, CUDNN_BACKEND_OPERATION_RESAMPLE_BWD_DESCRIPTOR);
    set(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DESC, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &desc);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DYDESC, dy);
    set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_DXDESC, dx);
    if (index >= 0)
        set_desc(g, op, CUDNN_ATTR_OPERATION_RESAMPLE_BWD_IDXDESC, index);
    add_op(g, op);
    describe(g, " backward(%d,%d,%d);", dy, dx, index);
}

void hl_cudnn_norm_forward(hl_cudnn_graph *g, const hl_cudnn_norm *n)
{
    const cudnnBackendNormMode_t mode = CUDNN_BATCH_NORM;
    const cudnnBackendNormFwdPhase_t phase = CUDNN_NORM_FWD_TRAINING;
    cudnnBackendDescriptor_t op = make(g, CUDNN_BACKEND_OPERATION_NORM_FORWARD_DESCRIPTOR);
    set(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_MODE, CUDNN_TYPE_NORM_MODE, 1, &mode);
    set(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_PHASE, CUDNN_TYPE_NORM_FWD_PHASE, 1, &phase);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_XDESC, n->x);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_SCALE_DESC, n->scale);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_BIAS_DESC, n->shift);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_EPSILON_DESC, n->eps);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_YDESC, n->y);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_MEAN_DESC, n->mean);
    set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_INV_VARIANCE_DESC, n->inverse_deviation);
    if (n->momentum >= 0) {
        set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_EXP_AVG_FACTOR_DESC, n->momentum);
        set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_MEAN_DESC, n->running_mean);
        set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_INPUT_RUNNING_VAR_DESC, n->running_var);
        set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_MEAN_DESC, n->new_mean);
        set_desc(g, op, CUDNN_ATTR_OPERATION_NORM_FWD_OUTPUT_RUNNING_VAR_DESC, n->new_var);
    }
    add_op(g, op);
    describe(g, "norm(%d,%d,%d,%d,%d);", n->x, n->scale, n->shift, n->momentum, n->y);
}
