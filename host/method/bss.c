/* bss: every parameter, with batch spectral shrinkage (Chen et al., NeurIPS 2019, "Catastrophic forgetting
 * meets negative transfer"): eta times the sum of the k smallest squared singular values of the batch's
 * features, which are what the head reads, is part of the loss. In training only. */
#include "method/method.h"

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    double k = hl_method_number(method, "k");
    if (k != (double)(int)k)
        return hl_fail(HL_E_ARG, "--method bss", NULL, "k is a whole number, not %g", k);
    graph->spectral.smallest = (int)k;
    graph->spectral.eta = (float)hl_method_number(method, "eta");
    return hl_method_train_all(graph, method, seed);
}

const hl_method_info hl_method_bss = {
    .name = "bss",
    .summary = "every parameter, small singular values of the features shrunk",
    .norm = HL_NORM_FULL,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .options = {{"k", HL_OPTION_NUMBER, "1", "how many of the smallest singular values of a batch", 1, 512},
                {"eta", HL_OPTION_NUMBER, "0.001", "penalty eta * sum of their squares", 0, 1e6}},
    .apply = apply,
};
