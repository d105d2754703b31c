/* ConvNeXt (Liu et al., 2022, arXiv 2201.03545) as torchvision builds it. */
#include "models/families.h"

enum { STAGES = 4 };

typedef struct convnext {
    int64_t channels[STAGES];
    int blocks[STAGES];
    float drop_path; /* stochastic depth of the last block */
} convnext;

static const float norm_eps = 1e-6f;

/* A depthwise 7x7, then two linear layers at every position, the first four times as wide. */
static hl_value block(hl_graph *g, const char *name, hl_value x, float drop_path, float depth)
{
    int64_t channels = hl_channels(g, x);
    hl_value y = hl_graph_conv(
        g, hl_graph_name(g, "%s.block.0", name), x,
        (hl_conv_spec){.out = channels, .kernel = 7, .padding = 3, .groups = channels, .bias = true});
    y = hl_graph_layer_norm(g, hl_graph_name(g, "%s.block.2", name), y, norm_eps);
    y = hl_graph_linear(g, hl_graph_name(g, "%s.block.3", name), y, 4 * channels, true);
    y = hl_graph_act(g, hl_graph_name(g, "%s.block.4", name), y, HL_ACT_GELU);
    y = hl_graph_linear(g, hl_graph_name(g, "%s.block.5", name), y, channels, true);
    y = hl_graph_scale(g, hl_graph_name(g, "%s.layer_scale", name), y);
    y = hl_graph_drop_path(g, hl_graph_name(g, "%s.stochastic_depth", name), y, drop_path, depth);
    return hl_graph_add(g, hl_graph_name(g, "%s.add", name), y, x);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const convnext *v = info->variant;
    int count = 0, done = 0;
    for (int s = 0; s < STAGES; s++)
        count += v->blocks[s];
    x = hl_graph_conv(
        g, "features.0.0", x,
        (hl_conv_spec){.out = hl_widened(info, v->channels[0]), .kernel = 4, .stride = 4, .bias = true});
    x = hl_graph_layer_norm(g, "features.0.1", x, norm_eps);
    for (int s = 0; s < STAGES; s++) {
        if (s > 0) {
            x = hl_graph_layer_norm(g, hl_graph_name(g, "features.%d.0", 2 * s), x, norm_eps);
            x = hl_graph_conv(
                g, hl_graph_name(g, "features.%d.1", 2 * s), x,
                (hl_conv_spec){
                    .out = hl_widened(info, v->channels[s]), .kernel = 2, .stride = 2, .bias = true});
        }
        for (int b = 0; b < v->blocks[s]; b++, done++)
            x = block(g, hl_graph_name(g, "features.%d.%d", 2 * s + 1, b), x, v->drop_path,
                      (float)done / (float)(count - 1));
    }
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_layer_norm(g, "classifier.0", x, norm_eps);
    return hl_graph_head(g, "classifier.2", x, classes);
}

/* clang-format off */
#define ROW(SIZE, C, BLOCKS, DROP_PATH, RESIZE, FILE, TOP1)                                                              \
    {.name = "convnext_" SIZE, .build = build, .image_size = 224, .resize = RESIZE, .head = "classifier.2",             \
     .variant = &(const convnext){{C, 2 * C, 4 * C, 8 * C}, {3, 3, BLOCKS, 3}, DROP_PATH}, .weights_file = FILE,        \
     HL_TORCHVISION, .top1 = TOP1, .paper = "arXiv 2201.03545"}

static const hl_model_info models[] = {
    ROW("tiny",   96,  9, 0.1f, 236, "convnext_tiny-983f1562.pth",  82.520f),
    ROW("small",  96, 27, 0.4f, 230, "convnext_small-0c510722.pth", 83.616f),
    ROW("base",  128, 27, 0.5f, 232, "convnext_base-6075fbad.pth",  84.062f),
    ROW("large", 192, 27, 0.5f, 232, "convnext_large-ea097f82.pth", 84.414f),
};
/* clang-format on */
HL_MODEL_FAMILY(convnext);
