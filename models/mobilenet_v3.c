/* MobileNetV3 (Howard et al., 2019, arXiv 1905.02244) as torchvision builds it. */
#include "models/families.h"

typedef struct block {
    int64_t kernel, hidden, out;
    bool squeeze, hardswish; /* else relu */
    int64_t stride;
} block;

typedef struct mobilenet_v3 {
    block blocks[15];
    int count;
    int64_t features; /* of the classifier's hidden layer */
} mobilenet_v3;

static const hl_block_style relu = {1e-3f, 0.01f, HL_ACT_RELU}, hardswish = {1e-3f, 0.01f, HL_ACT_HARDSWISH};
static const hl_squeeze_style squeeze = {"fc1", "fc2", HL_ACT_RELU, HL_ACT_HARDSIGMOID};

static hl_value inverted_residual(hl_graph *g, const char *name, hl_value x, const block *b)
{
    const hl_block_style *style = b->hardswish ? &hardswish : &relu;
    int64_t in = hl_channels(g, x);
    int layer = 0; /* place in the nn.Sequential */
    hl_value y = x;
    if (b->hidden != in)
        y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer++), 0, y,
                                (hl_conv_spec){.out = b->hidden}, false);
    y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer++), 0, y,
                            (hl_conv_spec){.out = b->hidden,
                                           .kernel = b->kernel,
                                           .stride = b->stride,
                                           .padding = b->kernel / 2,
                                           .groups = b->hidden},
                            false);
    if (b->squeeze)
        y = hl_squeeze_excite(g, &squeeze, hl_graph_name(g, "%s.block.%d", name, layer++), y,
                              hl_make_divisible((double)(b->hidden / 4), 8));
    y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer), 0, y,
                            (hl_conv_spec){.out = b->out}, true);
    return b->stride == 1 && in == b->out ? hl_graph_add(g, hl_graph_name(g, "%s.add", name), y, x) : y;
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const mobilenet_v3 *variant = info->variant;
    x = hl_conv_norm_act_at(g, &hardswish, "features.0", 0, x,
                            (hl_conv_spec){.out = 16, .kernel = 3, .stride = 2, .padding = 1}, false);
    for (int i = 0; i < variant->count; i++)
        x = inverted_residual(g, hl_graph_name(g, "features.%d", i + 1), x, &variant->blocks[i]);
    x = hl_conv_norm_act_at(g, &hardswish, hl_graph_name(g, "features.%d", variant->count + 1), 0, x,
                            (hl_conv_spec){.out = 6 * hl_channels(g, x)}, false);
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_linear(g, "classifier.0", x, variant->features, true);
    x = hl_graph_act(g, "classifier.1", x, HL_ACT_HARDSWISH);
    x = hl_graph_dropout(g, "classifier.2", x, 0.2f);
    return hl_graph_head(g, "classifier.3", x, classes);
}

/* clang-format off */
static const mobilenet_v3 large = {
    .blocks = {{3, 16, 16, false, false, 1},  {3, 64, 24, false, false, 2}, {3, 72, 24, false, false, 1},
               {5, 72, 40, true, false, 2},   {5, 120, 40, true, false, 1}, {5, 120, 40, true, false, 1},
               {3, 240, 80, false, true, 2},  {3, 200, 80, false, true, 1}, {3, 184, 80, false, true, 1},
               {3, 184, 80, false, true, 1},  {3, 480, 112, true, true, 1}, {3, 672, 112, true, true, 1},
               {5, 672, 160, true, true, 2},  {5, 960, 160, true, true, 1}, {5, 960, 160, true, true, 1}},
    .count = 15, .features = 1280};
static const mobilenet_v3 small = {
    .blocks = {{3, 16, 16, true, false, 2},   {3, 72, 24, false, false, 2}, {3, 88, 24, false, false, 1},
               {5, 96, 40, true, true, 2},    {5, 240, 40, true, true, 1},  {5, 240, 40, true, true, 1},
               {5, 120, 48, true, true, 1},   {5, 144, 48, true, true, 1},  {5, 288, 96, true, true, 2},
               {5, 576, 96, true, true, 1},   {5, 576, 96, true, true, 1}},
    .count = 11, .features = 1024};

#define ROW(NAME, VARIANT, FILE, TOP1, ...)                                                                              \
    {.name = NAME, .build = build, .variant = &VARIANT, .image_size = 224, .resize = 256, HL_TORCHVISION,                \
     .head = "classifier.3", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1905.02244", __VA_ARGS__}

static const hl_model_info models[] = {
    ROW("mobilenet_v3_large", large, "mobilenet_v3_large-8738ca79.pth", 74.042f, HL_OTHER_V2("mobilenet_v3_large-5c1a4163.pth", 75.274f)),
    ROW("mobilenet_v3_small", small, "mobilenet_v3_small-047dcff4.pth", 67.668f, .others = NULL),
};
/* clang-format on */
HL_MODEL_FAMILY(mobilenet_v3);
