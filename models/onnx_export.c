/* A graph of ours as an ONNX file.
 *
 * Gates are multiplied into the weights. Norms stay BatchNormalization nodes: whoever runs the file folds
 * them anyway, and whoever trains on, here or elsewhere, still has them. Values are [N, C, H, W], and [N, C]
 * behind linear layers over a map of one pixel; names are those of the layers. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/grid_cell.h"
#include "base/numbers.h"
#include "io/json.h"
#include "io/onnx_write.h"
#include "models/onnx.h"

typedef struct exporter {
    const hl_graph *graph;
    hl_onnx_writer *writer;
    hl_arena *arena;
    const char **names; /* of each value's tensor */
    bool *flat;         /* is it [N, C]? */
    hl_status status;   /* out of memory */
} exporter;

static const char *text(exporter *e, const char *format, const char *a, const char *b)
{
    char *made = hl_arena_format(e->arena, format, a, b);
    if (made == NULL)
        e->status = HL_E_NOMEM;
    return made != NULL ? made : "";
}

static void put(exporter *e, const char *op, const char *name, const char *const *in, int in_count,
                const char *out)
{
    hl_onnx_put_node(e->writer, op, name, in, in_count, &out, 1);
}

/* A list of whole numbers as an initialiser; its name. */
static const char *numbers(exporter *e, const char *layer, const char *suffix, const int64_t *values,
                           int count)
{
    const char *name = text(e, "%s.%s", layer, suffix);
    const int64_t shape[1] = {count};
    hl_onnx_put_tensor(e->writer, name, HL_DTYPE_I64, 1, shape, values);
    return name;
}

/* The tensor of a value with four dimensions, or with two. */
static const char *as_map(exporter *e, const hl_node *reader, hl_value v, int place)
{
    static const char *const suffixes[] = {"map_shape", "map_shape_b"};
    if (!e->flat[v])
        return e->names[v];
    const int64_t shape[4] = {0, hl_graph_node(e->graph, v)->shape.c, 1, 1};
    const char *made = text(e, place == 0 ? "%s.map%s" : "%s.map_b%s", reader->name, "");
    const char *in[] = {e->names[v], numbers(e, reader->name, suffixes[place != 0], shape, 4)};
    put(e, "Reshape", made, in, 2, made);
    return made;
}

static const char *as_flat(exporter *e, const hl_node *reader, hl_value v)
{
    if (e->flat[v])
        return e->names[v];
    const char *made = text(e, "%s.flat%s", reader->name, "");
    put(e, "Flatten", made, &e->names[v], 1, made);
    hl_onnx_put_int(e->writer, "axis", 1);
    return made;
}

static const char *param(exporter *e, const hl_param *p)
{
    hl_onnx_put_tensor(e->writer, p->name, HL_DTYPE_F32, p->ndim, p->shape, p->host);
    return p->name;
}

/* The merged weight, in `ndim` of these dimensions. */
static const char *weight(exporter *e, const hl_node *node, int ndim, const int64_t *shape)
{
    const hl_param *w = node->expr.weight;
    float *merged;
    if (e->status == HL_OK)
        e->status = hl_alloc_array((size_t)w->count, sizeof *merged, w->name, (void **)&merged);
    if (e->status != HL_OK)
        return "";
    hl_weight_expr_merge(&node->expr, merged);
    hl_onnx_put_tensor(e->writer, w->name, HL_DTYPE_F32, ndim, shape, merged);
    free(merged);
    return w->name;
}

static void put_window(exporter *e, const hl_window *w, bool dilated)
{
    const int64_t kernel[] = {w->kh, w->kw}, strides[] = {w->sh, w->sw}, dilations[] = {w->dh, w->dw},
                  pads[] = {w->top, w->left, w->bottom, w->right};
    hl_onnx_put_ints(e->writer, "kernel_shape", kernel, 2);
    hl_onnx_put_ints(e->writer, "strides", strides, 2);
    hl_onnx_put_ints(e->writer, "pads", pads, 4);
    if (dilated)
        hl_onnx_put_ints(e->writer, "dilations", dilations, 2);
}

static void put_weighted(exporter *e, const hl_node *node, const char *out)
{
    const hl_param *w = node->expr.weight;
    hl_shape in = hl_graph_node(e->graph, node->in[0])->shape;
    const char *inputs[3] = {NULL};
    int count = node->expr.bias != NULL ? 3 : 2;
    bool linear = node->op == HL_OP_LINEAR, flat = linear && (w->flat || (in.h == 1 && in.w == 1));
    int64_t shape[4] = {w->shape[0], w->shape[1], node->window.kh, node->window.kw};
    if (flat) {
        inputs[0] = as_flat(e, node, node->in[0]);
        shape[1] = w->count / w->shape[0];
        inputs[1] = weight(e, node, 2, shape);
    } else {
        inputs[0] = as_map(e, node, node->in[0], 0);
        inputs[1] = weight(e, node, 4, shape);
    }
    if (count == 3)
        inputs[2] = param(e, node->expr.bias);
    put(e, flat ? "Gemm" : "Conv", node->name, inputs, count, out);
    if (flat) {
        hl_onnx_put_int(e->writer, "transB", 1);
    } else {
        put_window(e, &node->window, true);
        hl_onnx_put_int(e->writer, "group", node->groups);
    }
    e->flat[node->id] = flat;
}

static void put_norm(exporter *e, const hl_node *node, const char *out)
{
    const hl_norm_attr *n = &node->norm;
    const char *in[] = {e->names[node->in[0]], param(e, n->scale), param(e, n->shift), param(e, n->mean),
                        param(e, n->var)};
    put(e, "BatchNormalization", node->name, in, 5, out);
    hl_onnx_put_float(e->writer, "epsilon", n->eps);
    hl_onnx_put_float(e->writer, "momentum", 1.0f - n->momentum);
    e->flat[node->id] = e->flat[node->in[0]];
}

/* ONNX normalises over the last dimensions. */
static void put_layer_norm(exporter *e, const hl_node *node, const char *out)
{
    static const int64_t last[] = {0, 2, 3, 1}, first[] = {0, 3, 1, 2};
    const hl_norm_attr *n = &node->norm;
    bool flat = e->flat[node->id] = e->flat[node->in[0]];
    const char *in[] = {e->names[node->in[0]], param(e, n->scale), param(e, n->shift)};
    const char *turned = text(e, "%s.turned%s", out, ""),
               *normed = flat ? out : text(e, "%s.normed%s", out, "");
    if (!flat) {
        put(e, "Transpose", turned, in, 1, turned);
        hl_onnx_put_ints(e->writer, "perm", last, 4);
        in[0] = turned;
    }
    put(e, "LayerNormalization", node->name, in, 3, normed);
    hl_onnx_put_int(e->writer, "axis", -1);
    hl_onnx_put_float(e->writer, "epsilon", n->eps);
    if (flat)
        return;
    put(e, "Transpose", text(e, "%s.back%s", out, ""), &normed, 1, out);
    hl_onnx_put_ints(e->writer, "perm", first, 4);
}

static void put_scale(exporter *e, const hl_node *node, const char *out)
{
    const hl_param *p = node->norm.scale;
    bool flat = e->flat[node->id] = e->flat[node->in[0]];
    const char *in[] = {e->names[node->in[0]], p->name};
    hl_onnx_put_tensor(e->writer, p->name, HL_DTYPE_F32, flat ? 1 : p->ndim, p->shape, p->host);
    put(e, "Mul", node->name, in, 2, out);
}

static const char *scalar(exporter *e, const hl_node *node, const char *suffix, float value)
{
    const char *name = text(e, "%s.%s", node->name, suffix);
    hl_onnx_put_tensor(e->writer, name, HL_DTYPE_F32, 0, NULL, &value);
    return name;
}

/* x (1 + erf(x / sqrt 2)) / 2; an operator for it is younger than the opset written. */
static void put_gelu(exporter *e, const hl_node *node, const char *x, const char *out)
{
    const char *scaled = text(e, "%s.scaled%s", out, ""), *erf_of = text(e, "%s.erf%s", out, ""),
               *plus = text(e, "%s.plus%s", out, ""), *twice = text(e, "%s.twice%s", out, "");
    put(e, "Div", scaled, (const char *[]){x, scalar(e, node, "root", sqrtf(2.0f))}, 2, scaled);
    put(e, "Erf", erf_of, &scaled, 1, erf_of);
    put(e, "Add", plus, (const char *[]){erf_of, scalar(e, node, "one", 1.0f)}, 2, plus);
    put(e, "Mul", twice, (const char *[]){x, plus}, 2, twice);
    put(e, "Mul", node->name, (const char *[]){twice, scalar(e, node, "half", 0.5f)}, 2, out);
}

static void put_act(exporter *e, const hl_node *node, const char *out)
{
    const char *x = e->names[node->in[0]], *gate = text(e, "%s.gate%s", out, "");
    e->flat[node->id] = e->flat[node->in[0]];
    switch (node->act) {
    case HL_ACT_NONE:
        put(e, "Identity", node->name, &x, 1, out);
        break;
    case HL_ACT_RELU:
        put(e, "Relu", node->name, &x, 1, out);
        break;
    case HL_ACT_RELU6:
        put(e, "Clip", node->name,
            (const char *[]){x, scalar(e, node, "low", 0.0f), scalar(e, node, "high", 6.0f)}, 3, out);
        break;
    case HL_ACT_SIGMOID:
        put(e, "Sigmoid", node->name, &x, 1, out);
        break;
    case HL_ACT_HARDSIGMOID:
        put(e, "HardSigmoid", node->name, &x, 1, out);
        hl_onnx_put_float(e->writer, "alpha", 1.0f / 6.0f);
        hl_onnx_put_float(e->writer, "beta", 0.5f);
        break;
    case HL_ACT_SILU:
        put(e, "Sigmoid", gate, &x, 1, gate);
        put(e, "Mul", node->name, (const char *[]){x, gate}, 2, out);
        break;
    case HL_ACT_HARDSWISH:
        put(e, "HardSwish", node->name, &x, 1, out);
        break;
    case HL_ACT_GELU:
        put_gelu(e, node, x, out);
        break;
    case HL_ACT_TANH:
        put(e, "Tanh", node->name, &x, 1, out);
        break;
    }
}

static void put_pool(exporter *e, const hl_node *node, const char *out)
{
    const hl_window *w = &node->window;
    const char *x = as_map(e, node, node->in[0], 0);
    put(e, node->pool_max ? "MaxPool" : "AveragePool", node->name, &x, 1, out);
    if (!node->pool_max && node->count_padding) {
        /* What hangs over beyond the first side's padding does not count: that is what rounding up is for. */
        hl_window own = *w;
        bool over = w->bottom > w->top || w->right > w->left;
        own.bottom = own.bottom > own.top ? own.top : own.bottom;
        own.right = own.right > own.left ? own.left : own.right;
        put_window(e, &own, false);
        hl_onnx_put_int(e->writer, "count_include_pad", 1);
        hl_onnx_put_int(e->writer, "ceil_mode", over);
        return;
    }
    put_window(e, w, false);
}

/* The share of each place of a side in each cell's mean, [rows, columns]: cells by places, or with `turned`
 * places by cells; its name. */
static const char *cell_shares(exporter *e, const hl_node *node, int64_t places, int64_t cells, bool turned)
{
    const char *name = text(e, turned ? "%s.columns%s" : "%s.rows%s", node->name, "");
    const int64_t shape[2] = {turned ? places : cells, turned ? cells : places};
    float *shares = hl_arena_take(e->arena, (size_t)(places * cells) * sizeof *shares);
    if (shares == NULL) {
        e->status = HL_E_NOMEM;
        return name;
    }
    for (int64_t i = 0; i < cells; i++)
        for (int64_t p = 0; p < places; p++)
            shares[turned ? p * cells + i : i * places + p] = hl_grid_share(p, places, i, cells);
    hl_onnx_put_tensor(e->writer, name, HL_DTYPE_F32, 2, shape, shares);
    return name;
}

/* ONNX has no adaptive average. A cell's mean is that of its rows' means: a product from either side. */
static void put_grid_pool(exporter *e, const hl_node *node, const char *out)
{
    hl_shape in = hl_graph_node(e->graph, node->in[0])->shape;
    const char *x = as_map(e, node, node->in[0], 0), *across = text(e, "%s.across%s", out, "");
    const char *columns = cell_shares(e, node, in.w, node->shape.w, true),
               *rows = cell_shares(e, node, in.h, node->shape.h, false);
    put(e, "MatMul", across, (const char *[]){x, columns}, 2, across);
    put(e, "MatMul", node->name, (const char *[]){rows, across}, 2, out);
}

/* Both halves at once, when the first of them comes. */
static void put_halves(exporter *e, const hl_node *node, const char *out)
{
    const hl_node *other = NULL;
    for (size_t v = 0; v < e->graph->node_count; v++) {
        const hl_node *n = e->graph->nodes[v];
        if (n->op == HL_OP_HALF && n->in[0] == node->in[0] && n->half != node->half)
            other = n;
    }
    if (other == NULL || e->names[other->id] != NULL)
        return; /* done with the other one */
    const char *twin = text(e, "%s%s", other->name, "");
    const char *outs[2] = {node->half == 0 ? out : twin, node->half == 0 ? twin : out};
    const int64_t sizes[2] = {node->shape.c, node->shape.c};
    const char *in[] = {as_map(e, node, node->in[0], 0), numbers(e, node->name, "sizes", sizes, 2)};
    hl_onnx_put_node(e->writer, "Split", node->name, in, 2, outs, 2);
    hl_onnx_put_int(e->writer, "axis", 1);
}

/* Side by side, then channels as a matrix of two rows, turned. */
static void put_interleave(exporter *e, const hl_node *node, const char *out)
{
    static const int64_t perm[] = {0, 2, 1, 3, 4};
    const int64_t split[5] = {0, 2, node->shape.c / 2, node->shape.h, node->shape.w},
                  joined[4] = {0, node->shape.c, node->shape.h, node->shape.w};
    const char *both = text(e, "%s.both%s", out, ""), *rows = text(e, "%s.rows%s", out, ""),
               *turned = text(e, "%s.turned%s", out, "");
    const char *in[] = {as_map(e, node, node->in[0], 0), as_map(e, node, node->in[1], 1)};
    put(e, "Concat", both, in, 2, both);
    hl_onnx_put_int(e->writer, "axis", 1);
    put(e, "Reshape", rows, (const char *[]){both, numbers(e, node->name, "split", split, 5)}, 2, rows);
    put(e, "Transpose", turned, &rows, 1, turned);
    hl_onnx_put_ints(e->writer, "perm", perm, 5);
    put(e, "Reshape", node->name, (const char *[]){turned, numbers(e, node->name, "joined", joined, 4)}, 2,
        out);
}

static void put_binary(exporter *e, const hl_node *node, const char *out)
{
    bool flat = e->flat[node->in[0]] && e->flat[node->in[1]];
    const char *in[2];
    for (int i = 0; i < 2; i++)
        in[i] = flat ? e->names[node->in[i]] : as_map(e, node, node->in[i], i);
    put(e, node->op == HL_OP_ADD ? "Add" : "Mul", node->name, in, 2, out);
    e->flat[node->id] = flat;
}

static void put_concat(exporter *e, const hl_node *node, const char *out)
{
    const char **in = hl_arena_take(e->arena, (size_t)node->in_count * sizeof *in);
    if (in == NULL) {
        e->status = HL_E_NOMEM;
        return;
    }
    bool flat = true;
    for (int i = 0; i < node->in_count; i++)
        flat = flat && e->flat[node->in[i]];
    for (int i = 0; i < node->in_count; i++) {
        in[i] = e->names[node->in[i]];
        if (!flat && e->flat[node->in[i]]) {
            const int64_t shape[4] = {0, hl_graph_node(e->graph, node->in[i])->shape.c, 1, 1};
            char suffix[32];
            snprintf(suffix, sizeof suffix, "map_%d", i);
            const char *made = text(e, "%s.%s", node->name, suffix);
            snprintf(suffix, sizeof suffix, "map_shape_%d", i);
            put(e, "Reshape", made, (const char *[]){in[i], numbers(e, node->name, suffix, shape, 4)}, 2,
                made);
            in[i] = made;
        }
    }
    put(e, "Concat", node->name, in, node->in_count, out);
    hl_onnx_put_int(e->writer, "axis", 1);
    e->flat[node->id] = flat;
}

static hl_status put_layer(exporter *e, const hl_node *node)
{
    const char *out = e->names[node->id] != NULL ? e->names[node->id] : text(e, "%s%s", node->name, "");
    const char *x;
    switch (node->op) {
    case HL_OP_INPUT:
        break;
    case HL_OP_CONV:
    case HL_OP_LINEAR:
        put_weighted(e, node, out);
        break;
    case HL_OP_NORM:
        put_norm(e, node, out);
        break;
    case HL_OP_LAYER_NORM:
        put_layer_norm(e, node, out);
        break;
    case HL_OP_SCALE: /* its parameter has the node's name */
        out = text(e, "%s.%s", node->name, "scaled");
        put_scale(e, node, out);
        break;
    case HL_OP_ACT:
        put_act(e, node, out);
        break;
    case HL_OP_POOL:
        put_pool(e, node, out);
        break;
    case HL_OP_GLOBAL_POOL:
        x = as_map(e, node, node->in[0], 0);
        put(e, "GlobalAveragePool", node->name, &x, 1, out);
        break;
    case HL_OP_GRID_POOL:
        put_grid_pool(e, node, out);
        break;
    case HL_OP_ADD:
    case HL_OP_MUL:
        put_binary(e, node, out);
        break;
    case HL_OP_CONCAT:
        put_concat(e, node, out);
        break;
    case HL_OP_HALF:
        put_halves(e, node, out);
        break;
    case HL_OP_INTERLEAVE:
        put_interleave(e, node, out);
        break;
    case HL_OP_DROPOUT:
    case HL_OP_DROP_PATH:
        /* Gone when a network is used. */
        out = e->names[node->in[0]];
        e->flat[node->id] = e->flat[node->in[0]];
        break;
    }
    e->names[node->id] = out;
    return e->status;
}

static int64_t image_channels(const hl_graph *g)
{
    for (size_t v = 0; v < g->node_count; v++)
        if (g->nodes[v]->op == HL_OP_INPUT)
            return g->nodes[v]->shape.c;
    return 0;
}

static void put_channels(exporter *e, const char *key, const float *values)
{
    char buf[HL_NUMBERS_SIZE];
    hl_onnx_put_meta(e->writer, key, hl_numbers_text(values, image_channels(e->graph), ' ', buf, sizeof buf));
}

static hl_status put_meta(exporter *e, const hl_onnx_meta *m)
{
    char number[32];
    if (m->open_size) {
        snprintf(number, sizeof number, "%lld", (long long)m->image_size);
        hl_onnx_put_meta(e->writer, "image_size", number);
    }
    if (m->mean == NULL)
        return HL_OK;
    snprintf(number, sizeof number, "%lld", (long long)m->resize);
    hl_onnx_put_meta(e->writer, "resize", number);
    hl_onnx_put_meta(e->writer, "interpolation", m->bicubic ? "bicubic" : "bilinear");
    put_channels(e, "mean", m->mean);
    put_channels(e, "std", m->std);
    if (m->classes == NULL)
        return HL_OK;
    char *list;
    HL_TRY(hl_json_class_names(m->classes, m->class_count, &list));
    hl_onnx_put_meta(e->writer, "class_names", list);
    free(list);
    return HL_OK;
}

static hl_status put_graph(exporter *e, const hl_onnx_meta *meta)
{
    const hl_graph *g = e->graph;
    const hl_shape in = hl_graph_node(g, g->input)->shape;
    const int64_t image[4] = {-1, in.c, meta->open_size ? -2 : in.h, meta->open_size ? -3 : in.w};
    HL_TRY(hl_arena_create(&e->arena));
    e->names = hl_arena_take(e->arena, g->node_count * sizeof *e->names);
    e->flat = hl_arena_take(e->arena, g->node_count * sizeof *e->flat);
    if (e->names == NULL || e->flat == NULL)
        return HL_E_NOMEM;
    hl_onnx_put_port(e->writer, false, "input", 4, image);
    for (size_t k = 0; k < g->node_count; k++)
        HL_TRY(put_layer(e, g->nodes[g->order[k]]));
    const hl_node *last = hl_graph_node(g, g->output);
    const int64_t logits[4] = {-1, last->shape.c, -4, -5};
    const char *from = e->names[g->output];
    put(e, e->flat[g->output] || meta->open_size ? "Identity" : "Flatten", "logits", &from, 1, "logits");
    hl_onnx_put_port(e->writer, true, "logits", meta->open_size ? 4 : 2, logits);
    return put_meta(e, meta);
}

hl_status hl_onnx_export(const hl_graph *graph, const hl_onnx_meta *meta, const char *path)
{
    exporter e = {.graph = graph};
    HL_TRY(hl_onnx_writer_create(&e.writer));
    hl_status status = put_graph(&e, meta);
    if (status == HL_OK)
        status = hl_onnx_writer_save(e.writer, path);
    hl_onnx_writer_destroy(e.writer);
    hl_arena_destroy(e.arena);
    return status;
}
