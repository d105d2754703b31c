#include "train/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/numbers.h"
#include "graph/params.h"
#include "io/safetensors.h"
#include "io/weights_file.h"
#include "models/weights.h"
#include "train/preprocess.h"

static hl_status copy_text(const char *text, char **copy)
{
    *copy = text != NULL ? strdup(text) : NULL;
    return text != NULL && *copy == NULL ? hl_fail_nomem("text", strlen(text)) : HL_OK;
}

/* A path that stays right when the working directory changes. */
static hl_status copy_path(const char *path, char **copy)
{
    char *full = path != NULL ? realpath(path, NULL) : NULL;
    if (full != NULL) {
        *copy = full;
        return HL_OK;
    }
    return copy_text(path, copy);
}

hl_status hl_model_hash_base(hl_model *m)
{
    hl_tensor_map *map;
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = HL_OK;
    for (size_t i = 0; i < m->graph->param_count && status == HL_OK; i++) {
        const hl_param *p = m->graph->params[i];
        if (!p->head && hl_param_is_base(p))
            status = hl_tensor_map_add_ref(map, p->name, HL_DTYPE_F32, p->ndim, p->shape, p->host);
    }
    if (status == HL_OK)
        status = hl_sha256_tensor_map(map, m->base_hash);
    hl_tensor_map_destroy(map);
    return status;
}

/* The network of an ONNX file: its weights are there unless --weights gives others. */
static hl_status build_onnx(hl_model *m, const hl_model_options *o, const hl_tensor_map *weights)
{
    HL_TRY(hl_preprocess_resolve(m->info, m->onnx != NULL, o, &m->preprocess));
    hl_onnx_build b = {.image_size = m->preprocess.size, .classes = o->classes, .bgr = o->bgr};
    HL_TRY(hl_onnx_net_build(m->onnx, &b, &m->graph));
    int64_t classes = weights != NULL && o->classes == 0 ? hl_weights_classes(m->info, weights) : 0;
    if (classes > 0 && classes != b.classes) {
        hl_graph_destroy(m->graph);
        m->graph = NULL;
        b.classes = classes;
        HL_TRY(hl_onnx_net_build(m->onnx, &b, &m->graph));
    }
    m->classes = b.classes;
    m->bgr = o->bgr;
    if (weights != NULL) {
        hl_load_report report;
        HL_TRY(hl_weights_load(m->graph, m->info, weights, o->weights, &report));
        b.head_fresh = b.head_fresh && report.head_skipped;
    }
    hl_log_info(&m->log, "%s: %d layers%s%s", o->name, b.layers, weights != NULL ? " with other weights" : "",
                b.head_fresh ? ", the head is fresh" : "");
    const hl_preprocess *p = &m->preprocess;
    char mean[HL_NUMBERS_SIZE], std[HL_NUMBERS_SIZE];
    if (o->mean == NULL || o->std == NULL)
        hl_log_info(&m->log,
                    "%s: images are taken as %s, mean %s, std %s (--mean, --std and --channel-order say "
                    "otherwise)",
                    o->name,
                    p->channels == 1   ? "grey"
                    : p->channels == 4 ? "RGBA"
                    : o->bgr           ? "BGR"
                                       : "RGB",
                    hl_numbers_text(p->mean, p->channels, ',', mean, sizeof mean),
                    hl_numbers_text(p->std, p->channels, ',', std, sizeof std));
    if (!b.head_fresh && weights == NULL)
        return hl_model_read_class_names(m, o->name, hl_onnx_net_class_names(m->onnx));
    if (b.head_fresh)
        hl_graph_init_head(m->graph, o->seed, o->zero_head);
    return HL_OK;
}

static hl_status build(hl_model *m, const hl_model_options *o, const hl_tensor_map *weights)
{
    if (m->onnx != NULL)
        return build_onnx(m, o, weights);
    m->classes = o->classes > 0 ? o->classes : weights != NULL ? hl_weights_classes(m->info, weights) : 0;
    if (m->classes == 0)
        m->classes = 1000;
    HL_TRY(hl_preprocess_resolve(m->info, m->onnx != NULL, o, &m->preprocess));
    HL_TRY(hl_model_build_for(m->info, m->preprocess.size, m->preprocess.channels, m->classes, &m->graph));
    if (weights == NULL) {
        hl_graph_init(m->graph, o->seed);
        hl_log_warn(&m->log, "%s: no --weights, so the network starts from random values", m->info->name);
    } else {
        hl_load_report report;
        HL_TRY(hl_weights_load(m->graph, m->info, weights, o->weights, &report));
        hl_log_info(&m->log, "%s: %d tensors loaded%s%s", o->weights, report.loaded,
                    report.adapted ? ", the first convolution made to fit the images' channels" : "",
                    report.head_skipped ? ", the head is fresh" : "");
        if (!report.head_skipped)
            return HL_OK;
    }
    hl_graph_init_head(m->graph, o->seed, o->zero_head);
    return HL_OK;
}

static hl_status create_from_weights(hl_model *m, const hl_model_options *o)
{
    hl_tensor_map *weights = NULL;
    if (hl_onnx_is_name(o->name)) {
        HL_TRY(hl_onnx_net_open(o->name, &m->log, &m->onnx));
        HL_TRY(copy_path(o->name, &m->file));
        m->info = hl_onnx_net_info(m->onnx);
        if (hl_onnx_net_any_size(m->onnx) && o->image_size == 0)
            return hl_fail(HL_E_ARG, o->name, "give --image-size", "the file leaves the size of images open");
    } else {
        HL_TRY(hl_model_find(o->name, &m->info));
        if (o->bgr)
            return hl_fail(HL_E_ARG, "--channel-order bgr", "leave it out", "%s takes RGB, as all of the zoo",
                           o->name);
    }
    if (o->weights != NULL)
        HL_TRY(hl_weights_open(o->weights, &weights, NULL));
    hl_status status = build(m, o, weights);
    hl_tensor_map_destroy(weights);
    if (status == HL_OK)
        status = copy_path(o->weights, &m->weights);
    return status;
}

/* The first of a method's layers that merging has left, or NULL. */
static const hl_param *find_left(const hl_model *m)
{
    for (size_t i = 0; i < m->graph->param_count; i++)
        if (m->graph->params[i]->role == HL_PARAM_ADAPTER)
            return m->graph->params[i];
    return NULL;
}

hl_status hl_model_create(const hl_model_options *options, hl_model **model)
{
    *model = NULL;
    if (options->init_from != NULL) {
        HL_TRY(hl_model_open_run(options->init_from, options->weights, true, options->log, model));
        hl_model *m = *model;
        free(m->init_from);
        hl_status status = copy_path(options->init_from, &m->init_from);
        if (status == HL_OK && options->classes > 0 && options->classes != m->classes)
            status = hl_fail(HL_E_ARG, options->init_from, "start from --weights instead",
                             "the run has %lld classes, the data %lld", (long long)m->classes,
                             (long long)options->classes);
        if (status == HL_OK && options->image_size > 0 && options->image_size != m->preprocess.size)
            status = hl_fail(HL_E_ARG, options->init_from, "leave --image-size out",
                             "the run was made with images of %lld pixels, not %lld",
                             (long long)m->preprocess.size, (long long)options->image_size);
        if (status == HL_OK && options->in_channels > 0 && options->in_channels != m->preprocess.channels)
            status = hl_fail(HL_E_ARG, options->init_from, "leave --in-channels out",
                             "the run was made with images of %lld channels, not %lld",
                             (long long)m->preprocess.channels, (long long)options->in_channels);
        if (status == HL_OK && find_left(m) != NULL)
            status = hl_fail(HL_E_ARG, options->init_from, "start from --weights instead",
                             "its layer %s cannot be merged into %s", find_left(m)->name, m->info->name);
        m->seed = options->seed;
        if (status != HL_OK) {
            hl_model_destroy(m);
            *model = NULL;
        }
        return status;
    }
    if (options->name == NULL)
        return hl_fail(HL_E_ARG, "--model", "`heirloom models` lists the names", "none is given");
    hl_model *m = calloc(1, sizeof *m);
    if (m == NULL)
        return hl_fail_nomem("model", sizeof *m);
    m->seed = options->seed;
    if (options->log != NULL)
        m->log = *options->log;
    hl_status status = create_from_weights(m, options);
    if (status == HL_OK)
        status = hl_model_hash_base(m);
    if (status != HL_OK) {
        hl_model_destroy(m);
        return status;
    }
    *model = m;
    return HL_OK;
}

void hl_model_clear_class_names(hl_model *m)
{
    for (int64_t i = 0; m->class_names != NULL && i < m->classes; i++)
        free(m->class_names[i]);
    free(m->class_names);
    m->class_names = NULL;
}

void hl_model_destroy(hl_model *m)
{
    if (m == NULL)
        return;
    hl_model_clear_class_names(m);
    hl_session_drop(m);
    hl_graph_destroy(m->graph);
    hl_backend_close(m->backend);
    hl_tensor_map_destroy(m->base);
    hl_onnx_net_destroy(m->onnx);
    free(m->file);
    free(m->weights);
    free(m->init_from);
    free(m);
}

const char *hl_model_name(const hl_model *m)
{
    return m->info->name;
}

int64_t hl_model_classes(const hl_model *m)
{
    return m->classes;
}

const hl_preprocess *hl_model_preprocess(const hl_model *m)
{
    return &m->preprocess;
}

const char *hl_model_base_hash(const hl_model *m)
{
    return m->base_hash;
}

hl_status hl_model_apply_method(hl_model *m, const char *text, hl_norm_mode norm, uint64_t seed)
{
    if (m->has_method)
        return hl_fail(HL_E_ARG, "--method", NULL, "the model has %s already", m->method_text);
    HL_TRY(hl_method_parse(text, &m->method));
    HL_TRY(hl_method_apply(m->graph, &m->method, norm, seed));
    m->norm = norm == HL_NORM_DEFAULT ? m->method.info->norm : norm;
    hl_method_format(&m->method, m->method_text, sizeof m->method_text);
    m->has_method = true;
    return HL_OK;
}

const char *hl_model_method(const hl_model *m)
{
    return m->method_text;
}

hl_norm_mode hl_model_norm_mode(const hl_model *m)
{
    return m->norm;
}

double hl_model_drop_path(const hl_model *m)
{
    return (double)m->graph->drop_path;
}

hl_status hl_model_set_drop_path(hl_model *m, double rate)
{
    if (!(rate >= 0.0 && rate < 1.0))
        return hl_fail(HL_E_ARG, "--drop-path", "0 turns it off", "%g is not in [0, 1)", rate);
    if (rate > 0.0 && m->graph->drop_path_branches == 0)
        return hl_fail(HL_E_ARG, "--drop-path", "leave it out", "%s has no stochastic depth", m->info->name);
    hl_graph_set_drop_path(m->graph, (float)rate);
    return HL_OK;
}

static int64_t node_macs(const hl_node *node)
{
    if (!hl_node_has_weight(node))
        return 0;
    return node->shape.h * node->shape.w * node->expr.weight->count;
}

void hl_model_count_params(const hl_model *m, hl_model_counts *counts)
{
    *counts = (hl_model_counts){0};
    for (size_t i = 0; i < m->graph->param_count; i++) {
        const hl_param *p = m->graph->params[i];
        bool conv = hl_param_is_conv(p);
        counts->trainable += p->trained ? p->count : 0;
        bool of_conv = conv || p->role == HL_PARAM_GATE || p->role == HL_PARAM_FACTOR ||
                       p->role == HL_PARAM_MASK || (p->role == HL_PARAM_ADAPTER && p->ndim == 4);
        counts->trainable_conv += p->trained && of_conv ? p->count : 0;
        counts->gates += p->role == HL_PARAM_GATE ? p->count : 0;
        if (hl_param_is_statistic(p) || !hl_param_is_base(p))
            continue;
        counts->total += p->count;
        counts->head += p->head ? p->count : 0;
        counts->conv += conv ? p->count : 0;
    }
    for (size_t v = 0; v < m->graph->node_count; v++)
        counts->macs += node_macs(m->graph->nodes[v]);
}

int hl_model_layer_count(const hl_model *m)
{
    int count = 0;
    for (size_t v = 0; v < m->graph->node_count; v++)
        count += hl_node_has_parameters(m->graph->nodes[v]);
    return count;
}

static void add_param(hl_layer *layer, const hl_param *p)
{
    if (p == NULL)
        return;
    layer->trainable += p->trained ? p->count : 0;
    layer->gates += p->role == HL_PARAM_GATE ? p->count : 0;
    layer->params += hl_param_is_base(p) ? p->count : 0;
}

void hl_model_layer(const hl_model *m, int index, hl_layer *layer)
{
    const hl_node *node = NULL;
    for (size_t k = 0; k < m->graph->node_count; k++) {
        const hl_node *candidate = m->graph->nodes[m->graph->order[k]];
        if (hl_node_has_parameters(candidate) && index-- == 0)
            node = candidate;
    }
    *layer = (hl_layer){.name = node->name,
                        .kind = node->op == HL_OP_CONV     ? "conv"
                                : node->op == HL_OP_LINEAR ? "linear"
                                : node->op == HL_OP_SCALE  ? "scale"
                                                           : "norm",
                        .out_h = node->shape.h,
                        .out_w = node->shape.w,
                        .out_c = node->shape.c,
                        .macs = node_macs(node)};
    if (!hl_node_has_weight(node)) {
        add_param(layer, node->norm.scale);
        add_param(layer, node->norm.shift);
        return;
    }
    add_param(layer, node->expr.weight);
    add_param(layer, node->expr.bias);
    hl_param *own[HL_EXPR_PARAMS];
    for (int i = hl_weight_expr_params(&node->expr, own); i-- > 0;)
        add_param(layer, own[i]);
    add_param(layer, node->expr.offset);
}

const char *hl_model_class_name(const hl_model *m, int64_t index)
{
    return m->class_names != NULL && index >= 0 && index < m->classes ? m->class_names[index] : NULL;
}

hl_status hl_model_set_class_names(hl_model *m, const char *const *names, int64_t count)
{
    if (count != m->classes)
        return hl_fail(HL_E_INTERNAL, "class names", NULL, "%lld names for %lld classes", (long long)count,
                       (long long)m->classes);
    hl_model_clear_class_names(m);
    HL_TRY(hl_alloc_array((size_t)count, sizeof *m->class_names, "class names", (void **)&m->class_names));
    for (int64_t i = 0; i < count; i++)
        HL_TRY(copy_text(names[i], &m->class_names[i]));
    return HL_OK;
}

hl_status hl_model_place(hl_model *m, const hl_compute *compute)
{
    if (m->backend != NULL) /* another adapter may have brought another graph */
        return m->graph->placement != NULL ? HL_OK : hl_graph_place(m->graph, m->backend);
    hl_backend_options options = {.log = &m->log};
    if (compute != NULL) {
        options.device = compute->device;
        options.threads = compute->threads;
        options.deterministic = compute->deterministic;
        options.autotune = compute->autotune;
    }
    HL_TRY(hl_backend_open(&options, &m->backend));
    hl_status status = hl_graph_place(m->graph, m->backend);
    if (status != HL_OK) {
        hl_placement_destroy(m->graph);
        hl_backend_close(m->backend);
        m->backend = NULL;
    }
    return status;
}

static const char *const precision_names[] = {"default", "fp32", "tf32", "bf16", "fp16"};

hl_status hl_model_number_type(const hl_model *m, const hl_compute *compute, bool training,
                               hl_number_type *type)
{
    static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_F32, HL_ELEM_BF16, HL_ELEM_F16};
    const hl_backend_ops *ops = m->backend->ops;
    hl_precision precision = compute != NULL ? compute->precision : HL_PRECISION_DEFAULT;
    if (precision == HL_PRECISION_DEFAULT)
        precision =
            training && ops->is_native(m->backend, HL_ELEM_BF16) ? HL_PRECISION_BF16 : HL_PRECISION_FP32;
    *type = (hl_number_type){.elem = elems[precision], .tf32 = precision == HL_PRECISION_TF32};
    if (!ops->computes(m->backend, type->elem) || (type->tf32 && m->backend->host_memory)) {
        char subject[32];
        snprintf(subject, sizeof subject, "--precision %s", precision_names[precision]);
        return hl_fail(HL_E_UNSUPPORTED, subject, "choose fp32 or bf16", "%s does not compute in it",
                       m->backend->device);
    }
    type->winograd = compute != NULL && compute->winograd;
    if (type->winograd && (precision != HL_PRECISION_FP32 || !m->backend->host_memory))
        return hl_fail(HL_E_ARG, "--winograd", "leave it out, or give --device cpu --precision fp32",
                       "it is for fp32 on the CPU, not for %s on %s", precision_names[precision],
                       m->backend->host_memory ? "the CPU" : "a GPU");
    return HL_OK;
}

const char *hl_number_type_name(hl_number_type type)
{
    return type.winograd               ? "fp32 winograd"
           : type.tf32                 ? "tf32"
           : type.elem == HL_ELEM_BF16 ? "bf16"
           : type.elem == HL_ELEM_F16  ? "fp16"
                                       : "fp32";
}

void hl_model_compile_options(const hl_model *m, hl_exec projection, hl_number_type type,
                              hl_compile_options *options)
{
    static const hl_projection_exec execs[] = {HL_PROJECTION_AUTO, HL_PROJECTION_FOLD, HL_PROJECTION_CACHE};
    *options = (hl_compile_options){
        .projection = execs[projection], .elem = type.elem, .tf32 = type.tf32, .winograd = type.winograd};
    memcpy(options->mean, m->preprocess.mean, sizeof m->preprocess.mean);
    memcpy(options->std, m->preprocess.std, sizeof m->preprocess.std);
}

hl_status hl_model_export_as(hl_model *m, const char *path, const char *library)
{
    hl_tensor_map *map;
    hl_key_style style = HL_KEYS_NATIVE;
    if (library != NULL && (m->onnx != NULL || hl_onnx_is_name(path)))
        return hl_fail(HL_E_ARG, "--keys", "leave it out", "it is for models of the zoo as .safetensors");
    if (library != NULL)
        HL_TRY(hl_weights_library_style(m->info, library, &style));
    HL_TRY(hl_graph_download(m->graph));
    if (hl_onnx_is_name(path)) {
        const hl_preprocess *p = &m->preprocess;
        const hl_onnx_meta meta = {.image_size = p->size,
                                   .resize = p->resize,
                                   .bicubic = p->bicubic,
                                   .mean = p->mean,
                                   .std = p->std,
                                   .classes = (const char *const *)m->class_names,
                                   .class_count = m->classes};
        return hl_onnx_export(m->graph, &meta, path);
    }
    const hl_param *left = find_left(m);
    if (left != NULL)
        return hl_fail(HL_E_UNSUPPORTED, path, "export it to a name ending in .onnx",
                       "%s cannot be merged, and %s has no such layer", left->name, m->info->name);
    HL_TRY(hl_weights_export(m->graph, m->info, style, &map));
    hl_status status = hl_tensor_map_set_meta(map, "format", "pt");
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

hl_status hl_model_export(hl_model *m, const char *path)
{
    return hl_model_export_as(m, path, NULL);
}
