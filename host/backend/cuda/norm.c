/* NORM, NORM_BATCH and their gradients. Running statistics: our kernels. Batch statistics: cuDNN's norm where
 * it has a plan and nothing is fused behind it (it adds no residual and has no activation), else our kernels.
 */
#include <stdlib.h>

#include "backend/cuda/cudnn_graph.h"

static float *value_of(const hl_param *p)
{
    return p != NULL ? p->value : NULL;
}

static float *trained_grad(const hl_param *p)
{
    return p != NULL && p->trained ? p->grad : NULL;
}

static hl_norm_args arguments(const hl_step *step)
{
    const hl_norm_attr *n = &step->norm;
    const hl_tensor *x =
        step->kind == HL_STEP_NORM || step->kind == HL_STEP_NORM_BATCH ? step->in[0] : step->in[1];
    return (hl_norm_args){.scale = value_of(n->scale),
                          .shift = value_of(n->shift),
                          .mean = value_of(n->mean),
                          .var = value_of(n->var),
                          .eps = n->eps,
                          .momentum = n->momentum,
                          .moves = n->mean != NULL && n->mean->moves,
                          .act = n->act,
                          .rows = hl_rows(x),
                          .channels = x->shape.c};
}

static hl_status check(const hl_cuda *cuda, const hl_step *step)
{
    HL_TRY(hl_step_check_norm(step));
    return hl_cuda_check_floats(cuda, step);
}

/* ---- running statistics ---- */

static hl_status norm_run(hl_cuda *cuda, hl_step *step)
{
    const hl_norm_args args = arguments(step);
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_norm(&args, step->in[0]->data, hl_data(hl_operand(step, 1)), y->data,
                                      y->elem, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_norm = {.check = check, .run = norm_run};

static hl_status grad_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    const hl_tensor *x = step->in[1];
    step->scratch_bytes = hl_norm_grad_scratch(hl_rows(x), x->shape.c);
    return HL_OK;
}

static hl_status grad_launch(hl_cuda *cuda, const hl_step *step, void *scratch)
{
    const hl_norm_args args = arguments(step);
    const hl_tensor *dy = step->in[0];
    return HL_LAUNCHED(hl_launch_norm_grad(&args, dy->data, step->in[1]->data, hl_data(hl_operand(step, 2)),
                                           hl_data(hl_operand(step, 3)), hl_data(step->out[0]),
                                           trained_grad(step->norm.scale), trained_grad(step->norm.shift),
                                           cuda->run, scratch, dy->elem, cuda->compute),
                       step);
}

static hl_status grad_run(hl_cuda *cuda, hl_step *step)
{
    return grad_launch(cuda, step, step->exec);
}

const hl_cuda_op hl_cuda_norm_grad = {
    .check = check, .prepare = grad_prepare, .bind = hl_cuda_bind_scratch, .run = grad_run};

/* ---- batch statistics ---- */

typedef struct norm_exec {
    bool cudnn;
    hl_cudnn_call call;
    float eps, momentum; /* read when the graph runs or is captured */
    void *scratch;
} norm_exec;

static hl_status batch_check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    const hl_tensor *x = step->in[step->kind == HL_STEP_NORM_BATCH ? 0 : 1];
    HL_TRY(hl_step_check_norm(step));
    if (hl_rows(x) < 2)
        return hl_fail(HL_E_ARG, step->name, "use a larger --batch-size or --norm frozen",
                       "batch statistics of one value per channel");
    return HL_OK;
}

static hl_status plan_batch(hl_cuda *cuda, const hl_step *step, hl_cudnn_call *call)
{
    const hl_tensor *x = step->in[0];
    const hl_shape vector = {1, 1, 1, x->shape.c};
    hl_cudnn_graph g;
    hl_cudnn_norm n;
    hl_cudnn_begin(&g, cuda, step->name);
    n.x = hl_cudnn_tensor(&g, x->shape, x->elem);
    n.scale = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
    n.shift = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
    n.y = hl_cudnn_tensor(&g, x->shape, x->elem);
    n.mean = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
    n.inverse_deviation = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
    n.eps = hl_cudnn_scalar(&g);
    n.momentum = -1;
    if (step->norm.mean->moves) {
        n.momentum = hl_cudnn_scalar(&g);
        n.running_mean = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
        n.running_var = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
        n.new_mean = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
        n.new_var = hl_cudnn_tensor(&g, vector, HL_ELEM_F32);
    }
    hl_cudnn_norm_forward(&g, &n);
    return hl_cudnn_plan(&g, call);
}

static hl_status batch_prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *x = step->in[0], *y = step->out[0];
    const hl_norm_attr *n = &step->norm;
    norm_exec *exec = step->exec = calloc(1, sizeof *exec);
    if (exec == NULL)
        return hl_fail_nomem(step->name, sizeof *exec);
    exec->eps = n->eps;
    exec->momentum = n->momentum;
    bool plain = hl_operand(step, 1) == NULL && n->act == HL_ACT_NONE && n->scale != NULL &&
                 n->shift != NULL && x->elem == y->elem && n->mean->moves == n->var->moves;
    hl_status status = plain ? plan_batch(cuda, step, &exec->call) : HL_E_UNSUPPORTED;
    exec->cudnn = status == HL_OK;
    step->scratch_bytes = exec->cudnn ? exec->call.workspace : hl_norm_batch_scratch(hl_rows(x), x->shape.c);
    return status == HL_E_UNSUPPORTED ? HL_OK : status;
}

static hl_status batch_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    norm_exec *exec = step->exec;
    const hl_norm_attr *n = &step->norm;
    exec->scratch = scratch;
    if (!exec->cudnn)
        return HL_OK;
    void *const pointers[] = {step->in[0]->data,  n->scale->value,    n->shift->value, step->out[0]->data,
                              step->out[1]->data, step->out[2]->data, &exec->eps,      &exec->momentum,
                              n->mean->value,     n->var->value,      n->mean->value,  n->var->value};
    return hl_cudnn_bind(&exec->call, pointers, scratch, step->name);
}

static hl_status batch_run(hl_cuda *cuda, hl_step *step)
{
    const norm_exec *exec = step->exec;
    const hl_norm_args args = arguments(step);
    if (exec->cudnn)
        return hl_cudnn_run(cuda, &exec->call, step->name);
    const hl_tensor *y = step->out[0];
    return HL_LAUNCHED(hl_launch_norm_batch(&args, step->in[0]->data, hl_data(hl_operand(step, 1)), y->data,
                                            step->out[1]->data, step->out[2]->data, exec->scratch, y->elem,
                                            cuda->compute),
                       step);
}

static void batch_release(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    hl_cudnn_release(&((norm_exec *)step->exec)->call);
    free(step->exec);
}

const hl_cuda_op hl_cuda_norm_batch = {.check = batch_check,
                                       .prepare = batch_prepare,
                                       .bind = batch_bind,
                                       .run = batch_run,
                                       .release = batch_release};

/* cuDNN overwrites the parameters' gradients, ours may add to them (accumulation): so its backward norm has
 * no use here, and our kernel takes the mean and inverse deviation that either forward pass has kept. */
static hl_status batch_grad_check(const hl_cuda *cuda, const hl_step *step)
{
    HL_TRY(batch_check(cuda, step));
    return step->in[0]->elem == step->in[1]->elem
               ? HL_OK
               : hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "a norm's gradient takes operands of one type");
}

const hl_cuda_op hl_cuda_norm_batch_grad = {
    .check = batch_grad_check, .prepare = grad_prepare, .bind = hl_cuda_bind_scratch, .run = grad_run};
