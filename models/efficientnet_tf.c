/* EfficientNet-Lite (Tan and Le, 2019, arXiv 1905.11946, without squeeze-excite and with ReLU6), layers named
 * as timm's tf_efficientnet_lite*. TensorFlow's SAME padding; stem and head are not scaled by the width, nor
 * the first and last stage by the depth. No dropout before the head, as timm's create_model leaves it. */
#include <math.h>

#include "models/families.h"

static const hl_block_style style = {.norm_eps = 1e-3f, .norm_momentum = 0.1f, .act = HL_ACT_RELU6};

typedef struct stage {
    int64_t expand, out, repeats, stride, kernel;
} stage;

static hl_value block(hl_graph *g, const char *name, hl_value x, const stage *s, int64_t out, int64_t stride)
{
    int64_t in = hl_channels(g, x), hidden = in * s->expand;
    /* timm numbers what is there: a block without expansion has conv_dw, bn1, conv_pw, bn2. */
    bool expands = s->expand != 1;
    hl_value y = x;
    if (expands)
        y = hl_conv_norm_act(g, &style, hl_graph_name(g, "%s.conv_pw", name),
                             hl_graph_name(g, "%s.bn1", name), y, (hl_conv_spec){.out = hidden}, false);
    y = hl_conv_norm_act(
        g, &style, hl_graph_name(g, "%s.conv_dw", name), hl_graph_name(g, "%s.bn%d", name, expands ? 2 : 1),
        y,
        (hl_conv_spec){
            .out = hidden, .kernel = s->kernel, .stride = stride, .groups = hidden, .padding_same = true},
        false);
    y = hl_conv_norm_act(g, &style, hl_graph_name(g, "%s.%s", name, expands ? "conv_pwl" : "conv_pw"),
                         hl_graph_name(g, "%s.bn%d", name, expands ? 3 : 2), y, (hl_conv_spec){.out = out},
                         true);
    return stride == 1 && in == out ? hl_graph_add(g, hl_graph_name(g, "%s.add", name), x, y) : y;
}

hl_value hl_build_efficientnet_lite(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const stage stages[] = {{1, 16, 1, 1, 3},  {6, 24, 2, 2, 3},  {6, 40, 2, 2, 5}, {6, 80, 3, 2, 3},
                                   {6, 112, 3, 1, 5}, {6, 192, 4, 2, 5}, {6, 320, 1, 1, 3}};
    const size_t count = sizeof stages / sizeof *stages;
    x = hl_conv_norm_act(g, &style, "conv_stem", "bn1", x,
                         (hl_conv_spec){.out = 32, .kernel = 3, .stride = 2, .padding_same = true}, false);
    for (size_t s = 0; s < count; s++) {
        int64_t repeats = stages[s].repeats,
                out = hl_make_divisible((double)stages[s].out * (double)info->width, 8);
        if (s > 0 && s + 1 < count)
            repeats = (int64_t)ceil((double)repeats * (double)info->depth - 1e-6);
        for (int64_t r = 0; r < repeats; r++)
            x = block(g, hl_graph_name(g, "blocks.%zu.%lld", s, (long long)r), x, &stages[s], out,
                      r == 0 ? stages[s].stride : 1);
    }
    x = hl_conv_norm_act(g, &style, "conv_head", "bn2", x, (hl_conv_spec){.out = 1280}, false);
    x = hl_graph_global_pool(g, "global_pool", x);
    return hl_graph_head(g, "classifier", x, classes);
}
