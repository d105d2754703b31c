#include "graph/shrink.h"

#include <math.h>
#include <string.h>

#include "graph/copy.h"

/* A convolution, what follows it channel by channel, and the layer that reads it all. */
typedef struct chain {
    const hl_node **nodes; /* front, ..., reader */
    int count;
} chain;

typedef struct shrinker {
    const hl_graph *graph;
    hl_arena *arena;
    hl_graph_part part;     /* what is kept, and what biases gain */
    const hl_node **reader; /* of each value, where it is read once */
    chain *chains;
    int chain_count;
    hl_shrink_counts counts;
} shrinker;

static bool is_dense(const hl_node *n)
{
    return n->op == HL_OP_LINEAR || (n->op == HL_OP_CONV && n->groups == 1);
}

static bool is_depthwise(const hl_graph *g, const hl_node *n)
{
    int64_t inputs = hl_graph_node(g, n->in[0])->shape.c;
    return n->op == HL_OP_CONV && n->groups == inputs && n->shape.c == inputs && !n->head;
}

static bool keeps_channels(const shrinker *s, const hl_node *n)
{
    return n->op == HL_OP_NORM || n->op == HL_OP_SCALE || n->op == HL_OP_ACT || n->op == HL_OP_DROPOUT ||
           n->op == HL_OP_POOL || n->op == HL_OP_GLOBAL_POOL || n->op == HL_OP_GRID_POOL ||
           is_depthwise(s->graph, n);
}

static hl_status find_readers(shrinker *s)
{
    const hl_graph *g = s->graph;
    int *reads = hl_arena_take(s->arena, g->node_count * sizeof *reads);
    s->reader = hl_arena_take(s->arena, g->node_count * sizeof *s->reader);
    if (reads == NULL || s->reader == NULL)
        return HL_E_NOMEM;
    for (size_t v = 0; v < g->node_count; v++)
        for (int i = 0; i < g->nodes[v]->in_count; i++) {
            hl_value from = g->nodes[v]->in[i];
            reads[from]++;
            s->reader[from] = g->nodes[v];
        }
    reads[g->output]++;
    for (size_t v = 0; v < g->node_count; v++)
        if (reads[v] != 1 || (hl_value)v == g->output)
            s->reader[v] = NULL;
    return HL_OK;
}

/* The chain that begins at `front`; count 0: none. */
static hl_status follow(shrinker *s, const hl_node *front, chain *c)
{
    int count = 1;
    const hl_node *n = s->reader[front->id];
    *c = (chain){0};
    for (; n != NULL && !is_dense(n) && keeps_channels(s, n); n = s->reader[n->id])
        count++;
    if (n == NULL || !is_dense(n))
        return HL_OK;
    c->nodes = hl_arena_take(s->arena, (size_t)(count + 1) * sizeof *c->nodes);
    if (c->nodes == NULL)
        return HL_E_NOMEM;
    for (n = front; c->count <= count; n = s->reader[n->id])
        c->nodes[c->count++] = n;
    return HL_OK;
}

/* All values of a chain, but the reader's, have the same channels. */
static hl_status find_chains(shrinker *s)
{
    const hl_graph *g = s->graph;
    s->chains = hl_arena_take(s->arena, g->node_count * sizeof *s->chains);
    if (s->chains == NULL)
        return HL_E_NOMEM;
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *front = g->nodes[g->order[k]];
        chain *c = &s->chains[s->chain_count];
        if (!is_dense(front) || front->head)
            continue;
        HL_TRY(follow(s, front, c));
        if (c->count == 0)
            continue;
        bool *kept = hl_arena_take(s->arena, (size_t)front->shape.c * sizeof *kept);
        double *gain = hl_arena_take(s->arena, (size_t)c->nodes[c->count - 1]->shape.c * sizeof *gain);
        if (kept == NULL || gain == NULL)
            return HL_E_NOMEM;
        memset(kept, true, (size_t)front->shape.c * sizeof *kept);
        for (int i = 0; i + 1 < c->count; i++)
            s->part.kept[c->nodes[i]->id] = kept;
        s->part.gain[c->nodes[c->count - 1]->id] = gain;
        s->chain_count++;
    }
    return HL_OK;
}

static bool is_kept(const shrinker *s, hl_value v, int64_t channel)
{
    return s->part.kept[v] == NULL || s->part.kept[v][channel];
}

static int64_t window_of(const hl_node *n)
{
    return n->window.kh * n->window.kw;
}

static const float *filter(const hl_node *n, int64_t output, int64_t input)
{
    const hl_param *w = n->expr.weight;
    return w->host + (output * w->shape[1] + input) * window_of(n);
}

static bool is_zero(const float *values, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (values[i] != 0.0f)
            return false;
    return true;
}

static double sum(const float *values, int64_t count)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++)
        total += (double)values[i];
    return total;
}

/* Of a dense layer: does no input that is there give to the output? */
static bool gets_nothing(const shrinker *s, const hl_node *n, int64_t output)
{
    for (int64_t i = 0; i < n->expr.weight->shape[1]; i++)
        if (is_kept(s, n->in[0], i) && !is_zero(filter(n, output, i), window_of(n)))
            return false;
    return true;
}

static bool is_unread(const shrinker *s, const hl_node *reader, int64_t input)
{
    for (int64_t o = 0; o < reader->shape.c; o++)
        if (is_kept(s, reader->id, o) && !is_zero(filter(reader, o, input), window_of(reader)))
            return false;
    return true;
}

static double bias_of(const shrinker *s, const hl_node *n, int64_t output)
{
    double gain = s->part.gain[n->id] != NULL ? s->part.gain[n->id][output] : 0.0;
    return gain + (n->expr.bias != NULL ? (double)n->expr.bias->host[output] : 0.0);
}

static bool is_padded(const hl_node *n)
{
    const hl_window *w = &n->window;
    return w->top > 0 || w->bottom > 0 || w->left > 0 || w->right > 0;
}

static double act_of(hl_act act, double x)
{
    double hard = fmin(fmax(x / 6.0 + 0.5, 0.0), 1.0);
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        return fmax(x, 0.0);
    case HL_ACT_RELU6:
        return fmin(fmax(x, 0.0), 6.0);
    case HL_ACT_SIGMOID:
        return 1.0 / (1.0 + exp(-x));
    case HL_ACT_HARDSIGMOID:
        return hard;
    case HL_ACT_SILU:
        return x / (1.0 + exp(-x));
    case HL_ACT_HARDSWISH:
        return x * hard;
    case HL_ACT_GELU:
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case HL_ACT_TANH:
        return tanh(x);
    }
    return x;
}

/* A constant behind a node that keeps channels; false: it is none any more, at the borders. */
static bool pass(const hl_node *n, int64_t channel, double *k)
{
    const hl_norm_attr *norm = &n->norm;
    bool cut = is_padded(n) && *k != 0.0;
    switch (n->op) {
    case HL_OP_NORM:
        *k = (double)norm->scale->host[channel] * (*k - (double)norm->mean->host[channel]) /
                 sqrt((double)norm->var->host[channel] + (double)norm->eps) +
             (double)norm->shift->host[channel];
        return true;
    case HL_OP_SCALE:
        *k *= (double)norm->scale->host[channel];
        return true;
    case HL_OP_ACT:
        *k = act_of(n->act, *k);
        return true;
    case HL_OP_POOL:
        return n->pool_max || !n->count_padding || !cut;
    case HL_OP_CONV:
        *k *= sum(filter(n, channel, 0), window_of(n));
        *k += n->expr.bias != NULL ? (double)n->expr.bias->host[channel] : 0.0;
        return !cut;
    default: /* dropout and means over a map or its cells */
        return true;
    }
}

/* Is a channel the same everywhere when it comes to the reader? */
static bool is_constant(const shrinker *s, const chain *c, int64_t channel, double *k)
{
    bool constant = gets_nothing(s, c->nodes[0], channel);
    *k = constant ? bias_of(s, c->nodes[0], channel) : 0.0;
    for (int i = 1; i + 1 < c->count; i++) {
        const hl_node *n = c->nodes[i];
        if (n->op == HL_OP_CONV && is_zero(filter(n, channel, 0), window_of(n))) {
            constant = true;
            *k = 0.0; /* whatever it was: nothing of it goes in */
        }
        constant = constant && pass(n, channel, k);
    }
    return constant && isfinite(*k);
}

/* Takes the channel out if that is exact; its constant goes into the reader's bias. */
static bool take_out(shrinker *s, const chain *c, int64_t channel)
{
    const hl_node *reader = c->nodes[c->count - 1];
    double k = 0.0;
    if (!is_unread(s, reader, channel)) {
        if (!is_constant(s, c, channel, &k) || (k != 0.0 && is_padded(reader)))
            return false;
        for (int64_t o = 0; o < reader->shape.c; o++)
            s->part.gain[reader->id][o] += k * sum(filter(reader, o, channel), window_of(reader));
    }
    s->part.kept[c->nodes[0]->id][channel] = false;
    return true;
}

static int64_t kept_count(const shrinker *s, const chain *c)
{
    return hl_graph_part_channels(s->graph, &s->part, c->nodes[0]->id);
}

/* What goes makes other channels go: until nothing more does. One channel of each chain stays. */
static void take_all(shrinker *s)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (int i = 0; i < s->chain_count; i++) {
            const chain *c = &s->chains[i];
            int64_t kept = kept_count(s, c);
            for (int64_t channel = 0; channel < c->nodes[0]->shape.c && kept > 1; channel++) {
                if (!is_kept(s, c->nodes[0]->id, channel) || !take_out(s, c, channel))
                    continue;
                s->counts.removed++;
                kept--;
                changed = true;
            }
        }
    }
}

static void count_left(shrinker *s)
{
    const hl_graph *g = s->graph;
    for (size_t v = 0; v < g->node_count; v++) {
        const hl_node *n = g->nodes[v];
        for (int64_t o = 0; is_dense(n) && !n->head && o < n->shape.c; o++)
            s->counts.left += is_kept(s, n->id, o) && gets_nothing(s, n, o);
    }
}

static hl_status shrink(shrinker *s, hl_graph **smaller)
{
    size_t count = s->graph->node_count;
    s->part.kept = hl_arena_take(s->arena, count * sizeof *s->part.kept);
    s->part.gain = hl_arena_take(s->arena, count * sizeof *s->part.gain);
    if (s->part.kept == NULL || s->part.gain == NULL)
        return HL_E_NOMEM;
    HL_TRY(find_readers(s));
    HL_TRY(find_chains(s));
    take_all(s);
    count_left(s);
    return hl_graph_copy_part(s->graph, &s->part, smaller);
}

hl_status hl_graph_shrink(const hl_graph *graph, hl_graph **smaller, hl_shrink_counts *counts)
{
    shrinker s = {.graph = graph};
    *smaller = NULL;
    HL_TRY(hl_arena_create(&s.arena));
    hl_status status = shrink(&s, smaller);
    *counts = s.counts;
    hl_arena_destroy(s.arena);
    return status;
}
