/* Another adapter over the same backbone.
 *
 * Where the method, the norms and the number of classes are the same, the same tensors have new values:
 * programs stay and their effective weights are made again. Else the graph is built anew and takes the base's
 * values from the one before; what an adapter replaces of them is kept beside the model. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "graph/params.h"
#include "io/safetensors.h"
#include "train/session.h"

hl_status hl_model_keep_base(hl_model *m, const hl_graph *graph)
{
    if (m->base == NULL)
        HL_TRY(hl_tensor_map_create(&m->base));
    for (size_t i = 0; i < graph->param_count; i++) {
        const hl_param *p = graph->params[i];
        if (hl_param_is_adapted(p) && !p->head && hl_param_is_base(p) &&
            hl_tensor_map_find(m->base, p->name) == NULL)
            HL_TRY(hl_tensor_map_add(m->base, p->name, HL_DTYPE_F32, p->ndim, p->shape, p->host));
    }
    return HL_OK;
}

static hl_status differs(const char *path, const char *what, const char *theirs, const char *ours)
{
    return hl_fail(HL_E_INPUT, path,
                   "runs of one model, from the same base weights and with the same preprocessing, "
                   "go together",
                   "its %s differs: %.60s, here %.60s", what, theirs, ours);
}

static const char *file_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static const char *preprocess_text(const hl_preprocess *p, bool bgr, char *buf, size_t size)
{
    snprintf(buf, size, "%lld of %lld %s %s %.4g,%.4g,%.4g/%.4g,%.4g,%.4g", (long long)p->size,
             (long long)p->resize, p->bicubic ? "bicubic" : "bilinear",
             p->channels == 1   ? "grey"
             : p->channels == 4 ? "RGBA"
             : bgr              ? "BGR"
                                : "RGB",
             (double)p->mean[0], (double)p->mean[1], (double)p->mean[2], (double)p->std[0], (double)p->std[1],
             (double)p->std[2]);
    return buf;
}

static hl_status check_same(const hl_model *m, const char *path, const hl_adapter_info *info)
{
    char theirs[160], ours[160];
    const hl_preprocess *a = &info->preprocess, *b = &m->preprocess;
    /* A network from a file may have moved; its weights tell. */
    const char *name = m->file != NULL ? file_of(m->file) : m->info->name;
    if (strcmp(m->file != NULL ? file_of(info->model) : info->model, name) != 0)
        return differs(path, "model", info->model, name);
    if (strcmp(info->base_hash, m->base_hash) != 0) {
        snprintf(theirs, sizeof theirs, "SHA-256 %.12s...", info->base_hash);
        snprintf(ours, sizeof ours, "%.12s...", m->base_hash);
        return differs(path, "base", theirs, ours);
    }
    if (a->size != b->size || a->channels != b->channels || a->resize != b->resize ||
        a->bicubic != b->bicubic || info->bgr != m->bgr || memcmp(a->mean, b->mean, sizeof a->mean) != 0 ||
        memcmp(a->std, b->std, sizeof a->std) != 0)
        return differs(path, "preprocessing", preprocess_text(a, info->bgr, theirs, sizeof theirs),
                       preprocess_text(b, m->bgr, ours, sizeof ours));
    return HL_OK;
}

/* The model's network with fresh values and so many classes. */
static hl_status build_again(hl_model *m, int64_t classes, hl_graph **graph)
{
    if (m->onnx == NULL)
        return hl_model_build_for(m->info, m->preprocess.size, m->preprocess.channels, classes, graph);
    hl_onnx_build b = {.image_size = m->preprocess.size, .classes = classes, .bgr = m->bgr};
    return hl_onnx_net_build(m->onnx, &b, graph);
}

/* The base's values of all but the head, which the adapter has. */
static hl_status take_base(const hl_model *m, hl_graph *graph)
{
    for (size_t i = 0; i < graph->param_count; i++) {
        hl_param *p = graph->params[i];
        const hl_named_tensor *kept = m->base != NULL ? hl_tensor_map_find(m->base, p->name) : NULL;
        const hl_param *before = hl_graph_find_param(m->graph, p->name);
        if (p->head)
            continue;
        if (kept == NULL && (before == NULL || before->count != p->count))
            return hl_fail(HL_E_INTERNAL, p->name, NULL,
                           "the network that was built again has another parameter");
        memcpy(p->host, kept != NULL ? kept->data : before->host, (size_t)p->count * sizeof *p->host);
    }
    return HL_OK;
}

static hl_status adapt(hl_model *m, const char *path, const hl_tensor_map *map, const hl_adapter_info *info,
                       hl_method *method, hl_graph *graph)
{
    HL_TRY(take_base(m, graph));
    HL_TRY(hl_method_parse(info->method, method));
    HL_TRY(hl_method_apply(graph, method, info->norm, info->seed));
    hl_graph_set_drop_path(graph, m->graph->drop_path);
    HL_TRY(hl_model_keep_base(m, graph));
    return hl_adapter_fill(graph, path, map);
}

static hl_status put_other_graph(hl_model *m, const char *path, const hl_tensor_map *map,
                                 const hl_adapter_info *info)
{
    hl_graph *graph = NULL;
    hl_method method;
    HL_TRY(build_again(m, info->classes, &graph));
    hl_status status = adapt(m, path, map, info, &method, graph);
    if (status != HL_OK) {
        hl_graph_destroy(graph);
        return status;
    }
    hl_session_drop(m);
    hl_model_clear_class_names(m);
    hl_graph_destroy(m->graph);
    m->graph = graph;
    m->classes = info->classes;
    m->method = method;
    m->norm = info->norm;
    hl_method_format(&m->method, m->method_text, sizeof m->method_text);
    return HL_OK;
}

static hl_status swap(hl_model *m, const char *path, const hl_tensor_map *map)
{
    hl_adapter_info info;
    if (!m->has_method)
        return hl_fail(HL_E_ARG, path, "open the first run without merging it",
                       "the model has no adapter to replace");
    HL_TRY(hl_adapter_describe(path, map, &info));
    HL_TRY(check_same(m, path, &info));
    bool same =
        hl_method_matches(&m->method, info.method) && info.norm == m->norm && info.classes == m->classes;
    if (same)
        HL_TRY(hl_adapter_fill(m->graph, path, map));
    else
        HL_TRY(put_other_graph(m, path, map, &info));
    hl_model_changed(m);
    m->seed = info.seed;
    hl_model_clear_class_names(m);
    return hl_model_read_class_names(m, path, info.class_names);
}

hl_status hl_model_swap_adapter(hl_model *m, const char *path)
{
    char file[4096];
    struct stat info;
    hl_tensor_map *map;
    bool folder = stat(path, &info) == 0 && S_ISDIR(info.st_mode);
    if (snprintf(file, sizeof file, "%s%s", path, folder ? "/adapter.safetensors" : "") >= (int)sizeof file)
        return hl_fail(HL_E_ARG, "--run", NULL, "the path is too long");
    HL_TRY(hl_safetensors_read(file, &map));
    hl_status status = swap(m, file, map);
    hl_tensor_map_destroy(map);
    return status;
}
