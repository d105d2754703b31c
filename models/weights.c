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

static hl_status complain(const char *file, const hl_model_info *info, const fault *missing,
                          const fault *extra, const fault *misshaped)
{
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
    return hl_fail(HL_E_INPUT, file, "give the weights of this model, or another --model", "%s", why);
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
    HL_TRY(hl_alloc_array(graph->param_count, KEY_SIZE, file, (void **)&text));
    hl_status status = hl_alloc_array(graph->param_count, sizeof *keys, file, (void **)&keys);
    for (size_t i = 0; status == HL_OK && i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        keys[i] = hl_weights_key(r.style, info, graph, p->name, text[i], KEY_SIZE);
        if (hl_param_is_added(p) || (p->head && r.head_skipped))
            continue;
        const hl_named_tensor *t = hl_tensor_map_find(map, keys[i]);
        if (t == NULL) {
            note(&missing, keys[i]);
        } else if (!same_shape(info, r.style, p, t)) {
            note_shape(&misshaped, info, r.style, p, t);
        } else {
            status = fill(p, t, file);
            r.loaded++;
        }
    }
    if (status == HL_OK) {
        qsort(keys, graph->param_count, sizeof *keys, compare_keys);
        find_extra(info, map, keys, graph->param_count, &extra);
        status = complain(file, info, &missing, &extra, &misshaped);
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
