#include "backend/cpu/conv_product.h"

#include "backend/cpu/conv_operands.h"
#include "backend/cpu/product_pack.h"

static hl_cpu_layout_kind layout_of(const hl_step *step)
{
    return step->kind == HL_STEP_CONV ? HL_LAYOUT_PANELS_FORWARD : HL_LAYOUT_PANELS_DATA;
}

static bool is_strided(const hl_window *w)
{
    return w->sh > 1 || w->sw > 1;
}

bool hl_conv_product_takes(const hl_step *step)
{
    const hl_window *w = &step->conv.window;
    const hl_conv_operands o = hl_conv_operands_of(step);
    hl_elem elem = o.weights->elem;
    const hl_cpu_layout *layout = o.weights->native;
    bool plain = w->kh == 1 && w->kw == 1 && w->top + w->bottom + w->left + w->right == 0 &&
                 step->conv.groups == 1 && !step->conv.subfunction;
    bool types = o.from->elem == elem && (o.to->elem == elem || o.to->elem == HL_ELEM_F32);
    bool behind = step->kind == HL_STEP_CONV_DATA || hl_conv_behind_takes(step, elem);
    bool whole_steps = elem != HL_ELEM_BF16 || o.from->shape.c % 2 == 0;
    return plain && types && behind && whole_steps && hl_kernel_is_native(elem) &&
           (layout == NULL || layout->kind == layout_of(step));
}

/* It reaches all of the result only without strides. */
bool hl_conv_product_takes_behind(const hl_step *step)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    return !is_strided(&step->conv.window) && o.to->elem == o.weights->elem &&
           hl_conv_behind_takes(step, o.weights->elem);
}

static hl_product_pixels pixels_of(const hl_tensor *t, int64_t stride_h, int64_t stride_w)
{
    hl_shape s = t->shape;
    int64_t pixel = s.c * (int64_t)hl_elem_size(t->elem);
    return (hl_product_pixels){.lines = (s.h + stride_h - 1) / stride_h,
                               .image = s.h * s.w * pixel,
                               .line = stride_h * s.w * pixel,
                               .pixel = stride_w * pixel};
}

hl_status hl_conv_product_prepare(const hl_cpu *cpu, hl_step *step, hl_product *product)
{
    const hl_window *w = &step->conv.window;
    const hl_conv_operands o = hl_conv_operands_of(step);
    bool forward = step->kind == HL_STEP_CONV, strided = is_strided(w);
    hl_shape small = forward ? o.to->shape : o.from->shape; /* the map of y or dy */
    hl_product p = {.elem = o.weights->elem,
                    .lines = small.n * small.h,
                    .pixels = small.w,
                    .of_x = pixels_of(o.from, forward ? w->sh : 1, forward ? w->sw : 1),
                    .of_y = pixels_of(o.to, forward ? 1 : w->sh, forward ? 1 : w->sw),
                    .x_channels = o.from->shape.c,
                    .y_channels = o.to->shape.c,
                    .threads = cpu->base.threads};
    if (!strided) { /* one line of all pixels */
        p.pixels *= p.lines;
        p.lines = 1;
    }
    if (!forward && strided)
        p.y_clear = (size_t)hl_shape_count(o.to->shape) * hl_elem_size(o.to->elem);
    p.behind = hl_conv_behind(step, p.y_clear == 0);
    *product = p;
    step->scratch_bytes = hl_product_stage_bytes(product);
    if (o.weights->native != NULL)
        return HL_OK;
    const hl_cpu_layout layout = {.kind = layout_of(step)};
    return hl_cpu_set_layout(step, o.weights, &layout, hl_panels_bytes(p.elem, p.x_channels, p.y_channels));
}

void hl_conv_product_bind(const hl_step *step, bool behind, hl_product *product, void *scratch)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    product->x = o.from->data;
    product->panels = o.weights->data;
    product->stage = scratch;
    hl_conv_behind_bind(step, behind, &product->behind);
}
