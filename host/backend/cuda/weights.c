/* FOLD, WEIGHT_GRAD, BIAS_GRAD: effective weights from parameters, and gradients back. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"

hl_expr_args hl_cuda_expr(const hl_weight_expr *e)
{
#define VALUE(p) ((p) != NULL ? (p)->value : NULL)
    return (hl_expr_args){.weight = e->weight->value,
                          .gate = e->kind == HL_WEIGHT_ROW ? NULL : VALUE(e->gate),
                          .row_gate = e->kind == HL_WEIGHT_ROW ? e->gate->value : NULL,
                          .offset = VALUE(e->offset),
                          .bias = VALUE(e->bias),
                          .norm_scale = VALUE(e->norm_scale),
                          .norm_shift = VALUE(e->norm_shift),
                          .norm_mean = VALUE(e->norm_mean),
                          .norm_var = VALUE(e->norm_var),
                          .eps = e->eps,
                          .outputs = (int32_t)e->weight->shape[0],
                          .inputs = (int32_t)e->weight->shape[1],
                          .window = (int32_t)hl_weight_expr_window(e)};
#undef VALUE
}

static hl_factor_args factor_args(const hl_factor *f)
{
    return (hl_factor_args){.left = f->left != NULL ? f->left->value : NULL,
                            .right = f->right != NULL ? f->right->value : NULL,
                            .dleft = f->left != NULL && f->left->trained ? f->left->grad : NULL,
                            .dright = f->right != NULL && f->right->trained ? f->right->grad : NULL,
                            .blocks = f->blocks,
                            .rows = f->rows,
                            .columns = f->columns,
                            .rank = f->rank};
}

static hl_change_args change_args(const hl_weight_expr *e)
{
    const hl_weight_change *c = e->change;
    const hl_param *magnitude = c->magnitude;
    return (hl_change_args){.kind = (int32_t)c->kind,
                            .scale = c->scale,
                            .factor = {factor_args(&c->factor[0]), factor_args(&c->factor[1])},
                            .magnitude = magnitude != NULL ? magnitude->value : NULL,
                            .dmagnitude = magnitude != NULL && magnitude->trained ? magnitude->grad : NULL,
                            .weight = e->weight->value,
                            .outputs = e->weight->shape[0],
                            .inputs = e->weight->shape[1],
                            .window = hl_weight_expr_window(e)};
}

static hl_packing packing(const hl_conv_attr *conv)
{
    return hl_cuda_is_depthwise(conv) ? HL_PACK_DEPTHWISE : HL_PACK_KRSC;
}

static hl_status check_counts(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    const hl_param *w = step->conv.expr->weight;
    if (w->shape[0] > INT32_MAX || w->count > INT32_MAX)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "%lld weights in one layer", (long long)w->count);
    return HL_OK;
}

static hl_status fold_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    if (step->out[1] != NULL)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "one packing serves both passes");
    if (step->out[0] != NULL)
        step->out[0]->bytes = (size_t)step->conv.expr->weight->count * hl_elem_size(step->out[0]->elem);
    if (hl_cuda_fold_is_apart(step))
        step->scratch_bytes = (size_t)step->conv.expr->weight->count * sizeof(float);
    return HL_OK;
}

hl_fold_item hl_cuda_fold_item(const hl_step *step)
{
    const hl_tensor *packed = step->out[0], *bias = step->out[2];
    return (hl_fold_item){.expr = hl_cuda_expr(step->conv.expr),
                          .packing = packing(&step->conv),
                          .subfunction_groups = step->conv.subfunction ? (int32_t)step->conv.groups : 0,
                          .packed = hl_data(packed),
                          .packed_elem = packed != NULL ? packed->elem : HL_ELEM_F32,
                          .bias = hl_data(bias),
                          .bias_elem = bias != NULL ? bias->elem : HL_ELEM_F32};
}

/* f(W) of a changed weight goes to scratch, and is folded from there. */
typedef struct changed_fold {
    float *value;
    hl_fold_item *item; /* device */
    int64_t blocks;
} changed_fold;

bool hl_cuda_fold_is_apart(const hl_step *step)
{
    return step->conv.expr->kind == HL_WEIGHT_CHANGED;
}

static hl_status fold_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    if (!hl_cuda_fold_is_apart(step))
        return HL_OK;
    changed_fold *f = step->exec = calloc(1, sizeof *f);
    if (f == NULL)
        return hl_fail_nomem(step->name, sizeof *f);
    f->value = scratch;
    hl_fold_item item = hl_cuda_fold_item(step);
    item.expr.weight = f->value;
    f->blocks = hl_fold_blocks(&item, 1);
    HL_TRY(hl_cuda_alloc(&cuda->base, sizeof item, step->name, (void **)&f->item));
    return cuda->planner ? HL_OK : hl_cuda_upload(&cuda->base, f->item, &item, sizeof item);
}

static hl_status fold_run(hl_cuda *cuda, hl_step *step)
{
    const changed_fold *f = step->exec;
    const hl_change_args args = change_args(step->conv.expr);
    if (step->out[0] != NULL)
        HL_TRY(HL_LAUNCHED(hl_launch_change_value(&args, f->value, cuda->compute), step));
    return HL_LAUNCHED(hl_launch_fold(f->item, 1, f->blocks, cuda->compute), step);
}

static void fold_release(hl_cuda *cuda, hl_step *step)
{
    changed_fold *f = step->exec;
    hl_cuda_free(&cuda->base, f->item);
    free(f);
}

const hl_cuda_op hl_cuda_fold = {.check = check_counts,
                                 .prepare = fold_prepare,
                                 .bind = fold_bind,
                                 .run = fold_run,
                                 .release = fold_release};

static hl_status weight_grad_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    const hl_weight_expr *e = step->conv.expr;
    if (e->kind != HL_WEIGHT_CHANGED)
        return HL_OK;
    const hl_change_args args = change_args(e);
    step->scratch_bytes = (size_t)e->weight->count * sizeof(float) + hl_change_grad_scratch(&args);
    return HL_OK;
}

/* The gradient of f(W) is that of a plain weight. */
static hl_status changed_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_weight_expr *e = step->conv.expr;
    const hl_expr_args expr = hl_cuda_expr(e);
    const hl_change_args args = change_args(e);
    const hl_tensor *dw = step->in[0];
    float *dv = step->exec;
    HL_TRY(HL_LAUNCHED(
        hl_launch_weight_grad(&expr, packing(&step->conv), dw->data, dw->elem, NULL, dv, NULL, cuda->compute),
        step));
    return HL_LAUNCHED(hl_launch_change_grad(&args, dv, cuda->run, dv + e->weight->count, cuda->compute),
                       step);
}

static hl_status weight_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_weight_expr *e = step->conv.expr;
    if (e->kind == HL_WEIGHT_CHANGED)
        return changed_grad_run(cuda, step);
    const hl_expr_args expr = hl_cuda_expr(e);
    const hl_tensor *dw = step->in[0];
    bool gate = e->kind == HL_WEIGHT_GATED && e->gate->trained;
    return HL_LAUNCHED(
        hl_launch_weight_grad(&expr, packing(&step->conv), dw->data, dw->elem, gate ? e->gate->grad : NULL,
                              e->weight->trained ? e->weight->grad : NULL, cuda->run, cuda->compute),
        step);
}

const hl_cuda_op hl_cuda_weight_grad = {.check = check_counts,
                                        .prepare = weight_grad_prepare,
                                        .bind = hl_cuda_bind_scratch,
                                        .run = weight_grad_run};

static hl_status bias_grad_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    step->scratch_bytes = hl_bias_grad_scratch(hl_rows(step->in[0]), step->in[0]->shape.c);
    return HL_OK;
}

static float *trained_grad(const hl_param *p)
{
    return p != NULL && p->trained ? p->grad : NULL;
}

static hl_status bias_grad_run(hl_cuda *cuda, hl_step *step)
{
    const hl_weight_expr *e = step->conv.expr;
    const hl_expr_args expr = hl_cuda_expr(e);
    const hl_tensor *dy = step->in[0];
    const hl_bias_grads grads = {.dbias = trained_grad(e->bias),
                                 .doffset = trained_grad(e->offset),
                                 .dshift = trained_grad(e->norm_shift)};
    return HL_LAUNCHED(hl_launch_bias_grad(&expr, dy->data, dy->elem, hl_rows(dy), dy->shape.c, grads,
                                           cuda->run, step->exec, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_bias_grad = {.check = hl_cuda_check_floats,
                                      .prepare = bias_grad_prepare,
                                      .bind = hl_cuda_bind_scratch,
                                      .run = bias_grad_run};
