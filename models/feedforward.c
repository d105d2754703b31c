#include "models/feedforward.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/weights_file.h"
#include "models/onnx.h"

static const char *const act_names[] = {"none", "relu",      "relu6", "sigmoid", "hardsigmoid",
                                        "silu", "hardswish", "gelu",  "tanh"};
enum { ACTS = sizeof act_names / sizeof *act_names, MAX_LAYERS = 1024, MAX_NAME = 200 };

const char *hl_act_name(hl_act act)
{
    return act_names[act];
}

static hl_status find_act(const char *name, hl_act *act)
{
    char nearest[128], subject[64], todo[320];
    for (int i = 0; i < ACTS; i++)
        if (strcmp(act_names[i], name) == 0) {
            *act = (hl_act)i;
            return HL_OK;
        }
    hl_nearest_names(name, act_names, ACTS, nearest, sizeof nearest);
    snprintf(subject, sizeof subject, "--act %.40s", name);
    snprintf(todo, sizeof todo,
             "%s%s%sthere are none, relu, relu6, sigmoid, hardsigmoid, silu, hardswish, gelu, tanh",
             nearest[0] != '\0' ? "did you mean " : "", nearest, nearest[0] != '\0' ? "? " : "");
    return hl_fail(HL_E_ARG, subject, todo, "there is no such activation");
}

/* One layer of a state dict. */
typedef struct layer {
    char name[MAX_NAME];
    const hl_named_tensor *weight, *bias;
    hl_act act; /* behind it */
} layer;

typedef struct reader {
    const char *path;
    const hl_tensor_map *map;
    layer *layers;
    int count;
} reader;

static layer *find_layer(reader *r, const char *name, size_t length)
{
    for (int i = 0; i < r->count; i++)
        if (strlen(r->layers[i].name) == length && strncmp(r->layers[i].name, name, length) == 0)
            return &r->layers[i];
    return NULL;
}

static bool is_floating(hl_dtype dtype)
{
    return dtype == HL_DTYPE_F64 || dtype == HL_DTYPE_F32 || dtype == HL_DTYPE_F16 || dtype == HL_DTYPE_BF16;
}

/* A tensor NAME.weight or NAME.bias; those of a lone layer have no name before the dot. */
static hl_status take_tensor(reader *r, const hl_named_tensor *t)
{
    const char *dot = strrchr(t->name, '.'), *suffix = dot != NULL ? dot + 1 : t->name,
               *name = dot != NULL ? t->name : "linear";
    size_t length = dot != NULL ? (size_t)(dot - t->name) : strlen(name);
    bool weight = strcmp(suffix, "weight") == 0, bias = strcmp(suffix, "bias") == 0;
    char shape[96];
    if ((!weight && !bias) || t->ndim != (weight ? 2 : 1))
        return hl_fail(HL_E_UNSUPPORTED, r->path, "a feedforward network has weights [O, I] and biases [O]",
                       "%.120s %s belongs to no linear layer", t->name,
                       hl_tensor_shape_text(t, shape, sizeof shape));
    if (!is_floating(t->dtype))
        return hl_fail(HL_E_INPUT, r->path, NULL, "%.120s is %s, no floating type", t->name,
                       hl_dtype_name(t->dtype));
    if (length == 0 || length >= MAX_NAME)
        return hl_fail(HL_E_INPUT, r->path, NULL, "the name %.120s is too short or too long", t->name);
    layer *l = find_layer(r, name, length);
    if (l == NULL) {
        if (r->count == MAX_LAYERS)
            return hl_fail(HL_E_UNSUPPORTED, r->path, NULL, "it has more than %d layers", MAX_LAYERS);
        l = &r->layers[r->count++];
        memcpy(l->name, name, length);
    }
    *(weight ? &l->weight : &l->bias) = t;
    return HL_OK;
}

/* By the numbers in them where they differ in one: "2" before "10". */
static int natural_order(const void *a, const void *b)
{
    const char *x = ((const layer *)a)->name, *y = ((const layer *)b)->name;
    while (*x != '\0' && *y != '\0') {
        if (isdigit((unsigned char)*x) && isdigit((unsigned char)*y)) {
            char *end_x, *end_y;
            unsigned long long m = strtoull(x, &end_x, 10), n = strtoull(y, &end_y, 10);
            if (m != n)
                return m < n ? -1 : 1;
            x = end_x;
            y = end_y;
        } else if (*x != *y) {
            return (unsigned char)*x < (unsigned char)*y ? -1 : 1;
        } else {
            x++;
            y++;
        }
    }
    return (*x != '\0') - (*y != '\0');
}

/* Puts the layers into the order that --layers names. */
static hl_status order_layers(reader *r, const char *names)
{
    int at = 0;
    for (const char *name = names;; name++) {
        size_t length = strcspn(name, ",");
        layer *l = find_layer(r, name, length);
        if (l == NULL || l < r->layers + at)
            return hl_fail(HL_E_ARG, "--layers", "name every layer of the file once", "%.*s is %s",
                           (int)(length > 100 ? 100 : length), name,
                           l == NULL ? "no layer of the file" : "named twice");
        layer kept = r->layers[at];
        r->layers[at++] = *l;
        *l = kept;
        name += length;
        if (*name == '\0')
            break;
    }
    return at == r->count ? HL_OK
                          : hl_fail(HL_E_ARG, "--layers", "name every layer of the file once",
                                    "%d names for %d layers", at, r->count);
}

static hl_status set_acts(reader *r, const char *names)
{
    int count = 0, wanted = 1;
    for (const char *c = names; *c != '\0'; c++)
        wanted += *c == ',';
    if (wanted != 1 && wanted != r->count && wanted != r->count - 1)
        return hl_fail(HL_E_ARG, "--act", "give one, or one for each layer (the last may be left out)",
                       "%d activations for %d layers", wanted, r->count);
    for (const char *name = names; count < wanted; count++) {
        char one[64];
        size_t length = strcspn(name, ",");
        hl_act act = HL_ACT_NONE;
        snprintf(one, sizeof one, "%.*s", (int)(length > 60 ? 60 : length), name);
        HL_TRY(find_act(one, &act));
        r->layers[count].act = act;
        name += length + (name[length] == ',');
    }
    for (int i = 1; wanted == 1 && r->count > 1 && i < r->count - 1; i++)
        r->layers[i].act = r->layers[0].act;
    if (wanted == 1 && r->count == 1)
        r->layers[0].act = HL_ACT_NONE; /* it stands between layers */
    return HL_OK;
}

static hl_status check_chain(const reader *r)
{
    if (r->count == 0)
        return hl_fail(HL_E_INPUT, r->path, NULL, "it has no layers");
    for (int i = 0; i < r->count; i++) {
        const layer *l = &r->layers[i];
        if (l->weight == NULL)
            return hl_fail(HL_E_INPUT, r->path, NULL, "layer %s has a bias and no weight", l->name);
        const int64_t *shape = l->weight->shape;
        if (shape[0] < 1 || shape[1] < 1)
            return hl_fail(HL_E_INPUT, r->path, NULL, "the weight of layer %s is empty", l->name);
        if (l->bias != NULL && l->bias->shape[0] != shape[0])
            return hl_fail(HL_E_INPUT, r->path, NULL, "layer %s has %lld outputs and %lld biases", l->name,
                           (long long)shape[0], (long long)l->bias->shape[0]);
        const layer *before = i > 0 ? l - 1 : NULL;
        if (before != NULL && before->weight->shape[0] != shape[1])
            return hl_fail(HL_E_INPUT, r->path, "--layers gives the order",
                           "layer %s takes %lld features and %s before it makes %lld", l->name,
                           (long long)shape[1], before->name, (long long)before->weight->shape[0]);
    }
    return HL_OK;
}

static hl_status fill(const reader *r, const hl_named_tensor *t, hl_param *p)
{
    hl_named_tensor_to_f32(t, p->host);
    for (int64_t i = 0; i < p->count; i++)
        if (!isfinite(p->host[i]))
            return hl_fail(HL_E_INPUT, r->path, "the file is damaged, or training has diverged",
                           "%.120s has a value that is not finite", t->name);
    return HL_OK;
}

static hl_status build_chain(const reader *r, hl_graph *g)
{
    hl_value x = hl_graph_input(g, 1, 1, r->layers[0].weight->shape[1]);
    for (int i = 0; i < r->count; i++) {
        const layer *l = &r->layers[i];
        x = hl_graph_linear(g, l->name, x, l->weight->shape[0], l->bias != NULL);
        if (x == HL_NO_VALUE)
            break;
        hl_node *node = hl_graph_node(g, x);
        HL_TRY(fill(r, l->weight, node->expr.weight));
        if (l->bias != NULL)
            HL_TRY(fill(r, l->bias, node->expr.bias));
        if (l->act != HL_ACT_NONE)
            x = hl_graph_act(g, hl_graph_name(g, "%s.act", l->name), x, l->act);
    }
    return hl_graph_finish(g, x);
}

static hl_status read_chain(reader *r, hl_weights_format format, const hl_feedforward_spec *spec,
                            hl_graph **graph)
{
    for (size_t i = 0; i < hl_tensor_map_count(r->map); i++)
        HL_TRY(take_tensor(r, hl_tensor_map_at(r->map, i)));
    if (spec->layers != NULL)
        HL_TRY(order_layers(r, spec->layers));
    else if (format == HL_WEIGHTS_SAFETENSORS)
        qsort(r->layers, (size_t)r->count, sizeof *r->layers, natural_order);
    HL_TRY(check_chain(r));
    HL_TRY(set_acts(r, spec->act != NULL ? spec->act : "relu"));
    HL_TRY(hl_graph_create(graph));
    return build_chain(r, *graph);
}

static hl_status read_state_dict(const char *path, const hl_feedforward_spec *spec, hl_graph **graph)
{
    hl_tensor_map *map;
    hl_weights_format format;
    reader r = {.path = path};
    HL_TRY(hl_weights_open(path, &map, &format));
    r.map = map;
    hl_status status = hl_alloc_array(MAX_LAYERS, sizeof *r.layers, path, (void **)&r.layers);
    if (status == HL_OK)
        status = read_chain(&r, format, spec, graph);
    free(r.layers);
    hl_tensor_map_destroy(map);
    return status;
}

static hl_status read_onnx(const char *path, const hl_log *log, hl_graph **graph)
{
    hl_onnx_net *net;
    hl_onnx_build build = {0};
    HL_TRY(hl_onnx_net_open_features(path, log, &net));
    hl_status status = hl_onnx_net_build(net, &build, graph);
    hl_onnx_net_destroy(net);
    return status;
}

hl_status hl_feedforward_read(const char *path, const hl_feedforward_spec *spec, const hl_log *log,
                              hl_graph **graph)
{
    const hl_feedforward_spec none = {0};
    if (spec == NULL)
        spec = &none;
    *graph = NULL;
    bool onnx = hl_onnx_is_name(path);
    if (onnx && (spec->act != NULL || spec->layers != NULL))
        return hl_fail(HL_E_ARG, spec->act != NULL ? "--act" : "--layers", "leave it out",
                       "an ONNX file says that itself");
    hl_status status = onnx ? read_onnx(path, log, graph) : read_state_dict(path, spec, graph);
    if (status != HL_OK) {
        hl_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}
