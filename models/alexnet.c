/* AlexNet (Krizhevsky, 2014, arXiv 1404.5997) as torchvision builds it. */
#include "models/families.h"

static hl_value build(hl_graph *g, const hl_model_info *info, hl_value x, int64_t classes)
{
    static const struct {
        int64_t out, kernel, stride, padding;
        bool pool;
    } convs[] = {{64, 11, 4, 2, true},
                 {192, 5, 1, 2, true},
                 {384, 3, 1, 1, false},
                 {256, 3, 1, 1, false},
                 {256, 3, 1, 1, true}};
    double width = info->width > 0.0 ? info->width : 1.0;
    int layer = 0; /* place in the nn.Sequential */
    for (size_t c = 0; c < sizeof convs / sizeof *convs; c++) {
        x = hl_graph_conv(g, hl_graph_name(g, "features.%d", layer++), x,
                          (hl_conv_spec){.out = (int64_t)(width * (double)convs[c].out),
                                         .kernel = convs[c].kernel,
                                         .stride = convs[c].stride,
                                         .padding = convs[c].padding,
                                         .bias = true});
        x = hl_graph_act(g, hl_graph_name(g, "features.%d", layer++), x, HL_ACT_RELU);
        if (convs[c].pool)
            x = hl_graph_pool(g, hl_graph_name(g, "features.%d", layer++), x,
                              (hl_pool_spec){.max = true, .kernel = 3, .stride = 2});
    }
    x = hl_graph_grid_pool(g, "avgpool", x, 6);
    int64_t hidden = (int64_t)(width * 4096.0);
    x = hl_graph_dropout(g, "classifier.0", x, 0.5f);
    x = hl_graph_flat_linear(g, "classifier.1", x, hidden, true);
    x = hl_graph_act(g, "classifier.2", x, HL_ACT_RELU);
    x = hl_graph_dropout(g, "classifier.3", x, 0.5f);
    x = hl_graph_linear(g, "classifier.4", x, hidden, true);
    x = hl_graph_act(g, "classifier.5", x, HL_ACT_RELU);
    return hl_graph_head(g, "classifier.6", x, classes);
}

static const hl_model_info models[] = {
    {.name = "alexnet",
     .build = build,
     .image_size = 224,
     .resize = 256,
     HL_TORCHVISION,
     .head = "classifier.6",
     .weights_file = "alexnet-owt-7be5be79.pth",
     .top1 = 56.522f,
     .paper = "arXiv 1404.5997"},
};
HL_MODEL_FAMILY(alexnet);
