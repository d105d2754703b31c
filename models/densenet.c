/* DenseNet (Huang et al., 2016, arXiv 1608.06993) as torchvision builds it. */
#include "models/families.h"

typedef struct densenet {
    int layers[4];
    int64_t growth, stem;
} densenet;

static hl_value norm_relu_conv(hl_graph *g, const char *prefix, const char *suffix, hl_value x,
                               hl_conv_spec spec)
{
    x = hl_graph_norm(g, hl_graph_name(g, "%s.norm%s", prefix, suffix), x, 1e-5f, 0.1f);
    x = hl_graph_act(g, hl_graph_name(g, "%s.relu%s", prefix, suffix), x, HL_ACT_RELU);
    return hl_graph_conv(g, hl_graph_name(g, "%s.conv%s", prefix, suffix), x, spec);
}

/* Each layer adds `growth` channels to what it has read. */
static hl_value dense_block(hl_graph *g, int number, hl_value x, int layers, int64_t growth)
{
    for (int i = 1; i <= layers; i++) {
        const char *name = hl_graph_name(g, "features.denseblock%d.denselayer%d", number, i);
        hl_value y = norm_relu_conv(g, name, "1", x, (hl_conv_spec){.out = 4 * growth});
        y = norm_relu_conv(g, name, "2", y, (hl_conv_spec){.out = growth, .kernel = 3, .padding = 1});
        const hl_value both[2] = {x, y};
        x = hl_graph_concat(g, hl_graph_name(g, "%s.concat", name), both, 2);
    }
    return x;
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};
    const densenet *variant = info->variant;
    x = hl_conv_norm_act(
        g, &style, "features.conv0", "features.norm0", x,
        (hl_conv_spec){.out = hl_widened(info, variant->stem), .kernel = 7, .stride = 2, .padding = 3},
        false);
    x = hl_graph_pool(g, "features.pool0", x,
                      (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .padding = 1});
    for (int b = 0; b < 4; b++) {
        x = dense_block(g, b + 1, x, variant->layers[b], hl_widened(info, variant->growth));
        if (b == 3)
            break;
        const char *name = hl_graph_name(g, "features.transition%d", b + 1);
        x = norm_relu_conv(g, name, "", x, (hl_conv_spec){.out = hl_channels(g, x) / 2});
        x = hl_graph_pool(g, hl_graph_name(g, "%s.pool", name), x, (hl_pool_spec){.kernel = 2, .stride = 2});
    }
    x = hl_graph_norm(g, "features.norm5", x, 1e-5f, 0.1f);
    x = hl_graph_act(g, "features.relu5", x, HL_ACT_RELU);
    x = hl_graph_global_pool(g, "features.pool5", x);
    return hl_graph_head(g, "classifier", x, classes);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, ...)                                                                                       \
    {.name = NAME, .build = build, .variant = &(const densenet)__VA_ARGS__, .image_size = 224, .resize = 256,            \
     HL_TORCHVISION, .head = "classifier", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1608.06993"}

static const hl_model_info models[] = {
    ROW("densenet121", "densenet121-a639ec97.pth", 74.434f, {{6, 12, 24, 16}, 32, 64}),
    ROW("densenet161", "densenet161-8d451a50.pth", 77.138f, {{6, 12, 36, 24}, 48, 96}),
    ROW("densenet169", "densenet169-b2777c0a.pth", 75.600f, {{6, 12, 32, 32}, 32, 64}),
    ROW("densenet201", "densenet201-c1103571.pth", 76.896f, {{6, 12, 48, 32}, 32, 64}),
};
/* clang-format on */
HL_MODEL_FAMILY(densenet);
