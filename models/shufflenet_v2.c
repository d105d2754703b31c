/* ShuffleNetV2 (Ma et al., 2018, arXiv 1807.11164) as torchvision builds it. */
#include "models/families.h"

static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};

static hl_value depthwise(hl_graph *g, const char *branch, int first, hl_value x, int64_t stride)
{
    int64_t channels = hl_channels(g, x);
    return hl_conv_norm_act_at(
        g, &style, branch, first, x,
        (hl_conv_spec){.out = channels, .kernel = 3, .stride = stride, .padding = 1, .groups = channels},
        true);
}

/* Half of the channels pass by; at stride 2 all go both ways. */
static hl_value block(hl_graph *g, const char *name, hl_value x, int64_t out, int64_t stride)
{
    const char *left = hl_graph_name(g, "%s.branch1", name), *right = hl_graph_name(g, "%s.branch2", name);
    hl_value sides[2] = {x, x};
    if (stride == 1) {
        hl_graph_halves(g, hl_graph_name(g, "%s.chunk", name), x, sides);
    } else {
        sides[0] = depthwise(g, left, 0, x, stride);
        sides[0] = hl_conv_norm_act_at(g, &style, left, 2, sides[0], (hl_conv_spec){.out = out / 2}, false);
    }
    sides[1] = hl_conv_norm_act_at(g, &style, right, 0, sides[1], (hl_conv_spec){.out = out / 2}, false);
    sides[1] = depthwise(g, right, 3, sides[1], stride);
    sides[1] = hl_conv_norm_act_at(g, &style, right, 5, sides[1], (hl_conv_spec){.out = out / 2}, false);
    return hl_graph_interleave(g, hl_graph_name(g, "%s.shuffle", name), sides[0], sides[1]);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const int repeats[3] = {4, 8, 4};
    const int64_t *channels = info->variant; /* of the stages, and of the last convolution */
    x = hl_conv_norm_act_at(g, &style, "conv1", 0, x,
                            (hl_conv_spec){.out = 24, .kernel = 3, .stride = 2, .padding = 1}, false);
    x = hl_graph_pool(g, "maxpool", x, (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .padding = 1});
    for (int s = 0; s < 3; s++)
        for (int b = 0; b < repeats[s]; b++)
            x = block(g, hl_graph_name(g, "stage%d.%d", s + 2, b), x, channels[s], b == 0 ? 2 : 1);
    x = hl_conv_norm_act_at(g, &style, "conv5", 0, x, (hl_conv_spec){.out = channels[3]}, false);
    x = hl_graph_global_pool(g, "mean", x);
    return hl_graph_head(g, "fc", x, classes);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, RESIZE, ...)                                                                               \
    {.name = NAME, .build = build, .variant = (const int64_t[4])__VA_ARGS__, .image_size = 224, .resize = RESIZE,        \
     HL_TORCHVISION, .head = "fc", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1807.11164"}

static const hl_model_info models[] = {
    ROW("shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth", 60.552f, 256, {48, 96, 192, 1024}),
    ROW("shufflenet_v2_x1_0", "shufflenetv2_x1-5666bf0f80.pth",   69.362f, 256, {116, 232, 464, 1024}),
    ROW("shufflenet_v2_x1_5", "shufflenetv2_x1_5-3c479a10.pth",   72.996f, 232, {176, 352, 704, 1024}),
    ROW("shufflenet_v2_x2_0", "shufflenetv2_x2_0-8be3c8ee.pth",   76.230f, 232, {244, 488, 976, 2048}),
};
/* clang-format on */
HL_MODEL_FAMILY(shufflenet_v2);
