/* loha: the Hadamard product of two matrices of low rank (FedPara, Hyeon-Woo et al., 2022, arXiv 2108.06098;
 * LyCORIS, arXiv 2309.14859), as peft has it: f(W) = W + alpha / r (w1_a w1_b) . (w2_a w2_b), where W is the
 * matrix [O, I/G kh kw]. w2_b is zero at the start, the other three are kaiming_uniform. */
#include "method/factors.h"

static hl_factor product(hl_graph *graph, hl_node *node, const char *const names[2], int64_t r, bool zero,
                         uint64_t seed)
{
    const hl_param *w = node->expr.weight;
    const int64_t outputs = w->shape[0], columns = w->count / outputs;
    hl_factor f = {.blocks = 1, .rows = outputs, .columns = columns, .rank = r};
    f.left = hl_add_factor(graph, node, names[0], 2, (const int64_t[]){outputs, r});
    f.right = hl_add_factor(graph, node, names[1], 2, (const int64_t[]){r, columns});
    hl_start_kaiming(graph, f.left, r, seed);
    if (!zero)
        hl_start_kaiming(graph, f.right, columns, seed);
    return f;
}

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    static const char *const names[2][2] = {{"hada_w1_a", "hada_w1_b"}, {"hada_w2_a", "hada_w2_b"}};
    const int64_t r = (int64_t)hl_method_number(method, "r");
    hl_weight_change *c = hl_add_weight_change(graph, node, HL_CHANGE_HADAMARD,
                                               (float)(hl_method_number(method, "alpha") / (double)r));
    HL_TRY(hl_change_status(graph, c));
    for (int i = 0; i < 2; i++)
        c->factor[i] = product(graph, node, names[i], r, i == 1, seed);
    return graph->status;
}

const hl_method_info hl_method_loha = {
    .name = "loha",
    .summary = "W + alpha/r times the Hadamard product of two matrices of rank r",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 3e-3,
    .lr_sgd = 1e-1,
    .options = {{"r", HL_OPTION_WHOLE, "8", "rank of both matrices", 1, 1024},
                {"alpha", HL_OPTION_NUMBER, "8", "the change is multiplied by alpha / r", 0, 1e6},
                HL_OPTION_SPATIAL,
                HL_OPTION_SCOPE,
                HL_OPTION_LINEAR},
    .change = change,
};
