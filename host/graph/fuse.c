#include "graph/fuse.h"

static bool is_trained(const hl_param *p)
{
    return p != NULL && p->trained;
}

bool hl_unit_is_trained(const hl_unit *unit)
{
    if (hl_node_has_weight(unit->node))
        return hl_weight_expr_trains_weight(&unit->expr) || hl_weight_expr_trains_bias(&unit->expr);
    bool norm =
        unit->node->op == HL_OP_NORM || unit->node->op == HL_OP_LAYER_NORM || unit->node->op == HL_OP_SCALE;
    return norm && (is_trained(unit->node->norm.scale) || is_trained(unit->node->norm.shift));
}

static hl_status make_units(const hl_graph *g, hl_arena *arena, hl_units *units)
{
    size_t n = g->node_count;
    *units = (hl_units){.items = hl_arena_take(arena, n * sizeof *units->items),
                        .count = (int)n,
                        .maker = hl_arena_take(arena, n * sizeof *units->maker),
                        .uses = hl_arena_take(arena, n * sizeof *units->uses),
                        .needs_grad = hl_arena_take(arena, n * sizeof *units->needs_grad),
                        .graph = g};
    if (!units->items || !units->maker || !units->uses || !units->needs_grad)
        return HL_E_NOMEM;
    for (size_t k = 0; k < n; k++) {
        const hl_node *node = g->nodes[g->order[k]];
        hl_unit *unit = &units->items[k];
        *unit = (hl_unit){.node = node,
                          .expr = node->expr,
                          .in_count = node->in_count,
                          .residual = HL_NO_VALUE,
                          .out = node->id};
        if (node->op == HL_OP_ACT)
            unit->act = node->act;
        unit->in = hl_arena_take(arena, (size_t)node->in_count * sizeof *unit->in);
        if (unit->in == NULL)
            return HL_E_NOMEM;
        bool needs_grad = hl_unit_is_trained(unit);
        for (int i = 0; i < node->in_count; i++) {
            unit->in[i] = node->in[i];
            units->uses[node->in[i]]++;
            needs_grad = needs_grad || units->needs_grad[node->in[i]];
        }
        units->maker[node->id] = (int)k;
        units->needs_grad[node->id] = needs_grad;
    }
    units->uses[g->output]++;
    return HL_OK;
}

/* `unit` disappears: whoever read its output reads `instead`. */
static void bypass(hl_units *units, hl_unit *unit, hl_value instead, hl_value *output)
{
    for (int k = 0; k < units->count; k++)
        for (int i = 0; i < units->items[k].in_count; i++)
            if (units->items[k].in[i] == unit->out)
                units->items[k].in[i] = instead;
    if (*output == unit->out)
        *output = instead;
    units->uses[instead] += units->uses[unit->out] - 1;
    units->maker[unit->out] = -1;
    unit->removed = true;
}

/* Leaves one side of the frontier. Its values count as read once more, so that nothing behind them is fused
 * into their makers. */
static hl_status keep_portion(hl_units *units, hl_portion portion, hl_arena *arena)
{
    HL_TRY(hl_frontier_find(units->graph, arena, &units->frontier));
    for (int i = 0; i < units->frontier.count; i++)
        units->uses[units->frontier.values[i]]++;
    for (int k = 0; k < units->count; k++) {
        hl_unit *unit = &units->items[k];
        unit->removed = units->frontier.fixed[unit->out] != (portion == HL_PORTION_FIXED);
        if (unit->removed)
            units->maker[unit->out] = -1;
    }
    return HL_OK;
}

/* Stochastic depth trains branches: one in which nothing is trained, nor in front of it, stays whole. */
static void remove_dropout(hl_units *units, bool training, hl_value *output)
{
    for (int k = 0; k < units->count; k++) {
        hl_unit *unit = &units->items[k];
        hl_op op = unit->node->op;
        if (unit->removed || (op != HL_OP_DROPOUT && op != HL_OP_DROP_PATH))
            continue;
        if (!training || unit->node->drop == 0.0f ||
            (op == HL_OP_DROP_PATH && !units->needs_grad[unit->node->in[0]]))
            bypass(units, unit, unit->in[0], output);
    }
}

static void remove_unused(hl_units *units)
{
    for (int k = units->count - 1; k >= 0; k--) {
        hl_unit *unit = &units->items[k];
        if (unit->removed || units->uses[unit->out] > 0 || unit->node->op == HL_OP_INPUT)
            continue;
        for (int i = 0; i < unit->in_count; i++)
            units->uses[unit->in[i]]--;
        units->maker[unit->out] = -1;
        unit->removed = true;
    }
}

/* The unit that makes `value`, when it is one that `value`'s only reader may be fused into: a convolution,
 * linear layer, norm, layer scale or stochastic depth with nothing fused behind it yet. */
static hl_unit *fusable_maker(const hl_units *units, hl_value value)
{
    int k = units->maker[value];
    if (k < 0 || units->uses[value] != 1)
        return NULL;
    hl_unit *unit = &units->items[k];
    hl_op op = unit->node->op;
    bool right_kind =
        hl_node_has_weight(unit->node) || op == HL_OP_NORM || op == HL_OP_SCALE || op == HL_OP_DROP_PATH;
    return right_kind && unit->act == HL_ACT_NONE ? unit : NULL;
}

/* `from`'s work is now done by `into`, which makes its value. */
static void absorb(hl_units *units, hl_unit *into, hl_unit *from)
{
    units->maker[into->out] = -1;
    into->out = from->out;
    units->maker[from->out] = (int)(into - units->items);
    from->removed = true;
}

/* A norm behind the sum of two layers: both take its scale, one its mean and shift as well. */
static bool fold_into_sum(hl_units *units, hl_unit *norm)
{
    int k = units->maker[norm->in[0]];
    hl_unit *sum = k >= 0 && units->uses[norm->in[0]] == 1 ? &units->items[k] : NULL;
    if (sum == NULL || sum->node->op != HL_OP_ADD || sum->in_count != 2 || sum->in[0] == sum->in[1] ||
        sum->act != HL_ACT_NONE)
        return false;
    hl_unit *sides[2];
    for (int i = 0; i < 2; i++) {
        sides[i] = fusable_maker(units, sum->in[i]);
        if (sides[i] == NULL || !hl_node_has_weight(sides[i]->node) ||
            hl_weight_expr_is_scaled(&sides[i]->expr))
            return false;
    }
    for (int i = 0; i < 2; i++) {
        sides[i]->expr.norm_scale = norm->node->norm.scale;
        sides[i]->expr.norm_var = norm->node->norm.var;
        sides[i]->expr.eps = norm->node->norm.eps;
    }
    sides[0]->expr.norm_shift = norm->node->norm.shift;
    sides[0]->expr.norm_mean = norm->node->norm.mean;
    absorb(units, sum, norm);
    return true;
}

static void fold_norms(hl_units *units, bool training)
{
    for (int k = 0; k < units->count; k++) {
        hl_unit *unit = &units->items[k];
        if (unit->removed || (unit->node->op != HL_OP_NORM && unit->node->op != HL_OP_SCALE))
            continue;
        const hl_norm_attr *norm = &unit->node->norm;
        if (training && (unit->node->batch_statistics || is_trained(norm->scale)))
            continue;
        if (fold_into_sum(units, unit))
            continue;
        hl_unit *conv = fusable_maker(units, unit->in[0]);
        if (conv == NULL || !hl_node_has_weight(conv->node) || hl_weight_expr_is_scaled(&conv->expr))
            continue;
        conv->expr.norm_scale = norm->scale;
        conv->expr.norm_shift = norm->shift;
        conv->expr.norm_mean = norm->mean;
        conv->expr.norm_var = norm->var;
        conv->expr.eps = norm->eps;
        absorb(units, conv, unit);
    }
}

/* A third summand, `other`, becomes the residual of the unit that makes `value`, if it is there by then. */
static bool pass_on(hl_units *units, hl_value value, hl_value other)
{
    hl_unit *unit = fusable_maker(units, value);
    if (unit == NULL || unit->residual != HL_NO_VALUE || units->maker[other] < 0 ||
        units->maker[other] >= units->maker[value])
        return false;
    unit->residual = other;
    units->needs_grad[value] = units->needs_grad[value] || units->needs_grad[other];
    return true;
}

static void fuse_residuals(hl_units *units)
{
    for (int k = 0; k < units->count; k++) {
        hl_unit *add = &units->items[k];
        if (add->removed || add->node->op != HL_OP_ADD || add->in_count != 2 || add->in[0] == add->in[1])
            continue;
        hl_unit *left = fusable_maker(units, add->in[0]), *right = fusable_maker(units, add->in[1]);
        /* The later of the two makes the sum: by then the other value exists. */
        int at_left = units->maker[add->in[0]], at_right = units->maker[add->in[1]];
        hl_unit *last = at_left > at_right ? left : right;
        if (last == NULL)
            continue;
        hl_value other = last == left ? add->in[1] : add->in[0];
        if (last->residual != HL_NO_VALUE && !pass_on(units, last->residual, other))
            continue;
        if (last->residual == HL_NO_VALUE)
            last->residual = other;
        absorb(units, last, add);
    }
}

static void fuse_activations(hl_units *units, bool training)
{
    for (int k = 0; k < units->count; k++) {
        hl_unit *act = &units->items[k];
        if (act->removed || act->node->op != HL_OP_ACT)
            continue;
        if (training && units->needs_grad[act->out] && !hl_act_from_output(act->act))
            continue;
        hl_value before = act->in[0];
        int maker = units->maker[before];
        hl_unit *into = fusable_maker(units, before);
        if (into == NULL && maker >= 0 && units->uses[before] == 1 &&
            units->items[maker].node->op == HL_OP_ADD && units->items[maker].act == HL_ACT_NONE)
            into = &units->items[maker];
        if (into == NULL || into->node->op == HL_OP_DROP_PATH)
            continue;
        into->act = act->act;
        absorb(units, into, act);
    }
}

static bool is_depthwise(const hl_node *node)
{
    return node->groups > 1 && node->expr.weight->shape[1] == 1;
}

static void choose_projection(hl_units *units, const hl_compile_options *options)
{
    for (int k = 0; k < units->count; k++) {
        hl_unit *unit = &units->items[k];
        /* Kept sub-function outputs are those of frozen filters; and only the gates' gradient profits from
         * them. */
        if (!unit->removed && unit->expr.kind == HL_WEIGHT_ROW && options->training)
            unit->cache = is_trained(unit->expr.gate) || is_trained(unit->expr.offset);
        if (unit->removed || unit->node->op != HL_OP_CONV || unit->expr.kind != HL_WEIGHT_GATED ||
            unit->expr.weight->trained || options->projection == HL_PROJECTION_FOLD)
            continue;
        unit->cache =
            options->projection == HL_PROJECTION_CACHE || (options->training && is_depthwise(unit->node));
    }
}

hl_status hl_units_form(const hl_graph *graph, const hl_compile_options *options, hl_arena *arena,
                        hl_units *units)
{
    HL_TRY(make_units(graph, arena, units));
    hl_value output = graph->output;
    if (options->portion != HL_PORTION_ALL)
        HL_TRY(keep_portion(units, options->portion, arena));
    remove_dropout(units, options->training, &output);
    remove_unused(units);
    fold_norms(units, options->training);
    fuse_residuals(units);
    fuse_activations(units, options->training);
    choose_projection(units, options);
    units->output = output;
    return HL_OK;
}
