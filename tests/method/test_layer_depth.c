/* How far from the head layers lie. */
#include <criterion/criterion.h>
#include <string.h>

#include "method/layer_depth.h"
#include "models/registry.h"

/* Of all parameters; the caller looks them up by name. */
typedef struct depths {
    hl_graph *graph;
    int depth[2048];
} depths;

static void find_depths(depths *d, const char *model)
{
    const hl_model_info *info;
    cr_assert_eq(hl_model_find(model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, info->image_size, 10, &d->graph), HL_OK, "%s", hl_last_error());
    cr_assert(d->graph->param_count <= sizeof d->depth / sizeof *d->depth);
    cr_assert_eq(hl_layer_depths(d->graph, d->graph->params, (int)d->graph->param_count, d->depth), HL_OK);
}

static int depth_of(const depths *d, const char *name)
{
    for (size_t i = 0; i < d->graph->param_count; i++)
        if (strcmp(d->graph->params[i]->name, name) == 0)
            return d->depth[i];
    cr_assert_fail("%s", name);
    return -1;
}

Test(layer_depth, blocks_are_counted_from_the_head)
{
    static const struct {
        const char *model, *param;
        int depth;
    } rows[] = {{"resnet18", "fc.weight", 0},
                {"resnet18", "fc.bias", 0},
                {"resnet18", "layer4.1.bn2.bias", 1},
                {"resnet18", "layer4.0.downsample.1.weight", 2},
                {"resnet18", "layer1.0.conv1.weight", 8},
                {"resnet18", "bn1.weight", 9},
                {"resnet18", "conv1.weight", 9},
                {"vgg11_bn", "classifier.6.bias", 0},
                {"vgg11_bn", "classifier.3.weight", 1},
                {"vgg11_bn", "features.26.weight", 2},
                {"vgg11_bn", "features.25.weight", 2},
                {"vgg11_bn", "features.0.weight", 9},
                {"vgg11_bn", "features.1.weight", 9},
                {"mobilenet_v2", "features.18.0.weight", 1},
                {"mobilenet_v2", "features.17.conv.2.weight", 2},
                {"mobilenet_v2", "features.0.1.bias", 19},
                {"tf_efficientnet_b0", "conv_head.weight", 1},
                {"tf_efficientnet_b0", "blocks.6.0.se.conv_expand.bias", 2},
                {"tf_efficientnet_b0", "conv_stem.weight", 18},
                {"convnext_tiny", "classifier.0.weight", 1},
                {"convnext_tiny", "features.7.2.layer_scale", 2},
                {"googlenet", "inception5b.branch4.1.conv.weight", 1},
                {"googlenet", "inception5a.branch1.bn.bias", 2}};
    depths d = {0};
    const char *model = "";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(model, rows[i].model) != 0) {
            hl_graph_destroy(d.graph);
            find_depths(&d, model = rows[i].model);
        }
        int depth = depth_of(&d, rows[i].param);
        cr_assert_eq(depth, rows[i].depth, "%s %s: %d, not %d", model, rows[i].param, depth, rows[i].depth);
    }
    hl_graph_destroy(d.graph);
}
