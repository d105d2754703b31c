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
    {.name = NAME, .build = build, .image_size = 224, .resize = 256, HL_TORCHVISION, .head = "fc",                       \
     .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 2003.13678", .variant = &(const regnet)__VA_ARGS__}
/* Trained on pictures from Instagram (SWAG, Singh et al., 2022, arXiv 2201.08371): all of it, or a linear head
 * on what it learnt there. */
#define SWAG(END_TO_END, TOP1, LINEAR, LINEAR_TOP1)                                                                      \
    {"swag_ft_in1k", END_TO_END, 384, 384, true, TOP1, "CC-BY-NC-4.0"},                                                  \
    {"swag_lc_in1k", LINEAR, 224, 224, true, LINEAR_TOP1, "CC-BY-NC-4.0"}

static const hl_model_info models[] = {
    ROW("regnet_x_400mf", "regnet_x_400mf-adf1edd5.pth", 72.834f, {{1, 2, 7, 12}, {32, 64, 160, 400}, {16, 16, 16, 16}, false},
        HL_OTHER_V2("regnet_x_400mf-62229a5f.pth", 74.864f)),
    ROW("regnet_x_800mf", "regnet_x_800mf-ad17e45c.pth", 75.212f, {{1, 3, 7, 5}, {64, 128, 288, 672}, {16, 16, 16, 16}, false},
        HL_OTHER_V2("regnet_x_800mf-94a99ebd.pth", 77.522f)),
    ROW("regnet_x_1_6gf", "regnet_x_1_6gf-e3633e7f.pth", 77.040f, {{2, 4, 10, 2}, {72, 168, 408, 912}, {24, 24, 24, 24}, false},
        HL_OTHER_V2("regnet_x_1_6gf-a12f2b72.pth", 79.668f)),
    ROW("regnet_x_3_2gf", "regnet_x_3_2gf-f342aeae.pth", 78.364f, {{2, 6, 15, 2}, {96, 192, 432, 1008}, {48, 48, 48, 48}, false},
        HL_OTHER_V2("regnet_x_3_2gf-7071aa85.pth", 81.196f)),
    ROW("regnet_x_8gf",   "regnet_x_8gf-03ceed89.pth",   79.344f, {{2, 5, 15, 1}, {80, 240, 720, 1920}, {80, 120, 120, 120}, false},
        HL_OTHER_V2("regnet_x_8gf-2b70d774.pth", 81.682f)),
    ROW("regnet_x_16gf",  "regnet_x_16gf-2007eb11.pth",  80.058f, {{2, 6, 13, 1}, {256, 512, 896, 2048}, {128, 128, 128, 128}, false},
        HL_OTHER_V2("regnet_x_16gf-ba3796d7.pth", 82.716f)),
    ROW("regnet_x_32gf",  "regnet_x_32gf-9d47f8d0.pth",  80.622f, {{2, 7, 13, 1}, {336, 672, 1344, 2520}, {168, 168, 168, 168}, false},
        HL_OTHER_V2("regnet_x_32gf-6eb8fdc6.pth", 83.014f)),
    ROW("regnet_y_400mf", "regnet_y_400mf-c65dace8.pth", 74.046f, {{1, 3, 6, 6}, {48, 104, 208, 440}, {8, 8, 8, 8}, true},
        HL_OTHER_V2("regnet_y_400mf-e6988f5f.pth", 75.804f)),
    ROW("regnet_y_800mf", "regnet_y_800mf-1b27b58c.pth", 76.420f, {{1, 3, 8, 2}, {64, 144, 320, 784}, {16, 16, 16, 16}, true},
        HL_OTHER_V2("regnet_y_800mf-58fc7688.pth", 78.828f)),
    ROW("regnet_y_1_6gf", "regnet_y_1_6gf-b11a554e.pth", 77.950f, {{2, 6, 17, 2}, {48, 120, 336, 888}, {24, 24, 24, 24}, true},
        HL_OTHER_V2("regnet_y_1_6gf-0d7bc02a.pth", 80.876f)),
    ROW("regnet_y_3_2gf", "regnet_y_3_2gf-b5a9779c.pth", 78.948f, {{2, 5, 13, 1}, {72, 216, 576, 1512}, {24, 24, 24, 24}, true},
        HL_OTHER_V2("regnet_y_3_2gf-9180c971.pth", 81.982f)),
    ROW("regnet_y_8gf",   "regnet_y_8gf-d0d0e4a8.pth",   80.032f, {{2, 4, 10, 1}, {224, 448, 896, 2016}, {56, 56, 56, 56}, true},
        HL_OTHER_V2("regnet_y_8gf-dc2b1b54.pth", 82.828f)),
    ROW("regnet_y_16gf",  "regnet_y_16gf-9e6ed7dd.pth",  80.424f, {{2, 4, 11, 1}, {224, 448, 1232, 3024}, {112, 112, 112, 112}, true},
        HL_OTHERS(HL_V2("regnet_y_16gf-3e4a00f9.pth", 82.886f),
                  SWAG("regnet_y_16gf_swag-43afe44d.pth", 86.012f, "regnet_y_16gf_lc_swag-f3ec0043.pth", 83.976f))),
    ROW("regnet_y_32gf",  "regnet_y_32gf-4dee3f7a.pth",  80.878f, {{2, 5, 12, 1}, {232, 696, 1392, 3712}, {232, 232, 232, 232}, true},
        HL_OTHERS(HL_V2("regnet_y_32gf-8db6d4b5.pth", 83.368f),
                  SWAG("regnet_y_32gf_swag-04fdfa75.pth", 86.838f, "regnet_y_32gf_lc_swag-e1583746.pth", 84.622f))),
};
/* clang-format on */
HL_MODEL_FAMILY(regnet);
