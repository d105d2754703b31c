/* heirloom models, methods, devices */
#include <unistd.h>

#include "backend/backend.h"
#include "backend/cuda/cuda_backend.h"
#include "cli/common.h"
#include "method/method.h"
#include "models/registry.h"

typedef struct row {
    int64_t params, gates, macs;
} row;

static hl_status count(const hl_model_info *info, row *r)
{
    hl_graph *graph;
    HL_TRY(hl_model_build(info, 0, 1000, &graph));
    *r = (row){0};
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (!hl_node_has_weight(node))
            continue;
        const hl_param *w = node->expr.weight;
        r->macs += node->shape.h * node->shape.w * w->count;
        r->gates += node->op == HL_OP_CONV ? w->shape[0] * w->shape[1] : 0;
    }
    for (size_t i = 0; i < graph->param_count; i++)
        r->params += hl_param_is_statistic(graph->params[i]) ? 0 : graph->params[i]->count;
    hl_graph_destroy(graph);
    return HL_OK;
}

hl_status cli_models(cli_values *values)
{
    bool json = cli_flag(values, "json");
    json_t *list = json_array();
    if (!json)
        printf("%-20s %6s %14s %14s %16s %7s  %-38s %s\n", "model", "input", "parameters", "gates", "MACs",
               "top-1", "weights", "licence");
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *m = hl_model_at(i);
        char params[32], gates[32], macs[32];
        row r;
        hl_status status = count(m, &r);
        if (status != HL_OK) {
            json_decref(list);
            return status;
        }
        if (json)
            json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:s, s:s, s:s}", "name",
                                                  m->name, "image_size", (json_int_t)m->image_size, "params",
                                                  (json_int_t)r.params, "gates", (json_int_t)r.gates, "macs",
                                                  (json_int_t)r.macs, "top1", (double)m->top1, "weights_file",
                                                  m->weights_file, "licence", m->licence, "paper", m->paper));
        else
            printf("%-20s %6lld %14s %14s %16s %7.2f  %-38s %s\n", m->name, (long long)m->image_size,
                   cli_grouped(r.params, params, sizeof params), cli_grouped(r.gates, gates, sizeof gates),
                   cli_grouped(r.macs, macs, sizeof macs), (double)m->top1, m->weights_file, m->licence);
    }
    if (json)
        return cli_print_json(json_pack("{s:o}", "models", list));
    json_decref(list);
    return HL_OK;
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
        printf("%-12s %s\n%13snorms %s; default --lr %g with Adam and AdamW, %g with SGD\n", m->name,
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
