/* projection: model projection (arXiv 2602.06245). The filter of every (output, input) channel pair is frozen
 * and one scalar is trained for it: y_o = sum_i a[o,i] (W[o,i] * x_i) + b_o,   a = 1 + delta The parameter is
 * delta, zero at the start: step 0 is the pretrained network, and weight decay pulls towards it. The same
 * operator was used before as the scaling of meta-transfer learning (CVPR 2019) and as kernel-wise soft masks
 * (CVPR 2021). */
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/philox.h"
#include "method/method.h"

static bool in_scope(const hl_node *node, const char *scope)
{
    if (strcmp(scope, "all") == 0)
        return true;
    if (strcmp(scope, "spatial") == 0)
        return node->window.kh > 1 || node->window.kw > 1;
    if (strcmp(scope, "dense") == 0)
        return !(node->groups > 1 && node->expr.weight->shape[1] == 1);
    return false;
}

/* `scopes`: one, or several joined by '+'. Names of layers have no '+'. */
static bool in_scopes(const hl_node *node, const char *scopes)
{
    for (;; scopes++) {
        char scope[HL_METHOD_VALUE_SIZE];
        size_t length = strcspn(scopes, "+");
        snprintf(scope, sizeof scope, "%.*s", (int)length, scopes);
        if (in_scope(node, scope) || fnmatch(scope, node->name, 0) == 0)
            return true;
        scopes += length;
        if (*scopes == '\0')
            return false;
    }
}

static hl_status add_gate(hl_graph *graph, hl_node *node, float noise, uint64_t seed)
{
    hl_param *gate = hl_graph_add_param(graph, hl_graph_name(graph, "%s.gate", node->name), HL_PARAM_GATE, 2,
                                        node->expr.weight->shape);
    if (gate == NULL)
        return HL_E_NOMEM;
    gate->trained = true;
    node->expr.kind = HL_WEIGHT_GATED;
    node->expr.gate = gate;
    hl_rng rng = hl_rng_make(seed, HL_STREAM_INIT, 1u << 20 | (uint32_t)node->id, 0);
    for (int64_t i = 0; noise > 0.0f && i < gate->count; i++)
        gate->host[i] = noise * hl_rng_normal(&rng);
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    const char *scope = hl_method_text(method, "scope");
    bool linear = hl_method_flag(method, "linear"), bias = hl_method_flag(method, "bias");
    float noise = (float)hl_method_number(method, "init-noise");
    int gated = 0;
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_node *node = graph->nodes[v];
        bool candidate = node->op == HL_OP_CONV || (node->op == HL_OP_LINEAR && linear);
        if (!candidate || node->head || !in_scopes(node, scope))
            continue;
        HL_TRY(add_gate(graph, node, noise, seed));
        if (bias && node->expr.bias != NULL)
            node->expr.bias->trained = true;
        gated++;
    }
    if (gated == 0)
        return hl_fail(HL_E_ARG, "--method projection",
                       "scope is all, spatial, dense, patterns of layer names (`heirloom inspect`), or "
                       "several of these joined by +",
                       "scope=%s matches no layer", scope);
    return HL_OK;
}

const hl_method_info hl_method_projection = {
    .name = "projection",
    .summary = "one scalar for every (output, input) filter, filters frozen",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 3e-3,
    .lr_sgd = 1e-1,
    .options = {{"scope", HL_OPTION_TEXT, "all",
                 "which convolutions: all, spatial (kernels larger than 1x1), dense (all but depthwise), "
                 "a pattern of layer names, or several of these joined by +",
                 0, 0},
                {"bias", HL_OPTION_FLAG, "0", "train the biases of projected layers too", 0, 0},
                {"linear", HL_OPTION_FLAG, "0", "project linear layers of the backbone as well", 0, 0},
                {"gate-lr", HL_OPTION_NUMBER, "0", "learning rate of the gates; 0: --lr", 0, 100},
                {"init-noise", HL_OPTION_NUMBER, "0", "gates start at 1 + normal(0, init-noise)", 0, 10},
                {"l1", HL_OPTION_NUMBER, "0",
                 "penalty l1 * |a| on every gate a (not on |a - 1|: weight decay pulls towards 1), which "
                 "prunes contributions",
                 0, 1000}},
    .apply = apply,
};
