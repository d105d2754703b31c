#include "models/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_SIZE = 256 };

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static const hl_named_tensor *head_weight(const hl_model_info *info, const hl_tensor_map *map)
{
    char own[KEY_SIZE], key[KEY_SIZE];
    snprintf(own, sizeof own, "%s.weight", info->head);
    /* The head is in no block, and so needs no graph. */
    return hl_tensor_map_find(map,
                              hl_weights_key(hl_weights_style(info, map), info, NULL, own, key, sizeof key));
}

int64_t hl_weights_classes(const hl_model_info *info, const hl_tensor_map *map)
{
    const hl_named_tensor *weight = head_weight(info, map);
    return weight != NULL && weight->ndim >= 1 ? weight->shape[0] : 0;
}

static bool same_shape(const hl_model_info *info, hl_key_style style, const hl_param *p,
                       const hl_named_tensor *t)
{
    int64_t shape[4];
    int ndim = hl_weights_shape(info, style, p, shape);
    return ndim == t->ndim && memcmp(shape, t->shape, (size_t)ndim * sizeof *shape) == 0;
}

/* Does the head of the file differ in its number of rows alone? */
static bool is_for_other_classes(const hl_param *own, const hl_named_tensor *head)
{
    if (head->ndim != own->ndim || head->shape[0] == own->shape[0])
        return false;
    for (int i = 1; i < own->ndim; i++)
        if (head->shape[i] != own->shape[i])
            return false;
    return true;
}

static hl_status fill(hl_param *p, const hl_named_tensor *t, const char *file)
{
    if (t->dtype != HL_DTYPE_F32 && t->dtype != HL_DTYPE_F64 && t->dtype != HL_DTYPE_F16 &&
        t->dtype != HL_DTYPE_BF16)
        return hl_fail(HL_E_INPUT, file, "weights are floating-point numbers", "%s has element type %s",
                       t->name, hl_dtype_name(t->dtype));
    hl_named_tensor_to_f32(t, p->host);
    for (int64_t i = 0; i < p->count; i++)
        if (!isfinite(p->host[i]))
            return hl_fail(HL_E_INPUT, file, "the file is damaged or training had diverged",
                           "%s holds a value that is not finite (element %lld)", t->name, (long long)i);
    for (int64_t i = 0; p->role == HL_PARAM_NORM_VAR && i < p->count; i++)
        if (p->host[i] < 0.0f)
            return hl_fail(HL_E_INPUT, file, "the file is damaged",
                           "%s holds a negative variance (element %lld)", t->name, (long long)i);
    return HL_OK;
}

/* Is `weight` that of a convolution, not grouped, of the images themselves? */
static bool reads_images(const hl_graph *graph, const hl_param *weight)
{
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (node->op == HL_OP_CONV && node->expr.weight == weight)
            return node->groups == 1 && graph->nodes[node->in[0]]->op == HL_OP_INPUT;
    }
    return false;
}

/* Does a convolution of images differ from the file's in its input channels alone? Then these are returned,
 * else 0. */
static int64_t file_channels(const hl_graph *graph, const hl_param *p, const hl_named_tensor *t)
{
    if (p->role != HL_PARAM_WEIGHT || t->ndim != 4 || p->shape[0] != t->shape[0] ||
        p->shape[2] != t->shape[2] || p->shape[3] != t->shape[3] || p->shape[1] == t->shape[1] ||
        !reads_images(graph, p))
        return 0;
    return t->shape[1];
}

/* Weights of RGB for one channel or four. */
static hl_status adapt_input_conv(hl_param *p, const hl_named_tensor *t, const char *file)
{
    int64_t channels = p->shape[1], window = p->shape[2] * p->shape[3];
    hl_param rgb = *p;
    rgb.count = p->shape[0] * 3 * window;
    HL_TRY(hl_alloc_array((size_t)rgb.count, sizeof *rgb.host, file, (void **)&rgb.host));
    hl_status status = fill(&rgb, t, file);
    for (int64_t o = 0; status == HL_OK && o < p->shape[0]; o++) {
        const float *from = rgb.host + o * 3 * window;
        float *to = p->host + o * channels * window;
        for (int64_t i = 0; i < channels * window; i++)
            to[i] = channels == 1 ? from[i] + from[window + i] + from[2 * window + i]
                                  : 0.75f * from[i % (3 * window)];
    }
    free(rgb.host);
    return status;
}

/* Keys that went wrong in one way: how many, and the first. */
typedef struct fault {
    int count;
    char first[KEY_SIZE + 128];
} fault;

static void note(fault *f, const char *text)
{
    if (f->count++ == 0)
        snprintf(f->first, sizeof f->first, "%s", text);
}

static void note_shape(fault *f, const hl_model_info *info, hl_key_style style, const hl_param *p,
                       const hl_named_tensor *t)
{
    char have[96], wanted[96], text[KEY_SIZE + 128];
    hl_named_tensor model = {0};
    model.ndim = hl_weights_shape(info, style, p, model.shape);
    snprintf(text, sizeof text, "%s is %s where the model has %s", t->name,
             hl_tensor_shape_text(t, have, sizeof have), hl_tensor_shape_text(&model, wanted, sizeof wanted));
    note(f, text);
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Tensors of the file that no parameter asked for; `keys` are the sorted names that were. */
static void find_extra(const hl_model_info *info, const hl_tensor_map *map, const char **keys, size_t count,
                       fault *extra)
{
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const char *name = hl_tensor_map_at(map, i)->name;
        bool auxiliary =
            info->auxiliary != NULL && strncmp(name, info->auxiliary, strlen(info->auxiliary)) == 0;
        if (!auxiliary && !ends_with(name, "num_batches_tracked") &&
            bsearch(&name, keys, count, sizeof *keys, compare_keys) == NULL)
            note(extra, name);
    }
}

/* channels: of the file's first convolution, where that alone is in the way. */
static hl_status complain(const char *file, const hl_model_info *info, const fault *missing,
                          const fault *extra, const fault *misshaped, int64_t channels)
{
    char todo[64] = "give the weights of this model, or another --model";
    if (missing->count + extra->count + misshaped->count == 0)
        return HL_OK;
    char why[1400];
    int used = snprintf(why, sizeof why, "its keys are not those of %s:", info->name);
    const struct {
        const fault *f;
        const char *what;
    } kinds[] = {{missing, "missing"}, {extra, "unexpected"}, {misshaped, "wrongly shaped"}};
    for (size_t i = 0; i < 3; i++)
        if (kinds[i].f->count > 0 && used < (int)sizeof why)
            used += snprintf(why + used, sizeof why - (size_t)used, " %d %s, first %s;", kinds[i].f->count,
                             kinds[i].what, kinds[i].f->first);
    why[strlen(why) - 1] = '\0';
    if (channels == 1 || channels == 3 || channels == 4)
        snprintf(todo, sizeof todo, "give --in-channels %lld, or other weights", (long long)channels);
    return hl_fail(HL_E_INPUT, file, todo, "%s", why);
}

hl_status hl_weights_load(hl_graph *graph, const hl_model_info *info, const hl_tensor_map *map,
                          const char *file, hl_load_report *report)
{
    hl_load_report r = {.style = hl_weights_style(info, map), .classes = hl_weights_classes(info, map)};
    fault missing = {0}, extra = {0}, misshaped = {0};
    const hl_named_tensor *head = head_weight(info, map);
    const hl_param *own_head = NULL;
    for (size_t i = 0; i < graph->param_count; i++)
        if (graph->params[i]->head && graph->params[i]->role == HL_PARAM_WEIGHT)
            own_head = graph->params[i];
    r.head_skipped = head == NULL || (own_head != NULL && is_for_other_classes(own_head, head));
    char(*text)[KEY_SIZE];
    const char **keys;
    int64_t channels = 0;
    HL_TRY(hl_alloc_array(graph->param_count, KEY_SIZE, file, (void **)&text));
    hl_status status = hl_alloc_array(graph->param_count, sizeof *keys, file, (void **)&keys);
    for (size_t i = 0; status == HL_OK && i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        keys[i] = hl_weights_key(r.style, info, graph, p->name, text[i], KEY_SIZE);
        if (!hl_param_is_base(p) || (p->head && r.head_skipped))
            continue;
        const hl_named_tensor *t = hl_tensor_map_find(map, keys[i]);
        if (t == NULL) {
            note(&missing, keys[i]);
        } else if (same_shape(info, r.style, p, t)) {
            status = fill(p, t, file);
            r.loaded++;
        } else if (file_channels(graph, p, t) == 3 && (p->shape[1] == 1 || p->shape[1] == 4)) {
            status = adapt_input_conv(p, t, file);
            r.adapted = true;
            r.loaded++;
        } else {
            channels = file_channels(graph, p, t);
            note_shape(&misshaped, info, r.style, p, t);
        }
    }
    if (status == HL_OK) {
        qsort(keys, graph->param_count, sizeof *keys, compare_keys);
        find_extra(info, map, keys, graph->param_count, &extra);
        status = complain(file, info, &missing, &extra, &misshaped, misshaped.count == 1 ? channels : 0);
    }
    free(keys);
    free(text);
    if (report != NULL)
        *report = r;
    return status;
}

/* A state dict being written. */
typedef struct writer {
    const hl_graph *graph;
    const hl_model_info *info;
    hl_key_style style;
    hl_tensor_map *map;
} writer;

static hl_status export_values(const writer *w, const hl_param *p, const float *values)
{
    char key[KEY_SIZE];
    int64_t shape[4];
    int ndim = hl_weights_shape(w->info, w->style, p, shape);
    return hl_tensor_map_add(w->map, hl_weights_key(w->style, w->info, w->graph, p->name, key, sizeof key),
                             HL_DTYPE_F32, ndim, shape, values);
}

static hl_status export_weight(const writer *w, const hl_node *node)
{
    const hl_param *p = node->expr.weight;
    float *merged;
    HL_TRY(hl_alloc_array((size_t)p->count, sizeof *merged, p->name, (void **)&merged));
    hl_weight_expr_merge(&node->expr, merged);
    hl_status status = export_values(w, p, merged);
    free(merged);
    return status;
}

static hl_status export_param(const writer *w, const hl_param *p)
{
    return p == NULL ? HL_OK : export_values(w, p, p->host);
}

static hl_status export_node(const writer *w, const hl_node *node)
{
    if (hl_node_has_weight(node)) {
        HL_TRY(export_weight(w, node));
        return export_param(w, node->expr.bias);
    }
    HL_TRY(export_param(w, node->norm.scale));
    HL_TRY(export_param(w, node->norm.shift));
    HL_TRY(export_param(w, node->norm.mean));
    HL_TRY(export_param(w, node->norm.var));
    if (node->op != HL_OP_NORM)
        return HL_OK;
    char name[KEY_SIZE], key[KEY_SIZE];
    const int64_t zero = 0;
    snprintf(name, sizeof name, "%s.num_batches_tracked", node->name);
    return hl_tensor_map_add(w->map, hl_weights_key(w->style, w->info, w->graph, name, key, sizeof key),
                             HL_DTYPE_I64, 0, NULL, &zero);
}

hl_status hl_weights_export(const hl_graph *graph, const hl_model_info *info, hl_key_style style,
                            hl_tensor_map **map)
{
    HL_TRY(hl_tensor_map_create(map));
    const writer w = {graph, info, style, *map};
    hl_status status = HL_OK;
    for (size_t k = 0; status == HL_OK && k < graph->node_count; k++)
        status = export_node(&w, graph->nodes[graph->order[k]]);
    if (status != HL_OK) {
        hl_tensor_map_destroy(*map);
        *map = NULL;
    }
    return status;
}
