/* SqueezeNet (Iandola et al., 2016, arXiv 1602.07360) as torchvision builds it. The classifier is a 1x1
 * convolution, averaged over the map behind it. */
#include "models/families.h"

typedef struct squeezenet {
    int64_t stem, stem_kernel;
    const char *
        plan; /* behind the stem: P a pooling, digits a fire module of that many times 16 squeezed channels */
} squeezenet;

static hl_value conv_relu(hl_graph *g, const char *name, const char *act, hl_value x, hl_conv_spec spec)
{
    spec.bias = true;
    x = hl_graph_conv(g, name, x, spec);
    return hl_graph_act(g, act, x, HL_ACT_RELU);
}

static hl_value fire(hl_graph *g, const char *name, hl_value x, int64_t squeezed)
{
    x = conv_relu(g, hl_graph_name(g, "%s.squeeze", name), hl_graph_name(g, "%s.squeeze_activation", name), x,
                  (hl_conv_spec){.out = squeezed});
    const hl_value sides[2] = {conv_relu(g, hl_graph_name(g, "%s.expand1x1", name),
                                         hl_graph_name(g, "%s.expand1x1_activation", name), x,
                                         (hl_conv_spec){.out = 4 * squeezed}),
                               conv_relu(g, hl_graph_name(g, "%s.expand3x3", name),
                                         hl_graph_name(g, "%s.expand3x3_activation", name), x,
                                         (hl_conv_spec){.out = 4 * squeezed, .kernel = 3, .padding = 1})};
    return hl_graph_concat(g, hl_graph_name(g, "%s.concat", name), sides, 2);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const squeezenet *variant = info->variant;
    x = conv_relu(g, "features.0", "features.1", x,
                  (hl_conv_spec){.out = variant->stem, .kernel = variant->stem_kernel, .stride = 2});
    for (int i = 0; variant->plan[i] != '\0'; i++) {
        const char *name = hl_graph_name(g, "features.%d", i + 2);
        if (variant->plan[i] == 'P')
            x = hl_graph_pool(g, name, x,
                              (hl_pool_spec){.max = true, .kernel = 3, .stride = 2, .ceil_mode = true});
        else
            x = fire(g, name, x, (variant->plan[i] - '0') * 16);
    }
    x = hl_graph_dropout(g, "classifier.0", x, 0.5f);
    x = hl_graph_head_conv(g, "classifier.1", x, classes);
    x = hl_graph_act(g, "classifier.2", x, HL_ACT_RELU);
    return hl_graph_global_pool(g, "classifier.3", x);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, ...)                                                                                       \
    {.name = NAME, .build = build, .variant = &(const squeezenet)__VA_ARGS__, .image_size = 224, .resize = 256,          \
     HL_TORCHVISION, .head = "classifier.1", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1602.07360"}

static const hl_model_info models[] = {
    ROW("squeezenet1_0", "squeezenet1_0-b66bff10.pth", 58.092f, {96, 7, "P112P2334P4"}),
    ROW("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", 58.178f, {64, 3, "P11P22P3344"}),
};
/* clang-format on */
HL_MODEL_FAMILY(squeezenet);
