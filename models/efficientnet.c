/* EfficientNet (Tan and Le, 2019, arXiv 1905.11946) and EfficientNetV2 (2021, arXiv 2104.00298) as
 * torchvision builds them. */
#include <math.h>

#include "models/families.h"

typedef struct stage {
    bool fused; /* the expansion is a dense convolution with the kernel, in place of 1x1 and depthwise */
    int64_t expand, kernel, stride, out;
    int repeats;
} stage;

enum { STAGES = 7 };

typedef struct efficientnet {
    stage stages[STAGES];
    int64_t stem, last; /* last: 0 is four times the last stage */
} efficientnet;

/* Of a row: torchvision does not give all variants the same. */
typedef struct settings {
    const efficientnet *layers;
    float drop;
    hl_block_style style;
} settings;

static const hl_squeeze_style squeeze = {"fc1", "fc2", HL_ACT_SILU, HL_ACT_SIGMOID};

/* Stochastic depth: of the last block, if there were one more; blocks before have their share of it. */
static const float drop_path = 0.2f;

static hl_value inverted_residual(hl_graph *g, const hl_block_style *style, const char *name, hl_value x,
                                  const stage *s, int64_t out, int64_t stride, float depth)
{
    int64_t in = hl_channels(g, x), hidden = in * s->expand;
    const hl_conv_spec spatial = {.out = hidden,
                                  .kernel = s->kernel,
                                  .stride = stride,
                                  .padding = s->kernel / 2,
                                  .groups = s->fused ? 1 : hidden};
    int layer = 0; /* place in the nn.Sequential */
    hl_value y = x;
    if (s->expand != 1 && !s->fused)
        y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer++), 0, y,
                                (hl_conv_spec){.out = hidden}, false);
    y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer++), 0, y, spatial, false);
    if (!s->fused)
        y = hl_squeeze_excite(g, &squeeze, hl_graph_name(g, "%s.block.%d", name, layer++), y, in / 4);
    if (s->expand != 1 || !s->fused)
        y = hl_conv_norm_act_at(g, style, hl_graph_name(g, "%s.block.%d", name, layer), 0, y,
                                (hl_conv_spec){.out = out}, true);
    if (stride != 1 || in != out)
        return y;
    y = hl_graph_drop_path(g, hl_graph_name(g, "%s.stochastic_depth", name), y, drop_path, depth);
    return hl_graph_add(g, hl_graph_name(g, "%s.add", name), y, x);
}

static int repeats_of(const stage *s, double depth)
{
    return (int)ceil((double)s->repeats * depth - 1e-6);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const settings *row = info->variant;
    const efficientnet *layers = row->layers;
    int index = 1, count = 0, done = 0;
    for (int s = 0; s < STAGES; s++)
        count += repeats_of(&layers->stages[s], info->depth);
    x = hl_conv_norm_act_at(g, &row->style, "features.0", 0, x,
                            (hl_conv_spec){.out = hl_make_divisible((double)layers->stem * info->width, 8),
                                           .kernel = 3,
                                           .stride = 2,
                                           .padding = 1},
                            false);
    for (const stage *s = layers->stages; index <= STAGES && s->repeats > 0; s++, index++)
        for (int r = 0; r < repeats_of(s, info->depth); r++, done++)
            x = inverted_residual(g, &row->style, hl_graph_name(g, "features.%d.%d", index, r), x, s,
                                  hl_make_divisible((double)s->out * info->width, 8), r == 0 ? s->stride : 1,
                                  (float)done / (float)count);
    x = hl_conv_norm_act_at(g, &row->style, hl_graph_name(g, "features.%d", index), 0, x,
                            (hl_conv_spec){.out = layers->last > 0 ? layers->last : 4 * hl_channels(g, x)},
                            false);
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_dropout(g, "classifier.0", x, row->drop);
    return hl_graph_head(g, "classifier.1", x, classes);
}

/* clang-format off */
static const efficientnet v1 = {
    {{false, 1, 3, 1, 16, 1}, {false, 6, 3, 2, 24, 2}, {false, 6, 5, 2, 40, 2}, {false, 6, 3, 2, 80, 3},
     {false, 6, 5, 1, 112, 3}, {false, 6, 5, 2, 192, 4}, {false, 6, 3, 1, 320, 1}}, .stem = 32};
static const efficientnet v2_s = {
    {{true, 1, 3, 1, 24, 2}, {true, 4, 3, 2, 48, 4}, {true, 4, 3, 2, 64, 4}, {false, 4, 3, 2, 128, 6},
     {false, 6, 3, 1, 160, 9}, {false, 6, 3, 2, 256, 15}}, .stem = 24, .last = 1280};
static const efficientnet v2_m = {
    {{true, 1, 3, 1, 24, 3}, {true, 4, 3, 2, 48, 5}, {true, 4, 3, 2, 80, 5}, {false, 4, 3, 2, 160, 7},
     {false, 6, 3, 1, 176, 14}, {false, 6, 3, 2, 304, 18}, {false, 6, 3, 1, 512, 5}}, .stem = 24, .last = 1280};
static const efficientnet v2_l = {
    {{true, 1, 3, 1, 32, 4}, {true, 4, 3, 2, 64, 7}, {true, 4, 3, 2, 96, 7}, {false, 4, 3, 2, 192, 10},
     {false, 6, 3, 1, 224, 19}, {false, 6, 3, 2, 384, 25}, {false, 6, 3, 1, 640, 7}}, .stem = 32, .last = 1280};

#define ROW(NAME, LAYERS, EPS, MOMENTUM, DROP, WIDTH, DEPTH, SIZE, RESIZE, FILE, TOP1, PAPER, ...)                       \
    {.name = NAME, .build = build, .variant = &(const settings){&LAYERS, DROP, {EPS, MOMENTUM, HL_ACT_SILU}},            \
     .width = WIDTH, .depth = DEPTH, .image_size = SIZE, .resize = RESIZE, .head = "classifier.1", .weights_file = FILE, \
     .licence = "BSD-3-Clause", .top1 = TOP1, .paper = "arXiv " PAPER, __VA_ARGS__}
#define B(NUMBER, EPS, MOMENTUM, DROP, WIDTH, DEPTH, SIZE, RESIZE, FILE, TOP1, ...)                                      \
    ROW("efficientnet_b" NUMBER, v1, EPS, MOMENTUM, DROP, WIDTH, DEPTH, SIZE, RESIZE, FILE, TOP1, "1905.11946",          \
        HL_IMAGENET, .bicubic = true, __VA_ARGS__)
#define V2(LETTER, LAYERS, DROP, SIZE, TOP1, FILE, ...)                                                                  \
    ROW("efficientnet_v2_" LETTER, LAYERS, 1e-3f, 0.1f, DROP, 1.0, 1.0, SIZE, SIZE, FILE, TOP1, "2104.00298", __VA_ARGS__)

static const hl_model_info models[] = {
    B("0", 1e-5f, 0.1f,  0.2f, 1.0, 1.0, 224, 256, "efficientnet_b0_rwightman-7f5810bc.pth", 77.692f, .others = NULL),
    B("1", 1e-5f, 0.1f,  0.2f, 1.0, 1.1, 240, 256, "efficientnet_b1_rwightman-bac287d4.pth", 78.642f,
      HL_OTHERS({"tv2_in1k", "efficientnet_b1-c27df63c.pth", 240, 255, false, 79.838f, NULL})),
    B("2", 1e-5f, 0.1f,  0.3f, 1.1, 1.2, 288, 288, "efficientnet_b2_rwightman-c35c1473.pth", 80.608f, .others = NULL),
    B("3", 1e-5f, 0.1f,  0.3f, 1.2, 1.4, 300, 320, "efficientnet_b3_rwightman-b3899882.pth", 82.008f, .others = NULL),
    B("4", 1e-5f, 0.1f,  0.4f, 1.4, 1.8, 380, 384, "efficientnet_b4_rwightman-23ab8bcd.pth", 83.384f, .others = NULL),
    B("5", 1e-3f, 0.01f, 0.4f, 1.6, 2.2, 456, 456, "efficientnet_b5_lukemelas-1a07897c.pth", 83.444f, .others = NULL),
    B("6", 1e-3f, 0.01f, 0.5f, 1.8, 2.6, 528, 528, "efficientnet_b6_lukemelas-24a108a5.pth", 84.008f, .others = NULL),
    B("7", 1e-3f, 0.01f, 0.5f, 2.0, 3.1, 600, 600, "efficientnet_b7_lukemelas-c5b4e57e.pth", 84.122f, .others = NULL),
    V2("s", v2_s, 0.2f, 384, 84.228f, "efficientnet_v2_s-dd5fe13b.pth", HL_IMAGENET),
    V2("m", v2_m, 0.3f, 480, 85.112f, "efficientnet_v2_m-dc08266a.pth", HL_IMAGENET),
    V2("l", v2_l, 0.4f, 480, 85.808f, "efficientnet_v2_l-59c71312.pth", HL_HALF, .bicubic = true),
};
/* clang-format on */
HL_MODEL_FAMILY(efficientnet);
