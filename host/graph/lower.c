#include "graph/lower.h"

#include <stdlib.h>
#include <string.h>

hl_tensor *hl_code_tensor(hl_code *code, const char *name, hl_shape shape, hl_elem elem, hl_place place)
{
    if (hl_grow((void **)&code->tensors, &code->tensor_capacity, code->tensor_count + 1,
                sizeof *code->tensors, name) != HL_OK)
        return NULL;
    hl_tensor *t = hl_arena_take(code->arena, sizeof *t);
    if (t == NULL)
        return NULL;
    *t = (hl_tensor){.name = name, .shape = shape, .elem = elem, .place = place};
    t->bytes = (size_t)hl_shape_count(shape) * hl_elem_size(elem);
    code->tensors[code->tensor_count++] = t;
    return t;
}

hl_tensor *hl_code_view(hl_code *code, hl_tensor *base, int64_t channels)
{
    if (base == NULL)
        return NULL;
    hl_shape shape = base->shape;
    shape.w *= shape.c / channels;
    shape.c = channels;
    hl_tensor *t = hl_code_tensor(code, base->name, shape, base->elem, HL_PLACE_ARENA);
    if (t != NULL)
        t->base = base;
    return t;
}

hl_tensor *hl_code_opaque(hl_code *code, const char *name, hl_elem elem, hl_place place)
{
    hl_tensor *t = hl_code_tensor(code, name, (hl_shape){0}, elem, place);
    if (t != NULL)
        t->opaque = true;
    return t;
}

hl_step *hl_code_step(hl_code *code, hl_step_list *list, hl_step_kind kind, const char *name, int in_count,
                      int out_count)
{
    if (hl_grow((void **)&list->items, &list->capacity, list->count + 1, sizeof *list->items, name) != HL_OK)
        return NULL;
    hl_step *step = hl_arena_take(code->arena, sizeof *step);
    hl_tensor **operands = hl_arena_take(code->arena, (size_t)(in_count + out_count) * sizeof *operands);
    if (step == NULL || operands == NULL)
        return NULL;
    *step = (hl_step){.kind = kind,
                      .name = name,
                      .in = operands,
                      .out = operands + in_count,
                      .in_count = in_count,
                      .out_count = out_count,
                      .run = code->options->run,
                      .record = code->options->record};
    list->items[list->count++] = step;
    return step;
}

hl_conv_attr hl_unit_conv_attr(const hl_code *code, const hl_unit *unit)
{
    return (hl_conv_attr){.tf32 = code->options->tf32,
                          .winograd = code->options->winograd,
                          .window = unit->node->window,
                          .groups = unit->node->groups,
                          .expr = &unit->expr};
}

hl_step *hl_code_fold(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr, bool changes)
{
    hl_step_list *list = changes ? &code->refresh : &code->once;
    hl_step *fold = hl_code_step(code, list, HL_STEP_FOLD, unit->node->name, 0, 3);
    if (fold != NULL) {
        fold->conv = hl_unit_conv_attr(code, unit);
        fold->conv.expr = expr;
    }
    return fold;
}

hl_step *hl_code_fold_both(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr, hl_tensor *weights,
                           hl_tensor *bias)
{
    bool dynamic = hl_weight_expr_is_dynamic(expr), changes = hl_weight_expr_changes_weight(expr);
    hl_step *fold = hl_code_fold(code, unit, expr, changes);
    hl_step *of_bias = fold;
    if (bias != NULL && dynamic && !changes)
        of_bias = hl_code_fold(code, unit, expr, true);
    if (fold == NULL || of_bias == NULL)
        return NULL;
    fold->out[0] = weights;
    of_bias->out[2] = bias;
    return fold;
}

/* A node's shape for the whole batch. */
hl_shape hl_code_shape(const hl_code *code, hl_value value)
{
    hl_shape s = code->units.graph->nodes[value]->shape;
    s.n = code->options->batch;
    return s;
}

static bool is_frontier(const hl_code *code, hl_value value)
{
    const hl_frontier *f = &code->units.frontier;
    for (int i = 0; i < f->count; i++)
        if (f->values[i] == value)
            return true;
    return false;
}

/* The frontier comes in from outside. */
static hl_status take_features(hl_code *code)
{
    const hl_frontier *f = &code->units.frontier;
    for (int i = 0; i < f->count; i++) {
        hl_value v = f->values[i];
        code->value[v] = hl_code_tensor(code, code->units.graph->nodes[v]->name, hl_code_shape(code, v),
                                        code->options->elem, HL_PLACE_PERSISTENT);
        if (code->value[v] == NULL)
            return HL_E_NOMEM;
    }
    return HL_OK;
}

/* The tensor of the value that `unit` makes. The logits stay f32, whatever the precision. */
hl_tensor *hl_code_output(hl_code *code, const hl_unit *unit)
{
    bool logits = unit->out == code->units.output;
    hl_place place = logits || code->options->keep_all || is_frontier(code, unit->out) ? HL_PLACE_PERSISTENT
                                                                                       : HL_PLACE_ARENA;
    hl_tensor *t = hl_code_tensor(code, unit->node->name, hl_code_shape(code, unit->out),
                                  logits ? HL_ELEM_F32 : code->options->elem, place);
    code->value[unit->out] = t;
    return t;
}

hl_tensor *hl_code_bias(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr)
{
    if (!hl_weight_expr_has_bias(expr))
        return NULL;
    bool logits = unit->out == code->units.output;
    return hl_code_tensor(code, unit->node->name, (hl_shape){1, 1, 1, expr->weight->shape[0]},
                          code->backend->bias_as_output && !logits ? code->options->elem : HL_ELEM_F32,
                          HL_PLACE_PERSISTENT);
}

hl_tensor *hl_code_value(const hl_code *code, hl_value value)
{
    return value == HL_NO_VALUE ? NULL : code->value[value];
}

static hl_status lower_folded_conv(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    hl_step *conv = hl_code_step(code, &code->forward, HL_STEP_CONV, unit->node->name, 4, 1);
    hl_tensor *weights = hl_code_opaque(code, unit->node->name, code->options->elem, HL_PLACE_PERSISTENT);
    hl_tensor *bias = hl_code_bias(code, unit, &unit->expr), *y = hl_code_output(code, unit);
    if (conv == NULL || weights == NULL || y == NULL ||
        (bias == NULL && hl_weight_expr_has_bias(&unit->expr)))
        return HL_E_NOMEM;
    kept->fold = hl_code_fold_both(code, unit, &unit->expr, weights, bias);
    if (kept->fold == NULL)
        return HL_E_NOMEM;
    conv->conv = hl_unit_conv_attr(code, unit);
    conv->conv.act = unit->act;
    conv->in[0] = hl_code_value(code, unit->in[0]);
    conv->in[1] = weights;
    conv->in[2] = bias;
    conv->in[3] = hl_code_value(code, unit->residual);
    conv->out[0] = y;
    return HL_OK;
}

static hl_status lower_norm(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    bool batch = unit->node->batch_statistics && code->options->training;
    hl_step *step = hl_code_step(code, &code->forward, batch ? HL_STEP_NORM_BATCH : HL_STEP_NORM,
                                 unit->node->name, 2, batch ? 3 : 1);
    if (step == NULL)
        return HL_E_NOMEM;
    step->norm = unit->node->norm;
    step->norm.act = unit->act;
    step->in[0] = hl_code_value(code, unit->in[0]);
    step->in[1] = hl_code_value(code, unit->residual);
    step->out[0] = hl_code_output(code, unit);
    if (batch) {
        hl_shape vector = {1, 1, 1, unit->node->shape.c};
        step->out[1] = kept->mean =
            hl_code_tensor(code, unit->node->name, vector, HL_ELEM_F32, HL_PLACE_ARENA);
        step->out[2] = kept->inverse_deviation =
            hl_code_tensor(code, unit->node->name, vector, HL_ELEM_F32, HL_PLACE_ARENA);
        if (kept->mean == NULL || kept->inverse_deviation == NULL)
            return HL_E_NOMEM;
    }
    return step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status lower_layer_norm(hl_code *code, const hl_unit *unit)
{
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_LAYER_NORM, unit->node->name, 1, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    step->norm = unit->node->norm;
    step->in[0] = hl_code_value(code, unit->in[0]);
    step->out[0] = hl_code_output(code, unit);
    return step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status lower_drop_path(hl_code *code, const hl_unit *unit)
{
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_DROP_PATH, unit->node->name, 2, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    step->dropout.p = unit->node->drop;
    step->dropout.id = (uint32_t)unit->node->id;
    step->in[0] = hl_code_value(code, unit->in[0]);
    step->in[1] = hl_code_value(code, unit->residual);
    step->out[0] = hl_code_output(code, unit);
    return step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status lower_input(hl_code *code, const hl_unit *unit)
{
    const hl_compile_options *o = code->options;
    hl_shape shape = hl_code_shape(code, unit->out), per_sample = {shape.n, 1, 1, 1};
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_INPUT, "input", 3, 1);
    code->images =
        hl_code_tensor(code, "images", shape, o->raw_input ? HL_ELEM_F32 : HL_ELEM_U8, HL_PLACE_PERSISTENT);
    if (!o->raw_input)
        code->flips = hl_code_tensor(code, "flips", per_sample, HL_ELEM_U8, HL_PLACE_PERSISTENT);
    if (o->mix)
        code->mixes = hl_code_tensor(code, "mixes", (hl_shape){shape.n, 1, 1, (int64_t)sizeof(hl_mix)},
                                     HL_ELEM_U8, HL_PLACE_PERSISTENT);
    hl_tensor *y = hl_code_output(code, unit);
    if (step == NULL || code->images == NULL || (!o->raw_input && code->flips == NULL) ||
        (o->mix && code->mixes == NULL) || y == NULL)
        return HL_E_NOMEM;
    step->input.raw = o->raw_input;
    memcpy(step->input.mean, o->mean, sizeof o->mean);
    memcpy(step->input.std, o->std, sizeof o->std);
    step->in[0] = code->images;
    step->in[1] = code->flips;
    step->in[2] = code->mixes;
    step->out[0] = y;
    return HL_OK;
}

static hl_status lower_pool(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    const hl_node *node = unit->node;
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_POOL, node->name, 1, 2);
    if (step == NULL)
        return HL_E_NOMEM;
    step->pool =
        (hl_pool_attr){.window = node->window, .max = node->pool_max, .count_padding = node->count_padding};
    step->in[0] = hl_code_value(code, unit->in[0]);
    step->out[0] = hl_code_output(code, unit);
    if (node->pool_max && code->options->training && code->units.needs_grad[unit->in[0]]) {
        hl_elem elem = node->window.kh * node->window.kw <= 256 ? HL_ELEM_U8 : HL_ELEM_I32;
        step->out[1] = kept->index =
            hl_code_tensor(code, node->name, hl_code_shape(code, unit->out), elem, HL_PLACE_ARENA);
        if (kept->index == NULL)
            return HL_E_NOMEM;
    }
    return step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

/* Operations that are one step with all inputs in and the value out. */
static hl_status lower_simple(hl_code *code, const hl_unit *unit, hl_step_kind kind)
{
    const hl_node *node = unit->node;
    hl_step *step = hl_code_step(code, &code->forward, kind, node->name, unit->in_count, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    if (kind == HL_STEP_DROPOUT) {
        step->dropout.p = node->drop;
        step->dropout.id = (uint32_t)node->id;
    } else {
        step->act.act = unit->act;
    }
    for (int i = 0; i < unit->in_count; i++)
        step->in[i] = hl_code_value(code, unit->in[i]);
    step->out[0] = hl_code_output(code, unit);
    return step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

/* Taking channels apart is what the gradient of a concatenation does; here of one part alone. */
static hl_status lower_half(hl_code *code, const hl_unit *unit)
{
    int64_t *widths = hl_arena_take(code->arena, 2 * sizeof *widths);
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_CONCAT_GRAD, unit->node->name, 1, 2);
    if (widths == NULL || step == NULL)
        return HL_E_NOMEM;
    widths[0] = widths[1] = unit->node->shape.c;
    step->concat.widths = widths;
    step->in[0] = hl_code_value(code, unit->in[0]);
    step->out[unit->node->half] = hl_code_output(code, unit);
    return step->out[unit->node->half] == NULL ? HL_E_NOMEM : HL_OK;
}

/* Channels in turn are a concatenation of pixels of one channel to pixels of two. */
static hl_status lower_interleave(hl_code *code, const hl_unit *unit)
{
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_CONCAT, unit->node->name, 2, 1);
    if (step == NULL)
        return HL_E_NOMEM;
    for (int i = 0; i < 2; i++)
        step->in[i] = hl_code_view(code, hl_code_value(code, unit->in[i]), 1);
    step->out[0] = hl_code_view(code, hl_code_output(code, unit), 2);
    return step->in[0] == NULL || step->in[1] == NULL || step->out[0] == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status lower_unit(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept)
{
    switch (unit->node->op) {
    case HL_OP_INPUT:
        return lower_input(code, unit);
    case HL_OP_CONV:
    case HL_OP_LINEAR:
        return unit->cache ? hl_lower_cached(code, unit, kept) : lower_folded_conv(code, unit, kept);
    case HL_OP_NORM:
    case HL_OP_SCALE:
        return lower_norm(code, unit, kept);
    case HL_OP_LAYER_NORM:
        return lower_layer_norm(code, unit);
    case HL_OP_POOL:
        return lower_pool(code, unit, kept);
    case HL_OP_ACT:
        return lower_simple(code, unit, HL_STEP_ACT);
    case HL_OP_GLOBAL_POOL:
        return lower_simple(code, unit, HL_STEP_GLOBAL_POOL);
    case HL_OP_GRID_POOL:
        return lower_simple(code, unit, HL_STEP_GRID_POOL);
    case HL_OP_ADD:
        return lower_simple(code, unit, HL_STEP_ADD);
    case HL_OP_MUL:
        return lower_simple(code, unit, HL_STEP_MUL);
    case HL_OP_CONCAT:
        return lower_simple(code, unit, HL_STEP_CONCAT);
    case HL_OP_HALF:
        return lower_half(code, unit);
    case HL_OP_INTERLEAVE:
        return lower_interleave(code, unit);
    case HL_OP_DROPOUT:
        return lower_simple(code, unit, HL_STEP_DROPOUT);
    case HL_OP_DROP_PATH:
        return lower_drop_path(code, unit);
    }
    return hl_fail(HL_E_INTERNAL, unit->node->name, NULL, "unknown operation %d", (int)unit->node->op);
}

static hl_status lower_tally(hl_code *code)
{
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_TALLY, "loss", 3, 0);
    if (step == NULL)
        return HL_E_NOMEM;
    step->in[0] = code->losses;
    step->in[1] = code->logits;
    step->in[2] = code->labels;
    return HL_OK;
}

static hl_status lower_loss(hl_code *code, hl_tensor **dlogits)
{
    hl_shape per_sample = {code->options->batch, 1, 1, 1};
    hl_step *step = hl_code_step(code, &code->forward, HL_STEP_LOSS, "loss", 3, 2);
    code->logits = code->value[code->units.output];
    code->labels = hl_code_tensor(code, "labels", per_sample, HL_ELEM_I32, HL_PLACE_PERSISTENT);
    code->losses = hl_code_tensor(code, "losses", per_sample, HL_ELEM_F32, HL_PLACE_PERSISTENT);
    if (step == NULL || code->labels == NULL || code->losses == NULL)
        return HL_E_NOMEM;
    if (code->logits->shape.h != 1 || code->logits->shape.w != 1)
        return hl_fail(HL_E_ARG, code->logits->name, NULL,
                       "the network ends in a map of %lld x %lld, not in class scores",
                       (long long)code->logits->shape.h, (long long)code->logits->shape.w);
    *dlogits = NULL;
    if (code->options->training && code->units.needs_grad[code->units.output]) {
        *dlogits = hl_code_tensor(code, "loss", code->logits->shape, code->options->elem, HL_PLACE_ARENA);
        if (*dlogits == NULL)
            return HL_E_NOMEM;
    }
    step->loss.smoothing = code->options->smoothing;
    step->in[0] = code->logits;
    step->in[1] = code->labels;
    step->in[2] = code->mixes;
    step->out[0] = code->losses;
    step->out[1] = *dlogits;
    return code->options->record != NULL ? lower_tally(code) : HL_OK;
}

hl_status hl_lower(hl_code *code)
{
    size_t values = code->units.graph->node_count;
    code->value = hl_arena_take(code->arena, values * sizeof(hl_tensor *));
    code->gradient = hl_arena_take(code->arena, values * sizeof(hl_tensor *));
    code->kept = hl_arena_take(code->arena, (size_t)code->units.count * sizeof *code->kept);
    if (code->value == NULL || code->gradient == NULL || code->kept == NULL)
        return HL_E_NOMEM;
    if (code->options->portion == HL_PORTION_CHANGING)
        HL_TRY(take_features(code));
    for (int k = 0; k < code->units.count; k++)
        if (!code->units.items[k].removed)
            HL_TRY(lower_unit(code, &code->units.items[k], &code->kept[k]));
    if (code->options->portion == HL_PORTION_FIXED)
        return HL_OK;
    hl_tensor *dlogits = NULL;
    HL_TRY(lower_loss(code, &dlogits));
    return dlogits != NULL ? hl_lower_backward(code, dlogits) : HL_OK;
}

void hl_code_free(hl_code *code)
{
    free(code->once.items);
    free(code->refresh.items);
    free(code->forward.items);
    free(code->backward.items);
    free(code->tensors);
}
