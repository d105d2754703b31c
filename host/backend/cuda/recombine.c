/* RECOMBINE and RECOMBINE_GRAD. */
#include "backend/cuda/cuda.h"

enum { S, GRAD_Y = 1, GRADIENTS = 2 };

static hl_recombine_args arguments(const hl_step *step, const hl_tensor *y)
{
    const hl_param *gate = step->conv.expr->gate;
    bool row = gate->ndim == 1;
    return (hl_recombine_args){.gate = gate->value,
                               .rows = hl_rows(y),
                               .channels = y->shape.c,
                               .groups = row ? 1 : (int32_t)step->conv.groups,
                               .inputs = row ? 1 : (int32_t)gate->shape[1],
                               .act = step->conv.act};
}

static hl_status forward_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *y = step->out[0], *bias = hl_operand(step, 1);
    const hl_recombine_args args = arguments(step, y);
    return HL_LAUNCHED(hl_launch_recombine(&args, step->in[S]->data, hl_data(bias),
                                           bias != NULL ? bias->elem : HL_ELEM_F32,
                                           hl_data(hl_operand(step, 2)), y->data, y->elem, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_recombine = {.check = hl_cuda_check_floats, .run = forward_run};

static hl_status grad_check(const hl_cuda *cuda, const hl_step *step)
{
    if (step->in_count - GRADIENTS > HL_KERNEL_MAX_TERMS)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "its output is read by %d layers, more than %d",
                       step->in_count - GRADIENTS, HL_KERNEL_MAX_TERMS);
    return hl_cuda_check_floats(cuda, step);
}

static hl_status grad_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    const hl_recombine_args args = arguments(step, step->in[GRADIENTS]);
    step->scratch_bytes = hl_recombine_grad_scratch(&args);
    return HL_OK;
}

static hl_status grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *dy = step->in[GRADIENTS];
    const hl_recombine_args args = arguments(step, dy);
    hl_terms terms = {.count = step->in_count - GRADIENTS};
    for (int i = 0; i < terms.count; i++)
        terms.term[i] = step->in[GRADIENTS + i]->data;
    void *dz = step->out_count > 0 ? hl_data(step->out[0]) : NULL;
    return HL_LAUNCHED(hl_launch_recombine_grad(&args, step->in[S]->data, hl_data(step->in[GRAD_Y]), terms,
                                                dz, step->conv.expr->gate->grad, cuda->run, step->exec,
                                                dy->elem, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_recombine_grad = {
    .check = grad_check, .prepare = grad_prepare, .bind = hl_cuda_bind_scratch, .run = grad_run};
