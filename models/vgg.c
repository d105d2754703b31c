/* VGG (Simonyan and Zisserman, 2014, arXiv 1409.1556) as torchvision builds it. */
#include "models/families.h"

typedef struct vgg {
    int convs[5]; /* before each pooling */
    bool norms;
} vgg;

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const int64_t channels[5] = {64, 128, 256, 512, 512};
    const vgg *variant = info->variant;
    double width = info->width > 0.0 ? info->width : 1.0;
    int layer = 0; /* place in the nn.Sequential */
    for (int stage = 0; stage < 5; stage++) {
        for (int c = 0; c < variant->convs[stage]; c++) {
            x = hl_graph_conv(g, hl_graph_name(g, "features.%d", layer++), x,
                              (hl_conv_spec){.out = (int64_t)(width * (double)channels[stage]),
                                             .kernel = 3,
                                             .padding = 1,
                                             .bias = true});
            if (variant->norms)
                x = hl_graph_norm(g, hl_graph_name(g, "features.%d", layer++), x, 1e-5f, 0.1f);
            x = hl_graph_act(g, hl_graph_name(g, "features.%d", layer++), x, HL_ACT_RELU);
        }
        x = hl_graph_pool(g, hl_graph_name(g, "features.%d", layer++), x,
                          (hl_pool_spec){.max = true, .kernel = 2, .stride = 2});
    }
    x = hl_graph_grid_pool(g, "avgpool", x, 7);
    int64_t hidden = (int64_t)(width * 4096.0);
    x = hl_graph_flat_linear(g, "classifier.0", x, hidden, true);
    x = hl_graph_act(g, "classifier.1", x, HL_ACT_RELU);
    x = hl_graph_dropout(g, "classifier.2", x, 0.5f);
    x = hl_graph_linear(g, "classifier.3", x, hidden, true);
    x = hl_graph_act(g, "classifier.4", x, HL_ACT_RELU);
    x = hl_graph_dropout(g, "classifier.5", x, 0.5f);
    return hl_graph_head(g, "classifier.6", x, classes);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, ...)                                                                                       \
    {.name = NAME, .build = build, .variant = &(const vgg)__VA_ARGS__, .image_size = 224, .resize = 256, HL_TORCHVISION, \
     .head = "classifier.6", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1409.1556"}

static const hl_model_info models[] = {
    ROW("vgg11",    "vgg11-8a719046.pth",    69.020f, {{1, 1, 2, 2, 2}, false}),
    ROW("vgg13",    "vgg13-19584684.pth",    69.928f, {{2, 2, 2, 2, 2}, false}),
    ROW("vgg16",    "vgg16-397923af.pth",    71.592f, {{2, 2, 3, 3, 3}, false}),
    ROW("vgg19",    "vgg19-dcbb9e9d.pth",    72.376f, {{2, 2, 4, 4, 4}, false}),
    ROW("vgg11_bn", "vgg11_bn-6002323d.pth", 70.370f, {{1, 1, 2, 2, 2}, true}),
    ROW("vgg13_bn", "vgg13_bn-abd245e5.pth", 71.586f, {{2, 2, 2, 2, 2}, true}),
    ROW("vgg16_bn", "vgg16_bn-6c64b313.pth", 73.360f, {{2, 2, 3, 3, 3}, true}),
    ROW("vgg19_bn", "vgg19_bn-c79401a0.pth", 74.218f, {{2, 2, 4, 4, 4}, true}),
};
/* clang-format on */
HL_MODEL_FAMILY(vgg);
