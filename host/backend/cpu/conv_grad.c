/* CONV_DATA and CONV_WEIGHT: the two gradients of convolutions and linear layers. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/conv_depthwise.h"
#include "backend/cpu/conv_exec.h"
#include "backend/cpu/conv_form.h"
#include "backend/cpu/product_weight.h"

static hl_status check_count(const hl_step *step, int most)
{
    if (step->in_count < 2 || step->in_count > most || step->out_count != 1)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "a convolution's gradient has 2 to %d operands and 1 result", most);
    if (step->conv.subfunction)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "sub-function convolutions have no gradients of their own");
    return HL_OK;
}

static hl_status check_data(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    HL_TRY(check_count(step, 4));
    HL_TRY(hl_dnnl_check_elem(step, step->in[1]));
    for (int i = 2; i < step->in_count; i++)
        if (step->in[i] != NULL)
            HL_TRY(hl_dnnl_check_elem(step, step->in[i]));
    return hl_conv_check(step, step->out[0], step->in[0]);
}

static hl_status check_weight(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    HL_TRY(check_count(step, 2));
    if (step->out[0]->elem != HL_ELEM_F32)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "weight gradients are fp32");
    return hl_conv_check(step, step->in[0], step->in[1]);
}

/* Where Winograd's algorithm is taken, x and y become the layouts it wants. */
static hl_status choose(const hl_cpu *cpu, const hl_step *step, hl_conv_form *form, dnnl_prop_kind_t pass,
                        dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w, dnnl_memory_desc_t *y,
                        dnnl_primitive_desc_t *pd)
{
    dnnl_primitive_attr_t attr;
    HL_TRY(hl_dnnl_attr_create(step, &attr));
    dnnl_status_t status = dnnl_success;
    if (!hl_conv_choose_winograd(cpu, form, pass, x, w, NULL, y, attr, pd))
        status = hl_conv_choose(cpu, form, pass, x, w, NULL, y, attr, pd);
    dnnl_primitive_attr_destroy(attr);
    return hl_cpu_dnnl_status(
        status, step, pass == dnnl_backward_data ? "choose a data gradient" : "choose a weight gradient");
}

static hl_status assemble_data(hl_cpu *cpu, hl_step *step, hl_conv_form *form, hl_dnnl_exec *exec)
{
    hl_tensor *dy = step->in[0], *w = step->in[1], *dx = step->out[0];
    dnnl_memory_desc_t have_x, have_y, have_w, y, any, x;
    HL_TRY(hl_dnnl_activation_desc(step, dx->shape, dx->elem, form->matrix, &have_x));
    x = have_x;
    HL_TRY(hl_dnnl_activation_desc(step, dy->shape, dy->elem, form->matrix, &have_y));
    HL_TRY(hl_dnnl_activation_desc(step, dy->shape, w->elem, form->matrix, &y));
    HL_TRY(hl_conv_weights_any(step, form, hl_dnnl_type(w->elem), &any));

    dnnl_primitive_desc_t pd = NULL;
    hl_status status = choose(cpu, step, form, dnnl_backward_data, &x, &any, &y, &pd);
    if (status == HL_OK && w->native != NULL && !form->winograd) {
        /* As in the forward pass: the layout that is there if a fast implementation takes it. */
        HL_TRY_GOTO(hl_conv_weights_native(step, form, w, &have_w), status, done);
        dnnl_primitive_desc_t fixed = NULL;
        if (choose(cpu, step, form, dnnl_backward_data, &x, &have_w, &y, &fixed) == HL_OK) {
            bool fast = !hl_dnnl_is_reference(fixed);
            dnnl_primitive_desc_destroy(fast ? pd : fixed);
            pd = fast ? fixed : pd;
        }
    }
    if (status != HL_OK)
        goto done;
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (w->native == NULL)
        HL_TRY_GOTO(hl_dnnl_set_native(step, w, wanted), status, done);
    HL_TRY_GOTO(hl_conv_weights_native(step, form, w, &have_w), status, done);
    hl_dnnl_place x_place = hl_dnnl_output_place(exec, dx, &x, &have_x), y_place, w_place;
    hl_dnnl_call *call;
    HL_TRY_GOTO(hl_dnnl_add_input(cpu, step, exec, dy, &have_y, &y, &y_place), status, done);
    HL_TRY_GOTO(hl_dnnl_add_input(cpu, step, exec, w, &have_w, wanted, &w_place), status, done);
    HL_TRY_GOTO(hl_dnnl_add_call(cpu, step, exec, pd, &call), status, done);
    HL_TRY_GOTO(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_DIFF_DST, &y, y_place), status, done);
    HL_TRY_GOTO(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_WEIGHTS, wanted, w_place), status, done);
    HL_TRY_GOTO(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_DIFF_SRC, &x, x_place), status, done);
    HL_TRY_GOTO(hl_dnnl_add_output(cpu, step, exec, x_place, &x, dx, &have_x), status, done);
    hl_conv_report(cpu, step, pd);
done:
    if (pd != NULL)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

/* Is the weight gradient of a pixelwise convolution faster as a product over pixels, with its result in C
 * order, than as a convolution? In fp32 it is, up to 1.6 times on wide maps; in bf16 on small ones, up to 1.3
 * times, while wide ones lose a tenth (docs/performance.md). */
static bool product_is_faster(hl_elem elem, hl_shape map)
{
    return elem == HL_ELEM_F32 || map.h * map.w <= 256;
}

static hl_status assemble_weight(hl_cpu *cpu, hl_step *step, hl_conv_form *form, hl_dnnl_exec *exec)
{
    hl_tensor *in_x = step->in[0], *in_y = step->in[1], *dw = step->out[0];
    /* Where one operand is fp32 (the gradient of fp32 logits), the other is widened. */
    hl_elem elem = in_x->elem == in_y->elem ? in_x->elem : HL_ELEM_F32;
    hl_shape shape_x = in_x->shape, shape_y = in_y->shape;
    bool product = form->pixelwise && product_is_faster(elem, shape_x);
    if (product)
        hl_conv_form_flatten(form, &shape_x, &shape_y);
    dnnl_memory_desc_t have_x, have_y, x, y, w;
    HL_TRY(hl_dnnl_activation_desc(step, shape_x, in_x->elem, form->matrix, &have_x));
    HL_TRY(hl_dnnl_activation_desc(step, shape_y, in_y->elem, form->matrix, &have_y));
    HL_TRY(hl_dnnl_activation_desc(step, shape_x, elem, form->matrix, &x));
    HL_TRY(hl_dnnl_activation_desc(step, shape_y, elem, form->matrix, &y));
    if (dw->native != NULL)
        HL_TRY(hl_conv_weights_native(step, form, dw, &w));
    else if (product)
        HL_TRY(hl_dnnl_plain_desc(step, form->weight_ndims, form->weight_dims, dnnl_f32, &w));
    else
        HL_TRY(hl_conv_weights_any(step, form, dnnl_f32, &w));

    dnnl_primitive_desc_t pd = NULL;
    hl_status status = choose(cpu, step, form, dnnl_backward_weights, &x, &w, &y, &pd);
    if (status != HL_OK)
        goto done;
    const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(pd, dnnl_query_diff_weights_md, 0);
    if (dw->native == NULL)
        HL_TRY_GOTO(hl_dnnl_set_native(step, dw, wanted), status, done);
    hl_dnnl_place x_place, y_place;
    hl_dnnl_call *call;
    HL_TRY_GOTO(hl_dnnl_add_input(cpu, step, exec, in_x, &have_x, &x, &x_place), status, done);
    HL_TRY_GOTO(hl_dnnl_add_input(cpu, step, exec, in_y, &have_y, &y, &y_place), status, done);
    HL_TRY_GOTO(hl_dnnl_add_call(cpu, step, exec, pd, &call), status, done);
    HL_TRY_GOTO(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_SRC, &x, x_place), status, done);
    HL_TRY_GOTO(hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_DIFF_DST, &y, y_place), status, done);
    HL_TRY_GOTO(
        hl_dnnl_call_arg(cpu, step, call, DNNL_ARG_DIFF_WEIGHTS, wanted, (hl_dnnl_place){.tensor = dw}),
        status, done);
    hl_conv_report(cpu, step, pd);
done:
    if (pd != NULL)
        dnnl_primitive_desc_destroy(pd);
    return status;
}

static hl_status prepare_data_dnnl(hl_cpu *cpu, hl_step *step, hl_dnnl_exec *exec)
{
    hl_conv_form form;
    hl_conv_form_make(&step->conv, step->out[0]->shape, step->in[0]->shape, &form);
    HL_TRY(assemble_data(cpu, step, &form, exec));
    step->scratch_bytes = exec->scratch_bytes;
    return HL_OK;
}

static hl_status prepare_data(hl_cpu *cpu, hl_step *step)
{
    return hl_conv_exec_prepare(cpu, step, prepare_data_dnnl);
}

/* A weight gradient is done by oneDNN, or by kernels of ours where `product` or `depthwise` is set. */
typedef struct weight_exec {
    hl_dnnl_exec exec;
    hl_product_weight *product;
    hl_depthwise *depthwise;
} weight_exec;

static void release_weight(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    weight_exec *w = step->exec;
    if (w != NULL) {
        hl_dnnl_exec_release(&w->exec);
        hl_product_weight_destroy(w->product);
        hl_depthwise_destroy(w->depthwise);
    }
    free(w);
    step->exec = NULL;
}

/* Is oneDNN's choice one of its kernels made for depthwise convolutions ("jit_dw:...")? They are the fastest;
 * what it takes otherwise (windows wider than 3, dilation) runs at a few GFLOP/s. */
static bool has_depthwise_kernel(const hl_cpu *cpu, const hl_step *step, hl_conv_form *form)
{
    const hl_tensor *in_x = step->in[0], *in_y = step->in[1];
    dnnl_memory_desc_t x, y, w;
    dnnl_primitive_desc_t pd;
    if (in_x->elem != in_y->elem ||
        hl_dnnl_activation_desc(step, in_x->shape, in_x->elem, false, &x) != HL_OK ||
        hl_dnnl_activation_desc(step, in_y->shape, in_y->elem, false, &y) != HL_OK ||
        hl_conv_weights_any(step, form, dnnl_f32, &w) != HL_OK ||
        choose(cpu, step, form, dnnl_backward_weights, &x, &w, &y, &pd) != HL_OK)
        return false;
    bool has = strstr(hl_dnnl_impl(pd), "_dw") != NULL;
    dnnl_primitive_desc_destroy(pd);
    return has;
}

static hl_status prepare_depthwise(hl_step *step, const hl_conv_form *form, weight_exec *w)
{
    hl_tensor *dw = step->out[0];
    dnnl_memory_desc_t plain;
    HL_TRY(hl_dnnl_plain_desc(step, form->weight_ndims, form->weight_dims, dnnl_f32, &plain));
    if (dw->native == NULL)
        HL_TRY(hl_dnnl_set_native(step, dw, &plain));
    return hl_depthwise_create(step, &w->depthwise, &step->scratch_bytes);
}

static hl_status prepare_product(const hl_cpu *cpu, hl_step *step, const hl_conv_form *form, weight_exec *w)
{
    hl_tensor *dw = step->out[0];
    dnnl_memory_desc_t channels_last;
    dnnl_dims_t dims = {0};
    memcpy(dims, form->weight_dims, sizeof form->weight_dims);
    HL_DNNL(dnnl_memory_desc_init_by_tag(&channels_last, form->weight_ndims, dims, dnnl_f32,
                                         form->matrix ? dnnl_ab : dnnl_acdb),
            step, "describe weights");
    if (dw->native == NULL)
        HL_TRY(hl_dnnl_set_native(step, dw, &channels_last));
    return hl_product_weight_create(step, cpu->base.threads, &w->product, &step->scratch_bytes);
}

static hl_status prepare_weight(hl_cpu *cpu, hl_step *step)
{
    hl_conv_form form;
    hl_conv_form_make(&step->conv, step->in[0]->shape, step->in[1]->shape, &form);
    weight_exec *w = calloc(1, sizeof *w);
    if (w == NULL)
        return hl_fail_nomem(step->name, sizeof *w);
    step->exec = w;
    hl_status status;
    if (hl_product_weight_takes(step)) {
        status = prepare_product(cpu, step, &form, w);
    } else if (hl_depthwise_takes(step) && !has_depthwise_kernel(cpu, step, &form)) {
        status = prepare_depthwise(step, &form, w);
    } else {
        status = assemble_weight(cpu, step, &form, &w->exec);
        step->scratch_bytes = w->exec.scratch_bytes;
    }
    if (status != HL_OK)
        release_weight(cpu, step);
    return status;
}

static hl_status bind_weight(hl_cpu *cpu, hl_step *step, void *scratch)
{
    weight_exec *w = step->exec;
    if (w->product != NULL)
        hl_product_weight_bind(w->product, step, scratch);
    else if (w->depthwise != NULL)
        hl_depthwise_bind(w->depthwise, scratch);
    else
        return hl_dnnl_exec_bind(cpu, step, &w->exec, scratch);
    return HL_OK;
}

static hl_status run_weight(hl_cpu *cpu, hl_step *step)
{
    const weight_exec *w = step->exec;
    if (w->product != NULL)
        hl_product_weight_run(w->product);
    else if (w->depthwise != NULL)
        hl_depthwise_run(w->depthwise, step);
    else
        return hl_dnnl_exec_run(cpu, step, &w->exec);
    return HL_OK;
}

const hl_cpu_op hl_cpu_conv_data = {.check = check_data,
                                    .prepare = prepare_data,
                                    .bind = hl_conv_exec_bind,
                                    .run = hl_conv_exec_run,
                                    .release = hl_conv_exec_release};

const hl_cpu_op hl_cpu_conv_weight = {.check = check_weight,
                                      .prepare = prepare_weight,
                                      .bind = bind_weight,
                                      .run = run_weight,
                                      .release = release_weight};
