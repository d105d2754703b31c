/* RegNetX and RegNetY (Radosavovic et al., 2020, arXiv 2003.13678) as torchvision builds them; Y has
 * squeeze-excite. */
#include "models/families.h"

typedef struct regnet {
    int depth[4];
    int64_t width[4], group_width[4];
    bool squeeze;
} regnet;

static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};
static const hl_squeeze_style squeeze = {"fc1", "fc2", HL_ACT_RELU, HL_ACT_SIGMOID};

static hl_value block(hl_graph *g, const regnet *variant, int stage, const char *name, hl_value x,
                      int64_t stride)
{
    int64_t in = hl_channels(g, x), out = variant->width[stage];
    hl_value shortcut = x, y;
    if (in != out || stride != 1)
        shortcut = hl_conv_norm_act_at(g, &style, hl_graph_name(g, "%s.proj", name), 0, x,
                                       (hl_conv_spec){.out = out, .stride = stride}, true);
    y = hl_conv_norm_act_at(g, &style, hl_graph_name(g, "%s.f.a", name), 0, x, (hl_conv_spec){.out = out},
                            false);
    y = hl_conv_norm_act_at(g, &style, hl_graph_name(g, "%s.f.b", name), 0, y,
                            (hl_conv_spec){.out = out,
                                           .kernel = 3,
                                           .stride = stride,
                                           .padding = 1,
                                           .groups = out / variant->group_width[stage]},
                            false);
    if (variant->squeeze)
        y = hl_squeeze_excite(g, &squeeze, hl_graph_name(g, "%s.f.se", name), y, in / 4);
    y = hl_conv_norm_act_at(g, &style, hl_graph_name(g, "%s.f.c", name), 0, y, (hl_conv_spec){.out = out},
                            true);
    y = hl_graph_add(g, hl_graph_name(g, "%s.add", name), shortcut, y);
    return hl_graph_act(g, hl_graph_name(g, "%s.activation", name), y, HL_ACT_RELU);
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    const regnet *variant = info->variant;
    x = hl_conv_norm_act_at(g, &style, "stem", 0, x,
                            (hl_conv_spec){.out = 32, .kernel = 3, .stride = 2, .padding = 1}, false);
    for (int s = 0; s < 4; s++)
        for (int b = 0; b < variant->depth[s]; b++)
            x = block(g, variant, s, hl_graph_name(g, "trunk_output.block%d.block%d-%d", s + 1, s + 1, b), x,
                      b == 0 ? 2 : 1);
    x = hl_graph_global_pool(g, "avgpool", x);
    return hl_graph_head(g, "fc", x, classes);
}

/* clang-format off */
#define ROW(NAME, FILE, TOP1, ...)                                                                                       \
    {.name = NAME, .build = build, .variant = &(const regnet)__VA_ARGS__, .image_size = 224, .resize = 256,              \
     HL_TORCHVISION, .head = "fc", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 2003.13678"}

static const hl_model_info models[] = {
    ROW("regnet_x_400mf", "regnet_x_400mf-adf1edd5.pth", 72.834f, {{1, 2, 7, 12}, {32, 64, 160, 400}, {16, 16, 16, 16}, false}),
    ROW("regnet_x_800mf", "regnet_x_800mf-ad17e45c.pth", 75.212f, {{1, 3, 7, 5}, {64, 128, 288, 672}, {16, 16, 16, 16}, false}),
    ROW("regnet_x_1_6gf", "regnet_x_1_6gf-e3633e7f.pth", 77.040f, {{2, 4, 10, 2}, {72, 168, 408, 912}, {24, 24, 24, 24}, false}),
    ROW("regnet_x_3_2gf", "regnet_x_3_2gf-f342aeae.pth", 78.364f, {{2, 6, 15, 2}, {96, 192, 432, 1008}, {48, 48, 48, 48}, false}),
    ROW("regnet_x_8gf",   "regnet_x_8gf-03ceed89.pth",   79.344f, {{2, 5, 15, 1}, {80, 240, 720, 1920}, {80, 120, 120, 120}, false}),
    ROW("regnet_x_16gf",  "regnet_x_16gf-2007eb11.pth",  80.058f, {{2, 6, 13, 1}, {256, 512, 896, 2048}, {128, 128, 128, 128}, false}),
    ROW("regnet_x_32gf",  "regnet_x_32gf-9d47f8d0.pth",  80.622f, {{2, 7, 13, 1}, {336, 672, 1344, 2520}, {168, 168, 168, 168}, false}),
    ROW("regnet_y_400mf", "regnet_y_400mf-c65dace8.pth", 74.046f, {{1, 3, 6, 6}, {48, 104, 208, 440}, {8, 8, 8, 8}, true}),
    ROW("regnet_y_800mf", "regnet_y_800mf-1b27b58c.pth", 76.420f, {{1, 3, 8, 2}, {64, 144, 320, 784}, {16, 16, 16, 16}, true}),
    ROW("regnet_y_1_6gf", "regnet_y_1_6gf-b11a554e.pth", 77.950f, {{2, 6, 17, 2}, {48, 120, 336, 888}, {24, 24, 24, 24}, true}),
    ROW("regnet_y_3_2gf", "regnet_y_3_2gf-b5a9779c.pth", 78.948f, {{2, 5, 13, 1}, {72, 216, 576, 1512}, {24, 24, 24, 24}, true}),
    ROW("regnet_y_8gf",   "regnet_y_8gf-d0d0e4a8.pth",   80.032f, {{2, 4, 10, 1}, {224, 448, 896, 2016}, {56, 56, 56, 56}, true}),
    ROW("regnet_y_16gf",  "regnet_y_16gf-9e6ed7dd.pth",  80.424f, {{2, 4, 11, 1}, {224, 448, 1232, 3024}, {112, 112, 112, 112}, true}),
    ROW("regnet_y_32gf",  "regnet_y_32gf-4dee3f7a.pth",  80.878f, {{2, 5, 12, 1}, {232, 696, 1392, 3712}, {232, 232, 232, 232}, true}),
};
/* clang-format on */
HL_MODEL_FAMILY(regnet);
