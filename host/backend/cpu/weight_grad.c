/* WEIGHT_GRAD: from the gradient of the effective weights to those of the parameters behind them. */
#include <stdlib.h>

#include "backend/cpu/dnnl_util.h"

typedef struct weight_grad {
    hl_dnnl_exec exec; /* layout of the convolution's gradient -> C order; empty where it has that order */
    size_t offset;
    const float *plain;
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
    if (g != NULL)
        hl_dnnl_exec_release(&g->exec);
    free(g);
    step->exec = NULL;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    const hl_tensor *dw = step->in[0];
    const dnnl_memory_desc_t *native = dw->native;
    weight_grad *g = calloc(1, sizeof *g);
    if (g == NULL)
        return hl_fail_nomem(step->name, sizeof *g);
    step->exec = g;
    /* Without a layout of its own it has C order. */
    if (native != NULL) {
        dnnl_memory_desc_t plain;
        hl_status status = hl_dnnl_plain_desc(step, native->ndims, native->dims, dnnl_f32, &plain);
        hl_dnnl_place place;
        if (status == HL_OK)
            status = hl_dnnl_add_input(cpu, step, &g->exec, dw, native, &plain, &place);
        if (status != HL_OK) {
            release(cpu, step);
            return status;
        }
        g->offset = place.offset;
    }
    step->scratch_bytes = g->exec.scratch_bytes;
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    weight_grad *g = step->exec;
    g->plain = g->exec.count > 0 ? (const float *)((const char *)scratch + g->offset) : step->in[0]->data;
    return hl_dnnl_exec_bind(cpu, step, &g->exec, scratch);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    const weight_grad *g = step->exec;
    const hl_weight_expr *e = step->conv.expr;
    HL_TRY(hl_dnnl_exec_run(cpu, step, &g->exec));
    int64_t rows = e->weight->shape[0], row = e->weight->count / rows;
    float keep = step->run->grad_keep;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < rows; o++)
        hl_weight_expr_grad(e, o, o + 1, g->plain + o * row, keep);
    return HL_OK;
}

const hl_cpu_op hl_cpu_weight_grad = {
    .check = check, .prepare = prepare, .bind = bind, .run = run, .release = release};
