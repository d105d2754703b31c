#include "backend/cpu/conv_exec.h"

#include <stdlib.h>

#include "backend/cpu/act_grad.h"
#include "backend/cpu/conv_operands.h"
#include "backend/cpu/conv_product.h"

void hl_conv_exec_release(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    hl_conv_exec *e = step->exec;
    if (e != NULL)
        hl_dnnl_exec_release(&e->dnnl);
    free(e);
    step->exec = NULL;
}

static hl_status prepare(hl_cpu *cpu, hl_step *step, hl_conv_exec *e, hl_conv_prepare_dnnl *prepare_dnnl)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    e->by = hl_conv_product_takes(step)    ? HL_CONV_BY_PRODUCT
            : hl_depthwise_map_takes(step) ? HL_CONV_BY_MAP
                                           : HL_CONV_BY_DNNL;
    bool taken = e->by == HL_CONV_BY_PRODUCT
                     ? hl_conv_product_takes_behind(step)
                     : e->by == HL_CONV_BY_MAP && hl_conv_behind_takes(step, o.from->elem);
    e->again = step->kind == HL_STEP_CONV_DATA && (o.residual != NULL || o.before != NULL) && !taken;
    switch (e->by) {
    case HL_CONV_BY_PRODUCT:
        return hl_conv_product_prepare(cpu, step, &e->product);
    case HL_CONV_BY_MAP:
        return hl_depthwise_map_prepare(cpu, step, &e->map);
    case HL_CONV_BY_DNNL:
        break;
    }
    return prepare_dnnl(cpu, step, &e->dnnl);
}

hl_status hl_conv_exec_prepare(hl_cpu *cpu, hl_step *step, hl_conv_prepare_dnnl *prepare_dnnl)
{
    hl_conv_exec *e = calloc(1, sizeof *e);
    if (e == NULL)
        return hl_fail_nomem(step->name, sizeof *e);
    step->exec = e;
    hl_status status = prepare(cpu, step, e, prepare_dnnl);
    if (status != HL_OK)
        hl_conv_exec_release(cpu, step);
    return status;
}

hl_status hl_conv_exec_bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    hl_conv_exec *e = step->exec;
    switch (e->by) {
    case HL_CONV_BY_PRODUCT:
        hl_conv_product_bind(step, !e->again, &e->product, scratch);
        return HL_OK;
    case HL_CONV_BY_MAP:
        hl_depthwise_map_bind(step, !e->again, &e->map);
        return HL_OK;
    case HL_CONV_BY_DNNL:
        break;
    }
    return hl_dnnl_exec_bind(cpu, step, &e->dnnl, scratch);
}

static void run_behind(const hl_step *step)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    hl_tensor *const gradients[] = {o.to, o.residual};
    hl_act_grad_all(o.act, o.before, gradients, o.residual != NULL ? 2 : 1, o.to);
}

hl_status hl_conv_exec_run(hl_cpu *cpu, hl_step *step)
{
    const hl_conv_exec *e = step->exec;
    switch (e->by) {
    case HL_CONV_BY_PRODUCT:
        hl_product_run(&e->product);
        break;
    case HL_CONV_BY_MAP:
        hl_depthwise_map_run(&e->map);
        break;
    case HL_CONV_BY_DNNL:
        HL_TRY(hl_dnnl_exec_run(cpu, step, &e->dnnl));
        break;
    }
    if (e->again)
        run_behind(step);
    return HL_OK;
}
