/* How a convolution step is put to oneDNN: what the forward pass and both gradients share. */
#ifndef HL_BACKEND_CPU_CONV_FORM_H
#define HL_BACKEND_CPU_CONV_FORM_H

#include "backend/cpu/dnnl_util.h"

typedef struct hl_conv_form {
    bool matrix; /* a 1x1 convolution of 1x1 maps: an inner product */
    bool
        pixelwise; /* a 1x1 convolution that reads every pixel once: a product over all pixels of the batch */
    bool winograd; /* by F(4x4,3x3), if oneDNN has that for the pass; a wish until hl_conv_choose_winograd */
    int weight_ndims;
    int64_t weight_dims[5]; /* [O,I], [O,I,kh,kw] or, with groups, [G,O/G,I/G,kh,kw] */
    int64_t groups;         /* as oneDNN sees it: the input channels in sub-function form */
    dnnl_dims_t strides, dilates, before, after;
} hl_conv_form;

/* Do input x, output y, window and groups fit together, in element types that can be computed? */
hl_status hl_conv_check(const hl_step *step, const hl_tensor *x, const hl_tensor *y);

/* Of a step that passed the check. */
void hl_conv_form_make(const hl_conv_attr *conv, hl_shape x, hl_shape y, hl_conv_form *form);

/* Turns a pixelwise form into that product: a matrix form, with x and y [n*h*w,1,1,c]. */
void hl_conv_form_flatten(hl_conv_form *form, hl_shape *x, hl_shape *y);

/* Weights in a layout of oneDNN's choice. */
hl_status hl_conv_weights_any(const hl_step *step, const hl_conv_form *form, dnnl_data_type_t type,
                              dnnl_memory_desc_t *md);

/* The layout that weights already have, seen with the form's dimensions: a matrix and a 1x1 kernel are the
 * same thing. */
hl_status hl_conv_weights_native(const hl_step *step, const hl_conv_form *form, const hl_tensor *weights,
                                 dnnl_memory_desc_t *md);

/* Chooses an implementation of one pass. Which of the descriptions are gradients depends on `pass`:
 * dnnl_forward_inference, dnnl_backward_data or dnnl_backward_weights. b may be NULL. Returns oneDNN's own
 * status: the caller may have another choice to try. */
dnnl_status_t hl_conv_choose(const hl_cpu *cpu, const hl_conv_form *form, dnnl_prop_kind_t pass,
                             const dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w,
                             const dnnl_memory_desc_t *b, const dnnl_memory_desc_t *y,
                             const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *pd);

/* The same by Winograd's algorithm, in fp32, with activations in the layouts that it wants: *x and *y become
 * those. False, and form->winograd is cleared, where it is not wished for or not to be had. */
bool hl_conv_choose_winograd(const hl_cpu *cpu, hl_conv_form *form, dnnl_prop_kind_t pass,
                             dnnl_memory_desc_t *x, const dnnl_memory_desc_t *w, const dnnl_memory_desc_t *b,
                             dnnl_memory_desc_t *y, const_dnnl_primitive_attr_t attr,
                             dnnl_primitive_desc_t *pd);

/* Tells the log when nothing better than oneDNN's plain loops was found. */
void hl_conv_report(const hl_cpu *cpu, const hl_step *step, const_dnnl_primitive_desc_t pd);

#endif
