/* Lowering of layers whose factors are trained and applied to values that are kept, so that their gradients
 * need no gradient of a weight. */
#include "graph/lower.h"

/* The RECOMBINE step from S and b to the unit's value. */
static hl_status recombine(hl_code *code, const hl_unit *unit, hl_tensor *s, hl_tensor *bias)
{
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_RECOMBINE, unit->node->name, 3, 1);
    hl_tensor *y = hl_code_output(code, unit);
    if (step == NULL || y == NULL)
        return HL_E_NOMEM;
    step->conv = hl_unit_conv_attr(code, unit);
    step->conv.act = unit->act;
    step->in[0] = s;
    step->in[1] = bias;
    step->in[2] = hl_code_value(code, unit->residual);
    step->out[0] = y;
    return HL_OK;
}

/* Gates: S are the sub-functions' outputs. */
static hl_status lower_gated(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    const hl_node *node = unit->node;
    hl_weight_expr *frozen = hl_arena_take(code->arena, sizeof *frozen);
    if (frozen == NULL)
        return HL_E_NOMEM;
    *frozen = unit->expr;
    frozen->kind = HL_WEIGHT_PLAIN;
    frozen->gate = NULL;
    hl_step *fold = hl_code_fold(code, unit, frozen, hl_weight_expr_is_dynamic(frozen));
    hl_step *conv = hl_code_step(code, &code->forward, HL_STEP_CONV, node->name, 4, 1);
    hl_tensor *weights = hl_code_opaque(code, node->name, code->options->elem, HL_PLACE_PERSISTENT),
              *bias = hl_code_bias(code, unit, &unit->expr);
    hl_shape shape = hl_code_shape(code, unit->out);
    shape.c = node->expr.weight->shape[1] * node->groups * (node->expr.weight->shape[0] / node->groups);
    hl_tensor *s = hl_code_tensor(code, node->name, shape, code->options->elem, HL_PLACE_ARENA);
    if (!fold || !conv || !weights || !s || (bias == NULL && hl_weight_expr_has_bias(&unit->expr)))
        return HL_E_NOMEM;
    fold->conv.subfunction = true;
    fold->out[0] = weights;
    fold->out[2] = bias;
    conv->conv = hl_unit_conv_attr(code, unit);
    conv->conv.expr = frozen;
    conv->conv.subfunction = true;
    conv->in[0] = hl_code_value(code, unit->in[0]);
    conv->in[1] = weights;
    conv->out[0] = s;
    kept->subfunctions = s;
    return recombine(code, unit, s, bias);
}

/* Factors of rows: S is what the layer would give without them, s (W x + b); what is added behind is left to
 * the recombination, y = act((1 + delta) S + s (offset - mean) + shift + residual). */
static hl_status lower_row(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    const char *name = unit->node->name;
    hl_weight_expr *inner = hl_arena_take(code->arena, sizeof *inner),
                   *behind = hl_arena_take(code->arena, sizeof *behind);
    if (inner == NULL || behind == NULL)
        return HL_E_NOMEM;
    *inner = *behind = unit->expr;
    inner->kind = behind->kind = HL_WEIGHT_PLAIN;
    inner->gate = inner->offset = inner->norm_mean = inner->norm_shift = behind->gate = behind->offset = NULL;
    behind->bias = unit->expr.offset;
    hl_step *conv = hl_code_step(code, &code->forward, HL_STEP_CONV, name, 4, 1);
    hl_tensor *weights = hl_code_opaque(code, name, code->options->elem, HL_PLACE_PERSISTENT),
              *s = hl_code_tensor(code, name, hl_code_shape(code, unit->out), code->options->elem,
                                  HL_PLACE_ARENA),
              *inner_bias = hl_code_bias(code, unit, inner), *bias = hl_code_bias(code, unit, behind);
    if (conv == NULL || weights == NULL || s == NULL ||
        (inner_bias == NULL && hl_weight_expr_has_bias(inner)) ||
        (bias == NULL && hl_weight_expr_has_bias(behind)) ||
        hl_code_fold_both(code, unit, inner, weights, inner_bias) == NULL)
        return HL_E_NOMEM;
    if (bias != NULL) {
        hl_step *fold = hl_code_fold(code, unit, behind, hl_weight_expr_is_dynamic(behind));
        if (fold == NULL)
            return HL_E_NOMEM;
        fold->out[2] = bias;
    }
    conv->conv = hl_unit_conv_attr(code, unit);
    conv->conv.expr = inner;
    conv->in[0] = hl_code_value(code, unit->in[0]);
    conv->in[1] = weights;
    conv->in[2] = inner_bias;
    conv->out[0] = kept->subfunctions = s;
    return recombine(code, unit, s, bias);
}

hl_status hl_lower_cached(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    return unit->expr.kind == HL_WEIGHT_ROW ? lower_row(code, unit, kept) : lower_gated(code, unit, kept);
}
