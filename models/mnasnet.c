/* MNASNet-B1 (Tan et al., 2018, arXiv 1807.11626) as torchvision builds it. */
#include "models/families.h"

/* torchvision's momentum: 1 - 0.9997. */
static const hl_block_style style = {.norm_eps = 1e-5f, .norm_momentum = 3e-4f, .act = HL_ACT_RELU};

static hl_value inverted_residual(hl_graph *g, const char *name, hl_value x, int64_t expand, int64_t out,
                                  int64_t kernel, int64_t stride)
{
    int64_t in = hl_channels(g, x), hidden = in * expand;
    const char *layers = hl_graph_name(g, "%s.layers", name);
    hl_value y = hl_conv_norm_act_at(g, &style, layers, 0, x, (hl_conv_spec){.out = hidden}, false);
    y = hl_conv_norm_act_at(
        g, &style, layers, 3, y,
        (hl_conv_spec){
            .out = hidden, .kernel = kernel, .stride = stride, .padding = kernel / 2, .groups = hidden},
        false);
    y = hl_conv_norm_act_at(g, &style, layers, 6, y, (hl_conv_spec){.out = out}, true);
    return stride == 1 && in == out ? hl_graph_add(g, hl_graph_name(g, "%s.add", name), y, x) : y;
}

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const struct {
        int64_t expand, out, repeats, stride, kernel;
    } stacks[] = {{3, 24, 3, 2, 3}, {3, 40, 3, 2, 5},  {6, 80, 3, 2, 5},
                  {6, 96, 2, 1, 3}, {6, 192, 4, 2, 5}, {6, 320, 1, 1, 3}};
    double width = info->width;
    int64_t stem = hl_make_divisible(32 * width, 8);
    x = hl_conv_norm_act_at(g, &style, "layers", 0, x,
                            (hl_conv_spec){.out = stem, .kernel = 3, .stride = 2, .padding = 1}, false);
    x = hl_conv_norm_act_at(g, &style, "layers", 3, x,
                            (hl_conv_spec){.out = stem, .kernel = 3, .padding = 1, .groups = stem}, false);
    x = hl_conv_norm_act_at(g, &style, "layers", 6, x,
                            (hl_conv_spec){.out = hl_make_divisible(16 * width, 8)}, true);
    for (size_t s = 0; s < sizeof stacks / sizeof *stacks; s++)
        for (int64_t r = 0; r < stacks[s].repeats; r++)
            x = inverted_residual(g, hl_graph_name(g, "layers.%zu.%lld", s + 8, (long long)r), x,
                                  stacks[s].expand, hl_make_divisible((double)stacks[s].out * width, 8),
                                  stacks[s].kernel, r == 0 ? stacks[s].stride : 1);
    x = hl_conv_norm_act_at(g, &style, "layers", 14, x, (hl_conv_spec){.out = 1280}, false);
    x = hl_graph_global_pool(g, "mean", x);
    x = hl_graph_dropout(g, "classifier.0", x, 0.2f);
    return hl_graph_head(g, "classifier.1", x, classes);
}

/* clang-format off */
#define ROW(NAME, WIDTH, RESIZE, FILE, TOP1)                                                                             \
    {.name = NAME, .build = build, .width = WIDTH, .image_size = 224, .resize = RESIZE, HL_TORCHVISION,                  \
     .head = "classifier.1", .weights_file = FILE, .top1 = TOP1, .paper = "arXiv 1807.11626"}

static const hl_model_info models[] = {
    ROW("mnasnet0_5",  0.5,  256, "mnasnet0.5_top1_67.823-3ffadce67e.pth", 67.734f),
    ROW("mnasnet0_75", 0.75, 232, "mnasnet0_75-7090bc5f.pth",              71.180f),
    ROW("mnasnet1_0",  1.0,  256, "mnasnet1.0_top1_73.512-f206786ef8.pth", 73.456f),
    ROW("mnasnet1_3",  1.3,  232, "mnasnet1_3-a4c69d6f.pth",               76.506f),
};
/* clang-format on */
HL_MODEL_FAMILY(mnasnet);
