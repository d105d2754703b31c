/* piggyback: a mask over frozen filters (Mallya et al., 2018, arXiv 1801.06519): f(W) = W where m is above a
 * threshold, else 0; m has the gradient that it would have as a factor. Adapter files hold the masks' bits.
 */
#include "method/factors.h"

static hl_status change(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed)
{
    (void)seed;
    const hl_param *w = node->expr.weight;
    const float threshold = (float)hl_method_number(method, "threshold"),
                init = (float)hl_method_number(method, "init");
    hl_weight_change *c = hl_add_weight_change(graph, node, HL_CHANGE_MASK, threshold);
    hl_param *mask = hl_add_factor(graph, node, "mask", w->ndim, w->shape);
    HL_TRY(hl_change_status(graph, c));
    HL_TRY(hl_change_status(graph, mask));
    mask->role = HL_PARAM_MASK;
    mask->threshold = threshold;
    for (int64_t i = 0; i < mask->count; i++)
        mask->host[i] = init;
    c->factor[0] =
        (hl_factor){.left = mask, .blocks = 1, .rows = w->shape[0], .columns = w->count / w->shape[0]};
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    (void)graph;
    (void)seed;
    if (!(hl_method_number(method, "init") > hl_method_number(method, "threshold")))
        return hl_fail(HL_E_ARG, "--method piggyback", "give an init above the threshold",
                       "init=%s is not above threshold=%s: every weight would be masked at the start",
                       hl_method_text(method, "init"), hl_method_text(method, "threshold"));
    return HL_OK;
}

const hl_method_info hl_method_piggyback = {
    .name = "piggyback",
    .summary = "a bit for every weight: kept or not, filters frozen",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-4,
    .lr_sgd = 1e-2,
    .options = {{"threshold", HL_OPTION_NUMBER, "0.005", "weights are kept where the mask is above it", -0.5,
                 0.5},
                {"init", HL_OPTION_NUMBER, "0.01", "value of the masks at the start", -0.5, 0.5},
                HL_OPTION_SPATIAL,
                HL_OPTION_SCOPE,
                HL_OPTION_LINEAR},
    .apply = apply,
    .change = change,
};
