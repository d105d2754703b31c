/* lokr: a Kronecker product (LyCORIS, arXiv 2309.14859), as peft has it: f(W) = W + alpha / r kron(w1, w2).
 * Outputs O = a b and inputs I/G = c d are divided as near to their roots as they allow, a <= b and c <= d;
 * w1 is [a, c], w2 [b, d kh kw], or where r < max(b, d) / 2 a product of rank r. w1 is zero at the start, w2
 * kaiming_uniform. */
#include "method/factors.h"

static int64_t lesser_divisor(int64_t n)
{
    int64_t divisor = 1;
    for (int64_t k = 2; k <= n / k; k++)
        if (n % k == 0)
            divisor = k;
    return divisor;
}

static hl_factor outer(hl_graph *graph, hl_node *node, int64_t rows, int64_t columns)
{
    return (hl_factor){.left = hl_add_factor(graph, node, "lokr_w1", 2, (const int64_t[]){rows, columns}),
                       .blocks = 1,
                       .rows = rows,
                       .columns = columns};
}

static hl_factor inner(hl_graph *graph, hl_node *node, int64_t rows, int64_t inputs, int64_t r, uint64_t seed)
{
    const bool conv = node->op == HL_OP_CONV;
    const int64_t columns = inputs * (conv ? node->window.kh * node->window.kw : 1);
    hl_factor f = {.blocks = 1, .rows = rows, .columns = columns};
    if (2 * r >= (rows > inputs ? rows : inputs)) {
        const int64_t shape[4] = {rows, inputs, node->window.kh, node->window.kw};
        f.left = hl_add_factor(graph, node, "lokr_w2", conv ? 4 : 2, shape);
        hl_start_kaiming(graph, f.left, columns, seed);
        return f;
    }
    f.rank = r;
    f.left = hl_add_factor(graph, node, "lokr_w2_a", 2, (const int64_t[]){rows, r});
    f.right = hl_add_factor(graph, node, "lokr_w2_b", 2, (const int64_t[]){r, columns});
    hl_start_kaiming(graph, f.left, r, seed);
    hl_start_kaiming(graph, f.right, columns, seed);
    return f;
}

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    const int64_t r = (int64_t)hl_method_number(method, "r"), outputs = node->expr.weight->shape[0],
                  inputs = hl_weight_as_matrix(node).inputs, a = lesser_divisor(outputs),
                  c = lesser_divisor(inputs);
    hl_weight_change *made = hl_add_weight_change(graph, node, HL_CHANGE_KRONECKER,
                                                  (float)(hl_method_number(method, "alpha") / (double)r));
    HL_TRY(hl_change_status(graph, made));
    made->factor[0] = outer(graph, node, a, c);
    made->factor[1] = inner(graph, node, outputs / a, inputs / c, r, seed);
    return graph->status;
}

const hl_method_info hl_method_lokr = {
    .name = "lokr",
    .summary = "W + alpha/r times a Kronecker product, the larger factor of rank r",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 3e-3,
    .lr_sgd = 1e-1,
    .options = {{"r", HL_OPTION_WHOLE, "8",
                 "rank of the larger factor, where that is less than half its side", 1, 1024},
                {"alpha", HL_OPTION_NUMBER, "8", "the change is multiplied by alpha / r", 0, 1e6},
                HL_OPTION_SPATIAL,
                HL_OPTION_SCOPE,
                HL_OPTION_LINEAR},
    .change = change,
};
