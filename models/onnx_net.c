#include "models/onnx.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/numbers.h"
#include "models/families.h"
#include "models/onnx_convert.h"

struct hl_onnx_net {
    hl_onnx *onnx;
    hl_model_info info;
    char head_name[256];
    bool nhwc, any_size;
    hl_shape features;  /* of an input that is no image; n = 0: it is one */
    bool vector;        /* that input is [N, c] */
    int64_t batch;      /* 1 where it is symbolic */
    size_t head;        /* node */
    const char *logits; /* value */
};

bool hl_onnx_is_name(const char *name)
{
    size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".onnx") == 0;
}

static hl_status refuse(const hl_onnx_net *net, const char *todo, const char *why)
{
    return hl_fail(HL_E_UNSUPPORTED, net->onnx->path, todo, "%s", why);
}

/* The dimension that is the channels: three before one or four, and the first before the last. 0: none is. */
static int channel_dimension(const hl_onnx_port *in)
{
    static const int places[] = {1, 3};
    for (int other = 0; other < 2; other++)
        for (int i = 0; i < 2; i++) {
            int64_t extent = in->dims[places[i]];
            if (other == 0 ? extent == 3 : extent == 1 || extent == 4)
                return places[i];
        }
    return 0;
}

static hl_status find_input(hl_onnx_net *net)
{
    static const char *const todo =
        "a network has one input: [N, C, H, W] or [N, H, W, C], where C is 1, 3 or 4";
    const hl_onnx_port *in = net->onnx->inputs;
    if (net->onnx->input_count != 1) {
        char why[64];
        snprintf(why, sizeof why, "it has %zu inputs", net->onnx->input_count);
        return refuse(net, todo, why);
    }
    int channels = in->ndim == 4 ? channel_dimension(in) : 0;
    if (channels == 0)
        return refuse(net, todo, in->ndim < 0 ? "its input has no shape" : "its input has another shape");
    net->nhwc = channels == 3;
    int64_t h = in->dims[net->nhwc ? 1 : 2], w = in->dims[net->nhwc ? 2 : 3];
    net->any_size = h < 0 || w < 0;
    net->batch = in->dims[0] < 0 ? 1 : in->dims[0];
    if (net->batch > 1 << 16)
        return refuse(net, NULL, "its batch is beyond 65,536");
    if (!net->any_size && (h != w || h > 4096))
        return hl_fail(HL_E_UNSUPPORTED, net->onnx->path,
                       "export it for square images of at most 4096 pixels", "it takes images of %lldx%lld",
                       (long long)h, (long long)w);
    net->info.image_size = net->any_size ? 224 : h;
    net->info.resize = (net->info.image_size * 256 + 112) / 224;
    float mean[4], std[4];
    hl_model_normalisation(&net->info, in->dims[channels], mean, std);
    memcpy(net->info.mean, mean, sizeof mean);
    memcpy(net->info.std, std, sizeof std);
    net->info.channels = in->dims[channels];
    return HL_OK;
}

static hl_status find_features(hl_onnx_net *net)
{
    const hl_onnx_port *in = net->onnx->inputs;
    bool fit = net->onnx->input_count == 1 && (in->ndim == 2 || in->ndim == 4);
    for (int d = 1; fit && d < in->ndim; d++)
        fit = in->dims[d] >= 1;
    if (!fit || in->dims[0] > 1 << 16)
        return refuse(
            net, "a feedforward network has one input, [N, I] or [N, C, H, W], with all extents but N given",
            "its input is another one");
    net->batch = in->dims[0] < 0 ? 1 : in->dims[0];
    net->vector = in->ndim == 2;
    net->features = (hl_shape){1, net->vector ? 1 : in->dims[2], net->vector ? 1 : in->dims[3], in->dims[1]};
    return HL_OK;
}

/* The node that makes a value, by a search from the end: for the few steps to the classifier. */
static const hl_onnx_node *maker_of(const hl_onnx *onnx, const char *name, size_t *index)
{
    for (size_t i = onnx->node_count; i-- > 0;)
        for (int k = 0; k < onnx->nodes[i].out_count; k++)
            if (strcmp(onnx->nodes[i].out[k], name) == 0) {
                *index = i;
                return &onnx->nodes[i];
            }
    return NULL;
}

static bool is_one_of(const char *op, const char *const *list)
{
    for (; *list != NULL; list++)
        if (strcmp(op, *list) == 0)
            return true;
    return false;
}

static bool is_constant(const hl_onnx *onnx, const char *name)
{
    size_t index;
    if (hl_tensor_map_find(onnx->tensors, name) != NULL)
        return true;
    const hl_onnx_node *maker = maker_of(onnx, name, &index);
    return maker != NULL && strcmp(maker->op, "Constant") == 0;
}

/* From the output back to the classifier. */
static hl_status find_head(hl_onnx_net *net, const hl_log *log)
{
    static const char *const heads[] = {"Gemm", "MatMul", "Conv", NULL},
                             *const ends[] = {"Softmax", "LogSoftmax", "Sigmoid", NULL},
                             *const passed[] = {
                                 "Identity",    "Flatten",    "Reshape", "Squeeze", "Unsqueeze",
                                 "Transpose",   "Cast",       "Relu",    "Add",     "GlobalAveragePool",
                                 "AveragePool", "ReduceMean", "Dropout", NULL};
    const hl_onnx *onnx = net->onnx;
    if (onnx->output_count == 0)
        return refuse(net, NULL, "it has no output");
    if (onnx->output_count > 1)
        hl_log_info(log, "%s: %zu outputs, the first, '%s', is used", onnx->path, onnx->output_count,
                    onnx->outputs[0].name);
    const char *name = net->logits = onnx->outputs[0].name;
    for (int steps = 0; steps < 64; steps++) {
        size_t index;
        const hl_onnx_node *n = maker_of(onnx, name, &index);
        if (n == NULL)
            break;
        bool known = n->domain[0] == '\0' || strcmp(n->domain, "ai.onnx") == 0;
        if (known && is_one_of(n->op, heads)) {
            net->head = index;
            return HL_OK;
        }
        bool end = known && is_one_of(n->op, ends);
        if (!known || n->in_count < 1 || (!end && !is_one_of(n->op, passed)))
            return hl_fail(HL_E_UNSUPPORTED, onnx->path, "a classifier is a Gemm, a MatMul or a 1x1 Conv",
                           "its output comes from node '%.120s' (%.40s) and not from a classifier", n->name,
                           n->op);
        int data = n->in_count > 1 && is_constant(onnx, n->in[0]) ? 1 : 0;
        if (strcmp(n->op, "Add") == 0 && !is_constant(onnx, n->in[0]) &&
            !(n->in_count > 1 && is_constant(onnx, n->in[1])))
            return refuse(net, "a classifier is a Gemm, a MatMul or a 1x1 Conv",
                          "its output is the sum of two computed values");
        name = n->in[data];
        if (end) {
            net->logits = name;
            hl_log_info(log, "%s: the logits are what goes into its final %s", onnx->path, n->op);
        }
    }
    return refuse(net, "a classifier is a Gemm, a MatMul or a 1x1 Conv",
                  "its output comes from no classifier");
}

/* What hl_onnx_export has written of preprocessing. */
static void read_metadata(hl_onnx_net *net)
{
    const hl_tensor_map *map = net->onnx->tensors;
    float mean[4], std[4];
    const int64_t channels = net->info.channels;
    if (strcmp(net->onnx->producer, "heirloom") != 0)
        return; /* what these keys mean elsewhere is not known */
    long long resize;
    const char *text[4] = {hl_tensor_map_meta(map, "mean"), hl_tensor_map_meta(map, "std"),
                           hl_tensor_map_meta(map, "resize"), hl_tensor_map_meta(map, "interpolation")};
    if (text[0] != NULL && text[1] != NULL && hl_numbers_parse(text[0], ' ', channels, mean) == channels &&
        hl_numbers_parse(text[1], ' ', channels, std) == channels) {
        memcpy(net->info.mean, mean, (size_t)channels * sizeof *mean);
        memcpy(net->info.std, std, (size_t)channels * sizeof *std);
    }
    if (text[2] != NULL && sscanf(text[2], "%lld", &resize) == 1 && resize >= 1 && resize <= 16384)
        net->info.resize = resize;
    net->info.bicubic = text[3] != NULL && strcmp(text[3], "bicubic") == 0;
    long long size;
    const char *open = hl_tensor_map_meta(map, "image_size");
    if (net->any_size && open != NULL && sscanf(open, "%lld", &size) == 1 && size >= 1 && size <= 4096) {
        net->info.image_size = net->info.resize = size;
        net->any_size = false;
    }
}

/* A file name that can stand in JSON and in other files' names, whatever its bytes are. */
static const char *plain_name(const hl_onnx *onnx, const char *file)
{
    char *name = hl_arena_copy(onnx->arena, file);
    for (char *c = name; c != NULL && *c != '\0'; c++)
        if (*c < ' ' || *c > '~')
            *c = '_';
    return name;
}

static hl_status open_net(const char *path, bool features, const hl_log *log, hl_onnx_net **net)
{
    static const hl_model_info imagenet = {HL_IMAGENET};
    hl_onnx_net *made = calloc(1, sizeof *made);
    *net = NULL;
    if (made == NULL)
        return hl_fail_nomem(path, sizeof *made);
    const char *slash = strrchr(path, '/');
    made->info = imagenet;
    hl_status status = hl_onnx_read(path, &made->onnx);
    if (status == HL_OK) {
        made->info.name = plain_name(made->onnx, slash != NULL ? slash + 1 : path);
        made->info.head = made->head_name;
        made->info.weights_file = made->info.name;
        made->info.licence = made->info.paper = "";
        status = made->info.name == NULL ? HL_E_NOMEM : features ? find_features(made) : find_input(made);
    }
    if (status == HL_OK)
        status = find_head(made, log);
    if (status != HL_OK) {
        hl_onnx_net_destroy(made);
        return status;
    }
    read_metadata(made);
    *net = made;
    return HL_OK;
}

hl_status hl_onnx_net_open(const char *path, const hl_log *log, hl_onnx_net **net)
{
    return open_net(path, false, log, net);
}

hl_status hl_onnx_net_open_features(const char *path, const hl_log *log, hl_onnx_net **net)
{
    return open_net(path, true, log, net);
}

void hl_onnx_net_destroy(hl_onnx_net *net)
{
    if (net == NULL)
        return;
    hl_onnx_destroy(net->onnx);
    free(net);
}

const hl_model_info *hl_onnx_net_info(const hl_onnx_net *net)
{
    return &net->info;
}

const char *hl_onnx_net_class_names(const hl_onnx_net *net)
{
    bool own = strcmp(net->onnx->producer, "heirloom") == 0;
    return own ? hl_tensor_map_meta(net->onnx->tensors, "class_names") : NULL;
}

bool hl_onnx_net_any_size(const hl_onnx_net *net)
{
    return net->any_size;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The sorted names of all values, without repetitions. */
static hl_status collect_names(hl_convert *x)
{
    const hl_onnx *m = x->onnx;
    size_t count = m->input_count + m->output_count + hl_tensor_map_count(m->tensors) + 1, at = 0;
    for (size_t i = 0; i < m->node_count; i++)
        count += (size_t)m->nodes[i].in_count + (size_t)m->nodes[i].out_count;
    x->names = hl_arena_take(x->arena, count * sizeof *x->names);
    if (x->names == NULL)
        return HL_E_NOMEM;
    x->names[at++] = "";
    for (size_t i = 0; i < m->input_count; i++)
        x->names[at++] = m->inputs[i].name;
    for (size_t i = 0; i < m->output_count; i++)
        x->names[at++] = m->outputs[i].name;
    for (size_t i = 0; i < hl_tensor_map_count(m->tensors); i++)
        x->names[at++] = hl_tensor_map_at(m->tensors, i)->name;
    for (size_t i = 0; i < m->node_count; i++) {
        for (int k = 0; k < m->nodes[i].in_count; k++)
            x->names[at++] = m->nodes[i].in[k];
        for (int k = 0; k < m->nodes[i].out_count; k++)
            x->names[at++] = m->nodes[i].out[k];
    }
    qsort(x->names, count, sizeof *x->names, by_text);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(x->names[i], x->names[x->name_count - 1]) != 0)
            x->names[x->name_count++] = x->names[i];
    return HL_OK;
}

/* Which nodes the logits depend on, and who reads what: from the end to the beginning, since nodes stand in
 * an order in which they can be computed. */
static hl_status find_needed(hl_convert *x, const char *logits, bool *needed)
{
    const hl_onnx *m = x->onnx;
    x->uses[hl_convert_value(x, logits) - x->values] = 1;
    for (size_t i = m->node_count; i-- > 0;) {
        const hl_onnx_node *n = &m->nodes[i];
        for (int k = 0; k < n->out_count; k++)
            if (n->out[k][0] != '\0' && x->uses[hl_convert_value(x, n->out[k]) - x->values] > 0)
                needed[i] = true;
        for (int k = 0; needed[i] && k < n->in_count; k++) {
            if (n->in[k][0] == '\0')
                continue;
            size_t value = (size_t)(hl_convert_in(x, n, k) - x->values);
            x->uses[value]++;
            x->reader[value] = i;
        }
    }
    return HL_OK;
}

static hl_status convert_node(hl_convert *x, const hl_onnx_node *n)
{
    bool known = false;
    if (n->domain[0] != '\0' && strcmp(n->domain, "ai.onnx") != 0)
        return hl_convert_fail(x, n, "export it with ONNX' own operators",
                               "operators of '%.60s' are not supported", n->domain);
    if (n->out_count < 1 || n->out[0][0] == '\0')
        return hl_convert_fail(x, n, NULL, "it has no output");
    for (int k = 0; k < n->in_count; k++)
        if (hl_convert_has(n, k) && hl_convert_in(x, n, k)->kind == HL_ONNX_UNSET)
            return hl_convert_fail(x, n, "export it again", "its input '%.100s' is not computed before it",
                                   n->in[k]);
    for (int k = 0; k < n->out_count; k++)
        if (n->out[k][0] != '\0' && hl_convert_value(x, n->out[k])->kind != HL_ONNX_UNSET)
            return hl_convert_fail(x, n, "export it again", "its output '%.100s' is there already",
                                   n->out[k]);
    HL_TRY(hl_convert_fold(x, n, &known));
    if (!known)
        HL_TRY(hl_convert_layers(x, n, &known));
    if (!known)
        HL_TRY(hl_convert_pools(x, n, &known));
    if (!known)
        HL_TRY(hl_convert_math(x, n, &known));
    if (!known)
        HL_TRY(hl_convert_shapes(x, n, &known));
    if (!known)
        HL_TRY(hl_convert_channels(x, n, &known));
    if (known)
        return HL_OK;
    char todo[640];
    snprintf(todo, sizeof todo, "supported are %s", hl_convert_operators());
    return hl_convert_fail(x, n, todo, "this operator is not supported");
}

/* Both halves of channels have to be read (graph.h). */
static hl_status check_halves(const hl_convert *x)
{
    const hl_graph *g = x->graph;
    bool *read = hl_arena_take(x->arena, g->node_count * sizeof *read);
    if (read == NULL)
        return HL_E_NOMEM;
    for (size_t v = 0; v < g->node_count; v++)
        for (int i = 0; i < g->nodes[v]->in_count; i++)
            read[g->nodes[v]->in[i]] = true;
    for (size_t v = 0; v < g->node_count; v++)
        if (g->nodes[v]->op == HL_OP_HALF && !read[v])
            return hl_fail(HL_E_UNSUPPORTED, x->onnx->path, NULL,
                           "'%s': one half of its channels is not read", g->nodes[v]->name);
    return HL_OK;
}

static hl_status convert_nodes(hl_convert *x, const hl_onnx_net *net, const bool *needed, hl_value *output)
{
    for (x->at = 0; x->at < x->onnx->node_count; x->at++)
        if (needed[x->at] && !x->done[x->at])
            HL_TRY(convert_node(x, &x->onnx->nodes[x->at]));
    const hl_onnx_node *head = &x->onnx->nodes[net->head];
    hl_onnx_value *v = hl_convert_value(x, net->logits);
    HL_TRY(hl_convert_plain(x, head, v));
    hl_shape s = x->sources[v->source].shape;
    if (x->head_name == NULL || !x->sources[v->source].from_head || s.h != 1 || s.w != 1 || s.c != x->classes)
        return hl_convert_fail(x, head, NULL,
                               "its output is not one number for each class: it is %lldx%lldx%lld",
                               (long long)s.h, (long long)s.w, (long long)s.c);
    HL_TRY(hl_convert_node(x, v->source, output));
    return check_halves(x);
}

/* How the file sees the graph's input. */
static hl_view input_view(const hl_onnx_net *net, hl_shape s)
{
    hl_view view = net->nhwc ? hl_view_nhwc(s, net->batch) : hl_view_nchw(s, net->batch);
    for (int d = 3; net->vector && d > 1; d--)
        hl_view_drop(&view, d);
    return view;
}

static hl_status begin(hl_convert *x, const hl_onnx_net *net, const hl_onnx_build *b, bool **needed)
{
    HL_TRY(hl_arena_create(&x->arena));
    HL_TRY(hl_tensor_map_create(&x->taken));
    HL_TRY(hl_tensor_map_create(&x->counters));
    HL_TRY(collect_names(x));
    static const int64_t nothing = 0;
    HL_TRY(hl_tensor_map_add_ref(x->taken, "input", HL_DTYPE_F32, 1, &nothing, NULL));
    x->values = hl_arena_take(x->arena, x->name_count * sizeof *x->values);
    x->uses = hl_arena_take(x->arena, x->name_count * sizeof *x->uses);
    x->reader = hl_arena_take(x->arena, x->name_count * sizeof *x->reader);
    x->done = hl_arena_take(x->arena, x->onnx->node_count * sizeof *x->done);
    *needed = hl_arena_take(x->arena, x->onnx->node_count * sizeof **needed);
    if (x->values == NULL || x->uses == NULL || x->reader == NULL || x->done == NULL || *needed == NULL)
        return HL_E_NOMEM;
    for (size_t i = 0; i < hl_tensor_map_count(x->onnx->tensors); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(x->onnx->tensors, i);
        *hl_convert_value(x, t->name) = (hl_onnx_value){.kind = HL_ONNX_CONST, .tensor = *t};
    }
    int source;
    bool image = net->features.n == 0;
    hl_value input =
        hl_graph_input(x->graph, image ? b->image_size : net->features.h,
                       image ? b->image_size : net->features.w, image ? net->info.channels : net->features.c);
    HL_TRY(hl_convert_source(x, input, -1, &source));
    x->sources[source].reversed = b->bgr;
    hl_shape s = x->sources[source].shape;
    *hl_convert_value(x, net->onnx->inputs[0].name) =
        (hl_onnx_value){.kind = HL_ONNX_MAP, .source = source, .view = input_view(net, s)};
    return find_needed(x, net->logits, *needed);
}

static hl_status convert(hl_onnx_net *net, hl_onnx_build *b, hl_convert *x)
{
    bool *needed;
    hl_value output;
    HL_TRY(begin(x, net, b, &needed));
    HL_TRY(convert_nodes(x, net, needed, &output));
    HL_TRY(hl_graph_finish(x->graph, output));
    b->head_fresh = x->classes != x->old_classes;
    b->classes = x->classes;
    for (size_t v = 0; v < x->graph->node_count; v++)
        b->layers += hl_node_has_weight(x->graph->nodes[v]) || x->graph->nodes[v]->op == HL_OP_NORM;
    snprintf(net->head_name, sizeof net->head_name, "%s", x->head_name);
    return HL_OK;
}

hl_status hl_onnx_net_build(hl_onnx_net *net, hl_onnx_build *b, hl_graph **graph)
{
    hl_convert x = {.onnx = net->onnx,
                    .batch = net->batch,
                    .classes = b->classes,
                    .head = net->head,
                    .fold_bytes = 2 * net->onnx->bytes + (1 << 20)};
    HL_TRY(hl_graph_create(graph));
    x.graph = *graph;
    b->layers = 0;
    hl_status status = convert(net, b, &x);
    free(x.sources);
    hl_tensor_map_destroy(x.taken);
    hl_tensor_map_destroy(x.counters);
    hl_arena_destroy(x.arena);
    if (status != HL_OK) {
        hl_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}
