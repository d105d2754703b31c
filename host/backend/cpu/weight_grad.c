/* WEIGHT_GRAD: from the gradient of the effective weights to those of the parameters behind them. */
#include <stdlib.h>

#include "backend/cpu/dnnl_util.h"
#include "backend/weight_change.h"

typedef struct weight_grad {
    hl_dnnl_exec exec; /* layout of the convolution's gradient -> C order; empty where it has that order */
    size_t offset;
    const float *plain;
    /* The same straight to the parameter's gradient, where the two are the same thing and nothing is there
     * yet to be added to. */
    hl_dnnl_exec straight;
    size_t changed_offset; /* the gradient of f(W) of a changed weight, and scratch behind it */
    float *changed;
} weight_grad;

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->in_count != 1 || step->in[0]->elem != HL_ELEM_F32 || step->conv.subfunction)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a weight gradient has one fp32 operand");
    return HL_OK;
}

static void release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    weight_grad *g = step->exec;
    if (g != NULL) {
        hl_dnnl_exec_release(&g->exec);
        hl_dnnl_exec_release(&g->straight);
    }
    free(g);
    step->exec = NULL;
}

static hl_status reorders(hl_cpu *cpu, hl_step *step, weight_grad *g)
{
    const hl_tensor *dw = step->in[0];
    const dnnl_memory_desc_t *native = hl_dnnl_native(dw);
    const hl_weight_expr *e = step->conv.expr;
    dnnl_memory_desc_t plain;
    hl_dnnl_place place;
    if (native == NULL) /* without a layout of its own it has C order */
        return HL_OK;
    HL_TRY(hl_dnnl_plain_desc(step, native->ndims, native->dims, dnnl_f32, &plain));
    HL_TRY(hl_dnnl_add_input(cpu, step, &g->exec, dw, native, &plain, &place));
    g->offset = place.offset;
    bool same = e->kind == HL_WEIGHT_PLAIN && !hl_weight_expr_is_scaled(e);
    return same && g->exec.count > 0
               ? hl_dnnl_add_reorder(cpu, step, &g->straight, native, (hl_dnnl_place){.tensor = dw}, &plain,
                                     (hl_dnnl_place){.param_grad = e->weight})
               : HL_OK;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    weight_grad *g = calloc(1, sizeof *g);
    if (g == NULL)
        return hl_fail_nomem(step->name, sizeof *g);
    step->exec = g;
    hl_status status = reorders(cpu, step, g);
    if (status != HL_OK) {
        release(cpu, step);
        return status;
    }
    const hl_weight_expr *e = step->conv.expr;
    if (e->kind == HL_WEIGHT_CHANGED)
        g->changed_offset = hl_dnnl_reserve(
            &g->exec, ((size_t)e->weight->count + hl_weight_change_scratch(e)) * sizeof(float));
    step->scratch_bytes =
        g->exec.scratch_bytes > g->straight.scratch_bytes ? g->exec.scratch_bytes : g->straight.scratch_bytes;
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    weight_grad *g = step->exec;
    g->plain = g->exec.count > 0 ? (const float *)((const char *)scratch + g->offset) : step->in[0]->data;
    g->changed = (float *)((char *)scratch + g->changed_offset);
    HL_TRY(hl_dnnl_exec_bind(cpu, step, &g->exec, scratch));
    return hl_dnnl_exec_bind(cpu, step, &g->straight, scratch);
}

/* The gradient of f(W): s_o dW_eff. */
static void scale_rows(const hl_weight_expr *e, const float *dw, float *dv)
{
    int64_t rows = e->weight->shape[0], row = e->weight->count / rows;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < rows; o++) {
        float scale;
        hl_weight_expr_scale(e, o, o + 1, &scale);
        for (int64_t k = o * row; k < (o + 1) * row; k++)
            dv[k] = scale * dw[k];
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    const weight_grad *g = step->exec;
    const hl_weight_expr *e = step->conv.expr;
    if (g->straight.count > 0 && step->run->grad_keep == 0.0f)
        return hl_dnnl_exec_run(cpu, step, &g->straight);
    HL_TRY(hl_dnnl_exec_run(cpu, step, &g->exec));
    int64_t rows = e->weight->shape[0], row = e->weight->count / rows;
    float keep = step->run->grad_keep;
    if (e->kind == HL_WEIGHT_CHANGED) {
        scale_rows(e, g->plain, g->changed);
        hl_weight_change_grad(e, g->changed, keep, g->changed + e->weight->count);
        return HL_OK;
    }
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < rows; o++)
        hl_weight_expr_grad(e, o, o + 1, g->plain + o * row, keep);
    return HL_OK;
}

const hl_cpu_op hl_cpu_weight_grad = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};
