/* GoogLeNet (Szegedy et al., 2014, arXiv 1409.4842; with batch norm) and Inception v3 (2015, arXiv
 * 1512.00567) as torchvision builds them, without the auxiliary classifiers. The published networks first
 * bring images that are normalised as for all others to mean and deviation 0.5 (transform_input); here they
 * are normalised so at once. */
#include "models/families.h"

static const hl_block_style style = {.norm_eps = 1e-3f, .norm_momentum = 0.1f, .act = HL_ACT_RELU};

static hl_value conv(hl_graph *g, const char *name, hl_value x, hl_conv_spec spec)
{
    return hl_conv_norm_act(g, &style, hl_graph_name(g, "%s.conv", name), hl_graph_name(g, "%s.bn", name), x,
                            spec, false);
}

static hl_value max_pool(hl_graph *g, const char *name, hl_value x, int64_t kernel, bool ceil_mode)
{
    return hl_graph_pool(g, name, x,
                         (hl_pool_spec){.max = true, .kernel = kernel, .stride = 2, .ceil_mode = ceil_mode});
}

/* ---- GoogLeNet ---- */

/* Channels of the branches: 1x1; reduced and 3x3; reduced and 3x3 (5x5 in the paper); behind pooling. */
typedef struct module {
    const char *name;
    int64_t one, reduce, three, reduce_more, more, pooled;
} module;

static hl_value inception(hl_graph *g, hl_value x, const module *m)
{
    hl_value two = conv(g, hl_graph_name(g, "%s.branch2.0", m->name), x, (hl_conv_spec){.out = m->reduce}),
             three =
                 conv(g, hl_graph_name(g, "%s.branch3.0", m->name), x, (hl_conv_spec){.out = m->reduce_more}),
             pooled = hl_graph_pool(g, hl_graph_name(g, "%s.branch4.0", m->name), x,
                                    (hl_pool_spec){.max = true, .kernel = 3, .stride = 1, .padding = 1});
    const hl_value branches[4] = {
        conv(g, hl_graph_name(g, "%s.branch1", m->name), x, (hl_conv_spec){.out = m->one}),
        conv(g, hl_graph_name(g, "%s.branch2.1", m->name), two,
             (hl_conv_spec){.out = m->three, .kernel = 3, .padding = 1}),
        conv(g, hl_graph_name(g, "%s.branch3.1", m->name), three,
             (hl_conv_spec){.out = m->more, .kernel = 3, .padding = 1}),
        conv(g, hl_graph_name(g, "%s.branch4.1", m->name), pooled, (hl_conv_spec){.out = m->pooled})};
    return hl_graph_concat(g, hl_graph_name(g, "%s.concat", m->name), branches, 4);
}

static hl_value build_googlenet(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const module modules[] = {
        {"inception3a", 64, 96, 128, 16, 32, 32},     {"inception3b", 128, 128, 192, 32, 96, 64},
        {"inception4a", 192, 96, 208, 16, 48, 64},    {"inception4b", 160, 112, 224, 24, 64, 64},
        {"inception4c", 128, 128, 256, 24, 64, 64},   {"inception4d", 112, 144, 288, 32, 64, 64},
        {"inception4e", 256, 160, 320, 32, 128, 128}, {"inception5a", 256, 160, 320, 32, 128, 128},
        {"inception5b", 384, 192, 384, 48, 128, 128}};
    (void)info;
    x = conv(g, "conv1", x, (hl_conv_spec){.out = 64, .kernel = 7, .stride = 2, .padding = 3});
    x = max_pool(g, "maxpool1", x, 3, true);
    x = conv(g, "conv2", x, (hl_conv_spec){.out = 64});
    x = conv(g, "conv3", x, (hl_conv_spec){.out = 192, .kernel = 3, .padding = 1});
    x = max_pool(g, "maxpool2", x, 3, true);
    for (int i = 0; i < 9; i++) {
        if (i == 2)
            x = max_pool(g, "maxpool3", x, 3, true);
        if (i == 7)
            x = max_pool(g, "maxpool4", x, 2, true);
        x = inception(g, x, &modules[i]);
    }
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_dropout(g, "dropout", x, 0.2f);
    return hl_graph_head(g, "fc", x, classes);
}

/* ---- Inception v3 ---- */

/* M.NAME with a window of h x w, padded so that stride 1 keeps the size; stride 2 is without padding.
 */
static hl_value layer(hl_graph *g, const char *m, const char *name, hl_value x, int64_t out, int64_t h,
                      int64_t w, int64_t stride)
{
    return conv(g, hl_graph_name(g, "%s.%s", m, name), x,
                (hl_conv_spec){.out = out,
                               .kernel_h = h,
                               .kernel_w = w,
                               .stride = stride,
                               .padding_h = stride == 1 ? h / 2 : 0,
                               .padding_w = stride == 1 ? w / 2 : 0});
}

static hl_value join(hl_graph *g, const char *m, const char *name, const hl_value *values, int count)
{
    return hl_graph_concat(g, hl_graph_name(g, "%s.%s", m, name), values, count);
}

static hl_value pooled_branch(hl_graph *g, const char *m, hl_value x, int64_t out)
{
    x = hl_graph_pool(g, hl_graph_name(g, "%s.pool", m), x,
                      (hl_pool_spec){.kernel = 3, .stride = 1, .padding = 1, .count_padding = true});
    return layer(g, m, "branch_pool", x, out, 1, 1, 1);
}

/* 35 x 35 */
static hl_value module_a(hl_graph *g, const char *m, hl_value x, int64_t pooled)
{
    hl_value five = layer(g, m, "branch5x5_1", x, 48, 1, 1, 1),
             three = layer(g, m, "branch3x3dbl_1", x, 64, 1, 1, 1);
    three = layer(g, m, "branch3x3dbl_2", three, 96, 3, 3, 1);
    const hl_value branches[4] = {
        layer(g, m, "branch1x1", x, 64, 1, 1, 1), layer(g, m, "branch5x5_2", five, 64, 5, 5, 1),
        layer(g, m, "branch3x3dbl_3", three, 96, 3, 3, 1), pooled_branch(g, m, x, pooled)};
    return join(g, m, "concat", branches, 4);
}

/* To 17 x 17 */
static hl_value module_b(hl_graph *g, const char *m, hl_value x)
{
    hl_value three = layer(g, m, "branch3x3dbl_1", x, 64, 1, 1, 1);
    three = layer(g, m, "branch3x3dbl_2", three, 96, 3, 3, 1);
    const hl_value branches[3] = {layer(g, m, "branch3x3", x, 384, 3, 3, 2),
                                  layer(g, m, "branch3x3dbl_3", three, 96, 3, 3, 2),
                                  max_pool(g, hl_graph_name(g, "%s.pool", m), x, 3, false)};
    return join(g, m, "concat", branches, 3);
}

/* 17 x 17 */
static hl_value module_c(hl_graph *g, const char *m, hl_value x, int64_t inner)
{
    hl_value once = layer(g, m, "branch7x7_1", x, inner, 1, 1, 1),
             twice = layer(g, m, "branch7x7dbl_1", x, inner, 1, 1, 1);
    once = layer(g, m, "branch7x7_2", once, inner, 1, 7, 1);
    twice = layer(g, m, "branch7x7dbl_2", twice, inner, 7, 1, 1);
    twice = layer(g, m, "branch7x7dbl_3", twice, inner, 1, 7, 1);
    twice = layer(g, m, "branch7x7dbl_4", twice, inner, 7, 1, 1);
    const hl_value branches[4] = {
        layer(g, m, "branch1x1", x, 192, 1, 1, 1), layer(g, m, "branch7x7_3", once, 192, 7, 1, 1),
        layer(g, m, "branch7x7dbl_5", twice, 192, 1, 7, 1), pooled_branch(g, m, x, 192)};
    return join(g, m, "concat", branches, 4);
}

/* To 8 x 8 */
static hl_value module_d(hl_graph *g, const char *m, hl_value x)
{
    hl_value three = layer(g, m, "branch3x3_1", x, 192, 1, 1, 1),
             seven = layer(g, m, "branch7x7x3_1", x, 192, 1, 1, 1);
    seven = layer(g, m, "branch7x7x3_2", seven, 192, 1, 7, 1);
    seven = layer(g, m, "branch7x7x3_3", seven, 192, 7, 1, 1);
    const hl_value branches[3] = {layer(g, m, "branch3x3_2", three, 320, 3, 3, 2),
                                  layer(g, m, "branch7x7x3_4", seven, 192, 3, 3, 2),
                                  max_pool(g, hl_graph_name(g, "%s.pool", m), x, 3, false)};
    return join(g, m, "concat", branches, 3);
}

/* 8 x 8: the 3x3 convolutions are split into 1x3 and 3x1 side by side. */
static hl_value module_e(hl_graph *g, const char *m, hl_value x)
{
    hl_value once = layer(g, m, "branch3x3_1", x, 384, 1, 1, 1),
             twice = layer(g, m, "branch3x3dbl_1", x, 448, 1, 1, 1);
    twice = layer(g, m, "branch3x3dbl_2", twice, 384, 3, 3, 1);
    const hl_value sides[2] = {layer(g, m, "branch3x3_2a", once, 384, 1, 3, 1),
                               layer(g, m, "branch3x3_2b", once, 384, 3, 1, 1)},
                   double_sides[2] = {layer(g, m, "branch3x3dbl_3a", twice, 384, 1, 3, 1),
                                      layer(g, m, "branch3x3dbl_3b", twice, 384, 3, 1, 1)};
    const hl_value branches[4] = {layer(g, m, "branch1x1", x, 320, 1, 1, 1),
                                  join(g, m, "branch3x3", sides, 2),
                                  join(g, m, "branch3x3dbl", double_sides, 2), pooled_branch(g, m, x, 192)};
    return join(g, m, "concat", branches, 4);
}

static hl_value build_inception_v3(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    (void)info;
    x = conv(g, "Conv2d_1a_3x3", x, (hl_conv_spec){.out = 32, .kernel = 3, .stride = 2});
    x = conv(g, "Conv2d_2a_3x3", x, (hl_conv_spec){.out = 32, .kernel = 3});
    x = conv(g, "Conv2d_2b_3x3", x, (hl_conv_spec){.out = 64, .kernel = 3, .padding = 1});
    x = max_pool(g, "maxpool1", x, 3, false);
    x = conv(g, "Conv2d_3b_1x1", x, (hl_conv_spec){.out = 80});
    x = conv(g, "Conv2d_4a_3x3", x, (hl_conv_spec){.out = 192, .kernel = 3});
    x = max_pool(g, "maxpool2", x, 3, false);
    x = module_a(g, "Mixed_5b", x, 32);
    x = module_a(g, "Mixed_5c", x, 64);
    x = module_a(g, "Mixed_5d", x, 64);
    x = module_b(g, "Mixed_6a", x);
    x = module_c(g, "Mixed_6b", x, 128);
    x = module_c(g, "Mixed_6c", x, 160);
    x = module_c(g, "Mixed_6d", x, 160);
    x = module_c(g, "Mixed_6e", x, 192);
    x = module_d(g, "Mixed_7a", x);
    x = module_e(g, "Mixed_7b", x);
    x = module_e(g, "Mixed_7c", x);
    x = hl_graph_global_pool(g, "avgpool", x);
    x = hl_graph_dropout(g, "dropout", x, 0.5f);
    return hl_graph_head(g, "fc", x, classes);
}

/* clang-format off */
static const hl_model_info models[] = {
    {.name = "googlenet", .build = build_googlenet, .image_size = 224, .resize = 256, HL_HALF, .head = "fc",
     .auxiliary = "aux", .weights_file = "googlenet-1378be20.pth", .licence = "BSD-3-Clause", .top1 = 69.778f,
     .paper = "arXiv 1409.4842"},
    {.name = "inception_v3", .build = build_inception_v3, .image_size = 299, .resize = 342, HL_HALF, .head = "fc",
     .auxiliary = "AuxLogits", .weights_file = "inception_v3_google-0cc3c7bd.pth", .licence = "BSD-3-Clause",
     .top1 = 77.294f, .paper = "arXiv 1512.00567"},
};
/* clang-format on */
HL_MODEL_FAMILY(inception);
