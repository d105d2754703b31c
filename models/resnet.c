/* ResNet (He et al., 2015, arXiv 1512.03385) as torchvision builds it: the stride of a bottleneck is on its
 * 3x3 convolution. ResNeXt (Xie et al., 2016, arXiv 1611.05431) groups that convolution, Wide ResNet
 * (Zagoruyko and Komodakis, 2016, arXiv 1605.07146) widens it, SE-ResNet (Hu et al., 2017, arXiv 1709.01507),
 * layers named as timm's, puts squeeze-excite behind each block. */
#include "models/families.h"

typedef struct resnet {
    int blocks[4];
    bool bottleneck;
    int64_t groups,
        group_width; /* of the 3x3 convolution in a bottleneck: channels of a group in the first stage */
    bool squeeze;
} resnet;

static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};
static const hl_squeeze_style squeeze = {"fc1", "fc2", HL_ACT_RELU, HL_ACT_SIGMOID};

static hl_value conv_norm(hl_graph *g, const char *block, int number, hl_value x, hl_conv_spec spec,
                          bool linear)
{
    spec.padding = spec.kernel / 2;
    return hl_conv_norm_act(g, &style, hl_graph_name(g, "%s.conv%d", block, number),
                            hl_graph_name(g, "%s.bn%d", block, number), x, spec, linear);
}

static hl_value residual_block(hl_graph *g, const resnet *variant, const char *block, hl_value x,
                               int64_t width, int64_t stride)
{
    int64_t out = variant->bottleneck ? 4 * width : width;
    hl_value y = x, shortcut = x;
    if (variant->bottleneck) {
        int64_t inner = width * variant->group_width / 64 * variant->groups;
        y = conv_norm(g, block, 1, y, (hl_conv_spec){.out = inner, .kernel = 1}, false);
        y = conv_norm(g, block, 2, y,
                      (hl_conv_spec){.out = inner, .kernel = 3, .stride = stride, .groups = variant->groups},
                      false);
        y = conv_norm(g, block, 3, y, (hl_conv_spec){.out = out, .kernel = 1}, true);
    } else {
        y = conv_norm(g, block, 1, y, (hl_conv_spec){.out = width, .kernel = 3, .stride = stride}, false);
        y = conv_norm(g, block, 2, y, (hl_conv_spec){.out = width, .kernel = 3}, true);
    }
    if (variant->squeeze)
        y = hl_squeeze_excite(g, &squeeze, hl_graph_name(g, "%s.se", block), y,
                              hl_make_divisible((double)out / 16.0, 8));
    if (stride != 1 || hl_channels(g, x) != out)
        shortcut = hl_conv_norm_act_at(g, &style, hl_graph_name(g, "%s.downsample", block), 0, x,
                                       (hl_conv_spec){.out = out, .stride = stride}, true);
    y = hl_graph_add(g, hl_graph_name(g, "%s.add", block), y, shortcut);
    return hl_graph_act(g, hl_graph_name(g, "%s.relu", block), y, HL_ACT_RELU);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const resnet *variant = info->variant;
    int64_t width = hl_widened(info, 64);
    x = hl_conv_norm_act(g, &style, "conv1", "bn1", x,
                         (hl_conv_spec){.out = width, .kernel = 7, .stride = 2, .padding = 3}, false);
    x = hl_graph_pool(g, "maxpool", x, (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .padding = 1});
    for (int stage = 0; stage < 4; stage++)
        for (int b = 0; b < variant->blocks[stage]; b++)
            x = residual_block(g, variant, hl_graph_name(g, "layer%d.%d", stage + 1, b), x, width << stage,
                               stage > 0 && b == 0 ? 2 : 1);
    x = hl_graph_global_pool(g, "avgpool", x);
    return hl_graph_head(g, "fc", x, classes);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, RESIZE, PAPER, ...)                                                                        \
    {.name = NAME, .build = build, .image_size = 224, .resize = RESIZE, HL_TORCHVISION, .head = "fc",                    \
     .weights_file = FILE, .top1 = TOP1, .paper = "arXiv " PAPER, .variant = &(const resnet)__VA_ARGS__}
/* Of these timm has published weights for seresnet50 alone. */
#define SE(NAME, RESIZE, ...)                                                                                            \
    {.name = NAME, .timm = true, .build = build, .image_size = 224, .resize = RESIZE, .bicubic = true, HL_IMAGENET,      \
     .head = "fc", .licence = "Apache-2.0", .paper = "arXiv 1709.01507", .variant = &(const resnet)__VA_ARGS__}
#define RESNET  "1512.03385"
#define RESNEXT "1611.05431"
#define WIDE    "1605.07146"

static const hl_model_info models[] = {
    ROW("resnet18",         "resnet18-f37072fd.pth",         69.758f, 256, RESNET,  {{2, 2, 2, 2}, false, 1, 64, false}),
    ROW("resnet34",         "resnet34-b627a593.pth",         73.314f, 256, RESNET,  {{3, 4, 6, 3}, false, 1, 64, false}),
    ROW("resnet50",         "resnet50-0676ba61.pth",         76.130f, 256, RESNET,  {{3, 4, 6, 3}, true, 1, 64, false},
        HL_OTHER_V2("resnet50-11ad3fa6.pth", 80.858f)),
    ROW("resnet101",        "resnet101-63fe2227.pth",        77.374f, 256, RESNET,  {{3, 4, 23, 3}, true, 1, 64, false},
        HL_OTHER_V2("resnet101-cd907fc2.pth", 81.886f)),
    ROW("resnet152",        "resnet152-394f9c45.pth",        78.312f, 256, RESNET,  {{3, 8, 36, 3}, true, 1, 64, false},
        HL_OTHER_V2("resnet152-f82ba261.pth", 82.284f)),
    ROW("resnext50_32x4d",  "resnext50_32x4d-7cdf4587.pth",  77.618f, 256, RESNEXT, {{3, 4, 6, 3}, true, 32, 4, false},
        HL_OTHER_V2("resnext50_32x4d-1a0047aa.pth", 81.198f)),
    ROW("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth", 79.312f, 256, RESNEXT, {{3, 4, 23, 3}, true, 32, 8, false},
        HL_OTHER_V2("resnext101_32x8d-110c445d.pth", 82.834f)),
    ROW("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth", 83.246f, 232, RESNEXT, {{3, 4, 23, 3}, true, 64, 4, false}),
    ROW("wide_resnet50_2",  "wide_resnet50_2-95faca4d.pth",  78.468f, 256, WIDE,    {{3, 4, 6, 3}, true, 1, 128, false},
        HL_OTHER_V2("wide_resnet50_2-9ba9bcbe.pth", 81.602f)),
    ROW("wide_resnet101_2", "wide_resnet101_2-32ee1156.pth", 78.848f, 256, WIDE,    {{3, 4, 23, 3}, true, 1, 128, false},
        HL_OTHER_V2("wide_resnet101_2-d733dc28.pth", 82.510f)),
    SE("seresnet18",  256, {{2, 2, 2, 2}, false, 1, 64, true}),
    SE("seresnet34",  256, {{3, 4, 6, 3}, false, 1, 64, true}),
    SE("seresnet50",  235, {{3, 4, 6, 3}, true, 1, 64, true}, .weights_file = "seresnet50_a1_0-ffa00869.pth", .top1 = 80.012f),
    SE("seresnet101", 256, {{3, 4, 23, 3}, true, 1, 64, true}),
    SE("seresnet152", 256, {{3, 8, 36, 3}, true, 1, 64, true}),
};
/* clang-format on */
HL_MODEL_FAMILY(resnet);
