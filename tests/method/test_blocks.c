/* Blocks and stages of every family, and `partial`, which trains the last of them. */
#include <criterion/criterion.h>
#include <string.h>

#include "graph/frontier.h"
#include "method/blocks.h"
#include "method/method.h"
#include "models/registry.h"

static hl_graph *graph_of(const char *model, const char *method_text)
{
    const hl_model_info *info;
    hl_graph *graph;
    hl_method method;
    cr_assert_eq(hl_model_find(model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, 0, 5, &graph), HL_OK, "%s", hl_last_error());
    if (method_text != NULL) {
        cr_assert_eq(hl_method_parse(method_text, &method), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 7), HL_OK, "%s", hl_last_error());
    }
    return graph;
}

/* One network of each family: blocks and stages as its paper's table or torchvision's code counts them. In
 * DenseNet, GoogLeNet and VGG stages are what lies between poolings. */
static const struct {
    const char *model;
    int blocks, stages;
    const char *first, *last, *input; /* names of blocks, and of the value that the last one reads */
} families[] = {
    {"resnet18", 8, 4, "layer1.0", "layer4.1", "layer4.0.relu"},
    {"resnet50", 16, 4, "layer1.0", "layer4.2", "layer4.1.relu"},
    {"seresnet18", 8, 4, "layer1.0", "layer4.1", "layer4.0.relu"},
    {"vgg11", 7, 4, "features.3", "features.18", "features.17"},
    {"vgg16_bn", 12, 5, "features.3", "features.40", "features.39"},
    {"alexnet", 4, 2, "features.3", "features.10", "features.9"},
    {"squeezenet1_1", 8, 3, "features.3", "features.12", "features.11.concat"},
    {"googlenet", 9, 3, "inception3a", "inception5b", "inception5a.concat"},
    {"inception_v3", 11, 3, "Mixed_5b", "Mixed_7c", "Mixed_7b.concat"},
    {"densenet121", 58, 4, "features.denseblock1.denselayer1", "features.denseblock4.denselayer16",
     "features.denseblock4.denselayer15.concat"},
    {"mobilenet_v2", 17, 5, "features.1", "features.17", "features.16.add"},
    {"mobilenet_v3_small", 11, 4, "features.1", "features.11", "features.10.add"},
    {"mnasnet1_0", 16, 4, "layers.8.0", "layers.13.0", "layers.12.3.add"},
    {"efficientnet_b0", 16, 5, "features.1.0", "features.7.0", "features.6.3.add"},
    {"efficientnet_v2_s", 40, 5, "features.1.0", "features.6.14", "features.6.13.add"},
    {"efficientnet_lite0", 16, 5, "blocks.0.0", "blocks.6.0", "blocks.5.3.add"},
    {"tf_efficientnet_b0", 16, 5, "blocks.0.0", "blocks.6.0", "blocks.5.3.add"},
    {"shufflenet_v2_x1_0", 16, 3, "stage2.0", "stage4.3", "stage4.2.shuffle"},
    {"regnet_y_400mf", 16, 4, "trunk_output.block1.block1-0", "trunk_output.block4.block4-5",
     "trunk_output.block4.block4-4.activation"},
    {"convnext_tiny", 18, 4, "features.1.0", "features.7.2", "features.7.1.add"},
};

Test(blocks, every_family_is_cut_as_its_paper_counts)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        hl_graph *graph = graph_of(families[i].model, NULL);
        hl_blocks blocks;
        cr_assert_eq(hl_blocks_find(graph, graph->arena, &blocks), HL_OK);
        cr_expect(blocks.count == families[i].blocks && blocks.stages == families[i].stages,
                  "%s: %d blocks, %d stages", families[i].model, blocks.count, blocks.stages);
        const hl_block *last = &blocks.items[blocks.count - 1];
        cr_expect_str_eq(blocks.items[0].name, families[i].first);
        cr_expect_str_eq(last->name, families[i].last);
        cr_expect_str_eq(graph->nodes[last->input]->name, families[i].input);
        hl_graph_destroy(graph);
    }
}

/* Blocks do not overlap, follow one another, read what is before them, and hold layers with weights. */
Test(blocks, of_every_model_lie_one_behind_the_other)
{
    for (int m = 0; m < hl_model_count(); m++) {
        hl_graph *graph = graph_of(hl_model_at(m)->name, NULL);
        hl_blocks blocks;
        cr_assert_eq(hl_blocks_find(graph, graph->arena, &blocks), HL_OK);
        cr_assert_gt(blocks.count, 3, "%s", hl_model_at(m)->name);
        for (int b = 0; b < blocks.count; b++) {
            const hl_block *block = &blocks.items[b];
            int weights = 0;
            cr_assert_leq(block->first, block->last);
            cr_assert(b == 0 || (block[-1].last < block->first && block[-1].stage <= block->stage));
            for (size_t k = block->first; k <= block->last; k++) {
                const hl_node *node = graph->nodes[graph->order[k]];
                weights += hl_node_has_weight(node);
                cr_assert(!node->head && node->id != block->input, "%s", node->name);
            }
            cr_assert_gt(weights, 0, "%s: %s", hl_model_at(m)->name, block->name);
        }
        hl_graph_destroy(graph);
    }
}

Test(blocks, names_of_other_libraries_are_known)
{
    static const struct {
        const char *name;
        size_t length;
    } rows[] = {{"/layer1/layer1.0/conv1/Conv", 16},
                {"backbone.layer3.12.conv2", 18},
                {"stages.2.blocks.8.mlp.fc1", 17},
                {"s3.b11.conv2.conv", 6},
                {"conv5_block3_1_conv/Conv2D", 12},
                {"MobilenetV2/expanded_conv_16/expand/Conv2D", 28},
                {"block_16_project/Conv2D", 8},
                {"block7a_expand_conv/Conv2D", 7},
                {"features.0.0", 0},
                {"conv1", 0},
                {"layer", 0},
                {"", 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_expect_eq(hl_block_name_length(rows[i].name), rows[i].length, "%s: %zu", rows[i].name,
                     hl_block_name_length(rows[i].name));
}

/* Without telling names: a stem, a block with a shortcut of its own, one without, a last convolution. */
Test(blocks, are_found_by_additions_where_names_tell_nothing)
{
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, 8, 8, 3);
    x = hl_graph_conv(g, "a", x, (hl_conv_spec){.out = 4, .kernel = 3, .padding = 1});
    hl_value y = hl_graph_conv(g, "b", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1, .stride = 2});
    hl_value shortcut = hl_graph_conv(g, "c", x, (hl_conv_spec){.out = 8, .stride = 2});
    x = hl_graph_act(g, "e", hl_graph_add(g, "d", y, shortcut), HL_ACT_RELU);
    y = hl_graph_conv(g, "f", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1});
    x = hl_graph_add(g, "h", y, x);
    x = hl_graph_conv(g, "i", x, (hl_conv_spec){.out = 8});
    x = hl_graph_head(g, "head", hl_graph_global_pool(g, "pool", x), 5);
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    hl_blocks blocks;
    cr_assert_eq(hl_blocks_find(g, g->arena, &blocks), HL_OK);
    cr_assert(blocks.count == 2 && blocks.stages == 1);
    cr_assert_str_eq(g->nodes[g->order[blocks.items[0].first]]->name, "b");
    cr_assert_str_eq(g->nodes[g->order[blocks.items[0].last]]->name, "e");
    cr_assert_str_eq(g->nodes[g->order[blocks.items[1].first]]->name, "f");
    cr_assert_str_eq(g->nodes[g->order[blocks.items[1].last]]->name, "h");
    hl_graph_destroy(g);
}

/* ---- partial ---- */

static int64_t trained(const hl_graph *graph)
{
    int64_t count = 0;
    for (size_t i = 0; i < graph->param_count; i++)
        count += graph->params[i]->trained && !graph->params[i]->head ? graph->params[i]->count : 0;
    return count;
}

/* features.18.*: the last convolution and its norm are behind the blocks. */
Test(partial, trains_the_last_blocks_and_what_is_behind_them)
{
    static const struct {
        const char *model, *method;
        int64_t trained;
    } rows[] = {{"resnet50", "partial", 4462592},
                {"resnet50", "partial:blocks=1", 4462592},
                {"resnet50", "partial:stages=1", 14964736},
                {"resnet50", "partial:blocks=3", 14964736},
                {"resnet50", "partial:stages=1,blocks=9", 14964736},
                {"mobilenet_v2", "partial",
                 160 * 960 + 960 * 9 + 960 * 320 + 2 * (960 + 960 + 320) + 320 * 1280 + 2 * 1280}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_graph *graph = graph_of(rows[i].model, rows[i].method);
        cr_expect_eq(trained(graph), rows[i].trained, "%s %s: %lld", rows[i].model, rows[i].method,
                     (long long)trained(graph));
        hl_graph_destroy(graph);
    }
}

Test(partial, leaves_a_front_that_can_be_kept)
{
    hl_graph *graph = graph_of("resnet50", "partial:blocks=2");
    hl_frontier frontier;
    cr_assert_eq(hl_frontier_find(graph, graph->arena, &frontier), HL_OK);
    cr_assert_eq(frontier.count, 1);
    cr_assert_str_eq(graph->nodes[frontier.values[0]]->name, "layer4.0.relu");
    hl_graph_destroy(graph);
}

Test(partial, norms_in_front_stay_frozen_in_every_mode)
{
    hl_method method;
    for (int mode = HL_NORM_FROZEN; mode <= HL_NORM_FULL; mode++) {
        hl_graph *graph = graph_of("resnet18", NULL);
        cr_assert_eq(hl_method_parse("partial:stages=1", &method), HL_OK);
        cr_assert_eq(hl_method_apply(graph, &method, (hl_norm_mode)mode, 7), HL_OK, "%s", hl_last_error());
        for (size_t v = 0; v < graph->node_count; v++) {
            const hl_node *node = graph->nodes[v];
            bool inside = strncmp(node->name, "layer4.", 7) == 0;
            if (node->op != HL_OP_NORM)
                continue;
            cr_assert_eq(node->batch_statistics, inside && mode >= HL_NORM_UPDATE, "%s", node->name);
            cr_assert_eq(node->norm.mean->moves, node->batch_statistics);
            cr_assert(node->norm.scale->trained == inside && node->norm.shift->trained == inside);
        }
        hl_graph_destroy(graph);
    }
}

Test(partial, refuses_more_than_there_is)
{
    static const char *const texts[] = {"partial:blocks=17", "partial:stages=5"};
    for (int i = 0; i < 2; i++) {
        hl_graph *graph = graph_of("resnet50", NULL);
        hl_method method;
        cr_assert_eq(hl_method_parse(texts[i], &method), HL_OK);
        cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 7), HL_E_ARG);
        cr_assert_not_null(strstr(hl_last_error(), "16 blocks in 4 stages"), "%s", hl_last_error());
        hl_graph_destroy(graph);
    }
    hl_method method;
    cr_assert_eq(hl_method_parse("partial:blocks=1.5", &method), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "whole"));
}
