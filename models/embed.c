/* A feedforward network as a convolutional one: a scalar times a feature is a 1x1 kernel over a map of one
 * pixel, and a weight over a flattened patch is a kernel of the patch's size. The numbers stay where they
 * are: [O, C, kh, kw] in C order is [O, C kh kw] over what torch's flatten makes of a patch. */
#include <stdio.h>
#include <string.h>

#include "models/feedforward.h"

typedef struct embedding {
    const hl_graph *from;
    hl_graph *to;
    hl_embed_shape shape;
    bool linear;    /* a copy: linear layers stay */
    hl_value *made; /* by the values of `from` */
} embedding;

static hl_status refuse(const hl_node *node, const char *why)
{
    return hl_fail(HL_E_UNSUPPORTED, node->name,
                   "a feedforward network is linear layers and pointwise functions", "%s", why);
}

static hl_status no_patch(const hl_node *node, int64_t features, const hl_embed_shape *s)
{
    char subject[64];
    snprintf(subject, sizeof subject, "--spatial %lldx%lld", (long long)s->kernel_h, (long long)s->kernel_w);
    return hl_fail(HL_E_ARG, subject, "its area must divide the number of features",
                   "%s takes %lld features, which are no patch of that size", node->name,
                   (long long)features);
}

static hl_status put_input(embedding *e, const hl_node *node)
{
    hl_embed_shape *s = &e->shape;
    hl_shape in = node->shape;
    bool vector = in.h == 1 && in.w == 1, patch = s->kernel_h > 0;
    if (patch && !vector && (in.h != s->kernel_h || in.w != s->kernel_w))
        return hl_fail(HL_E_ARG, "--spatial", "leave it out", "the file takes maps of %lldx%lld itself",
                       (long long)in.h, (long long)in.w);
    if (!patch) {
        s->kernel_h = in.h;
        s->kernel_w = in.w;
    }
    int64_t area = s->kernel_h * s->kernel_w, channels = in.c;
    if (vector && area > 1) {
        if (in.c % area != 0)
            return no_patch(node, in.c, s);
        channels = in.c / area;
    }
    int64_t h = s->height > 0 ? s->height : s->kernel_h, w = s->width > 0 ? s->width : s->kernel_w;
    e->made[node->id] = hl_graph_input(e->to, h, w, channels);
    return HL_OK;
}

static void copy_values(const hl_param *from, hl_param *to)
{
    if (from != NULL && to != NULL) {
        memcpy(to->host, from->host, (size_t)from->count * sizeof *from->host);
        to->head = from->head;
    }
}

static hl_status put_linear(embedding *e, const hl_node *node)
{
    const hl_node *source = hl_graph_node(e->from, node->in[0]);
    bool reads_vector = source->op == HL_OP_INPUT && source->shape.h == 1 && source->shape.w == 1;
    hl_conv_spec spec = {.out = node->shape.c,
                         .kernel_h = reads_vector ? e->shape.kernel_h : node->window.kh,
                         .kernel_w = reads_vector ? e->shape.kernel_w : node->window.kw,
                         .bias = node->expr.bias != NULL};
    if (node->expr.kind != HL_WEIGHT_PLAIN)
        return refuse(node, "a layer with a method is merged first");
    hl_value made = hl_graph_conv(e->to, node->name, e->made[node->in[0]], spec);
    e->made[node->id] = made;
    if (made == HL_NO_VALUE)
        return hl_fail_text(e->to->status, e->to->error);
    hl_node *layer = hl_graph_node(e->to, made);
    layer->head = node->head;
    copy_values(node->expr.weight, layer->expr.weight);
    copy_values(node->expr.bias, layer->expr.bias);
    return HL_OK;
}

static void put_norm(embedding *e, const hl_node *node)
{
    hl_value made =
        hl_graph_norm(e->to, node->name, e->made[node->in[0]], node->norm.eps, node->norm.momentum);
    e->made[node->id] = made;
    if (made == HL_NO_VALUE)
        return;
    const hl_norm_attr *to = &hl_graph_node(e->to, made)->norm;
    copy_values(node->norm.scale, to->scale);
    copy_values(node->norm.shift, to->shift);
    copy_values(node->norm.mean, to->mean);
    copy_values(node->norm.var, to->var);
}

/* A kernel sees a patch; whatever else reads the input would have to see one number of it. */
static hl_status check_reader(const embedding *e, const hl_node *node)
{
    for (int i = 0; i < node->in_count; i++) {
        const hl_node *source = hl_graph_node(e->from, node->in[i]);
        if (source->op == HL_OP_INPUT && e->shape.kernel_h * e->shape.kernel_w > 1)
            return refuse(node,
                          "it reads the input's features and is no linear layer, so that it has no window");
    }
    return HL_OK;
}

static hl_status put_node(embedding *e, const hl_node *node)
{
    hl_value a = node->in_count > 0 ? e->made[node->in[0]] : HL_NO_VALUE,
             b = node->in_count > 1 ? e->made[node->in[1]] : HL_NO_VALUE, *made = &e->made[node->id];
    if (node->op == HL_OP_INPUT)
        return put_input(e, node);
    if (node->op == HL_OP_LINEAR)
        return put_linear(e, node);
    HL_TRY(check_reader(e, node));
    switch (node->op) {
    case HL_OP_ACT:
        *made = hl_graph_act(e->to, node->name, a, node->act);
        break;
    case HL_OP_NORM:
        put_norm(e, node);
        break;
    case HL_OP_DROPOUT:
        *made = hl_graph_dropout(e->to, node->name, a, node->drop);
        break;
    case HL_OP_ADD:
        *made = hl_graph_add(e->to, node->name, a, b);
        break;
    case HL_OP_MUL:
        *made = hl_graph_mul(e->to, node->name, a, b);
        break;
    case HL_OP_CONV:
        return refuse(node, "it is a convolution already");
    default:
        return refuse(node, "it is neither linear nor pointwise");
    }
    return HL_OK;
}

static hl_status embed(embedding *e)
{
    for (size_t k = 0; k < e->from->node_count; k++) {
        HL_TRY(put_node(e, e->from->nodes[e->from->order[k]]));
        if (e->to->status != HL_OK)
            return hl_fail_text(e->to->status, e->to->error);
    }
    return hl_graph_finish(e->to, e->made[e->from->output]);
}

hl_status hl_feedforward_embed(const hl_graph *graph, hl_embed_shape shape, hl_graph **embedded)
{
    embedding e = {.from = graph, .shape = shape};
    HL_TRY(hl_graph_create(embedded));
    e.to = *embedded;
    e.made = hl_arena_take(e.to->arena, graph->node_count * sizeof *e.made);
    hl_status status = e.made != NULL ? embed(&e) : HL_E_NOMEM;
    if (status != HL_OK) {
        hl_graph_destroy(*embedded);
        *embedded = NULL;
    }
    return status;
}

void hl_embedded_window(const hl_graph *embedded, int64_t *h, int64_t *w)
{
    *h = *w = 1;
    for (size_t v = 0; v < embedded->node_count; v++) {
        const hl_node *node = embedded->nodes[v];
        if (node->op == HL_OP_CONV && node->in[0] == embedded->input) {
            *h = node->window.kh;
            *w = node->window.kw;
            return;
        }
    }
}
