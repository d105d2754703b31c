/* ResNet (He et al., 2015, arXiv 1512.03385) as torchvision builds it: the stride of a bottleneck is on its
 * 3x3 convolution. */
#include "models/families.h"

static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};

static hl_value conv_norm(hl_graph *g, const char *block, int number, hl_value x, int64_t out, int64_t kernel,
                          int64_t stride, bool linear)
{
    return hl_conv_norm_act(
        g, &style, hl_graph_name(g, "%s.conv%d", block, number), hl_graph_name(g, "%s.bn%d", block, number),
        x, (hl_conv_spec){.out = out, .kernel = kernel, .stride = stride, .padding = kernel / 2}, linear);
}

static hl_value residual_block(hl_graph *g, const char *block, hl_value x, int64_t width, int64_t stride,
                               bool bottleneck)
{
    int64_t out = bottleneck ? 4 * width : width;
    hl_value y = x, shortcut = x;
    if (bottleneck) {
        y = conv_norm(g, block, 1, y, width, 1, 1, false);
        y = conv_norm(g, block, 2, y, width, 3, stride, false);
        y = conv_norm(g, block, 3, y, out, 1, 1, true);
    } else {
        y = conv_norm(g, block, 1, y, width, 3, stride, false);
        y = conv_norm(g, block, 2, y, width, 3, 1, true);
    }
    if (stride != 1 || hl_channels(g, x) != out)
        shortcut = hl_conv_norm_act(g, &style, hl_graph_name(g, "%s.downsample.0", block),
                                    hl_graph_name(g, "%s.downsample.1", block), x,
                                    (hl_conv_spec){.out = out, .stride = stride}, true);
    y = hl_graph_add(g, hl_graph_name(g, "%s.add", block), y, shortcut);
    return hl_graph_act(g, hl_graph_name(g, "%s.relu", block), y, HL_ACT_RELU);
}

hl_value hl_build_resnet(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    x = hl_conv_norm_act(g, &style, "conv1", "bn1", x,
                         (hl_conv_spec){.out = 64, .kernel = 7, .stride = 2, .padding = 3}, false);
    x = hl_graph_pool(g, "maxpool", x, (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .padding = 1});
    for (int stage = 0; stage < 4; stage++)
        for (int b = 0; b < info->blocks[stage]; b++)
            x = residual_block(g, hl_graph_name(g, "layer%d.%d", stage + 1, b), x, (int64_t)64 << stage,
                               stage > 0 && b == 0 ? 2 : 1, info->bottleneck);
    x = hl_graph_global_pool(g, "avgpool", x);
    return hl_graph_head(g, "fc", x, classes);
}
