/* The operands of CONV and CONV_DATA, which the two passes call by other names. */
#ifndef HL_BACKEND_CPU_CONV_OPERANDS_H
#define HL_BACKEND_CPU_CONV_OPERANDS_H

#include <math.h>

#include "backend/cpu/kernel_behind.h"
#include "base/memory.h"

typedef struct hl_conv_operands {
    hl_tensor *from, *weights, *to; /* x to y, or dy to dx */
    hl_tensor *bias, *residual;     /* residual: of a data gradient, another gradient */
    hl_tensor *before;              /* data gradient: what the activation before it is known by */
    hl_act act;                     /* behind it; data gradient: before it */
} hl_conv_operands;

static inline hl_tensor *hl_conv_operand(const hl_step *step, int i)
{
    return i < step->in_count ? step->in[i] : NULL;
}

static inline hl_conv_operands hl_conv_operands_of(const hl_step *step)
{
    bool forward = step->kind == HL_STEP_CONV;
    return (hl_conv_operands){.from = step->in[0],
                              .weights = step->in[1],
                              .to = step->out[0],
                              .bias = forward ? hl_conv_operand(step, 2) : NULL,
                              .residual = hl_conv_operand(step, forward ? 3 : 2),
                              .before = forward ? NULL : hl_conv_operand(step, 3),
                              .act = step->conv.act};
}

static inline bool hl_conv_has_elem(const hl_tensor *t, hl_elem elem)
{
    return t == NULL || t->elem == elem;
}

/* Can kernels of ours do what is behind the step, operands of `elem`? */
static inline bool hl_conv_behind_takes(const hl_step *step, hl_elem elem)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    bool clamp = o.act == HL_ACT_NONE || o.act == HL_ACT_RELU || o.act == HL_ACT_RELU6;
    return clamp && hl_conv_has_elem(o.residual, elem) && hl_conv_has_elem(o.before, elem);
}

/* A result of this size has left the cache when it is read again, or has driven out what is needed sooner. */
enum { HL_STREAM_BYTES = 8 << 20 };

/* `whole`: every cache line of the result is written at once. */
static inline hl_kernel_behind hl_conv_behind(const hl_step *step, bool whole)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    size_t pixel = (size_t)o.to->shape.c * hl_elem_size(o.to->elem);
    size_t bytes = (size_t)hl_shape_count(o.to->shape) * hl_elem_size(o.to->elem);
    hl_act act = step->kind == HL_STEP_CONV ? o.act : HL_ACT_NONE;
    return (hl_kernel_behind){.y_elem = o.to->elem,
                              .low = act == HL_ACT_NONE ? -INFINITY : 0.0f,
                              .high = act == HL_ACT_RELU6 ? 6.0f : INFINITY,
                              .before_high = o.act == HL_ACT_RELU6 ? 6.0f : NAN,
                              .streams = whole && bytes >= HL_STREAM_BYTES && pixel % HL_ALIGNMENT == 0};
}

static inline void hl_conv_behind_bind(const hl_step *step, bool with_operands, hl_kernel_behind *behind)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    behind->y = o.to->data;
    behind->bias = o.bias != NULL ? o.bias->data : NULL;
    behind->residual = o.residual != NULL && with_operands ? o.residual->data : NULL;
    behind->before = o.before != NULL && with_operands ? o.before->data : NULL;
}

#endif
