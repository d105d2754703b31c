/* EfficientNet (Tan and Le, 2019, arXiv 1905.11946) with the weights of TensorFlow's, layers named as timm's
 * tf_efficientnet_b*, and EfficientNet-Lite: without squeeze-excite, with ReLU6, stem and head not scaled by
 * the width, nor the first and last stage by the depth. TensorFlow's SAME padding. No dropout before the head
 * and no stochastic depth, as timm's create_model leaves them. */
#include <math.h>

#include "models/families.h"

typedef struct kind {
    hl_block_style style;
    bool lite;
} kind;

static const kind lite = {{.norm_eps = 1e-3f, .norm_momentum = 0.1f, .act = HL_ACT_RELU6}, true};
static const kind full = {{.norm_eps = 1e-3f, .norm_momentum = 0.1f, .act = HL_ACT_SILU}, false};
static const hl_squeeze_style squeeze = {"conv_reduce", "conv_expand", HL_ACT_SILU, HL_ACT_SIGMOID};

typedef struct stage {
    int64_t expand, out, repeats, stride, kernel;
} stage;

static hl_value block(hl_graph *g, const kind *k, const char *name, hl_value x, const stage *s, int64_t out,
                      int64_t stride)
{
    int64_t in = hl_channels(g, x), hidden = in * s->expand;
    /* timm numbers what is there: a block without expansion has conv_dw, bn1, conv_pw, bn2. */
    bool expands = s->expand != 1;
    hl_value y = x;
    if (expands)
        y = hl_conv_norm_act(g, &k->style, hl_graph_name(g, "%s.conv_pw", name),
                             hl_graph_name(g, "%s.bn1", name), y, (hl_conv_spec){.out = hidden}, false);
    y = hl_conv_norm_act(
        g, &k->style, hl_graph_name(g, "%s.conv_dw", name),
        hl_graph_name(g, "%s.bn%d", name, expands ? 2 : 1), y,
        (hl_conv_spec){
            .out = hidden, .kernel = s->kernel, .stride = stride, .groups = hidden, .padding_same = true},
        false);
    if (!k->lite)
        y = hl_squeeze_excite(g, &squeeze, hl_graph_name(g, "%s.se", name), y, in / 4);
    y = hl_conv_norm_act(g, &k->style, hl_graph_name(g, "%s.%s", name, expands ? "conv_pwl" : "conv_pw"),
                         hl_graph_name(g, "%s.bn%d", name, expands ? 3 : 2), y, (hl_conv_spec){.out = out},
                         true);
    return stride == 1 && in == out ? hl_graph_add(g, hl_graph_name(g, "%s.add", name), x, y) : y;
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const stage stages[] = {{1, 16, 1, 1, 3},  {6, 24, 2, 2, 3},  {6, 40, 2, 2, 5}, {6, 80, 3, 2, 3},
                                   {6, 112, 3, 1, 5}, {6, 192, 4, 2, 5}, {6, 320, 1, 1, 3}};
    const size_t count = sizeof stages / sizeof *stages;
    const kind *k = info->variant;
    double width = info->width, outer = k->lite ? 1.0 : width; /* of stem and head */
    x = hl_conv_norm_act(
        g, &k->style, "conv_stem", "bn1", x,
        (hl_conv_spec){
            .out = hl_make_divisible(32 * outer, 8), .kernel = 3, .stride = 2, .padding_same = true},
        false);
    for (size_t s = 0; s < count; s++) {
        int64_t repeats = stages[s].repeats, out = hl_make_divisible((double)stages[s].out * width, 8);
        if (!k->lite || (s > 0 && s + 1 < count))
            repeats = (int64_t)ceil((double)repeats * info->depth - 1e-6);
        for (int64_t r = 0; r < repeats; r++)
            x = block(g, k, hl_graph_name(g, "blocks.%zu.%lld", s, (long long)r), x, &stages[s], out,
                      r == 0 ? stages[s].stride : 1);
    }
    x = hl_conv_norm_act(g, &k->style, "conv_head", "bn2", x,
                         (hl_conv_spec){.out = hl_make_divisible(1280 * outer, 8)}, false);
    x = hl_graph_global_pool(g, "global_pool", x);
    return hl_graph_head(g, "classifier", x, classes);
}

/* The resize is floor(size / crop_pct), timm's rule; top-1 as in timm's results-imagenet.csv. */
/* clang-format off */
#define LITE(NUMBER, WIDTH, DEPTH, SIZE, RESIZE, BICUBIC, FILE, TOP1)                                                    \
    {.name = "efficientnet_lite" NUMBER, .alias = "tf_efficientnet_lite" NUMBER, .timm = true, .build = build, .variant = &lite, .width = WIDTH,         \
     .depth = DEPTH, .image_size = SIZE, .resize = RESIZE, .bicubic = BICUBIC, HL_HALF, .head = "classifier",            \
     .weights_file = FILE, .licence = "Apache-2.0", .top1 = TOP1, .paper = "arXiv 1905.11946"}

/* The file is timm's default, trained by noisy students. */
#define B(NUMBER, WIDTH, DEPTH, SIZE, RESIZE, FILE, TOP1)                                                                \
    {.name = "tf_efficientnet_b" NUMBER, .timm = true, .build = build, .variant = &full, .width = WIDTH, .depth = DEPTH, \
     .image_size = SIZE, .resize = RESIZE, .bicubic = true, HL_IMAGENET, .head = "classifier", .weights_file = FILE,     \
     .licence = "Apache-2.0", .top1 = TOP1, .paper = "arXiv 1905.11946"}

static const hl_model_info models[] = {
    LITE("0", 1.0, 1.0, 224, 256, true, "tf_efficientnet_lite0-0aa007d2.pth", 74.830f),
    LITE("1", 1.0, 1.1, 240, 272, true, "tf_efficientnet_lite1-bde8b488.pth", 76.644f),
    LITE("2", 1.1, 1.2, 260, 292, true, "tf_efficientnet_lite2-dcccb7df.pth", 77.464f),
    LITE("3", 1.2, 1.4, 300, 331, false, "tf_efficientnet_lite3-b733e338.pth", 79.808f),
    LITE("4", 1.4, 1.8, 380, 413, false, "tf_efficientnet_lite4-741542c3.pth", 81.532f),
    B("0", 1.0, 1.0, 224, 256, "tf_efficientnet_b0_ns-c0e6a31c.pth", 78.680f),
    B("1", 1.0, 1.1, 240, 272, "tf_efficientnet_b1_ns-99dd0c41.pth", 81.388f),
    B("2", 1.1, 1.2, 260, 292, "tf_efficientnet_b2_ns-00306e48.pth", 82.412f),
    B("3", 1.2, 1.4, 300, 331, "tf_efficientnet_b3_ns-9d44bf68.pth", 84.054f),
    B("4", 1.4, 1.8, 380, 412, "tf_efficientnet_b4_ns-d6313a46.pth", 85.156f),
    B("5", 1.6, 2.2, 456, 488, "tf_efficientnet_b5_ns-6f26d0cf.pth", 86.096f),
    B("6", 1.8, 2.6, 528, 560, "tf_efficientnet_b6_ns-51548356.pth", 86.476f),
    B("7", 2.0, 3.1, 600, 632, "tf_efficientnet_b7_ns-1dbc32de.pth", 86.850f),
};
/* clang-format on */
HL_MODEL_FAMILY(efficientnet_tf);
