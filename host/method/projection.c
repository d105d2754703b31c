/* projection: model projection (arXiv 2602.06245). The filter of every (output, input) channel pair is frozen
 * and one scalar is trained for it: y_o = sum_i a[o,i] (W[o,i] * x_i) + b_o,   a = 1 + delta. The parameter
 * is delta, zero at the start: step 0 is the pretrained network, and weight decay pulls towards it. The same
 * operator was used before as the scaling of meta-transfer learning (CVPR 2019) and as kernel-wise soft masks
 * (CVPR 2021). With a rank delta = U V. */
#include <math.h>

#include "base/philox.h"
#include "method/factors.h"

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

/* U [O, r] is zero at the start, V [r, I/G] normal with deviation 1/sqrt(r). */
static hl_status add_gate_factors(hl_graph *graph, hl_node *node, int64_t rank, uint64_t seed)
{
    const int64_t outputs = node->expr.weight->shape[0], inputs = node->expr.weight->shape[1];
    hl_weight_change *change = hl_add_weight_change(graph, node, HL_CHANGE_GATE, 1.0f);
    hl_param *u = hl_add_factor(graph, node, "gate_u", 2, (const int64_t[]){outputs, rank}),
             *v = hl_add_factor(graph, node, "gate_v", 2, (const int64_t[]){rank, inputs});
    HL_TRY(hl_change_status(graph, change));
    HL_TRY(hl_change_status(graph, u));
    HL_TRY(hl_change_status(graph, v));
    hl_start_normal(graph, v, 1.0f / sqrtf((float)rank), seed);
    change->factor[0] =
        (hl_factor){.left = u, .right = v, .blocks = 1, .rows = outputs, .columns = inputs, .rank = rank};
    return HL_OK;
}

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    const int64_t rank = (int64_t)hl_method_number(method, "rank");
    if (rank > 0)
        HL_TRY(add_gate_factors(graph, node, rank, seed));
    else
        HL_TRY(add_gate(graph, node, (float)hl_method_number(method, "init-noise"), seed));
    if (hl_method_flag(method, "bias") && node->expr.bias != NULL)
        node->expr.bias->trained = true;
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)graph;
    (void)seed;
    static const char *const of_gates[] = {"l1", "init-noise"};
    for (int i = 0; i < 2 && hl_method_number(method, "rank") > 0.0; i++)
        if (hl_method_number(method, of_gates[i]) > 0.0)
            return hl_fail(HL_E_ARG, "--method projection", "leave rank or it out",
                           "%s is for gates that are trained one by one, not for those of rank %s",
                           of_gates[i], hl_method_text(method, "rank"));
    return HL_OK;
}

const hl_method_info hl_method_projection = {
    .name = "projection",
    .summary = "one scalar for every (output, input) filter, filters frozen",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 3e-3,
    .lr_sgd = 1e-1,
    .options = {HL_OPTION_SCOPE,
                {"bias", HL_OPTION_FLAG, "0", "train the biases of projected layers too", 0, 0},
                HL_OPTION_LINEAR,
                {"rank", HL_OPTION_WHOLE, "0",
                 "gates are 1 + U V of this rank, always folded; 0: each gate is trained", 0, 1024},
                {"gate-lr", HL_OPTION_NUMBER, "0", "learning rate of the gates; 0: --lr", 0, 100},
                {"init-noise", HL_OPTION_NUMBER, "0", "gates start at 1 + normal(0, init-noise)", 0, 10},
                {"l1", HL_OPTION_NUMBER, "0",
                 "penalty l1 * |a| on every gate a (not on |a - 1|: weight decay pulls towards 1), which "
                 "prunes contributions",
                 0, 1000}},
    .apply = apply,
    .change = change,
};
