/* The backward half of lowering: walks the units from last to first and emits the steps of the chain rule,
 * only where a trained parameter lies at or before a value. */
#include "graph/lower.h"

/* Gradients that have arrived for one value, from each of its readers. */
typedef struct contributions {
    hl_tensor **items;
    int count, capacity;
    hl_step *data; /* the CONV_DATA step that made the last one, or NULL */
} contributions;

typedef struct backward {
    hl_code *code;
    contributions *arrived;  /* by value */
    hl_tensor **second_half; /* by value: the gradient of its channels' second half */
} backward;

static hl_tensor *gradient_tensor(backward *b, hl_value value)
{
    hl_shape shape = b->code->units.graph->nodes[value]->shape;
    shape.n = b->code->options->batch;
    return hl_code_tensor(b->code, b->code->units.graph->nodes[value]->name, shape, b->code->options->elem,
                          b->code->options->keep_all ? HL_PLACE_PERSISTENT : HL_PLACE_ARENA);
}

static bool wants_gradient(const backward *b, hl_value value)
{
    return value != HL_NO_VALUE && b->code->units.needs_grad[value];
}

/* Another gradient for `value`: `t`, written by steps already emitted. */
static hl_status arrive(backward *b, hl_value value, hl_tensor *t)
{
    contributions *c = &b->arrived[value];
    if (c->count == c->capacity) {
        int capacity = c->capacity == 0 ? 4 : 2 * c->capacity;
        hl_tensor **items = hl_arena_take(b->code->arena, (size_t)capacity * sizeof(hl_tensor *));
        if (items == NULL)
            return HL_E_NOMEM;
        for (int i = 0; i < c->count; i++)
            items[i] = c->items[i];
        c->items = items;
        c->capacity = capacity;
    }
    c->items[c->count++] = t;
    c->data = NULL;
    return HL_OK;
}

/* A new gradient tensor for `value`, counted as arrived; left NULL where none is wanted. */
static hl_status new_gradient(backward *b, hl_value value, hl_tensor **t)
{
    *t = NULL;
    if (!wants_gradient(b, value))
        return HL_OK;
    *t = gradient_tensor(b, value);
    return *t == NULL ? HL_E_NOMEM : arrive(b, value, *t);
}

/* Can the step that made the last of `c` add the one before it and apply a derivative? Not where tests and
 * diagnoses want to see each gradient. */
static bool data_step_takes(const backward *b, const contributions *c)
{
    return c->data != NULL && c->count <= 2 && !b->code->options->keep_all;
}

/* The gradient of what `unit` computes before its activation: what has arrived for its value, summed, times
 * the activation's derivative. One tensor that needs neither is handed on as it is. */
static hl_status pass_activation(backward *b, const hl_unit *unit, hl_act act, hl_tensor *act_operand,
                                 hl_tensor **dz)
{
    contributions *c = &b->arrived[unit->out];
    if (c->count == 1)
        b->code->gradient[unit->out] = c->items[0];
    if (c->count == 1 && act == HL_ACT_NONE) {
        *dz = c->items[0];
        return HL_OK;
    }
    if (data_step_takes(b, c)) {
        c->data->conv.act = act;
        c->data->in[2] = c->count == 2 ? c->items[0] : NULL;
        c->data->in[3] = act == HL_ACT_NONE ? NULL : act_operand;
        *dz = c->items[c->count - 1];
        return HL_OK;
    }
    hl_step *step =
        hl_code_step(b->code, &b->code->backward, HL_STEP_ACT_GRAD, unit->node->name, 1 + c->count, 1);
    *dz = gradient_tensor(b, unit->out);
    if (step == NULL || *dz == NULL)
        return HL_E_NOMEM;
    step->act.act = act;
    step->in[0] = act == HL_ACT_NONE ? NULL : act_operand;
    for (int i = 0; i < c->count; i++)
        step->in[1 + i] = c->items[i];
    step->out[0] = *dz;
    if (act == HL_ACT_NONE)
        b->code->gradient[unit->out] = *dz;
    return HL_OK;
}

static hl_step *backward_step(backward *b, const hl_unit *unit, hl_step_kind kind, int in_count,
                              int out_count)
{
    return hl_code_step(b->code, &b->code->backward, kind, unit->node->name, in_count, out_count);
}

/* What pass_activation does and the gates' gradient, in one step, since both read dz. */
static hl_status recombine_gradients(backward *b, const hl_unit *unit, const hl_unit_tensors *kept,
                                     hl_tensor **dz)
{
    contributions *c = &b->arrived[unit->out];
    hl_step *step = backward_step(b, unit, HL_STEP_RECOMBINE_GRAD, 2 + c->count, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    if (c->count == 1)
        b->code->gradient[unit->out] = *dz = c->items[0];
    if (c->count > 1 || unit->act != HL_ACT_NONE) {
        step->out[0] = *dz = gradient_tensor(b, unit->out);
        if (*dz == NULL)
            return HL_E_NOMEM;
        if (unit->act == HL_ACT_NONE)
            b->code->gradient[unit->out] = *dz;
    }
    step->conv = hl_unit_conv_attr(b->code, unit);
    step->conv.act = unit->act;
    step->in[0] = kept->subfunctions;
    step->in[1] = unit->act == HL_ACT_NONE ? NULL : b->code->value[unit->out];
    for (int i = 0; i < c->count; i++)
        step->in[2 + i] = c->items[i];
    return HL_OK;
}

static hl_status conv_weight_gradients(backward *b, const hl_unit *unit, hl_tensor *dz)
{
    if (hl_weight_expr_trains_bias(&unit->expr)) {
        hl_step *step = backward_step(b, unit, HL_STEP_BIAS_GRAD, 1, 0);
        if (step == NULL)
            return HL_E_NOMEM;
        step->conv = hl_unit_conv_attr(b->code, unit);
        step->in[0] = dz;
    }
    if (unit->cache ? !unit->expr.weight->trained : !hl_weight_expr_trains_weight(&unit->expr))
        return HL_OK;
    hl_step *weight = backward_step(b, unit, HL_STEP_CONV_WEIGHT, 2, 1);
    hl_step *grad = backward_step(b, unit, HL_STEP_WEIGHT_GRAD, 1, 0);
    hl_tensor *dw = hl_code_opaque(b->code, unit->node->name, HL_ELEM_F32, HL_PLACE_ARENA);
    if (weight == NULL || grad == NULL || dw == NULL)
        return HL_E_NOMEM;
    weight->conv = grad->conv = hl_unit_conv_attr(b->code, unit);
    weight->in[0] = b->code->value[unit->in[0]];
    weight->in[1] = dz;
    weight->out[0] = grad->in[0] = dw;
    return HL_OK;
}

static hl_status conv_data_gradient(backward *b, const hl_unit *unit, hl_unit_tensors *kept, hl_tensor *dz)
{
    hl_tensor *dx;
    HL_TRY(new_gradient(b, unit->in[0], &dx));
    if (dx == NULL)
        return HL_OK;
    if (kept->fold == NULL)
        kept->fold = hl_code_fold(b->code, unit, &unit->expr, hl_weight_expr_changes_weight(&unit->expr));
    hl_step *step = backward_step(b, unit, HL_STEP_CONV_DATA, 4, 1);
    hl_tensor *weights = kept->fold != NULL && b->code->backend->one_packing ? kept->fold->out[0] : NULL;
    if (weights == NULL)
        weights = hl_code_opaque(b->code, unit->node->name, b->code->options->elem, HL_PLACE_PERSISTENT);
    if (kept->fold == NULL || step == NULL || weights == NULL)
        return HL_E_NOMEM;
    if (weights != kept->fold->out[0])
        kept->fold->out[b->code->backend->one_packing ? 0 : 1] = weights;
    step->conv = hl_unit_conv_attr(b->code, unit);
    step->in[0] = dz;
    step->in[1] = weights;
    step->out[0] = dx;
    b->arrived[unit->in[0]].data = step;
    return HL_OK;
}

/* The penalty's part of the gradient of the head's input, beside that of the loss. */
static hl_status spectral_gradient(backward *b, const hl_unit *unit)
{
    const hl_graph *graph = b->code->units.graph;
    hl_tensor *dx;
    if (!unit->node->head || graph->spectral.smallest == 0 || !wants_gradient(b, unit->in[0]))
        return HL_OK;
    hl_step *step = backward_step(b, unit, HL_STEP_SPECTRAL_GRAD, 1, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    HL_TRY(new_gradient(b, unit->in[0], &dx));
    step->spectral.eta = graph->spectral.eta;
    step->spectral.smallest = graph->spectral.smallest;
    step->in[0] = b->code->value[unit->in[0]];
    step->out[0] = dx;
    return HL_OK;
}

static hl_status conv_backward(backward *b, const hl_unit *unit, hl_unit_tensors *kept)
{
    hl_tensor *dz;
    if (unit->cache && hl_weight_expr_trains_weight(&unit->expr))
        HL_TRY(recombine_gradients(b, unit, kept, &dz));
    else
        HL_TRY(pass_activation(b, unit, unit->act, b->code->value[unit->out], &dz));
    if (wants_gradient(b, unit->residual))
        HL_TRY(arrive(b, unit->residual, dz));
    HL_TRY(conv_weight_gradients(b, unit, dz));
    HL_TRY(spectral_gradient(b, unit));
    return conv_data_gradient(b, unit, kept, dz);
}

static hl_status norm_backward(backward *b, const hl_unit *unit, const hl_unit_tensors *kept)
{
    hl_tensor *dz, *dx;
    HL_TRY(pass_activation(b, unit, unit->act, b->code->value[unit->out], &dz));
    if (wants_gradient(b, unit->residual))
        HL_TRY(arrive(b, unit->residual, dz));
    bool batch = kept->mean != NULL;
    hl_step *step =
        backward_step(b, unit, batch ? HL_STEP_NORM_BATCH_GRAD : HL_STEP_NORM_GRAD, batch ? 4 : 2, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    HL_TRY(new_gradient(b, unit->in[0], &dx));
    step->norm = unit->node->norm;
    step->in[0] = dz;
    step->in[1] = b->code->value[unit->in[0]];
    if (batch) {
        step->in[2] = kept->mean;
        step->in[3] = kept->inverse_deviation;
    }
    step->out[0] = dx;
    return HL_OK;
}

static hl_status layer_norm_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dy;
    HL_TRY(pass_activation(b, unit, HL_ACT_NONE, NULL, &dy));
    hl_step *step = backward_step(b, unit, HL_STEP_LAYER_NORM_GRAD, 2, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    step->norm = unit->node->norm;
    step->in[0] = dy;
    step->in[1] = b->code->value[unit->in[0]];
    return new_gradient(b, unit->in[0], &step->out[0]);
}

static hl_status drop_path_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dy;
    HL_TRY(pass_activation(b, unit, HL_ACT_NONE, NULL, &dy));
    if (wants_gradient(b, unit->residual))
        HL_TRY(arrive(b, unit->residual, dy));
    hl_step *step = backward_step(b, unit, HL_STEP_DROP_PATH_GRAD, 1, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    step->dropout.p = unit->node->drop;
    step->dropout.id = (uint32_t)unit->node->id;
    step->in[0] = dy;
    return new_gradient(b, unit->in[0], &step->out[0]);
}

/* ADD: every input gets the same tensor. ACT that stands alone: its derivative needs its input. */
static hl_status add_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dz;
    HL_TRY(pass_activation(b, unit, unit->act, b->code->value[unit->out], &dz));
    for (int i = 0; i < unit->in_count; i++)
        if (wants_gradient(b, unit->in[i]))
            HL_TRY(arrive(b, unit->in[i], dz));
    return HL_OK;
}

static hl_status act_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dz;
    hl_value operand = hl_act_from_output(unit->act) ? unit->out : unit->in[0];
    HL_TRY(pass_activation(b, unit, unit->act, b->code->value[operand], &dz));
    return arrive(b, unit->in[0], dz);
}

static hl_status concat_widths(backward *b, const hl_unit *unit, const int64_t **widths)
{
    int64_t *w = hl_arena_take(b->code->arena, (size_t)unit->in_count * sizeof *w);
    if (w == NULL)
        return HL_E_NOMEM;
    for (int i = 0; i < unit->in_count; i++)
        w[i] = b->code->units.graph->nodes[unit->in[i]]->shape.c;
    *widths = w;
    return HL_OK;
}

/* Operations with one step: dy and `extra` forward tensors in, the gradients of all inputs out. */
static hl_status simple_backward(backward *b, const hl_unit *unit, hl_step_kind kind, hl_tensor *const *extra,
                                 int extra_count)
{
    hl_tensor *dy;
    HL_TRY(pass_activation(b, unit, HL_ACT_NONE, NULL, &dy));
    hl_step *step = backward_step(b, unit, kind, 1 + extra_count, unit->in_count);
    if (step == NULL)
        return HL_E_NOMEM;
    if (kind == HL_STEP_DROPOUT_GRAD) {
        step->dropout.p = unit->node->drop;
        step->dropout.id = (uint32_t)unit->node->id;
    } else if (kind == HL_STEP_POOL_GRAD) {
        step->pool = (hl_pool_attr){.window = unit->node->window,
                                    .max = unit->node->pool_max,
                                    .count_padding = unit->node->count_padding};
    }
    if (kind == HL_STEP_CONCAT_GRAD)
        HL_TRY(concat_widths(b, unit, &step->concat.widths));
    step->in[0] = dy;
    for (int i = 0; i < extra_count; i++)
        step->in[1 + i] = extra[i];
    for (int i = 0; i < unit->in_count; i++)
        HL_TRY(new_gradient(b, unit->in[i], &step->out[i]));
    return HL_OK;
}

/* The first half comes last; by then the gradients of both are there, and side by side are their input's. */
static hl_status half_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dz, **second = &b->second_half[unit->in[0]], *dx;
    HL_TRY(pass_activation(b, unit, HL_ACT_NONE, NULL, &dz));
    if (unit->node->half == 1) {
        *second = dz;
        return HL_OK;
    }
    if (*second == NULL)
        return hl_fail(HL_E_INTERNAL, unit->node->name, NULL, "nothing reads the other half");
    hl_step *step = backward_step(b, unit, HL_STEP_CONCAT, 2, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    HL_TRY(new_gradient(b, unit->in[0], &dx));
    step->in[0] = dz;
    step->in[1] = *second;
    step->out[0] = dx;
    return HL_OK;
}

static hl_status interleave_backward(backward *b, const hl_unit *unit)
{
    hl_tensor *dy, *dx;
    HL_TRY(pass_activation(b, unit, HL_ACT_NONE, NULL, &dy));
    int64_t *widths = hl_arena_take(b->code->arena, 2 * sizeof *widths);
    hl_step *step = backward_step(b, unit, HL_STEP_CONCAT_GRAD, 1, 2);
    if (widths == NULL || step == NULL || (step->in[0] = hl_code_view(b->code, dy, 2)) == NULL)
        return HL_E_NOMEM;
    widths[0] = widths[1] = 1;
    step->concat.widths = widths;
    for (int i = 0; i < 2; i++) {
        HL_TRY(new_gradient(b, unit->in[i], &dx));
        step->out[i] = hl_code_view(b->code, dx, 1);
        if (dx != NULL && step->out[i] == NULL)
            return HL_E_NOMEM;
    }
    return HL_OK;
}

static hl_status unit_backward(backward *b, const hl_unit *unit, hl_unit_tensors *kept)
{
    switch (unit->node->op) {
    case HL_OP_CONV:
    case HL_OP_LINEAR:
        return conv_backward(b, unit, kept);
    case HL_OP_NORM:
    case HL_OP_SCALE:
        return norm_backward(b, unit, kept);
    case HL_OP_LAYER_NORM:
        return layer_norm_backward(b, unit);
    case HL_OP_ADD:
        return add_backward(b, unit);
    case HL_OP_ACT:
        return act_backward(b, unit);
    case HL_OP_POOL:
        return simple_backward(b, unit, HL_STEP_POOL_GRAD, &kept->index, 1);
    case HL_OP_GLOBAL_POOL:
        return simple_backward(b, unit, HL_STEP_GLOBAL_POOL_GRAD, NULL, 0);
    case HL_OP_GRID_POOL:
        return simple_backward(b, unit, HL_STEP_GRID_POOL_GRAD, NULL, 0);
    case HL_OP_CONCAT:
        return simple_backward(b, unit, HL_STEP_CONCAT_GRAD, NULL, 0);
    case HL_OP_HALF:
        return half_backward(b, unit);
    case HL_OP_INTERLEAVE:
        return interleave_backward(b, unit);
    case HL_OP_DROPOUT:
        return simple_backward(b, unit, HL_STEP_DROPOUT_GRAD, NULL, 0);
    case HL_OP_DROP_PATH:
        return drop_path_backward(b, unit);
    case HL_OP_MUL: {
        hl_tensor *const factors[2] = {b->code->value[unit->in[0]], b->code->value[unit->in[1]]};
        return simple_backward(b, unit, HL_STEP_MUL_GRAD, factors, 2);
    }
    case HL_OP_INPUT:
        return HL_OK;
    }
    return HL_OK;
}

hl_status hl_lower_backward(hl_code *code, hl_tensor *dlogits)
{
    backward b = {.code = code};
    b.arrived = hl_arena_take(code->arena, code->units.graph->node_count * sizeof *b.arrived);
    b.second_half = hl_arena_take(code->arena, code->units.graph->node_count * sizeof *b.second_half);
    if (b.arrived == NULL || b.second_half == NULL)
        return HL_E_NOMEM;
    HL_TRY(arrive(&b, code->units.output, dlogits));
    for (int k = code->units.count - 1; k >= 0; k--) {
        hl_unit *unit = &code->units.items[k];
        if (unit->removed || !code->units.needs_grad[unit->out] || b.arrived[unit->out].count == 0)
            continue;
        HL_TRY(unit_backward(&b, unit, &code->kept[k]));
    }
    return HL_OK;
}
