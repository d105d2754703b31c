/* Adapter files: a safetensors file with what the method trained, and, as its metadata, all that is needed to
 * find and rebuild the network it belongs to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/numbers.h"
#include "graph/params.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "train/model.h"

static const char format_name[] = "heirloom-adapter", format_version[] = "1";

static hl_status set_number(hl_tensor_map *map, const char *key, long long value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", value);
    return hl_tensor_map_set_meta(map, key, text);
}

static hl_status set_values(hl_tensor_map *map, const char *key, const float *values, int64_t count)
{
    char text[HL_NUMBERS_SIZE];
    return hl_tensor_map_set_meta(map, key, hl_numbers_text(values, count, ' ', text, sizeof text));
}

static hl_status set_class_names(hl_tensor_map *map, const hl_model *m)
{
    if (m->class_names == NULL)
        return HL_OK;
    char *text;
    HL_TRY(hl_json_class_names((const char *const *)m->class_names, m->classes, &text));
    hl_status status = hl_tensor_map_set_meta(map, "class_names", text);
    free(text);
    return status;
}

static hl_status set_metadata(hl_tensor_map *map, const hl_model *m)
{
    const hl_preprocess *p = &m->preprocess;
    HL_TRY(hl_tensor_map_set_meta(map, "format", format_name));
    HL_TRY(hl_tensor_map_set_meta(map, "version", format_version));
    HL_TRY(hl_tensor_map_set_meta(map, "model", m->file != NULL ? m->file : m->info->name));
    if (m->bgr)
        HL_TRY(hl_tensor_map_set_meta(map, "channel_order", "bgr"));
    HL_TRY(hl_tensor_map_set_meta(map, "method", m->method_text));
    HL_TRY(hl_tensor_map_set_meta(map, "norm", hl_norm_mode_name(m->norm)));
    HL_TRY(set_number(map, "num_classes", m->classes));
    HL_TRY(hl_tensor_map_set_meta(map, "base_sha256", m->base_hash));
    if (m->weights != NULL)
        HL_TRY(hl_tensor_map_set_meta(map, "base_weights", m->weights));
    if (m->init_from != NULL)
        HL_TRY(hl_tensor_map_set_meta(map, "init_from", m->init_from));
    HL_TRY(set_number(map, "seed", (long long)m->seed));
    HL_TRY(set_number(map, "image_size", p->size));
    HL_TRY(set_number(map, "resize", p->resize));
    HL_TRY(hl_tensor_map_set_meta(map, "interpolation", p->bicubic ? "bicubic" : "bilinear"));
    HL_TRY(set_number(map, "in_channels", p->channels));
    HL_TRY(set_values(map, "mean", p->mean, p->channels));
    HL_TRY(set_values(map, "std", p->std, p->channels));
    return set_class_names(map, m);
}

/* Bit k of byte j: is value 8 j + k of the mask above its threshold? */
static int64_t packed_count(const hl_param *p)
{
    return (p->count + 7) / 8;
}

static hl_status add_mask(hl_tensor_map *map, const hl_param *p)
{
    const int64_t count = packed_count(p);
    uint8_t *bits = calloc((size_t)count, 1);
    if (bits == NULL)
        return hl_fail_nomem(p->name, (size_t)count);
    for (int64_t i = 0; i < p->count; i++)
        bits[i / 8] |= (uint8_t)((p->host[i] > p->threshold) << (i % 8));
    HL_TRY(hl_tensor_map_adopt(map, bits, free));
    return hl_tensor_map_add_ref(map, p->name, HL_DTYPE_U8, 1, &count, bits);
}

/* To 1 and -1, between which every threshold lies. */
static void unpack_mask(const uint8_t *bits, hl_param *p)
{
    for (int64_t i = 0; i < p->count; i++)
        p->host[i] = (bits[i / 8] >> (i % 8) & 1) != 0 ? 1.0f : -1.0f;
}

hl_status hl_model_save_adapter(hl_model *m, const char *path)
{
    HL_TRY(hl_graph_download(m->graph));
    hl_tensor_map *map;
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = set_metadata(map, m);
    for (size_t i = 0; i < m->graph->param_count && status == HL_OK; i++) {
        const hl_param *p = m->graph->params[i];
        if (hl_param_is_adapted(p) && p->role == HL_PARAM_MASK)
            status = add_mask(map, p);
        else if (hl_param_is_adapted(p))
            status = hl_tensor_map_add_ref(map, p->name, HL_DTYPE_F32, p->ndim, p->shape, p->host);
    }
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

static hl_status damaged(const char *path, const char *key)
{
    return hl_fail(HL_E_INPUT, path, "give an adapter.safetensors that heirloom wrote",
                   "its metadata has no usable \"%s\"", key);
}

static bool get_number(const hl_tensor_map *map, const char *key, long long least, long long most,
                       long long *value)
{
    const char *text = hl_tensor_map_meta(map, key);
    char *end;
    if (text == NULL)
        return false;
    *value = strtoll(text, &end, 10);
    return end != text && *end == '\0' && *value >= least && *value <= most;
}

static bool get_values(const hl_tensor_map *map, const char *key, float values[4], int64_t count)
{
    const char *text = hl_tensor_map_meta(map, key);
    return text != NULL && hl_numbers_parse(text, ' ', count, values) == count;
}

hl_status hl_adapter_describe(const char *path, const hl_tensor_map *map, hl_adapter_info *info)
{
    const char *format = hl_tensor_map_meta(map, "format"), *version = hl_tensor_map_meta(map, "version");
    if (format == NULL || strcmp(format, format_name) != 0)
        return hl_fail(HL_E_INPUT, path, "give an adapter.safetensors that heirloom wrote",
                       "it is no heirloom adapter");
    if (version == NULL || strcmp(version, format_version) != 0)
        return hl_fail(HL_E_INPUT, path, "use the heirloom that wrote it",
                       "adapter version %s is not known here", version != NULL ? version : "?");
    *info = (hl_adapter_info){.model = hl_tensor_map_meta(map, "model"),
                              .method = hl_tensor_map_meta(map, "method"),
                              .weights = hl_tensor_map_meta(map, "base_weights"),
                              .init_from = hl_tensor_map_meta(map, "init_from"),
                              .base_hash = hl_tensor_map_meta(map, "base_sha256"),
                              .class_names = hl_tensor_map_meta(map, "class_names")};
    const char *norm = hl_tensor_map_meta(map, "norm"),
               *interpolation = hl_tensor_map_meta(map, "interpolation");
    for (int mode = HL_NORM_FROZEN; norm != NULL && mode <= HL_NORM_FULL; mode++)
        if (strcmp(norm, hl_norm_mode_name((hl_norm_mode)mode)) == 0)
            info->norm = (hl_norm_mode)mode;
    if (info->model == NULL || info->method == NULL || info->base_hash == NULL ||
        info->norm == HL_NORM_DEFAULT)
        return damaged(path, "model, method, norm or base_sha256");
    long long classes, seed, size, resize, channels = 3; /* as before there was a key for it */
    if (!get_number(map, "num_classes", 1, 1 << 20, &classes))
        return damaged(path, "num_classes");
    if (!get_number(map, "seed", INT64_MIN, INT64_MAX, &seed))
        return damaged(path, "seed");
    if (!get_number(map, "image_size", 1, 4096, &size) || !get_number(map, "resize", 1, 16384, &resize))
        return damaged(path, "image_size or resize");
    if (hl_tensor_map_meta(map, "in_channels") != NULL &&
        (!get_number(map, "in_channels", 1, 4, &channels) || channels == 2))
        return damaged(path, "in_channels");
    info->preprocess.channels = channels;
    if (!get_values(map, "mean", info->preprocess.mean, channels) ||
        !get_values(map, "std", info->preprocess.std, channels))
        return damaged(path, "mean or std");
    info->classes = classes;
    info->seed = (uint64_t)seed;
    info->preprocess.size = size;
    info->preprocess.resize = resize;
    const char *order = hl_tensor_map_meta(map, "channel_order");
    info->bgr = order != NULL && strcmp(order, "bgr") == 0;
    info->preprocess.bicubic = interpolation != NULL && strcmp(interpolation, "bicubic") == 0;
    return HL_OK;
}

static hl_status check_tensor(const char *path, const hl_param *p, const hl_named_tensor *t)
{
    if (t == NULL)
        return hl_fail(HL_E_INPUT, path, "it was made by another method or version",
                       "the adapter has no tensor %s", p->name);
    bool mask = p->role == HL_PARAM_MASK,
         same = t->ndim == (mask ? 1 : p->ndim) && t->dtype == (mask ? HL_DTYPE_U8 : HL_DTYPE_F32);
    for (int i = 0; same && i < t->ndim; i++)
        same = t->shape[i] == (mask ? packed_count(p) : p->shape[i]);
    char shape[96];
    return same ? HL_OK
                : hl_fail(HL_E_INPUT, path, "it belongs to another model", "%s is %s %s, which does not fit",
                          p->name, hl_dtype_name(t->dtype), hl_tensor_shape_text(t, shape, sizeof shape));
}

hl_status hl_adapter_fill(hl_graph *graph, const char *path, const hl_tensor_map *map)
{
    size_t wanted = 0;
    for (size_t i = 0; i < graph->param_count; i++) {
        const hl_param *p = graph->params[i];
        if (!hl_param_is_adapted(p))
            continue;
        HL_TRY(check_tensor(path, p, hl_tensor_map_find(map, p->name)));
        wanted++;
    }
    if (wanted != hl_tensor_map_count(map))
        return hl_fail(HL_E_INPUT, path, "it was made by another method or version",
                       "the adapter has %zu tensors where the method trains %zu", hl_tensor_map_count(map),
                       wanted);
    for (size_t i = 0; i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        if (!hl_param_is_adapted(p))
            continue;
        const void *data = hl_tensor_map_find(map, p->name)->data;
        if (p->role == HL_PARAM_MASK)
            unpack_mask(data, p);
        else
            memcpy(p->host, data, (size_t)p->count * sizeof(float));
    }
    return hl_graph_upload(graph);
}

static hl_status load(hl_model *m, const char *path, const hl_tensor_map *map)
{
    hl_adapter_info info;
    HL_TRY(hl_adapter_describe(path, map, &info));
    if (!m->has_method || !hl_method_matches(&m->method, info.method) || info.norm != m->norm)
        return hl_fail(HL_E_INPUT, path, "apply that method first",
                       "the adapter was made by %s with norms %s", info.method, hl_norm_mode_name(info.norm));
    if (strcmp(info.base_hash, m->base_hash) != 0)
        return hl_fail(HL_E_INPUT, path, "give the weights it was trained on",
                       "the adapter belongs to other base weights (SHA-256 %.12s..., here %.12s...)",
                       info.base_hash, m->base_hash);
    HL_TRY(hl_adapter_fill(m->graph, path, map));
    hl_model_changed(m);
    return HL_OK;
}

hl_status hl_model_load_adapter(hl_model *m, const char *path)
{
    hl_tensor_map *map;
    HL_TRY(hl_safetensors_read(path, &map));
    hl_status status = load(m, path, map);
    hl_tensor_map_destroy(map);
    return status;
}

hl_status hl_model_read_class_names(hl_model *m, const char *path, const char *text)
{
    if (text == NULL)
        return HL_OK;
    json_t *names = json_loads(text, 0, NULL);
    const char **list = NULL;
    hl_status status = json_array_size(names) == (size_t)m->classes
                           ? hl_alloc_array((size_t)m->classes, sizeof *list, "class names", (void **)&list)
                           : damaged(path, "class_names");
    for (int64_t i = 0; status == HL_OK && i < m->classes; i++) {
        list[i] = json_string_value(json_array_get(names, (size_t)i));
        if (list[i] == NULL)
            status = damaged(path, "class_names");
    }
    if (status == HL_OK)
        status = hl_model_set_class_names(m, list, m->classes);
    free(list);
    json_decref(names);
    return status;
}

/* The network of `info`, its method applied and its adapter loaded. */
static hl_status rebuild(const char *path, const hl_tensor_map *map, const hl_adapter_info *info,
                         const char *weights, bool merged, const hl_log *log, hl_model **model)
{
    const hl_preprocess *p = &info->preprocess;
    /* The network may be a file, and that file may be what has moved. */
    bool moved = weights != NULL && hl_onnx_is_name(weights) && hl_onnx_is_name(info->model);
    hl_model_options options = {.name = moved ? weights : info->model,
                                .weights = weights != NULL && !moved ? weights : info->weights,
                                .bgr = info->bgr,
                                .init_from = info->init_from,
                                .classes = info->classes,
                                .image_size = p->size,
                                .resize = p->resize,
                                .interpolation = p->bicubic ? 2 : 1,
                                .in_channels = p->channels,
                                .mean = p->mean,
                                .std = p->std,
                                .seed = info->seed,
                                .log = log};
    HL_TRY(hl_model_create(&options, model));
    HL_TRY(hl_model_apply_method(*model, info->method, info->norm, info->seed));
    if (!merged) /* another adapter may follow */
        HL_TRY(hl_model_keep_base(*model, (*model)->graph));
    HL_TRY(load(*model, path, map));
    return hl_model_read_class_names(*model, path, info->class_names);
}

hl_status hl_model_merge(hl_model *m)
{
    HL_TRY(hl_method_merge(m->graph));
    for (size_t i = 0; i < m->graph->param_count; i++)
        m->graph->params[i]->trained = m->graph->params[i]->moves = false;
    m->has_method = false;
    m->method_text[0] = '\0';
    return hl_model_hash_base(m);
}

hl_status hl_model_open_run(const char *run, const char *weights, bool merged, const hl_log *log,
                            hl_model **model)
{
    char path[4096];
    *model = NULL;
    if (snprintf(path, sizeof path, "%s/adapter.safetensors", run) >= (int)sizeof path)
        return hl_fail(HL_E_ARG, "--run", NULL, "the path is too long");
    hl_tensor_map *map;
    HL_TRY(hl_safetensors_read(path, &map));
    hl_adapter_info info;
    hl_status status = hl_adapter_describe(path, map, &info);
    if (status == HL_OK)
        status = rebuild(path, map, &info, weights, merged, log, model);
    if (status == HL_OK && merged)
        status = hl_model_merge(*model);
    hl_tensor_map_destroy(map);
    if (status != HL_OK) {
        hl_model_destroy(*model);
        *model = NULL;
    }
    return status;
}
