/* LAYER_NORM and LAYER_NORM_GRAD: our kernels. */
#include "backend/cuda/cuda.h"

static const float *value_of(const hl_param *p)
{
    return p != NULL ? p->value : NULL;
}

static float *trained_grad(const hl_param *p)
{
    return p != NULL && p->trained ? p->grad : NULL;
}

static hl_status check(const hl_cuda *cuda, const hl_step *step)
{
    HL_TRY(hl_step_check_norm(step));
    return hl_cuda_check_floats(cuda, step);
}

static hl_status run(hl_cuda *cuda, hl_step *step)
{
    const hl_norm_attr *n = &step->norm;
    const hl_tensor *x = step->in[0];
    return HL_LAUNCHED(hl_launch_layer_norm(x->data, value_of(n->scale), value_of(n->shift), n->eps,
                                            step->out[0]->data, hl_rows(x), x->shape.c, x->elem,
                                            cuda->compute),
                       step);
}

static hl_status grad_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    const hl_tensor *x = step->in[1];
    step->scratch_bytes = hl_layer_norm_grad_scratch(hl_rows(x), x->shape.c);
    return HL_OK;
}

static hl_status grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_norm_attr *n = &step->norm;
    const hl_tensor *dy = step->in[0], *x = step->in[1];
    return HL_LAUNCHED(hl_launch_layer_norm_grad(dy->data, x->data, value_of(n->scale), n->eps,
                                                 hl_data(step->out[0]), trained_grad(n->scale),
                                                 trained_grad(n->shift), cuda->run, step->exec, hl_rows(x),
                                                 x->shape.c, x->elem, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_layer_norm = {.check = check, .run = run};
const hl_cuda_op hl_cuda_layer_norm_grad = {
    .check = check, .prepare = grad_prepare, .bind = hl_cuda_bind_scratch, .run = grad_run};
