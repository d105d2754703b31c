/* MobileNetV2 (Sandler et al., 2018, arXiv 1801.04381), layers named as torchvision's. */
#include "models/families.h"

static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU6};

static hl_value inverted_residual(hl_graph *g, int index, hl_value x, int64_t expand, int64_t out,
                                  int64_t stride)
{
    int64_t in = hl_channels(g, x), hidden = in * expand;
    int layer = 0;
    hl_value y = x;
    if (expand != 1) {
        y = hl_conv_norm_act(g, &style, hl_graph_name(g, "features.%d.conv.0.0", index),
                             hl_graph_name(g, "features.%d.conv.0.1", index), y,
                             (hl_conv_spec){.out = hidden}, false);
        layer = 1;
    }
    y = hl_conv_norm_act(
        g, &style, hl_graph_name(g, "features.%d.conv.%d.0", index, layer),
        hl_graph_name(g, "features.%d.conv.%d.1", index, layer), y,
        (hl_conv_spec){.out = hidden, .kernel = 3, .stride = stride, .padding = 1, .groups = hidden}, false);
    y = hl_conv_norm_act(g, &style, hl_graph_name(g, "features.%d.conv.%d", index, layer + 1),
                         hl_graph_name(g, "features.%d.conv.%d", index, layer + 2), y,
                         (hl_conv_spec){.out = out}, true);
    return stride == 1 && in == out ? hl_graph_add(g, hl_graph_name(g, "features.%d.add", index), x, y) : y;
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const struct {
        int64_t expand, out, repeats, stride;
    } stages[] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                  {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    double width = info->width > 0.0 ? info->width : 1.0;
    x = hl_conv_norm_act(
        g, &style, "features.0.0", "features.0.1", x,
        (hl_conv_spec){.out = hl_make_divisible(32 * width, 8), .kernel = 3, .stride = 2, .padding = 1},
        false);
    int index = 1;
    for (size_t s = 0; s < sizeof stages / sizeof *stages; s++)
        for (int64_t r = 0; r < stages[s].repeats; r++)
            x = inverted_residual(g, index++, x, stages[s].expand,
                                  hl_make_divisible((double)stages[s].out * width, 8),
                                  r == 0 ? stages[s].stride : 1);
    x = hl_conv_norm_act(g, &style, "features.18.0", "features.18.1", x,
                         (hl_conv_spec){.out = hl_make_divisible(1280 * (width > 1 ? width : 1), 8)}, false);
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_dropout(g, "classifier.0", x, 0.2f);
    return hl_graph_head(g, "classifier.1", x, classes);
}

static const hl_model_info models[] = {
    {.name = "mobilenet_v2",
     .build = build,
     .image_size = 224,
     .resize = 256,
     HL_TORCHVISION,
     .head = "classifier.1",
     .weights_file = "mobilenet_v2-b0353104.pth",
     .top1 = 71.878f,
     .paper = "arXiv 1801.04381",
     HL_OTHER_V2("mobilenet_v2-7ebf99e0.pth", 72.154f)},
};
HL_MODEL_FAMILY(mobilenet_v2);
