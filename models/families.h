/* The builders of the families, and the layers they share. */
#ifndef HL_MODELS_FAMILIES_H
#define HL_MODELS_FAMILIES_H

#include "models/registry.h"

hl_value hl_build_mobilenet_v2(hl_graph *graph, const hl_model_info *info, hl_value x, int64_t classes);
hl_value hl_build_resnet(hl_graph *graph, const hl_model_info *info, hl_value x, int64_t classes);
hl_value hl_build_efficientnet_lite(hl_graph *graph, const hl_model_info *info, hl_value x, int64_t classes);

/* How a family writes conv, norm, act in a row. */
typedef struct hl_block_style {
    float norm_eps, norm_momentum;
    hl_act act;
} hl_block_style;

/* conv `conv_name`, norm `norm_name`, and the style's activation unless `linear`. */
hl_value hl_conv_norm_act(hl_graph *graph, const hl_block_style *style, const char *conv_name,
                          const char *norm_name, hl_value x, hl_conv_spec spec, bool linear);

/* The nearest multiple of `divisor` to `channels`, never more than a tenth below it. */
int64_t hl_make_divisible(double channels, int64_t divisor);

/* Channels of a value. */
static inline int64_t hl_channels(const hl_graph *graph, hl_value x)
{
    return x == HL_NO_VALUE ? 1 : graph->nodes[x]->shape.c;
}

#endif
