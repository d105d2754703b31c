/* heirloom models, methods, devices */
#include <math.h>
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_backend.h"
#include "cli/common.h"
#include "method/method.h"
#include "models/registry.h"

typedef struct row {
    int64_t params, gates, macs;
} row;

/* Nothing is computed and no weights are allocated: shapes are enough. */
static hl_status count(const hl_model_info *info, int64_t image_size, row *r)
{
    hl_graph *graph;
    HL_TRY(hl_model_build(info, image_size, 1000, &graph));
    *r = (row){0};
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (!hl_node_has_weight(node))
            continue;
        const hl_param *w = node->expr.weight;
        r->macs += node->shape.h * node->shape.w * w->count;
        r->gates += node->op == HL_OP_CONV && !node->head ? w->shape[0] * w->shape[1] : 0;
    }
    for (size_t i = 0; i < graph->param_count; i++)
        r->params += hl_param_is_statistic(graph->params[i]) ? 0 : graph->params[i]->count;
    hl_graph_destroy(graph);
    return HL_OK;
}

/* Decimals as the table has them, not those of the nearest float. */
static json_t *triple_json(const float v[3])
{
    json_t *list = json_array();
    for (int c = 0; c < 3; c++)
        json_array_append_new(list, json_real(round((double)v[c] * 1e6) / 1e6));
    return list;
}

static json_t *weights_json(const hl_model_info *m, const hl_published *w, const row *r)
{
    return json_pack("{s:o, s:s?, s:o, s:s, s:I, s:I, s:I, s:I, s:s}", "name",
                     w->tag != NULL ? json_sprintf("%s.%s", m->name, w->tag) : json_string(m->name),
                     "weights_file", w->weights_file, "top1",
                     w->weights_file != NULL ? json_real(round((double)w->top1 * 1e3) / 1e3) : json_null(),
                     "licence", w->licence != NULL ? w->licence : m->licence, "macs", (json_int_t)r->macs,
                     "image_size", (json_int_t)w->image_size, "resize", (json_int_t)w->resize, "crop",
                     (json_int_t)w->image_size, "interpolation", w->bicubic ? "bicubic" : "bilinear");
}

static void print_weights(const hl_model_info *m, const hl_published *w, const row *r)
{
    char name[64], params[32], gates[32], macs[32], top1[16] = "none";
    snprintf(name, sizeof name, "%s%s%s", m->name, w->tag != NULL ? "." : "", w->tag != NULL ? w->tag : "");
    if (w->weights_file != NULL)
        snprintf(top1, sizeof top1, "%.2f %%", (double)w->top1);
    printf("%-27s %14s %14s %16s %6lld %8s  %-13s %s\n", name, cli_grouped(r->params, params, sizeof params),
           cli_grouped(r->gates, gates, sizeof gates), cli_grouped(r->macs, macs, sizeof macs),
           (long long)w->image_size, top1, w->licence != NULL ? w->licence : m->licence,
           w->weights_file != NULL ? w->weights_file : "none published");
}

/* One set of weights of a model: a line, or an object. */
static hl_status list_weights(const hl_model_info *m, const hl_published *w, bool json, json_t **object)
{
    row r;
    HL_TRY(count(m, w->image_size, &r));
    if (!json) {
        print_weights(m, w, &r);
        return HL_OK;
    }
    *object = weights_json(m, w, &r);
    if (w->tag != NULL)
        return HL_OK;
    json_t *rest = json_pack("{s:s?, s:I, s:I, s:s, s:s, s:s, s:o, s:o, s:[]}", "alias", m->alias, "params",
                             (json_int_t)r.params, "gates", (json_int_t)r.gates, "head", m->head, "paper",
                             m->paper, "keys", m->timm ? "timm" : "torchvision", "mean", triple_json(m->mean),
                             "std", triple_json(m->std), "others");
    json_object_update(*object, rest);
    json_decref(rest);
    return HL_OK;
}

static hl_status list_model(const hl_model_info *m, json_t *list)
{
    json_t *object = NULL, *other = NULL;
    const hl_published own = {NULL,       m->weights_file, m->image_size, m->resize,
                              m->bicubic, m->top1,         m->licence};
    HL_TRY(list_weights(m, &own, list != NULL, &object));
    hl_status status = HL_OK;
    for (const hl_published *p = m->others; status == HL_OK && p != NULL && p->tag != NULL; p++) {
        status = list_weights(m, p, list != NULL, &other);
        if (status == HL_OK && list != NULL)
            json_array_append_new(json_object_get(object, "others"), other);
    }
    if (list != NULL)
        json_array_append_new(list, object);
    return status;
}

hl_status cli_models(cli_values *values)
{
    json_t *list = cli_flag(values, "json") ? json_array() : NULL;
    hl_status status = HL_OK;
    if (list == NULL)
        printf("%-27s %14s %14s %16s %6s %8s  %-13s %s\n", "model", "parameters", "gates", "MACs", "input",
               "top-1", "licence", "weights");
    for (int i = 0; status == HL_OK && i < hl_model_count(); i++)
        status = list_model(hl_model_at(i), list);
    if (status == HL_OK && list != NULL)
        return cli_print_json(json_pack("{s:o}", "models", list));
    json_decref(list);
    return status;
}

static json_t *method_json(const hl_method_info *m)
{
    json_t *options = json_array();
    for (int k = 0; k < HL_METHOD_MAX_OPTIONS && m->options[k].key != NULL; k++)
        json_array_append_new(options, json_pack("{s:s, s:s, s:s}", "key", m->options[k].key, "default",
                                                 m->options[k].value, "help", m->options[k].help));
    return json_pack("{s:s, s:s, s:s, s:f, s:f, s:o}", "name", m->name, "summary", m->summary, "norm",
                     hl_norm_mode_name(m->norm), "lr_adam", m->lr_adam, "lr_sgd", m->lr_sgd, "options",
                     options);
}

hl_status cli_methods(cli_values *values)
{
    bool json = cli_flag(values, "json");
    json_t *list = json_array();
    for (int i = 0; i < hl_method_count(); i++) {
        const hl_method_info *m = hl_method_at(i);
        if (json) {
            json_array_append_new(list, method_json(m));
            continue;
        }
        printf("%-16s %s\n%17snorms %s; default --lr %g with Adam and AdamW, %g with SGD\n", m->name,
               m->summary, "", hl_norm_mode_name(m->norm), m->lr_adam, m->lr_sgd);
        for (int k = 0; k < HL_METHOD_MAX_OPTIONS && m->options[k].key != NULL; k++)
            printf("    %-12s %s [%s]\n", m->options[k].key, m->options[k].help, m->options[k].value);
    }
    if (json)
        return cli_print_json(json_pack("{s:o}", "methods", list));
    json_decref(list);
    return HL_OK;
}

static hl_status list_cpu(json_t *list)
{
    hl_backend *cpu;
    HL_TRY(hl_cpu_backend_open(0, NULL, &cpu));
    bool bf16 = cpu->ops->is_native(cpu, HL_ELEM_BF16);
    int threads = cpu->threads;
    hl_backend_close(cpu);
    if (list != NULL)
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:b}", "name", "cpu", "threads", threads, "bf16", bf16));
    else
        printf("cpu      %d threads, fp32%s\n", threads, bf16 ? " and bf16" : " (bf16 is emulated)");
    return HL_OK;
}

static hl_status list_cuda(int number, json_t *list)
{
    hl_cuda_device d;
    char name[24], capability[24];
    HL_TRY(hl_cuda_describe(number, &d));
    snprintf(name, sizeof name, "cuda:%d", number);
    snprintf(capability, sizeof capability, "%d.%d", d.major, d.minor);
    if (list != NULL)
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:s, s:i, s:b}", "name", name, "model", d.name,
                                        "memory_bytes", (json_int_t)d.memory, "compute_capability",
                                        capability, "multiprocessors", d.multiprocessors, "bf16", true));
    else
        printf("%-8s %s, %.1f GiB, compute capability %s, %d multiprocessors, fp32, tf32, bf16 and fp16\n",
               name, d.name, (double)d.memory / (1024.0 * 1024.0 * 1024.0), capability, d.multiprocessors);
    return HL_OK;
}

hl_status cli_devices(cli_values *values)
{
    json_t *list = cli_flag(values, "json") ? json_array() : NULL;
    int count = hl_cuda_device_count();
    hl_status status = list_cpu(list);
    for (int i = 0; i < count && status == HL_OK; i++)
        status = list_cuda(i, list);
    if (status != HL_OK) {
        json_decref(list);
        return status;
    }
    if (list != NULL)
        return cli_print_json(json_pack("{s:o, s:i}", "devices", list, "cuda", count));
    if (count == 0 && hl_cuda_probe(0) != HL_OK)
        printf("cuda     %s\n", hl_last_error());
    return HL_OK;
}
