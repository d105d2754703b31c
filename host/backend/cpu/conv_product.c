#include "backend/cpu/conv_product.h"

#include <math.h>
#include <stdlib.h>

#include "backend/cpu/act_grad.h"
#include "backend/cpu/product_pack.h"
#include "backend/cpu/tile.h"
#include "base/memory.h"

/* What the two passes call by other names: `from` is read (x or dy), `to` written (y or dx). */
typedef struct operands {
    hl_tensor *from, *weights, *bias, *residual, *before, *to;
    hl_act act; /* behind it; data gradient: whose derivative is */
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
                      .residual = operand(step, forward ? 3 : 2),
                      .before = forward ? NULL : operand(step, 3),
                      .to = step->out[0],
                      .act = step->conv.act,
                      .layout = forward ? HL_LAYOUT_PANELS_FORWARD : HL_LAYOUT_PANELS_DATA};
}

static bool is_clamp(hl_act act)
{
    return act == HL_ACT_NONE || act == HL_ACT_RELU || act == HL_ACT_RELU6;
}

static bool is_strided(const hl_window *w)
{
    return w->sh > 1 || w->sw > 1;
}

static bool has_elem(const hl_tensor *t, hl_elem elem)
{
    return t == NULL || t->elem == elem;
}

/* Does the step's product (if it is one) do what comes behind a data gradient? It reaches all of the result
 * only without strides. */
static bool takes_behind(const hl_step *step)
{
    const operands o = operands_of(step);
    return is_clamp(o.act) && !is_strided(&step->conv.window) && has_elem(o.residual, o.weights->elem) &&
           has_elem(o.before, o.weights->elem) && o.to->elem == o.weights->elem;
}

/* Should the step, which passed its check, be done here? */
static bool takes(const hl_step *step)
{
    bool forward = step->kind == HL_STEP_CONV;
    const hl_window *w = &step->conv.window;
    const operands o = operands_of(step);
    hl_elem elem = o.weights->elem;
    const hl_cpu_layout *layout = o.weights->native;
    bool plain = w->kh == 1 && w->kw == 1 && w->top + w->bottom + w->left + w->right == 0 &&
                 step->conv.groups == 1 && !step->conv.subfunction;
    bool types = o.from->elem == elem && (o.to->elem == elem || o.to->elem == HL_ELEM_F32);
    bool behind = !forward || (is_clamp(o.act) && has_elem(o.residual, elem));
    bool whole_steps = elem != HL_ELEM_BF16 || o.from->shape.c % 2 == 0;
    return plain && types && behind && whole_steps && hl_product_is_native(elem) &&
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
    bool forward = step->kind == HL_STEP_CONV, strided = is_strided(w);
    hl_act act = forward ? o.act : HL_ACT_NONE;
    hl_shape small = forward ? o.to->shape : o.from->shape; /* the map of y or dy */
    hl_product p = {.elem = o.weights->elem,
                    .y_elem = o.to->elem,
                    .lines = small.n * small.h,
                    .pixels = small.w,
                    .of_x = pixels_of(o.from, forward ? w->sh : 1, forward ? w->sw : 1),
                    .of_y = pixels_of(o.to, forward ? 1 : w->sh, forward ? 1 : w->sw),
                    .x_channels = o.from->shape.c,
                    .y_channels = o.to->shape.c,
                    .low = act == HL_ACT_NONE ? -INFINITY : 0.0f,
                    .high = act == HL_ACT_RELU6 ? 6.0f : INFINITY,
                    .before_high = o.act == HL_ACT_RELU6 ? 6.0f : NAN,
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

static void bind_product(const hl_step *step, bool is_behind, hl_product *product, void *scratch)
{
    const operands o = operands_of(step);
    product->x = o.from->data;
    product->panels = o.weights->data;
    product->bias = o.bias != NULL ? o.bias->data : NULL;
    product->residual = o.residual != NULL && !is_behind ? o.residual->data : NULL;
    product->before = o.before != NULL && !is_behind ? o.before->data : NULL;
    product->y = o.to->data;
    product->stage = scratch;
}

static void run_behind(const hl_step *step)
{
    const operands o = operands_of(step);
    hl_tensor *const gradients[] = {o.to, o.residual};
    int64_t count = hl_tensor_count(o.to);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE)
        hl_act_grad_range(o.act, o.before, gradients, o.residual != NULL ? 2 : 1, o.to, at,
                          count - at < HL_TILE ? count : at + HL_TILE);
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
    bool behind = step->kind == HL_STEP_CONV_DATA && (operand(step, 2) != NULL || operand(step, 3) != NULL);
    e->is_product = takes(step);
    e->is_behind = behind && !(e->is_product && takes_behind(step));
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
    bind_product(step, e->is_behind, &e->product, scratch);
    return HL_OK;
}

hl_status hl_conv_exec_run(hl_cpu *cpu, hl_step *step)
{
    const hl_conv_exec *e = step->exec;
    if (e->is_product)
        hl_product_run(&e->product);
    else
        HL_TRY(hl_dnnl_exec_run(cpu, step, &e->dnnl));
    if (e->is_behind)
        run_behind(step);
    return HL_OK;
}
