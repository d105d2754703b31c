#include "method/method.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "method/layers.h"
#include "method/merge.h"

static const hl_method_info *const methods[] = {
    &hl_method_projection, &hl_method_linear,       &hl_method_full,
    &hl_method_norm,       &hl_method_partial,      &hl_method_bitfit,
    &hl_method_ia3,        &hl_method_ssf,          &hl_method_lora,
    &hl_method_dora,       &hl_method_loha,         &hl_method_lokr,
    &hl_method_convlora,   &hl_method_conv_adapter, &hl_method_residual_adapter,
    &hl_method_repadapter, &hl_method_piggyback,    &hl_method_atoms,
    &hl_method_l2sp,       &hl_method_bss,
};

enum { METHODS = sizeof methods / sizeof *methods };

int hl_method_count(void)
{
    return METHODS;
}

const hl_method_info *hl_method_at(int index)
{
    return methods[index];
}

static int option_count(const hl_method_info *info)
{
    int n = 0;
    while (n < HL_METHOD_MAX_OPTIONS && info->options[n].key != NULL)
        n++;
    return n;
}

static int option_index(const hl_method_info *info, const char *key)
{
    for (int i = 0; i < option_count(info); i++)
        if (strcmp(info->options[i].key, key) == 0)
            return i;
    return -1;
}

static hl_status unknown(const char *what, const char *name, const char *const *names, int count,
                         const char *list)
{
    char nearest[192], todo[320], subject[160];
    hl_nearest_names(name, names, count, nearest, sizeof nearest);
    if (nearest[0] != '\0')
        snprintf(todo, sizeof todo, "did you mean %s? %s", nearest, list);
    else
        snprintf(todo, sizeof todo, "%s", list);
    snprintf(subject, sizeof subject, "--method %.120s", name);
    return hl_fail(HL_E_ARG, subject, todo, "there is no such %s", what);
}

static hl_status find(const char *name, const hl_method_info **info)
{
    const char *names[METHODS];
    for (int i = 0; i < METHODS; i++) {
        names[i] = methods[i]->name;
        *info = methods[i];
        if (strcmp(names[i], name) == 0)
            return HL_OK;
    }
    return unknown("method", name, names, METHODS, "`heirloom methods` lists them");
}

static hl_status check_value(const hl_method_info *info, const hl_method_option *option, const char *value)
{
    char subject[160];
    snprintf(subject, sizeof subject, "--method %s:%s=%.60s", info->name, option->key, value);
    if (option->type == HL_OPTION_FLAG && strcmp(value, "0") != 0 && strcmp(value, "1") != 0)
        return hl_fail(HL_E_ARG, subject, NULL, "the value must be 0 or 1");
    if (option->type != HL_OPTION_NUMBER && option->type != HL_OPTION_WHOLE)
        return *value != '\0' ? HL_OK : hl_fail(HL_E_ARG, subject, NULL, "the value is empty");
    char *end;
    double number = strtod(value, &end);
    bool whole = option->type == HL_OPTION_WHOLE;
    if (end == value || *end != '\0' || !isfinite(number) || number < option->least ||
        number > option->most || (whole && number != floor(number)))
        return hl_fail(HL_E_ARG, subject, NULL, "the value must be a %snumber from %g to %g",
                       whole ? "whole " : "", option->least, option->most);
    return HL_OK;
}

static hl_status set_option(hl_method *method, char *item)
{
    const hl_method_info *info = method->info;
    char *value = strchr(item, '=');
    if (value == NULL)
        return hl_fail(HL_E_ARG, item, "write key=value", "option of --method %s without a value",
                       info->name);
    *value++ = '\0';
    int i = option_index(info, item);
    if (i < 0) {
        const char *names[HL_METHOD_MAX_OPTIONS];
        for (int k = 0; k < option_count(info); k++)
            names[k] = info->options[k].key;
        char list[96];
        snprintf(list, sizeof list, "`heirloom methods` lists the options of %s", info->name);
        return unknown("option", item, names, option_count(info), list);
    }
    HL_TRY(check_value(info, &info->options[i], value));
    if (strlen(value) >= HL_METHOD_VALUE_SIZE)
        return hl_fail(HL_E_ARG, item, NULL, "its value is longer than %d characters",
                       HL_METHOD_VALUE_SIZE - 1);
    snprintf(method->values[i], HL_METHOD_VALUE_SIZE, "%s", value);
    return HL_OK;
}

hl_status hl_method_parse(const char *text, hl_method *method)
{
    char copy[1024];
    if (strlen(text) >= sizeof copy)
        return hl_fail(HL_E_ARG, "--method", NULL, "is longer than %zu characters", sizeof copy - 1);
    snprintf(copy, sizeof copy, "%s", text);
    char *options = strchr(copy, ':');
    if (options != NULL)
        *options++ = '\0';
    *method = (hl_method){0};
    HL_TRY(find(copy, &method->info));
    for (int i = 0; i < option_count(method->info); i++)
        snprintf(method->values[i], HL_METHOD_VALUE_SIZE, "%s", method->info->options[i].value);
    char *rest = NULL;
    for (char *item = options != NULL ? strtok_r(options, ",", &rest) : NULL; item != NULL;
         item = strtok_r(NULL, ",", &rest))
        HL_TRY(set_option(method, item));
    return HL_OK;
}

const char *hl_method_format(const hl_method *method, char *buf, size_t size)
{
    int used = snprintf(buf, size, "%s", method->info->name);
    for (int i = 0; i < option_count(method->info) && used >= 0 && (size_t)used < size; i++)
        used += snprintf(buf + used, size - (size_t)used, "%s%s=%s", i == 0 ? ":" : ",",
                         method->info->options[i].key, method->values[i]);
    return buf;
}

bool hl_method_matches(const hl_method *method, const char *text)
{
    hl_method other;
    if (hl_method_parse(text, &other) != HL_OK || other.info != method->info)
        return false;
    for (int i = 0; i < option_count(method->info); i++)
        if (strcmp(method->values[i], other.values[i]) != 0)
            return false;
    return true;
}

const char *hl_method_text(const hl_method *method, const char *key)
{
    return method->values[option_index(method->info, key)];
}

double hl_method_number(const hl_method *method, const char *key)
{
    return strtod(hl_method_text(method, key), NULL);
}

bool hl_method_flag(const hl_method *method, const char *key)
{
    return strcmp(hl_method_text(method, key), "1") == 0;
}

double hl_method_number_or(const hl_method *method, const char *key, double otherwise)
{
    return hl_method_has(method, key) ? hl_method_number(method, key) : otherwise;
}

bool hl_method_has(const hl_method *method, const char *key)
{
    return option_index(method->info, key) >= 0;
}

const char *hl_norm_mode_name(hl_norm_mode mode)
{
    static const char *const names[] = {"default", "frozen", "affine", "update", "full"};
    return names[mode];
}

/* Layer norms have no statistics that are kept: only whether they are trained is set. */
static void set_norms(hl_graph *graph, hl_norm_mode mode)
{
    bool batch = mode == HL_NORM_UPDATE || mode == HL_NORM_FULL,
         trained = mode == HL_NORM_AFFINE || mode == HL_NORM_FULL;
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_node *node = graph->nodes[v];
        if (node->op == HL_OP_NORM) {
            node->batch_statistics = batch;
            node->norm.mean->moves = node->norm.var->moves = batch;
        }
        if (node->op == HL_OP_NORM || node->op == HL_OP_LAYER_NORM)
            node->norm.scale->trained = node->norm.shift->trained = trained;
    }
}

hl_status hl_method_apply(hl_graph *graph, const hl_method *method, hl_norm_mode norm, uint64_t seed)
{
    if (graph->placement != NULL)
        return hl_fail(HL_E_INTERNAL, "--method", NULL,
                       "a method is applied before a network's parameters are placed");
    for (size_t i = 0; i < graph->param_count; i++)
        graph->params[i]->trained = graph->params[i]->head;
    set_norms(graph, norm == HL_NORM_DEFAULT ? method->info->norm : norm);
    if (method->info->apply != NULL)
        HL_TRY(method->info->apply(graph, method, seed));
    if (method->info->change != NULL)
        HL_TRY(hl_change_layers(graph, method, seed));
    return graph->status == HL_OK ? HL_OK : hl_fail_text(graph->status, graph->error);
}

/* The bias of a layer whose outputs have factors and offsets. */
static hl_status merge_bias(hl_graph *graph, hl_node *node)
{
    hl_weight_expr *e = &node->expr;
    for (int64_t o = 0; e->kind == HL_WEIGHT_ROW && e->bias != NULL && o < e->bias->count; o++)
        e->bias->host[o] *= 1.0f + e->gate->host[o];
    if (e->offset == NULL)
        return HL_OK;
    HL_TRY(hl_merge_constant(graph, node, e->offset->host));
    hl_graph_remove_param(graph, e->offset);
    e->offset = NULL;
    return HL_OK;
}

hl_status hl_method_merge(hl_graph *graph)
{
    if (graph->placement != NULL)
        return hl_fail(HL_E_INTERNAL, "merge", NULL, "weights are merged before parameters are placed");
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_weight_expr *e = &graph->nodes[v]->expr;
        if (!hl_node_has_weight(graph->nodes[v]) || e->kind == HL_WEIGHT_PLAIN)
            continue;
        float *merged;
        HL_TRY(hl_alloc_array((size_t)e->weight->count, sizeof *merged, e->weight->name, (void **)&merged));
        hl_weight_expr_merge(e, merged);
        memcpy(e->weight->host, merged, (size_t)e->weight->count * sizeof *merged);
        free(merged);
        HL_TRY(merge_bias(graph, graph->nodes[v]));
        hl_param *own[HL_EXPR_PARAMS];
        for (int i = hl_weight_expr_params(e, own); i-- > 0;)
            hl_graph_remove_param(graph, own[i]);
        e->gate = NULL;
        e->change = NULL;
        e->kind = HL_WEIGHT_PLAIN;
    }
    return hl_merge_insertions(graph);
}
