/* RECOMBINE: a gated layer from its cached sub-functions,
 *     y[.., o] = act(sum over j of (1 + gate[o, j]) S[.., g I/G + j, o'] + b[o] + residual[.., o])
 * Sums are float32 whatever S is stored in. */
#include "backend/cpu/recombine.h"

#include <stdlib.h>

#include "backend/cpu/act_math.h"
#include "backend/cpu/dnnl_util.h"
#include "base/bf16.h"
#include "base/simd.h"

enum { S, BIAS, RESIDUAL };

/* Outputs that are summed at once, in registers; what is left over goes by strips and then singly. */
enum { TILE = 64, STRIP = 32 };

typedef struct recombine {
    hl_recombine_form form;
    float *gate; /* 1 + gate in sub-function order, in scratch */
    /* With one input a group the layer is elementwise. Gate and bias are then repeated over as many rows as
     * make a multiple of TILE values, so that tiles are full however few the channels are. */
    int64_t period; /* 0: the general case */
    float *bias;
} recombine;

static const hl_tensor *operand(const hl_step *step, int i)
{
    return i < step->in_count ? step->in[i] : NULL;
}

hl_status hl_recombine_form_make(const hl_step *step, const hl_tensor *s, const hl_tensor *y,
                                 hl_recombine_form *form)
{
    const hl_param *gate = step->conv.expr->gate;
    /* A factor for each output is a gate of one input in as many groups as one likes. */
    bool row = gate != NULL && gate->ndim == 1;
    int64_t groups = row ? 1 : step->conv.groups;
    if (gate == NULL || groups < 1 || gate->shape[0] % groups != 0)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "recombination needs a gate whose outputs split into groups");
    form->groups = groups;
    form->inputs = row ? 1 : gate->shape[1];
    form->outputs = gate->shape[0] / groups;
    form->channels = gate->shape[0];
    form->subfunctions = form->channels * form->inputs;
    form->rows = y->shape.n * y->shape.h * y->shape.w;
    if (y->shape.c != form->channels || s->shape.c != form->subfunctions || s->shape.n != y->shape.n ||
        s->shape.h != y->shape.h || s->shape.w != y->shape.w)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "%lld sub-functions and a gate of %lldx%lld do not make %lld outputs",
                       (long long)s->shape.c, (long long)form->channels, (long long)form->inputs,
                       (long long)y->shape.c);
    return HL_OK;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->in_count < 1 || step->in_count > 3 || step->out_count != 1)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "recombination has 1 to 3 operands and 1 result");
    const hl_tensor *residual = operand(step, RESIDUAL), *y = step->out[0];
    HL_TRY(hl_dnnl_check_elem(step, step->in[S]));
    HL_TRY(hl_dnnl_check_elem(step, y));
    if (y->elem != step->in[S]->elem || (residual != NULL && residual->elem != y->elem))
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "operands and result of a recombination have one element type");
    hl_recombine_form form;
    return hl_recombine_form_make(step, step->in[S], y, &form);
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    recombine *r = calloc(1, sizeof *r);
    if (r == NULL)
        return hl_fail_nomem(step->name, sizeof *r);
    step->exec = r;
    step->scratch_bytes = 0;
    HL_TRY(hl_recombine_form_make(step, step->in[S], step->out[0], &r->form));
    int64_t channels = r->form.channels, repeats = 1;
    if (r->form.inputs == 1) {
        while (channels * repeats % TILE != 0)
            repeats *= 2;
        r->period = channels * repeats;
    }
    step->scratch_bytes = (size_t)(r->period > 0 ? 2 * r->period : r->form.subfunctions) * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    recombine *r = step->exec;
    r->gate = scratch;
    r->bias = r->gate + r->period;
    return HL_OK;
}

static void release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    free(step->exec);
    step->exec = NULL;
}

/* One tile of one row: `width` outputs, whose sub-functions of successive inputs lie `stride` apart. Inlined
 * with a constant width where the tile is full. */
#define RECOMBINE_ROWS(name, type, load, store)                                                              \
    static inline __attribute__((always_inline)) void name##_tile(                                           \
        const type *restrict s, const float *restrict gate, const float *restrict bias,                      \
        const type *restrict residual, type *restrict y, int64_t inputs, int64_t stride, int64_t width,      \
        hl_act act)                                                                                          \
    {                                                                                                        \
        float acc[TILE];                                                                                     \
        for (int64_t t = 0; t < width; t++)                                                                  \
            acc[t] = gate[t] * load(s[t]);                                                                   \
        for (int64_t j = 1; j < inputs; j++)                                                                 \
            for (int64_t t = 0; t < width; t++)                                                              \
                acc[t] += gate[j * stride + t] * load(s[j * stride + t]);                                    \
        if (bias != NULL)                                                                                    \
            for (int64_t t = 0; t < width; t++)                                                              \
                acc[t] += bias[t];                                                                           \
        if (residual != NULL)                                                                                \
            for (int64_t t = 0; t < width; t++)                                                              \
                acc[t] += load(residual[t]);                                                                 \
        hl_act_run(act, acc, width);                                                                         \
        for (int64_t t = 0; t < width; t++)                                                                  \
            y[t] = store(acc[t]);                                                                            \
    }                                                                                                        \
    HL_CLONES static void name##_flat(const type *s, const float *gate, const float *bias,                   \
                                      const type *residual, type *y, int64_t first, int64_t last,            \
                                      int64_t period, hl_act act)                                            \
    {                                                                                                        \
        int64_t at = first, t = first % period;                                                              \
        for (; at + TILE <= last; at += TILE, t = t + TILE < period ? t + TILE : 0)                          \
            name##_tile(s + at, gate + t, bias != NULL ? bias + t : NULL,                                    \
                        residual != NULL ? residual + at : NULL, y + at, 1, 0, TILE, act);                   \
        if (at < last)                                                                                       \
            name##_tile(s + at, gate + t, bias != NULL ? bias + t : NULL,                                    \
                        residual != NULL ? residual + at : NULL, y + at, 1, 0, last - at, act);              \
    }                                                                                                        \
    HL_CLONES static void name(const hl_recombine_form *f, const type *s, const float *gate,                 \
                               const float *bias, const type *residual, type *y, int64_t first,              \
                               int64_t last, hl_act act)                                                     \
    {                                                                                                        \
        int64_t groups = f->groups, outputs = f->outputs, inputs = f->inputs;                                \
        for (int64_t r = first; r < last; r++) {                                                             \
            for (int64_t g = 0; g < groups; g++) {                                                           \
                const type *row = s + r * f->subfunctions + g * inputs * outputs;                            \
                const float *gates = gate + g * inputs * outputs;                                            \
                int64_t o = g * outputs, at = r * f->channels + o;                                           \
                for (int64_t t = 0, width; t < outputs; t += width) {                                        \
                    const float *b = bias != NULL ? bias + o + t : NULL;                                     \
                    const type *add = residual != NULL ? residual + at + t : NULL;                           \
                    width = outputs - t >= TILE ? TILE : outputs - t >= STRIP ? STRIP : outputs - t;         \
                    if (width == TILE)                                                                       \
                        name##_tile(row + t, gates + t, b, add, y + at + t, inputs, outputs, TILE, act);     \
                    else if (width == STRIP)                                                                 \
                        name##_tile(row + t, gates + t, b, add, y + at + t, inputs, outputs, STRIP, act);    \
                    else                                                                                     \
                        name##_tile(row + t, gates + t, b, add, y + at + t, inputs, outputs, width, act);    \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

#define AS_IS(x) (x)
RECOMBINE_ROWS(recombine_f32, float, AS_IS, AS_IS)
RECOMBINE_ROWS(recombine_bf16, hl_bf16, hl_bf16_to_f32, hl_bf16_from_f32)

static void run_flat(const recombine *r, const hl_step *step, const void *s, const float *bias,
                     const void *add)
{
    const float *delta = step->conv.expr->gate->value;
    int64_t channels = r->form.channels, period = r->period;
    for (int64_t t = 0; t < period; t++) {
        r->gate[t] = 1.0f + delta[t % channels];
        r->bias[t] = bias != NULL ? bias[t % channels] : 0.0f;
    }
    const float *b = bias != NULL ? r->bias : NULL;
    const hl_tensor *y = step->out[0];
    int64_t count = r->form.rows * channels, chunk = 256 * TILE, chunks = (count + chunk - 1) / chunk;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++) {
        int64_t first = k * chunk, last = first + chunk < count ? first + chunk : count;
        if (y->elem == HL_ELEM_BF16)
            recombine_bf16_flat(s, r->gate, b, add, y->data, first, last, period, step->conv.act);
        else
            recombine_f32_flat(s, r->gate, b, add, y->data, first, last, period, step->conv.act);
    }
}

static void run_general(const recombine *r, const hl_step *step, const void *s, const float *bias,
                        const void *add)
{
    const hl_recombine_form *f = &r->form;
    const float *delta = step->conv.expr->gate->value;
    for (int64_t c = 0; c < f->subfunctions; c++)
        r->gate[c] = 1.0f + delta[hl_recombine_gate_index(f, c)];
    const hl_tensor *y = step->out[0];
    /* Some rows at a time, so that threads are evenly loaded without a call for every row. */
    int64_t chunk = 64, chunks = (f->rows + chunk - 1) / chunk;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < chunks; k++) {
        int64_t first = k * chunk, last = first + chunk < f->rows ? first + chunk : f->rows;
        if (y->elem == HL_ELEM_BF16)
            recombine_bf16(f, s, r->gate, bias, add, y->data, first, last, step->conv.act);
        else
            recombine_f32(f, s, r->gate, bias, add, y->data, first, last, step->conv.act);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const recombine *r = step->exec;
    const hl_tensor *residual = operand(step, RESIDUAL), *bias = operand(step, BIAS);
    const void *add = residual != NULL ? residual->data : NULL;
    const float *b = bias != NULL ? bias->data : NULL;
    if (r->period > 0)
        run_flat(r, step, step->in[S]->data, b, add);
    else
        run_general(r, step, step->in[S]->data, b, add);
    return HL_OK;
}

const hl_cpu_op hl_cpu_recombine = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};
