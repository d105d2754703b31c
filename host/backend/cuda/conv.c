/* CONV, CONV_DATA, CONV_WEIGHT: depthwise layers by our own kernels, linear ones by cuBLASLt, the rest by
 * cuDNN graphs. */
#include <stdlib.h>

#include "backend/cuda/cudnn_graph.h"
#include "backend/cuda/linear.h"

typedef struct conv_exec {
    hl_cuda_conv_form form;
    hl_depthwise_args depthwise;
    hl_matmul matmul;
    hl_cudnn_call call;
    hl_act act_after; /* applied by a kernel behind it */
    bool add_after;   /* and the residual added */
    void *scratch;
} conv_exec;

bool hl_cuda_is_depthwise(const hl_conv_attr *conv)
{
    const hl_param *w = conv->expr->weight;
    int64_t outputs = w->shape[0] / conv->groups;
    return outputs == 1 && (w->shape[1] == 1 || conv->subfunction);
}

hl_cuda_conv_form hl_cuda_form(const hl_conv_attr *conv, hl_shape x, hl_shape y)
{
    const hl_window *w = &conv->window;
    if (hl_cuda_is_depthwise(conv))
        return HL_FORM_DEPTHWISE;
    bool dense = conv->groups == 1 && (!conv->subfunction || x.c == 1);
    bool points = x.h == 1 && x.w == 1 && y.h == 1 && y.w == 1 && w->kh == 1 && w->kw == 1;
    return dense && points ? HL_FORM_LINEAR : HL_FORM_CUDNN;
}

/* Channels of a filter, in the sense of the library: sub-functions have one. */
static int64_t filter_channels(const hl_conv_attr *conv)
{
    return conv->subfunction ? 1 : conv->expr->weight->shape[1];
}

static hl_status check_elem(const hl_step *step, const hl_tensor *t)
{
    if (t == NULL || t->elem == HL_ELEM_F32 || t->elem == HL_ELEM_BF16 || t->elem == HL_ELEM_F16)
        return HL_OK;
    return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "a convolution computes in fp32, bf16 and fp16");
}

/* All operands have one type; only the result of a linear layer may have another (logits are f32). */
static hl_status check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    const hl_tensor *a = step->in[0], *b = step->in[1], *out = step->out[0];
    for (int i = 0; i < step->in_count; i++)
        HL_TRY(check_elem(step, step->in[i]));
    HL_TRY(check_elem(step, out));
    bool weight = step->kind == HL_STEP_CONV_WEIGHT, data = step->kind == HL_STEP_CONV_DATA;
    hl_shape x = data ? out->shape : a->shape, y = data ? a->shape : weight ? b->shape : out->shape;
    HL_TRY(hl_step_check_conv(step, x, y));
    bool result = weight || out->elem == a->elem || hl_cuda_form(&step->conv, x, y) == HL_FORM_LINEAR;
    if (a->elem != b->elem || !result)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "a convolution takes operands of one type");
    return HL_OK;
}

static hl_status exec_make(hl_step *step, hl_shape x, hl_shape y, conv_exec **exec)
{
    *exec = step->exec = calloc(1, sizeof **exec);
    if (*exec == NULL)
        return hl_fail_nomem(step->name, sizeof **exec);
    (*exec)->form = hl_cuda_form(&step->conv, x, y);
    (*exec)->depthwise = (hl_depthwise_args){.x = x, .y = y, .window = step->conv.window};
    return HL_OK;
}

static void release(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    conv_exec *exec = step->exec;
    hl_cudnn_release(&exec->call);
    hl_matmul_release(&exec->matmul);
    free(exec);
}

/* ---- forward ---- */

enum { X, WEIGHTS, BIAS, RESIDUAL };

static hl_status linear_forward(hl_cuda *cuda, hl_step *step, conv_exec *exec)
{
    const hl_tensor *x = step->in[X], *y = step->out[0];
    bool relu = step->conv.act == HL_ACT_RELU;
    const hl_matmul_spec spec = {.rows = x->shape.n,
                                 .columns = y->shape.c,
                                 .inner = x->shape.c,
                                 .b_transposed = true,
                                 .accumulate = hl_operand(step, RESIDUAL) != NULL,
                                 .tf32 = step->conv.tf32,
                                 .elem = x->elem,
                                 .out = y->elem,
                                 .bias = hl_operand(step, BIAS) != NULL,
                                 .relu = relu};
    exec->act_after = relu ? HL_ACT_NONE : step->conv.act;
    return hl_matmul_prepare(cuda, &spec, step->name, &exec->matmul);
}

/* x, w, y, residual, bias, in this order: forward_pointers follows it. */
static hl_status cudnn_forward(hl_cuda *cuda, hl_step *step, conv_exec *exec, bool fuse_act)
{
    const hl_tensor *x = step->in[X], *y = step->out[0], *bias = hl_operand(step, BIAS),
                    *residual = exec->add_after ? NULL : hl_operand(step, RESIDUAL);
    const hl_conv_attr *conv = &step->conv;
    hl_act act = fuse_act ? conv->act : HL_ACT_NONE;
    int left =
        (residual != NULL) + (bias != NULL) + (act != HL_ACT_NONE); /* operations behind the convolution */
    hl_cudnn_graph g;
    hl_cudnn_begin(&g, cuda, step->name);
    int at_x = hl_cudnn_tensor(&g, x->shape, x->elem);
    int at_w = hl_cudnn_weights(&g, y->shape.c, &conv->window, filter_channels(conv), x->elem);
    int at_y = hl_cudnn_tensor(&g, y->shape, y->elem);
    int at_residual = residual != NULL ? hl_cudnn_tensor(&g, y->shape, residual->elem) : -1;
    int at_bias = bias != NULL ? hl_cudnn_tensor(&g, (hl_shape){1, 1, 1, y->shape.c}, bias->elem) : -1;
    int from = left > 0 ? hl_cudnn_virtual(&g, y->shape) : at_y, to;
    hl_cudnn_conv(&g, HL_CONV_FORWARD, &conv->window, conv->tf32, at_x, at_w, from);
    /* The residual before the bias: the order that cuDNN's engines know. */
    if (residual != NULL) {
        to = --left > 0 ? hl_cudnn_virtual(&g, y->shape) : at_y;
        hl_cudnn_add(&g, from, at_residual, to);
        from = to;
    }
    if (bias != NULL) {
        to = --left > 0 ? hl_cudnn_virtual(&g, y->shape) : at_y;
        hl_cudnn_add(&g, from, at_bias, to);
        from = to;
    }
    if (act != HL_ACT_NONE)
        hl_cudnn_act(&g, act, from, at_y);
    exec->act_after = fuse_act ? HL_ACT_NONE : conv->act;
    return hl_cudnn_plan(&g, &exec->call);
}

static hl_status forward_prepare(hl_cuda *cuda, hl_step *step)
{
    conv_exec *exec;
    HL_TRY(exec_make(step, step->in[X]->shape, step->out[0]->shape, &exec));
    switch (exec->form) {
    case HL_FORM_DEPTHWISE:
        return HL_OK;
    case HL_FORM_LINEAR:
        HL_TRY(linear_forward(cuda, step, exec));
        step->scratch_bytes = exec->matmul.workspace;
        return HL_OK;
    case HL_FORM_CUDNN:
        break;
    }
    bool can_fuse = step->conv.act == HL_ACT_NONE || hl_cudnn_has_act(step->conv.act);
    hl_status status = can_fuse ? cudnn_forward(cuda, step, exec, true) : HL_E_UNSUPPORTED;
    if (status == HL_E_UNSUPPORTED && step->conv.act != HL_ACT_NONE)
        status = cudnn_forward(cuda, step, exec, false);
    /* A residual without a bias is a sum that few engines know. */
    if (status == HL_E_UNSUPPORTED && hl_operand(step, RESIDUAL) != NULL) {
        exec->add_after = true;
        status = cudnn_forward(cuda, step, exec, false);
    }
    step->scratch_bytes = exec->call.workspace;
    return status;
}

static hl_status forward_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    conv_exec *exec = step->exec;
    const hl_tensor *residual = hl_operand(step, RESIDUAL), *bias = hl_operand(step, BIAS);
    void *pointers[5] = {step->in[X]->data, step->in[WEIGHTS]->data, step->out[0]->data};
    int n = 3;
    exec->scratch = scratch;
    if (exec->form == HL_FORM_LINEAR)
        return hl_matmul_bind(&exec->matmul, hl_data(bias), step->name);
    if (exec->form == HL_FORM_DEPTHWISE)
        return HL_OK;
    if (residual != NULL && !exec->add_after)
        pointers[n++] = residual->data;
    if (bias != NULL)
        pointers[n++] = bias->data;
    return hl_cudnn_bind(&exec->call, pointers, scratch, step->name);
}

static hl_status forward_run(hl_cuda *cuda, hl_step *step)
{
    const conv_exec *exec = step->exec;
    const hl_tensor *x = step->in[X], *w = step->in[WEIGHTS], *y = step->out[0],
                    *bias = hl_operand(step, BIAS);
    void *residual = hl_data(hl_operand(step, RESIDUAL));
    if (exec->form == HL_FORM_DEPTHWISE)
        return HL_LAUNCHED(hl_launch_depthwise(&exec->depthwise, x->data, w->data, hl_data(bias),
                                               bias != NULL ? bias->elem : HL_ELEM_F32, residual,
                                               step->conv.act, y->data, y->elem, cuda->compute),
                           step);
    HL_TRY(exec->form == HL_FORM_LINEAR ? hl_matmul_run(cuda, &exec->matmul, x->data, w->data, residual,
                                                        y->data, exec->scratch, step->name)
                                        : hl_cudnn_run(cuda, &exec->call, step->name));
    if (exec->act_after == HL_ACT_NONE && !exec->add_after)
        return HL_OK;
    const hl_terms terms = {.term = {y->data, residual}, .count = exec->add_after ? 2 : 1};
    return HL_LAUNCHED(
        hl_launch_add(exec->act_after, terms, y->data, y->elem, hl_shape_count(y->shape), cuda->compute),
        step);
}

const hl_cuda_op hl_cuda_conv = {
    .check = check, .prepare = forward_prepare, .bind = forward_bind, .run = forward_run, .release = release};

/* ---- gradients ---- */

/* One convolution pass with three tensors, in the order x, w, y. */
static hl_status cudnn_gradient(hl_cuda *cuda, hl_step *step, conv_exec *exec, hl_cudnn_pass pass,
                                const hl_tensor *x, const hl_tensor *y)
{
    const hl_conv_attr *conv = &step->conv;
    hl_cudnn_graph g;
    hl_cudnn_begin(&g, cuda, step->name);
    int at_x = hl_cudnn_tensor(&g, x->shape, x->elem);
    int at_w = hl_cudnn_weights(&g, y->shape.c, &conv->window, filter_channels(conv), y->elem);
    int at_y = hl_cudnn_tensor(&g, y->shape, y->elem);
    hl_cudnn_conv(&g, pass, &conv->window, conv->tf32, at_x, at_w, at_y);
    HL_TRY(hl_cudnn_plan(&g, &exec->call));
    step->scratch_bytes = exec->call.workspace;
    return HL_OK;
}

static hl_status data_prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[0], *dx = step->out[0];
    conv_exec *exec;
    HL_TRY(exec_make(step, dx->shape, dy->shape, &exec));
    if (exec->form == HL_FORM_DEPTHWISE)
        return HL_OK;
    if (exec->form == HL_FORM_CUDNN)
        return cudnn_gradient(cuda, step, exec, HL_CONV_DATA, dx, dy);
    const hl_matmul_spec spec = {.rows = dy->shape.n,
                                 .columns = dx->shape.c,
                                 .inner = dy->shape.c,
                                 .tf32 = step->conv.tf32,
                                 .elem = dy->elem,
                                 .out = dx->elem};
    HL_TRY(hl_matmul_prepare(cuda, &spec, step->name, &exec->matmul));
    step->scratch_bytes = exec->matmul.workspace;
    return HL_OK;
}

static hl_status data_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    conv_exec *exec = step->exec;
    void *const pointers[] = {step->out[0]->data, step->in[1]->data, step->in[0]->data};
    exec->scratch = scratch;
    return exec->form == HL_FORM_CUDNN ? hl_cudnn_bind(&exec->call, pointers, scratch, step->name) : HL_OK;
}

static hl_status data_pass(hl_cuda *cuda, hl_step *step)
{
    const conv_exec *exec = step->exec;
    const hl_tensor *dy = step->in[0], *w = step->in[1], *dx = step->out[0];
    switch (exec->form) {
    case HL_FORM_DEPTHWISE:
        return HL_LAUNCHED(
            hl_launch_depthwise_data(&exec->depthwise, dy->data, w->data, dx->data, dx->elem, cuda->compute),
            step);
    case HL_FORM_LINEAR:
        return hl_matmul_run(cuda, &exec->matmul, dy->data, w->data, NULL, dx->data, exec->scratch,
                             step->name);
    case HL_FORM_CUDNN:
        break;
    }
    return hl_cudnn_run(cuda, &exec->call, step->name);
}

/* The other gradient is added and the derivative applied by a kernel behind it. */
static hl_status data_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *other = hl_operand(step, 2), *operand = hl_operand(step, 3), *dx = step->out[0];
    HL_TRY(data_pass(cuda, step));
    if (other == NULL && operand == NULL)
        return HL_OK;
    const hl_terms terms = {.term = {dx->data, hl_data(other)}, .count = other != NULL ? 2 : 1};
    return HL_LAUNCHED(hl_launch_act_grad(step->conv.act, hl_data(operand), terms, dx->data, dx->elem,
                                          hl_shape_count(dx->shape), cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_conv_data = {
    .check = check, .prepare = data_prepare, .bind = data_bind, .run = data_run, .release = release};

/* dW has the operands' type where cuDNN makes it, f32 elsewhere; WEIGHT_GRAD reads either. */
static hl_status weight_prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *x = step->in[0], *dy = step->in[1];
    hl_tensor *dw = step->out[0];
    conv_exec *exec;
    HL_TRY(exec_make(step, x->shape, dy->shape, &exec));
    dw->elem = exec->form == HL_FORM_CUDNN ? x->elem : HL_ELEM_F32;
    dw->bytes = (size_t)step->conv.expr->weight->count * hl_elem_size(dw->elem);
    if (exec->form == HL_FORM_CUDNN)
        return cudnn_gradient(cuda, step, exec, HL_CONV_WEIGHT, x, dy);
    if (exec->form == HL_FORM_DEPTHWISE) {
        step->scratch_bytes = hl_depthwise_weight_scratch(&exec->depthwise);
        return HL_OK;
    }
    const hl_matmul_spec spec = {.rows = dy->shape.c,
                                 .columns = x->shape.c,
                                 .inner = x->shape.n,
                                 .a_transposed = true,
                                 .tf32 = step->conv.tf32,
                                 .elem = x->elem,
                                 .out = HL_ELEM_F32};
    HL_TRY(hl_matmul_prepare(cuda, &spec, step->name, &exec->matmul));
    step->scratch_bytes = exec->matmul.workspace;
    return HL_OK;
}

static hl_status weight_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    conv_exec *exec = step->exec;
    void *const pointers[] = {step->in[0]->data, step->out[0]->data, step->in[1]->data};
    exec->scratch = scratch;
    return exec->form == HL_FORM_CUDNN ? hl_cudnn_bind(&exec->call, pointers, scratch, step->name) : HL_OK;
}

static hl_status weight_run(hl_cuda *cuda, hl_step *step)
{
    const conv_exec *exec = step->exec;
    const hl_tensor *x = step->in[0], *dy = step->in[1], *dw = step->out[0];
    switch (exec->form) {
    case HL_FORM_DEPTHWISE:
        return HL_LAUNCHED(hl_launch_depthwise_weight(&exec->depthwise, x->data, dy->data, dw->data,
                                                      exec->scratch, x->elem, cuda->compute),
                           step);
    case HL_FORM_LINEAR:
        return hl_matmul_run(cuda, &exec->matmul, dy->data, x->data, NULL, dw->data, exec->scratch,
                             step->name);
    case HL_FORM_CUDNN:
        break;
    }
    return hl_cudnn_run(cuda, &exec->call, step->name);
}

const hl_cuda_op hl_cuda_conv_weight = {
    .check = check, .prepare = weight_prepare, .bind = weight_bind, .run = weight_run, .release = release};
