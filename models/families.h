/* The families, and the layers they share. A family is one file: its builder, and the rows of its variants.
 */
#ifndef HL_MODELS_FAMILIES_H
#define HL_MODELS_FAMILIES_H

#include "models/registry.h"

typedef struct hl_model_family {
    const hl_model_info *models;
    int count;
} hl_model_family;

/* Defines the family NAME from the array `models`. */
#define HL_MODEL_FAMILY(NAME)                                                                                \
    const hl_model_family hl_family_##NAME = {models, sizeof models / sizeof *models}

extern const hl_model_family hl_family_mobilenet_v2, hl_family_resnet, hl_family_efficientnet_tf,
    hl_family_mobilenet_v3, hl_family_mnasnet, hl_family_efficientnet, hl_family_regnet, hl_family_vgg,
    hl_family_alexnet, hl_family_squeezenet, hl_family_densenet, hl_family_inception, hl_family_shufflenet_v2,
    hl_family_convnext;

/* Preprocessing and licences that many rows share. */
#define HL_IMAGENET    .mean = {0.485f, 0.456f, 0.406f}, .std = {0.229f, 0.224f, 0.225f}
#define HL_HALF        .mean = {0.5f, 0.5f, 0.5f}, .std = {0.5f, 0.5f, 0.5f}
#define HL_TORCHVISION HL_IMAGENET, .licence = "BSD-3-Clause"

/* In a row: torchvision's second weights, all resized to 232 and cropped to 224. */
#define HL_V2(FILE, TOP1)                                                                                    \
    {                                                                                                        \
        "tv2_in1k", FILE, 224, 232, false, TOP1, NULL                                                        \
    }
#define HL_OTHERS(...)                                                                                       \
    .others = (const hl_published[])                                                                         \
    {                                                                                                        \
        __VA_ARGS__,                                                                                         \
        {                                                                                                    \
            0                                                                                                \
        }                                                                                                    \
    }
#define HL_OTHER_V2(F, T) HL_OTHERS(HL_V2(F, T))

/* How a family writes conv, norm, act in a row. */
typedef struct hl_block_style {
    float norm_eps, norm_momentum;
    hl_act act;
} hl_block_style;

/* conv `conv_name`, norm `norm_name`, and the style's activation unless `linear`. */
hl_value hl_conv_norm_act(hl_graph *graph, const hl_block_style *style, const char *conv_name,
                          const char *norm_name, hl_value x, hl_conv_spec spec, bool linear);
/* The same for layers NAME.FIRST and NAME.FIRST+1, as in an nn.Sequential. */
hl_value hl_conv_norm_act_at(hl_graph *graph, const hl_block_style *style, const char *name, int first,
                             hl_value x, hl_conv_spec spec, bool linear);
/* A 1x1 convolution with bias. */
hl_value hl_pointwise(hl_graph *graph, const char *name, hl_value x, int64_t out);

/* Squeeze-excite (Hu et al., 2017, arXiv 1709.01507): x times gate(expand(act(reduce(mean of x)))), the two
 * being 1x1 convolutions NAME.REDUCE and NAME.EXPAND with biases. */
typedef struct hl_squeeze_style {
    const char *reduce, *expand;
    hl_act act, gate;
} hl_squeeze_style;
hl_value hl_squeeze_excite(hl_graph *graph, const hl_squeeze_style *style, const char *name, hl_value x,
                           int64_t squeezed);

/* The nearest multiple of `divisor` to `channels`, never more than a tenth below it. */
int64_t hl_make_divisible(double channels, int64_t divisor);

/* The variant's multiple of so many channels. */
static inline int64_t hl_widened(const hl_model_info *info, int64_t channels)
{
    return info->width > 0.0 ? (int64_t)((double)channels * info->width) : channels;
}

/* Channels of a value. */
static inline int64_t hl_channels(const hl_graph *graph, hl_value x)
{
    return x == HL_NO_VALUE ? 1 : graph->nodes[x]->shape.c;
}

#endif
