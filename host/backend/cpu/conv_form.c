#include "backend/cpu/conv_form.h"

#include <string.h>

#include "base/log.h"

hl_status hl_conv_check(const hl_step *step, const hl_tensor *x, const hl_tensor *y)
{
    HL_TRY(hl_dnnl_check_elem(step, x));
    HL_TRY(hl_dnnl_check_elem(step, y));
    return hl_step_check_conv(step, x->shape, y->shape);
}

void hl_conv_form_make(const hl_conv_attr *conv, hl_shape x, hl_shape y, hl_conv_form *form)
{
    const hl_window *w = &conv->window;
    memset(form, 0, sizeof *form);
    int64_t padding = w->top + w->bottom + w->left + w->right;
    form->groups = conv->subfunction ? x.c : conv->groups;
    form->pixelwise =
        w->kh == 1 && w->kw == 1 && w->sh == 1 && w->sw == 1 && padding == 0 && form->groups == 1;
    form->matrix = x.h == 1 && x.w == 1 && w->kh == 1 && w->kw == 1 && padding == 0 && form->groups == 1;
    /* With unequal padding oneDNN's data gradient is wrong (2.6.3). */
    bool even = w->top == w->bottom && w->left == w->right && w->top == w->left && w->top <= 1;
    form->winograd = conv->winograd && even && form->groups == 1 && w->kh == 3 && w->kw == 3 && w->sh == 1 &&
                     w->sw == 1 && w->dh == 1 && w->dw == 1;
    form->strides[0] = w->sh;
    form->strides[1] = w->sw;
    /* oneDNN counts the holes between taps, step.h the distance. */
    form->dilates[0] = w->dh - 1;
    form->dilates[1] = w->dw - 1;
    form->before[0] = w->top;
    form->before[1] = w->left;
    form->after[0] = w->bottom;
    form->after[1] = w->right;
    int64_t g = form->groups;
    if (g > 1) {
        const int64_t dims[5] = {g, y.c / g, x.c / g, w->kh, w->kw};
        form->weight_ndims = 5;
        memcpy(form->weight_dims, dims, sizeof dims);
    } else {
        const int64_t dims[4] = {y.c, x.c, w->kh, w->kw};
        form->weight_ndims = form->matrix ? 2 : 4;
        memcpy(form->weight_dims, dims, sizeof dims);
    }
}

void hl_conv_form_flatten(hl_conv_form *form, hl_shape *x, hl_shape *y)
{
    *x = (hl_shape){x->n * x->h * x->w, 1, 1, x->c};
    *y = (hl_shape){y->n * y->h * y->w, 1, 1, y->c};
    form->matrix = true;
    form->weight_ndims = 2;
}

hl_status hl_conv_weights_any(const hl_step *step, const hl_conv_form *form, dnnl_data_type_t type,
                              dnnl_memory_desc_t *md)
{
    dnnl_dims_t dims = {0};
    memcpy(dims, form->weight_dims, sizeof form->weight_dims);
    HL_DNNL(dnnl_memory_desc_init_by_tag(md, form->weight_ndims, dims, type, dnnl_format_tag_any), step,
            "describe weights");
    return HL_OK;
}

hl_status hl_conv_weights_native(const hl_step *step, const hl_conv_form *form, const hl_tensor *weights,
                                 dnnl_memory_desc_t *md)
{
    const dnnl_memory_desc_t *native = hl_dnnl_native(weights);
    if (native == NULL)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "packed weights %s have no layout", weights->name);
    dnnl_dims_t dims = {0};
    memcpy(dims, form->weight_dims, sizeof form->weight_dims);
    HL_DNNL(dnnl_memory_desc_reshape(md, native, form->weight_ndims, dims), step,
            "see packed weights in another shape");
    return HL_OK;
}

dnnl_status_t hl_conv_choose(const hl_cpu *cpu, const hl_conv_form *form, dnnl_prop_kind_t pass,
                             const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w,
                             const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *y,
                             const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *pd)
{
    union {
        dnnl_convolution_desc_t conv;
        dnnl_inner_product_desc_t product;
    } desc;
    const dnnl_alg_kind_t kind = form->winograd ? dnnl_convolution_winograd : dnnl_convolution_direct;
    dnnl_status_t status;
    /* For inference Winograd wants weights already transformed, in a layout that nothing else reads. */
    if (pass == dnnl_forward_inference && form->winograd)
        pass = dnnl_forward_training;
    if (pass == dnnl_backward_data && form->matrix)
        status = dnnl_inner_product_backward_data_desc_init(&desc.product, x, w, y);
    else if (pass == dnnl_backward_data)
        status = dnnl_dilated_convolution_backward_data_desc_init(&desc.conv, kind, x, w, y, form->strides,
                                                                  form->dilates, form->before, form->after);
    else if (pass == dnnl_backward_weights && form->matrix)
        status = dnnl_inner_product_backward_weights_desc_init(&desc.product, x, w, b, y);
    else if (pass == dnnl_backward_weights)
        status = dnnl_dilated_convolution_backward_weights_desc_init(
            &desc.conv, kind, x, w, b, y, form->strides, form->dilates, form->before, form->after);
    else if (form->matrix)
        status = dnnl_inner_product_forward_desc_init(&desc.product, pass, x, w, b, y);
    else
        status = dnnl_dilated_convolution_forward_desc_init(&desc.conv, pass, kind, x, w, b, y, form->strides,
                                                            form->dilates, form->before, form->after);
    *pd = NULL;
    return status != dnnl_success ? status : dnnl_primitive_desc_create(pd, &desc, attr, cpu->engine, NULL);
}

bool hl_conv_choose_winograd(const hl_cpu *cpu, hl_conv_form *form, dnnl_prop_kind_t pass,
                             dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *b,
                             dnnl_memory_desc_t *y, const_dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *pd)
{
    dnnl_memory_desc_t any_x, any_y;
    form->winograd = form->winograd && x->data_type == dnnl_f32 && y->data_type == dnnl_f32 &&
                     dnnl_memory_desc_init_by_tag(&any_x, x->ndims, x->dims, dnnl_f32, dnnl_format_tag_any) ==
                         dnnl_success &&
                     dnnl_memory_desc_init_by_tag(&any_y, y->ndims, y->dims, dnnl_f32, dnnl_format_tag_any) ==
                         dnnl_success &&
                     hl_conv_choose(cpu, form, pass, &any_x, w, b, &any_y, attr, pd) == dnnl_success;
    if (form->winograd) {
        dnnl_query_t of_x = pass == dnnl_backward_data ? dnnl_query_diff_src_md : dnnl_query_src_md,
                     of_y = pass == dnnl_forward_inference ? dnnl_query_dst_md : dnnl_query_diff_dst_md;
        *x = *dnnl_primitive_desc_query_md(*pd, of_x, 0);
        *y = *dnnl_primitive_desc_query_md(*pd, of_y, 0);
    }
    return form->winograd;
}

void hl_conv_report(const hl_cpu *cpu, const hl_step *step, const_dnnl_primitive_desc_t pd)
{
    if (hl_dnnl_is_reference(pd))
        hl_log_warn(&cpu->base.log,
                    "%s: oneDNN has no fast implementation of this %s; it uses %s, which is slow", step->name,
                    hl_step_kind_name(step->kind), hl_dnnl_impl(pd));
}
