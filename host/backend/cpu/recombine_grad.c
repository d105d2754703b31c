/* RECOMBINE_GRAD: dz = act'(y) (sum of the gradients), dgate[o, j] = sum over n, h, w of dz[.., o] S[.., g
 * I/G + j, o'].
 */
#include <stdlib.h>

#include "backend/cpu/act_grad.h"
#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/recombine.h"
#include "backend/cpu/row_blocks.h"
#include "base/bf16.h"
#include "base/simd.h"

/* Rows are first summed in short runs, so that the rounding error grows with the number of runs and not of
 * rows. */
enum { TILE = 32, STRIP = 16, RUN = 64 };

typedef struct recombine_grad {
    hl_recombine_form form;
    float *partial; /* [block][sub-function], in scratch */
} recombine_grad;

enum { S, Y, GRADIENTS };

static const hl_tensor *result(const hl_step *step)
{
    return step->out_count > 0 ? step->out[0] : NULL;
}

/* Where dz lies: in out 0, or it is the one gradient itself. */
static const hl_tensor *dz_of(const hl_step *step)
{
    return result(step) != NULL ? result(step) : step->in[GRADIENTS];
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    bool has_act = step->conv.act != HL_ACT_NONE;
    if (step->in_count <= GRADIENTS || step->out_count > 1 ||
        (result(step) == NULL && (has_act || step->in_count > GRADIENTS + 1)) ||
        (has_act && (step->in[Y] == NULL || !hl_act_from_output(step->conv.act))))
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "the gradient of a recombination wants S, y and gradients, and makes dz");
    for (int i = 0; i < step->in_count; i++)
        if (step->in[i] != NULL)
            HL_TRY(hl_dnnl_check_elem(step, step->in[i]));
    hl_recombine_form form;
    return hl_recombine_form_make(step, step->in[S], dz_of(step), &form);
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    recombine_grad *g = calloc(1, sizeof *g);
    if (g == NULL)
        return hl_fail_nomem(step->name, sizeof *g);
    step->exec = g;
    HL_TRY(hl_recombine_form_make(step, step->in[S], dz_of(step), &g->form));
    step->scratch_bytes = (size_t)(hl_row_blocks(g->form.rows) * g->form.subfunctions) * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    ((recombine_grad *)step->exec)->partial = scratch;
    return HL_OK;
}

static void release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    free(step->exec);
    step->exec = NULL;
}

/* Adds rows [first, last), a short run of them, to sum[c], in sub-function order. */
#define GATE_SUMS(name, dy_type, dy_load, s_type, s_load)                                                    \
    static inline __attribute__((always_inline)) void name##_tile(                                           \
        const dy_type *restrict dy, int64_t dy_stride, const s_type *restrict s, int64_t s_stride,           \
        float *restrict sum, int64_t rows, int64_t width)                                                    \
    {                                                                                                        \
        float acc[TILE] = {0};                                                                               \
        for (int64_t r = 0; r < rows; r++)                                                                   \
            for (int64_t t = 0; t < width; t++)                                                              \
                acc[t] += dy_load(dy[r * dy_stride + t]) * s_load(s[r * s_stride + t]);                      \
        for (int64_t t = 0; t < width; t++)                                                                  \
            sum[t] += acc[t];                                                                                \
    }                                                                                                        \
    HL_CLONES static void name(const hl_recombine_form *f, const dy_type *dy, const s_type *s, float *sum,   \
                               int64_t first, int64_t last)                                                  \
    {                                                                                                        \
        int64_t groups = f->inputs == 1 ? 1 : f->groups, outputs = f->channels / groups, inputs = f->inputs; \
        int64_t rows = last - first;                                                                         \
        for (int64_t i = 0; i < groups * inputs; i++) {                                                      \
            const dy_type *d = dy + first * f->channels + i / inputs * outputs;                              \
            const s_type *from = s + first * f->subfunctions + i * outputs;                                  \
            float *to = sum + i * outputs;                                                                   \
            int64_t t = 0;                                                                                   \
            for (; outputs - t >= TILE; t += TILE)                                                           \
                name##_tile(d + t, f->channels, from + t, f->subfunctions, to + t, rows, TILE);              \
            for (; outputs - t >= STRIP; t += STRIP)                                                         \
                name##_tile(d + t, f->channels, from + t, f->subfunctions, to + t, rows, STRIP);             \
            if (t < outputs)                                                                                 \
                name##_tile(d + t, f->channels, from + t, f->subfunctions, to + t, rows, outputs - t);       \
        }                                                                                                    \
    }

#define AS_IS(x) (x)
GATE_SUMS(gate_sums_f32, float, AS_IS, float, AS_IS)
GATE_SUMS(gate_sums_bf16, hl_bf16, hl_bf16_to_f32, hl_bf16, hl_bf16_to_f32)
GATE_SUMS(gate_sums_mixed, float, AS_IS, hl_bf16, hl_bf16_to_f32)
GATE_SUMS(gate_sums_mixed_s, hl_bf16, hl_bf16_to_f32, float, AS_IS)

static void add_run(const hl_recombine_form *f, const hl_tensor *dz, const hl_tensor *s, float *sum,
                    int64_t first, int64_t last)
{
    if (dz->elem == HL_ELEM_BF16 && s->elem == HL_ELEM_BF16)
        gate_sums_bf16(f, dz->data, s->data, sum, first, last);
    else if (dz->elem == HL_ELEM_BF16)
        gate_sums_mixed_s(f, dz->data, s->data, sum, first, last);
    else if (s->elem == HL_ELEM_BF16)
        gate_sums_mixed(f, dz->data, s->data, sum, first, last);
    else
        gate_sums_f32(f, dz->data, s->data, sum, first, last);
}

/* Rows [first, last): dz of a short run of rows, and while it is in cache, its share of the sums. */
static void block_sums(const hl_step *step, const hl_recombine_form *f, float *sum, int64_t first,
                       int64_t last)
{
    const hl_tensor *dz = dz_of(step);
    const hl_tensor *operand = step->conv.act == HL_ACT_NONE ? NULL : step->in[Y];
    for (int64_t c = 0; c < f->subfunctions; c++)
        sum[c] = 0.0f;
    for (int64_t run = first; run < last; run += RUN) {
        int64_t end = last - run < RUN ? last : run + RUN;
        if (result(step) != NULL)
            hl_act_grad_range(step->conv.act, operand, step->in + GRADIENTS, step->in_count - GRADIENTS, dz,
                              run * f->channels, end * f->channels);
        add_run(f, dz, step->in[S], sum, run, end);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const recombine_grad *g = step->exec;
    const hl_recombine_form *f = &g->form;
    int64_t blocks = hl_row_blocks(f->rows);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        block_sums(step, f, g->partial + b * f->subfunctions, hl_row_block_first(f->rows, blocks, b),
                   hl_row_block_first(f->rows, blocks, b + 1));
    float *grad = step->conv.expr->gate->grad;
    bool keep = step->run->grad_keep != 0.0f;
    for (int64_t c = 0; c < f->subfunctions; c++) {
        float *to = &grad[hl_recombine_gate_index(f, c)];
        *to = (keep ? *to : 0.0f) + hl_row_blocks_sum(g->partial, blocks, f->subfunctions, c);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_recombine_grad = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};
