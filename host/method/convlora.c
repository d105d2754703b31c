/* convlora: LoRA as its authors' library has it for convolutions: f(W) = W + alpha / r B A with A [r k, I k]
 * and B [O/G k, r k], whose product has W's elements in W's order; k is the kernel's side, its longer one
 * where it is not square. A is kaiming_uniform, B zero at the start. */
#include "method/factors.h"

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    const int64_t r = (int64_t)hl_method_number(method, "r");
    const hl_weight_matrix m = hl_weight_as_matrix(node);
    const bool conv = node->op == HL_OP_CONV;
    const int64_t kh = conv ? node->window.kh : 1, kw = conv ? node->window.kw : 1,
                  rank = r * (kh > kw ? kh : kw), rows = m.rows * kh, columns = m.groups * m.inputs * kw;
    hl_weight_change *c = hl_add_weight_change(graph, node, HL_CHANGE_ADD,
                                               (float)(hl_method_number(method, "alpha") / (double)r));
    hl_param *a = hl_add_factor(graph, node, "lora_A", 2, (const int64_t[]){rank, columns}),
             *b = hl_add_factor(graph, node, "lora_B", 2, (const int64_t[]){rows, rank});
    HL_TRY(hl_change_status(graph, c));
    HL_TRY(hl_change_status(graph, a));
    HL_TRY(hl_change_status(graph, b));
    hl_start_kaiming(graph, a, columns, seed);
    c->factor[0] =
        (hl_factor){.left = b, .right = a, .blocks = 1, .rows = rows, .columns = columns, .rank = rank};
    return HL_OK;
}

const hl_method_info hl_method_convlora = {
    .name = "convlora",
    .summary = "W + alpha/r B A where kernels are laid out in both factors, of rank r times their side",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 3e-2,
    .options = {{"r", HL_OPTION_WHOLE, "8", "rank, times the kernel's side", 1, 1024},
                {"alpha", HL_OPTION_NUMBER, "16", "the change is multiplied by alpha / r", 0, 1e6},
                HL_OPTION_SPATIAL,
                HL_OPTION_SCOPE,
                HL_OPTION_LINEAR},
    .change = change,
};
