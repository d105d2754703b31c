/* POOL and POOL_GRAD: cuDNN where it has a plan for both passes, our own kernels for the rest (averages over
 * windows that hang over the padding, large windows). */
#include <stdlib.h>

#include "backend/cuda/cudnn_graph.h"

typedef struct pool_exec {
    bool cudnn;
    hl_cudnn_call call;
    hl_pool_args args;
} pool_exec;

/* What cuDNN wrote an index with, it must read it with: POOL, which is prepared first, marks the index. */
static char cudnn_index;

static hl_pool_args arguments(const hl_step *step, hl_shape x, hl_shape y, const hl_tensor *index)
{
    return (hl_pool_args){.x = x,
                          .y = y,
                          .window = step->pool.window,
                          .max = step->pool.max,
                          .count_padding = step->pool.count_padding,
                          .wide_index = index != NULL && index->elem == HL_ELEM_I32};
}

/* Ceil mode lets windows reach beyond the padding, where elements never count; cuDNN has no such rule. Its
 * index is one byte. */
static bool cudnn_expresses(const hl_pool_attr *pool, hl_shape x, hl_shape y, const hl_tensor *index)
{
    const hl_window *w = &pool->window;
    bool inside =
        (y.h - 1) * w->sh + w->kh <= x.h + 2 * w->top && (y.w - 1) * w->sw + w->kw <= x.w + 2 * w->left;
    return w->dh == 1 && w->dw == 1 && (inside || pool->max || !pool->count_padding) &&
           (index == NULL || (index->elem == HL_ELEM_U8 && w->kh * w->kw <= 127));
}

static hl_status plan_forward(hl_cuda *cuda, const hl_step *step, hl_shape x, hl_shape y, hl_elem elem,
                              bool index, hl_cudnn_call *call)
{
    hl_cudnn_graph g;
    hl_cudnn_begin(&g, cuda, step->name);
    int at_x = hl_cudnn_tensor(&g, x, elem), at_y = hl_cudnn_tensor(&g, y, elem);
    hl_cudnn_pool(&g, &step->pool, at_x, at_y, index ? hl_cudnn_index(&g, y) : -1);
    return hl_cudnn_plan(&g, call);
}

static hl_status plan_backward(hl_cuda *cuda, const hl_step *step, hl_shape x, hl_shape y, hl_elem elem,
                               bool index, hl_cudnn_call *call)
{
    hl_cudnn_graph g;
    hl_cudnn_begin(&g, cuda, step->name);
    int at_dy = hl_cudnn_tensor(&g, y, elem), at_dx = hl_cudnn_tensor(&g, x, elem);
    hl_cudnn_pool_grad(&g, &step->pool, at_dy, at_dx, index ? hl_cudnn_index(&g, y) : -1);
    return hl_cudnn_plan(&g, call);
}

static hl_status check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    return hl_step_check_pool(step, step->in[0]->shape, step->out[0]->shape);
}

static hl_status grad_check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    return hl_step_check_pool(step, step->out[0]->shape, step->in[0]->shape);
}

static pool_exec *exec_make(hl_step *step)
{
    return step->exec = calloc(1, sizeof(pool_exec));
}

static hl_status prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *x = step->in[0], *y = step->out[0];
    hl_tensor *index = step->out_count > 1 ? step->out[1] : NULL;
    pool_exec *exec = exec_make(step);
    if (exec == NULL)
        return hl_fail_nomem(step->name, sizeof *exec);
    exec->args = arguments(step, x->shape, y->shape, index);
    if (!cudnn_expresses(&step->pool, x->shape, y->shape, index) || x->elem != y->elem)
        return HL_OK;
    hl_cudnn_call backward = {0};
    hl_status status = plan_forward(cuda, step, x->shape, y->shape, x->elem, index != NULL, &exec->call);
    if (status == HL_OK && index != NULL)
        status = plan_backward(cuda, step, x->shape, y->shape, x->elem, true, &backward);
    hl_cudnn_release(&backward);
    exec->cudnn = status == HL_OK;
    if (exec->cudnn) {
        step->scratch_bytes = exec->call.workspace;
        if (index != NULL)
            index->native = &cudnn_index;
    }
    return status == HL_E_UNSUPPORTED ? HL_OK : status;
}

static hl_status bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    pool_exec *exec = step->exec;
    void *const pointers[] = {step->in[0]->data, step->out[0]->data,
                              step->out_count > 1 ? hl_data(step->out[1]) : NULL};
    return exec->cudnn ? hl_cudnn_bind(&exec->call, pointers, scratch, step->name) : HL_OK;
}

static hl_status run(hl_cuda *cuda, hl_step *step)
{
    const pool_exec *exec = step->exec;
    const hl_tensor *y = step->out[0];
    if (exec->cudnn)
        return hl_cudnn_run(cuda, &exec->call, step->name);
    return HL_LAUNCHED(hl_launch_pool(&exec->args, step->in[0]->data, y->data,
                                      step->out_count > 1 ? hl_data(step->out[1]) : NULL, y->elem,
                                      cuda->compute),
                       step);
}

static void release(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    hl_cudnn_release(&((pool_exec *)step->exec)->call);
    free(step->exec);
}

const hl_cuda_op hl_cuda_pool = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};

static hl_status grad_prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[0], *dx = step->out[0], *index = hl_operand(step, 1);
    pool_exec *exec = exec_make(step);
    if (exec == NULL)
        return hl_fail_nomem(step->name, sizeof *exec);
    exec->args = arguments(step, dx->shape, dy->shape, index);
    /* An average has no index; its gradient by our kernel costs what cuDNN's would. */
    exec->cudnn = index != NULL && index->native == &cudnn_index;
    if (!exec->cudnn)
        return HL_OK;
    HL_TRY(plan_backward(cuda, step, dx->shape, dy->shape, dx->elem, true, &exec->call));
    step->scratch_bytes = exec->call.workspace;
    return HL_OK;
}

static hl_status grad_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    pool_exec *exec = step->exec;
    void *const pointers[] = {step->in[0]->data, step->out[0]->data, hl_data(hl_operand(step, 1))};
    return exec->cudnn ? hl_cudnn_bind(&exec->call, pointers, scratch, step->name) : HL_OK;
}

static hl_status grad_run(hl_cuda *cuda, hl_step *step)
{
    const pool_exec *exec = step->exec;
    const hl_tensor *dx = step->out[0];
    if (exec->cudnn)
        return hl_cudnn_run(cuda, &exec->call, step->name);
    return HL_LAUNCHED(hl_launch_pool_grad(&exec->args, step->in[0]->data, hl_data(hl_operand(step, 1)),
                                           dx->data, dx->elem, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_pool_grad = {
    .check = grad_check, .prepare = grad_prepare, .bind = grad_bind, .run = grad_run, .release = release};
