/* linear: the classifier head alone (a linear probe), by optimizer steps or fitted to the end by L-BFGS. */
#include <string.h>

#include "method/method.h"

bool hl_method_fits_head(const hl_method *method)
{
    return method->info == &hl_method_linear && strcmp(hl_method_text(method, "solver"), "lbfgs") == 0;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)graph;
    (void)seed;
    const char *solver = hl_method_text(method, "solver");
    if (strcmp(solver, "steps") != 0 && strcmp(solver, "lbfgs") != 0)
        return hl_fail(HL_E_ARG, "--method linear", "choose steps or lbfgs", "there is no solver %s", solver);
    return HL_OK; /* the head is trained anyway */
}

const hl_method_info hl_method_linear = {
    .name = "linear",
    .summary = "the head only",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-2,
    .lr_sgd = 1e-1,
    .options =
        {{"solver", HL_OPTION_TEXT, "steps",
          "steps of --optimizer, or lbfgs: multinomial logistic regression to the end, on kept features, for "
          "45 penalties lambda/2 |W|^2 from 1e5 to 1e-6, of which the best on the validation images is taken",
          0, 0},
         {"refit", HL_OPTION_FLAG, "0", "lbfgs: fit the best lambda again to train and val together", 0, 0}},
    .apply = apply,
};
