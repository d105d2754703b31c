/* What the forward and the gradient of recombination share. Sub-function (i, o') of output o = g O/G + o'
 * lies at channel i O/G + o' of S, i = g I/G + j for the j-th input of group g; "sub-function order" below.
 */
#ifndef HL_BACKEND_CPU_RECOMBINE_H
#define HL_BACKEND_CPU_RECOMBINE_H

#include "backend/cpu/cpu.h"

/* Channels of a gate that is applied to `outputs` channels. */
typedef struct hl_recombine_form {
    int64_t groups, inputs, outputs;      /* per group: I/G and O/G */
    int64_t rows, subfunctions, channels; /* n h w; groups * inputs * outputs; groups * outputs */
} hl_recombine_form;

/* Of S and y (or dy), which must fit to each other, the groups and the gate. */
hl_status hl_recombine_form_make(const hl_step *step, const hl_tensor *s, const hl_tensor *y,
                                 hl_recombine_form *form);

/* Index into the gate [O, I/G] of element c in sub-function order. */
static inline int64_t hl_recombine_gate_index(const hl_recombine_form *f, int64_t c)
{
    int64_t i = c / f->outputs, g = i / f->inputs;
    return (g * f->outputs + c % f->outputs) * f->inputs + i % f->inputs;
}

#endif
