/* CONV: the forward pass of convolutions and linear layers. */
#include <string.h>

#include "backend/cpu/conv_exec.h"
#include "backend/cpu/conv_form.h"
#include "backend/cpu/conv_operands.h"

enum { X, WEIGHTS, BIAS, RESIDUAL, OPERANDS };

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->in_count < BIAS || step->in_count > OPERANDS || step->out_count != 1)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a convolution has 2 to 4 operands and 1 result");
    HL_TRY(hl_conv_check(step, step->in[X], step->out[0]));
    HL_TRY(hl_dnnl_check_elem(step, step->in[WEIGHTS]));
    const hl_tensor *residual = hl_conv_operand(step, RESIDUAL);
    if (residual != NULL)
        HL_TRY(hl_dnnl_check_elem(step, residual));
    if (step->conv.subfunction &&
        (residual != NULL || hl_conv_operand(step, BIAS) != NULL || step->conv.act != HL_ACT_NONE))
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "a sub-function convolution has no bias, residual or activation");
    return HL_OK;
}

/* How the residual gets in. Adding it as an operand reads it once; where no fast implementation takes an
 * operand, it is copied to the destination first and summed into. */
typedef enum residual_form { RESIDUAL_NONE, RESIDUAL_OPERAND, RESIDUAL_SUM } residual_form;

static dnnl_status_t append_act(dnnl_post_ops_t ops, hl_act act)
{
    dnnl_status_t status;
    switch (act) {
    case HL_ACT_NONE:
        return dnnl_success;
    case HL_ACT_RELU:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0.0f, 0.0f);
    case HL_ACT_RELU6:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_clip, 0.0f, 6.0f);
    case HL_ACT_SIGMOID:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_logistic, 0.0f, 0.0f);
    case HL_ACT_HARDSIGMOID:
        status = dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_linear, 1.0f / 6.0f, 0.5f);
        return status != dnnl_success
                   ? status
                   : dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_clip, 0.0f, 1.0f);
    case HL_ACT_SILU:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_swish, 1.0f, 0.0f);
    case HL_ACT_HARDSWISH:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_hardswish, 0.0f, 0.0f);
    case HL_ACT_GELU:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_gelu_erf, 0.0f, 0.0f);
    case HL_ACT_TANH:
        return dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_tanh, 0.0f, 0.0f);
    }
    return dnnl_invalid_arguments;
}

static hl_status attributes(const hl_step *step, residual_form form, const dnnl_memory_desc_t *residual,
                            dnnl_primitive_attr_t *attr)
{
    dnnl_post_ops_t ops = NULL;
    HL_TRY(hl_dnnl_attr_create(step, attr));
    dnnl_status_t status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success && form == RESIDUAL_OPERAND)
        status = dnnl_post_ops_append_binary(ops, dnnl_binary_add, residual);
    if (status == dnnl_success && form == RESIDUAL_SUM)
        status = dnnl_post_ops_append_sum(ops, 1.0f);
    if (status == dnnl_success)
        status = append_act(ops, step->conv.act);
    if (status == dnnl_success)
        status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    if (ops != NULL)
        dnnl_post_ops_destroy(ops);
    if (status != dnnl_success)
        dnnl_primitive_attr_destroy(*attr);
    return hl_cpu_dnnl_status(status, step, "fuse what follows the convolution");
}

/* What goes into choosing an implementation, and what was chosen. */
typedef struct problem {
    hl_conv_form form;
    dnnl_memory_desc_t x, w, b, y, residual;
    dnnl_memory_desc_t channels_last; /* y as others read it */
    const dnnl_memory_desc_t *bias;
    residual_form residual_form;
    dnnl_primitive_desc_t pd;
} problem;

/* oneDNN's convolutions by way of GEMM take an operand but, with groups, read it at the wrong place (2.6.3;
 * seen without AVX-512); so only kernels that are made for convolutions may. */
static bool is_acceptable(const_dnnl_primitive_desc_t pd, residual_form residual, bool reference)
{
    if (residual == RESIDUAL_OPERAND && strstr(hl_dnnl_impl(pd), "gemm:") != NULL)
        return false;
    return reference || !hl_dnnl_is_reference(pd);
}

static dnnl_status_t try_choice(const hl_cpu *cpu, const hl_step *step, problem *p, residual_form residual,
                                bool reference)
{
    dnnl_primitive_attr_t attr;
    if (attributes(step, residual, &p->residual, &attr) != HL_OK)
        return dnnl_invalid_arguments;
    dnnl_status_t status =
        hl_conv_choose(cpu, &p->form, dnnl_forward_inference, &p->x, &p->w, p->bias, &p->y, attr, &p->pd);
    dnnl_primitive_attr_destroy(attr);
    if (status == dnnl_success && !is_acceptable(p->pd, residual, reference)) {
        dnnl_primitive_desc_destroy(p->pd);
        p->pd = NULL;
        return dnnl_unimplemented;
    }
    p->residual_form = residual;
    return status;
}

static bool try_winograd(const hl_cpu *cpu, const hl_step *step, problem *p)
{
    dnnl_primitive_attr_t attr;
    p->residual_form = hl_conv_operand(step, RESIDUAL) != NULL ? RESIDUAL_SUM : RESIDUAL_NONE;
    if (!p->form.winograd || attributes(step, p->residual_form, &p->residual, &attr) != HL_OK)
        return false;
    bool done = hl_conv_choose_winograd(cpu, &p->form, dnnl_forward_inference, &p->x, &p->w, p->bias, &p->y,
                                        attr, &p->pd);
    dnnl_primitive_attr_destroy(attr);
    return done;
}

/* The ordered choices: fast implementations first, the reference last. */
static hl_status choose(const hl_cpu *cpu, const hl_step *step, problem *p)
{
    static const struct {
        residual_form residual;
        bool reference;
    } choices[] = {{RESIDUAL_OPERAND, false}, {RESIDUAL_SUM, false}, {RESIDUAL_SUM, true}};
    bool residual = hl_conv_operand(step, RESIDUAL) != NULL;
    if (try_winograd(cpu, step, p))
        return HL_OK;
    dnnl_status_t status = dnnl_unimplemented;
    for (size_t i = 0; i < sizeof choices / sizeof *choices && status != dnnl_success; i++)
        status =
            try_choice(cpu, step, p, residual ? choices[i].residual : RESIDUAL_NONE, choices[i].reference);
    return hl_cpu_dnnl_status(status, step, "choose a convolution");
}

/* Weights that an earlier step has laid out are used as they are if a fast implementation takes them so;
 * otherwise they are laid out again in scratch before each run. */
static hl_status choose_for_native(const hl_cpu *cpu, const hl_step *step, problem *p)
{
    dnnl_memory_desc_t native;
    HL_TRY(hl_conv_weights_native(step, &p->form, step->in[WEIGHTS], &native));
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(p->pd, dnnl_query_weights_md, 0);
    if (dnnl_memory_desc_equal(wanted, &native))
        return HL_OK;
    problem fixed = *p;
    fixed.w = native;
    if (try_choice(cpu, step, &fixed, p->residual_form, false) == dnnl_success) {
        dnnl_primitive_desc_destroy(p->pd);
        *p = fixed;
    }
    return HL_OK;
}

static hl_status describe(const hl_step *step, problem *p)
{
    const hl_tensor *x = step->in[X], *y = step->out[0], *w = step->in[WEIGHTS];
    hl_conv_form_make(&step->conv, x->shape, y->shape, &p->form);
    /* Convolutions compute in the element type of their weights. */
    HL_TRY(hl_dnnl_activation_desc(step, x->shape, w->elem, p->form.matrix, &p->x));
    HL_TRY(hl_dnnl_activation_desc(step, y->shape, y->elem, p->form.matrix, &p->y));
    p->channels_last = p->y;
    HL_TRY(hl_conv_weights_any(step, &p->form, hl_dnnl_type(w->elem), &p->w));
    if (hl_conv_operand(step, BIAS) != NULL) {
        HL_TRY(hl_dnnl_plain_desc(step, 1, &y->shape.c, dnnl_f32, &p->b));
        p->bias = &p->b;
    }
    const hl_tensor *residual = hl_conv_operand(step, RESIDUAL);
    if (residual != NULL)
        HL_TRY(hl_dnnl_activation_desc(step, residual->shape, residual->elem, p->form.matrix, &p->residual));
    return HL_OK;
}

static hl_status assemble(hl_cpu *cpu, hl_step *step, const problem *p, hl_dnnl_exec *exec)
{
    hl_tensor *x = step->in[X], *w = step->in[WEIGHTS], *y = step->out[0];
    hl_tensor *residual = hl_conv_operand(step, RESIDUAL);
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(p->pd, dnnl_query_weights_md, 0);
    dnnl_memory_desc_t have_x, have_w;
    if (w->native == NULL)
        HL_TRY(hl_dnnl_set_native(step, w, wanted));
    HL_TRY(hl_conv_weights_native(step, &p->form, w, &have_w));
    HL_TRY(hl_dnnl_activation_desc(step, x->shape, x->elem, p->form.matrix, &have_x));

    hl_dnnl_place x_place, w_place, y_place = hl_dnnl_output_place(exec, y, &p->y, &p->channels_last);
    hl_dnnl_call *call;
    HL_TRY(hl_dnnl_add_input(cpu, step, exec, x, &have_x, &p->x, &x_place));
    HL_TRY(hl_dnnl_add_input(cpu, step, exec, w, &have_w, wanted, &w_place));
    if (p->residual_form == RESIDUAL_SUM)
        HL_TRY(hl_dnnl_add_reorder(cpu, step, exec, &p->residual, (hl_dnnl_place){.tensor = residual}, &p->y,
                                   y_place));
    HL_TRY(hl_dnnl_add_call(cpu, step, exec, p->pd, &call));
    HL_TRY(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_SRC, &p->x, x_place));
    HL_TRY(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_WEIGHTS, wanted, w_place));
    HL_TRY(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_DST, &p->y, y_place));
    if (p->bias != NULL)
        HL_TRY(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_BIAS, p->bias,
                                (hl_dnnl_place){.tensor = step->in[BIAS]}));
    if (p->residual_form == RESIDUAL_OPERAND)
        HL_TRY(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1,
                                &p->residual, (hl_dnnl_place){.tensor = residual}));
    HL_TRY(hl_dnnl_add_output(cpu, step, exec, y_place, &p->y, y, &p->channels_last));
    step->scratch_bytes = exec->scratch_bytes;
    return HL_OK;
}

static hl_status prepare_dnnl(hl_cpu *cpu, hl_step *step, hl_dnnl_exec *exec)
{
    problem p = {.pd = NULL};
    HL_TRY(describe(step, &p));
    p.bias = hl_conv_operand(step, BIAS) != NULL ? &p.b : NULL;
    HL_TRY(choose(cpu, step, &p));
    hl_status status = HL_OK;
    if (step->in[WEIGHTS]->native != NULL)
        status = choose_for_native(cpu, step, &p);
    if (status == HL_OK)
        status = assemble(cpu, step, &p, exec);
    if (status == HL_OK)
        hl_conv_report(cpu, step, p.pd);
    dnnl_primitive_desc_destroy(p.pd);
    return status;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    return hl_conv_exec_prepare(cpu, step, prepare_dnnl);
}

const hl_cpu_op hl_cpu_conv = {.check = check,
                               .prepare = prepare,
                               .bind = hl_conv_exec_bind,
                               .run = hl_conv_exec_run,
                               .release = hl_conv_exec_release};
