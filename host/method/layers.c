#include "method/layers.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

bool hl_is_spatial(const hl_node *node)
{
    return node->op == HL_OP_CONV && (node->window.kh > 1 || node->window.kw > 1);
}

static const hl_node *find_stem(const hl_graph *graph)
{
    for (size_t k = 0; k < graph->node_count; k++)
        if (graph->nodes[graph->order[k]]->op == HL_OP_CONV)
            return graph->nodes[graph->order[k]];
    return NULL;
}

bool hl_is_inner_spatial(const hl_graph *graph, const hl_node *node)
{
    return hl_is_spatial(node) && !node->head && node != find_stem(graph);
}

static bool in_scope(const hl_node *node, const char *scope)
{
    if (strcmp(scope, "all") == 0)
        return true;
    if (strcmp(scope, "spatial") == 0)
        return node->window.kh > 1 || node->window.kw > 1;
    if (strcmp(scope, "dense") == 0)
        return !(node->groups > 1 && node->expr.weight->shape[1] == 1);
    return fnmatch(scope, node->name, 0) == 0;
}

/* `scopes`: one, or several joined by '+'. Names of layers have no '+'. */
static bool in_scopes(const hl_node *node, const char *scopes)
{
    for (;; scopes++) {
        char scope[HL_METHOD_VALUE_SIZE];
        size_t length = strcspn(scopes, "+");
        snprintf(scope, sizeof scope, "%.*s", (int)length, scopes);
        if (in_scope(node, scope))
            return true;
        scopes += length;
        if (*scopes == '\0')
            return false;
    }
}

static bool is_chosen(const hl_graph *graph, const hl_node *node, const char *scope, bool linear,
                      bool spatial)
{
    bool candidate = node->op == HL_OP_CONV || (node->op == HL_OP_LINEAR && linear);
    if (!candidate || node->head || !in_scopes(node, scope))
        return false;
    return !spatial || hl_is_inner_spatial(graph, node);
}

hl_status hl_change_layers(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    const char *scope = hl_method_has(method, "scope") ? hl_method_text(method, "scope") : "all";
    bool linear = hl_method_number_or(method, "linear", 0.0) != 0.0,
         spatial = hl_method_number_or(method, "spatial", 0.0) != 0.0;
    int changed = 0;
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_node *node = graph->nodes[v];
        if (!is_chosen(graph, node, scope, linear, spatial))
            continue;
        HL_TRY(method->info->change(graph, node, method, seed));
        changed++;
    }
    if (changed > 0)
        return HL_OK;
    char subject[64];
    snprintf(subject, sizeof subject, "--method %.40s", method->info->name);
    return hl_fail(
        HL_E_ARG, subject,
        "scope is all, spatial, dense, patterns of layer names (`heirloom inspect`), or several of these "
        "joined by +",
        "scope=%s matches no layer%s", scope, spatial ? " with a kernel larger than 1x1" : "");
}

hl_weight_matrix hl_weight_as_matrix(const hl_node *node)
{
    const hl_param *w = node->expr.weight;
    hl_weight_matrix m = {.groups = node->groups,
                          .rows = w->shape[0] / node->groups,
                          .columns = w->count / w->shape[0],
                          .window = node->op == HL_OP_CONV ? node->window.kh * node->window.kw : 1};
    m.inputs = m.columns / m.window;
    return m;
}
