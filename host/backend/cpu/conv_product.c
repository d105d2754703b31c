#include "backend/cpu/conv_product.h"

#include <math.h>
#include <stdlib.h>

#include "backend/cpu/product_pack.h"
#include "base/memory.h"

/* What the two passes call by other names: `from` is read (x or dy), `to` written (y or dx). */
typedef struct operands {
    hl_tensor *from, *weights, *bias, *residual, *to;
    hl_act act;
    hl_cpu_layout_kind layout;
} operands;

static hl_tensor *operand(const hl_step *step, int i)
{
    return i < step->in_count ? step->in[i] : NULL;
}

static operands operands_of(const hl_step *step)
{
    bool forward = step->kind == HL_STEP_CONV;
    return (operands){.from = step->in[0],
                      .weights = step->in[1],
                      .bias = forward ? operand(step, 2) : NULL,
                      .residual = forward ? operand(step, 3) : NULL,
                      .to = step->out[0],
                      .act = forward ? step->conv.act : HL_ACT_NONE,
                      .layout = forward ? HL_LAYOUT_PANELS_FORWARD : HL_LAYOUT_PANELS_DATA};
}

static bool is_clamp(hl_act act)
{
    return act == HL_ACT_NONE || act == HL_ACT_RELU || act == HL_ACT_RELU6;
}

/* Should the step, which passed its check, be done here? */
static bool takes(const hl_step *step)
{
    const hl_window *w = &step->conv.window;
    const operands o = operands_of(step);
    hl_elem elem = o.weights->elem;
    const hl_cpu_layout *layout = o.weights->native;
    bool plain = w->kh == 1 && w->kw == 1 && w->top + w->bottom + w->left + w->right == 0 &&
                 step->conv.groups == 1 && !step->conv.subfunction;
    bool types = o.from->elem == elem && (o.to->elem == elem || o.to->elem == HL_ELEM_F32) &&
                 (o.residual == NULL || o.residual->elem == elem);
    bool whole_steps = elem != HL_ELEM_BF16 || o.from->shape.c % 2 == 0;
    return plain && types && whole_steps && is_clamp(o.act) && hl_product_is_native(elem) &&
           (layout == NULL || layout->kind == o.layout);
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

/* A result of this size has left the cache when it is read again, or has driven out what is needed sooner. */
enum { STREAM_BYTES = 8 << 20 };

/* Fills in *product, and lays out the packed weights if nobody has. */
static hl_status prepare_product(const hl_cpu *cpu, hl_step *step, hl_product *product)
{
    const hl_window *w = &step->conv.window;
    const operands o = operands_of(step);
    bool forward = step->kind == HL_STEP_CONV, strided = w->sh > 1 || w->sw > 1;
    hl_shape small = forward ? o.to->shape : o.from->shape; /* the map of y or dy */
    hl_product p = {.elem = o.weights->elem,
                    .y_elem = o.to->elem,
                    .lines = small.n * small.h,
                    .pixels = small.w,
                    .of_x = pixels_of(o.from, forward ? w->sh : 1, forward ? w->sw : 1),
                    .of_y = pixels_of(o.to, forward ? 1 : w->sh, forward ? 1 : w->sw),
                    .x_channels = o.from->shape.c,
                    .y_channels = o.to->shape.c,
                    .low = o.act == HL_ACT_NONE ? -INFINITY : 0.0f,
                    .high = o.act == HL_ACT_RELU6 ? 6.0f : INFINITY,
                    .threads = cpu->base.threads};
    if (!strided) { /* one line of all pixels */
        p.pixels *= p.lines;
        p.lines = 1;
    }
    size_t bytes = (size_t)hl_shape_count(o.to->shape) * hl_elem_size(o.to->elem);
    p.y_clear = !forward && strided ? bytes : 0;
    p.streams = bytes >= STREAM_BYTES && p.y_clear == 0 && p.of_y.pixel % HL_ALIGNMENT == 0;
    *product = p;
    step->scratch_bytes = hl_product_stage_bytes(product);
    if (o.weights->native != NULL)
        return HL_OK;
    const hl_cpu_layout layout = {.kind = o.layout};
    return hl_cpu_set_layout(step, o.weights, &layout, hl_panels_bytes(p.elem, p.x_channels, p.y_channels));
}

static void bind_product(const hl_step *step, hl_product *product, void *scratch)
{
    const operands o = operands_of(step);
    product->x = o.from->data;
    product->panels = o.weights->data;
    product->bias = o.bias != NULL ? o.bias->data : NULL;
    product->residual = o.residual != NULL ? o.residual->data : NULL;
    product->y = o.to->data;
    product->stage = scratch;
}

void hl_conv_exec_release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    hl_conv_exec *e = step->exec;
    if (e != NULL)
        hl_dnnl_exec_release(&e->dnnl);
    free(e);
    step->exec = NULL;
}

hl_status hl_conv_exec_prepare(hl_cpu *cpu, hl_step *step, hl_conv_prepare_dnnl *prepare_dnnl)
{
    hl_conv_exec *e = calloc(1, sizeof *e);
    if (e == NULL)
        return hl_fail_nomem(step->name, sizeof *e);
    step->exec = e;
    e->is_product = takes(step);
    hl_status status =
        e->is_product ? prepare_product(cpu, step, &e->product) : prepare_dnnl(cpu, step, &e->dnnl);
    if (status != HL_OK)
        hl_conv_exec_release(cpu, step);
    return status;
}

hl_status hl_conv_exec_bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    hl_conv_exec *e = step->exec;
    if (!e->is_product)
        return hl_dnnl_exec_bind(cpu, step, &e->dnnl, scratch);
    bind_product(step, &e->product, scratch);
    return HL_OK;
}

hl_status hl_conv_exec_run(hl_cpu *cpu, hl_step *step)
{
    const hl_conv_exec *e = step->exec;
    if (!e->is_product)
        return hl_dnnl_exec_run(cpu, step, &e->dnnl);
    hl_product_run(&e->product);
    return HL_OK;
}
