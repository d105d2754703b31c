/* The zoo, row by row: counts and preprocessing against what torchvision and timm say
 * (fixtures/models/zoo.txt). */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "models/registry.h"
#include "support/zoo.h"

static hl_graph *build(const hl_model_info *info, int64_t size, int64_t classes)
{
    hl_graph *graph;
    cr_assert_eq(hl_model_build(info, size, classes, &graph), HL_OK, "%s", hl_last_error());
    return graph;
}

/* Parameters in all, weights of convolutions, gates of all convolutions and of those larger than 1x1. */
static void count(const hl_graph *graph, int64_t counts[4])
{
    memset(counts, 0, 4 * sizeof *counts);
    for (size_t i = 0; i < graph->param_count; i++)
        counts[0] += hl_param_is_statistic(graph->params[i]) ? 0 : graph->params[i]->count;
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (node->op != HL_OP_CONV)
            continue;
        const int64_t *shape = node->expr.weight->shape;
        counts[1] += node->expr.weight->count;
        counts[2] += shape[0] * shape[1];
        counts[3] += shape[2] * shape[3] > 1 ? shape[0] * shape[1] : 0;
    }
}

Test(registry, counts_are_those_of_the_reference_implementations)
{
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *info = hl_model_at(i);
        hl_graph *graph = build(info, 0, 1000);
        int64_t have[4];
        zoo_row row;
        zoo_find(info->name, &row);
        count(graph, have);
        for (int k = 0; k < 4; k++)
            cr_expect_eq(have[k], row.counts[k], "%s, count %d: %lld, want %lld", info->name, k,
                         (long long)have[k], (long long)row.counts[k]);
        hl_graph_destroy(graph);
    }
}

/* The numbers of the paper's setting, written out so that no script can change them. */
Test(registry, gates_are_as_many_as_published)
{
    static const struct {
        const char *name;
        int64_t all, spatial;
    } rows[] = {{"resnet18", 1392832, 1220800},
                {"resnet34", 2515136, 2343104},
                {"resnet50", 13385920, 1257664},
                {"mobilenet_v2", 2131904, 7232},
                {"efficientnet_lite0", 3155168, 9056},
                {"resnet101", 23412928, 2371776},
                {"resnext50_32x4d", 21644992, 157376},
                {"wide_resnet50_2", 26517696, 5030080},
                {"vgg16_bn", 1634496, 1634496},
                {"densenet121", 4960448, 237760},
                {"mobilenet_v3_large", 2855496, 5064},
                {"efficientnet_b0", 3782368, 9056},
                {"regnet_y_400mf", 3598144, 34080},
                {"convnext_tiny", 393984, 393984},
                /* The classifier, a convolution, included. */
                {"squeezenet1_1", 738496, 61632}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const hl_model_info *info;
        int64_t have[4];
        cr_assert_eq(hl_model_find(rows[i].name, &info), HL_OK);
        hl_graph *graph = build(info, 0, 1000);
        count(graph, have);
        cr_expect_eq(have[2], rows[i].all, "%s: %lld", rows[i].name, (long long)have[2]);
        cr_expect_eq(have[3], rows[i].spatial, "%s: %lld", rows[i].name, (long long)have[3]);
        hl_graph_destroy(graph);
    }
}

static void expect_published(const hl_model_info *info, const hl_published *p)
{
    char name[64];
    zoo_row row;
    snprintf(name, sizeof name, "%s%s%s", info->name, p->tag != NULL ? "." : "",
             p->tag != NULL ? p->tag : "");
    zoo_find(name, &row);
    cr_expect_eq(p->image_size, row.size, "%s", name);
    cr_expect_eq(p->resize, row.resize, "%s: %lld", name, (long long)p->resize);
    cr_expect_str_eq(p->bicubic ? "bicubic" : "bilinear", row.interpolation, "%s", name);
    cr_expect_arr_eq(info->mean, row.mean, sizeof row.mean, "%s", name);
    cr_expect_arr_eq(info->std, row.std, sizeof row.std, "%s", name);
    cr_expect_eq(p->top1, row.top1, "%s", name);
    cr_expect_str_eq(p->weights_file != NULL ? p->weights_file : "-", row.weights_file, "%s", name);
}

Test(registry, preprocessing_is_that_of_the_published_weights)
{
    int others = 0;
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *info = hl_model_at(i);
        const hl_published own = {
            NULL, info->weights_file, info->image_size, info->resize, info->bicubic, info->top1, NULL};
        expect_published(info, &own);
        for (const hl_published *p = info->others; p != NULL && p->tag != NULL; p++, others++)
            expect_published(info, p);
    }
    cr_expect_eq(others, zoo_tagged_rows());
}

Test(registry, other_weights_are_told_by_tag_or_by_the_name_of_their_file)
{
    static const struct {
        const char *name, *file, *tag;
    } rows[] = {{"resnet50", NULL, NULL},
                {"resnet50", "resnet50-0676ba61.pth", NULL},
                {"resnet50", "resnet50-11ad3fa6.pth", "tv2_in1k"},
                {"resnet50", "weights/v2/resnet50-11ad3fa6.pth", "tv2_in1k"},
                {"resnet50", "resnet50-11ad3fa6.pth/mine.pth", NULL},
                {"resnet50", "my-resnet50-11ad3fa6.pth", NULL},
                {"resnet50", "resnet101-cd907fc2.pth", NULL},
                {"resnet50.tv2_in1k", "mine.pth", "tv2_in1k"},
                {"resnet50.tv2_in1k", "resnet50-0676ba61.pth", "tv2_in1k"},
                {"regnet_y_16gf", "regnet_y_16gf_lc_swag-f3ec0043.pth", "swag_lc_in1k"},
                {"regnet_y_16gf.swag_ft_in1k", "regnet_y_16gf_lc_swag-f3ec0043.pth", "swag_ft_in1k"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const hl_model_info *info;
        cr_assert_eq(hl_model_find(rows[i].name, &info), HL_OK, "%s", hl_last_error());
        const hl_published *p = hl_model_published(info, rows[i].name, rows[i].file);
        cr_expect_eq(p == NULL, rows[i].tag == NULL, "%s %s", rows[i].name, rows[i].file);
        if (p != NULL && rows[i].tag != NULL)
            cr_expect_str_eq(p->tag, rows[i].tag);
    }
    const hl_model_info *info;
    cr_expect_eq(hl_model_find("resnet50.a1_in1k", &info), HL_E_ARG);
    cr_expect_null(info);
    cr_expect(strstr(hl_last_error(), "use resnet50, or resnet50.tv2_in1k") != NULL, "%s", hl_last_error());
    cr_expect_eq(hl_model_find("resnet18.tv2_in1k", &info), HL_E_ARG);
    cr_expect_eq(hl_model_find("resnet50.", &info), HL_E_ARG);
    cr_expect_eq(hl_model_find(".tv2_in1k", &info), HL_E_ARG);
}

Test(registry, every_row_is_complete_and_found_by_each_of_its_names)
{
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *info = hl_model_at(i), *found;
        cr_expect_eq(hl_model_find(info->name, &found), HL_OK);
        cr_expect_eq(found, info, "%s is there twice", info->name);
        if (info->alias != NULL) {
            cr_expect_eq(hl_model_find(info->alias, &found), HL_OK);
            cr_expect_eq(found, info);
        }
        cr_expect(info->licence != NULL && info->paper != NULL, "%s", info->name);
        /* Published weights have an accuracy; what has no weights has none. */
        if (info->weights_file != NULL)
            cr_expect(info->top1 > 50.0f && info->top1 < 100.0f, "%s", info->name);
        else
            cr_expect_eq(info->top1, 0.0f, "%s", info->name);
    }
}

Test(registry, the_head_alone_belongs_to_the_head)
{
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *info = hl_model_at(i);
        hl_graph *graph = build(info, 0, 7);
        size_t length = strlen(info->head);
        int heads = 0;
        for (size_t k = 0; k < graph->param_count; k++) {
            const hl_param *p = graph->params[k];
            bool named = strncmp(p->name, info->head, length) == 0 && p->name[length] == '.';
            cr_expect_eq(p->head, named, "%s: %s", info->name, p->name);
            heads += p->head;
            cr_expect(!p->head || p->shape[0] == 7);
        }
        cr_expect_eq(heads, 2);
        hl_graph_destroy(graph);
    }
}

Test(registry, an_unknown_name_offers_the_nearest)
{
    const hl_model_info *info = hl_model_at(0);
    cr_expect_eq(hl_model_find("resnet15", &info), HL_E_ARG);
    cr_expect_null(info);
    cr_expect(strstr(hl_last_error(), "resnet15") != NULL && strstr(hl_last_error(), "resnet18") != NULL,
              "%s", hl_last_error());
    cr_expect_eq(hl_model_find("", &info), HL_E_ARG);
    cr_expect_eq(hl_model_find("ResNet18\n", &info), HL_E_ARG);
}

/* From the least image that a model takes on: any. */
static bool takes(const hl_model_info *info, int64_t size)
{
    static const struct {
        const char *name;
        int64_t least;
    } rows[] = {{"alexnet", 63}, {"inception_v3", 75}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strncmp(info->name, rows[i].name, strlen(rows[i].name)) == 0)
            return size >= rows[i].least;
    return size >= 32;
}

/* Anything from one pixel up either builds or is refused with a message; nothing in between. */
Test(registry, images_of_any_size_build_or_are_refused)
{
    static const int64_t sizes[] = {1, 2, 7, 31, 32, 33, 97, 224, 513};
    for (int i = 0; i < hl_model_count(); i++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            hl_graph *graph = NULL;
            hl_status status = hl_model_build(hl_model_at(i), sizes[s], 3, &graph);
            if (status == HL_OK) {
                cr_expect_eq(graph->nodes[graph->output]->shape.c, 3);
                hl_graph_destroy(graph);
            } else {
                cr_expect_null(graph);
                cr_expect_gt(strlen(hl_last_error()), 0);
            }
            cr_expect(!takes(hl_model_at(i), sizes[s]) || status == HL_OK, "%s at %lld: %s",
                      hl_model_at(i)->name, (long long)sizes[s], hl_last_error());
        }
}

Test(registry, no_classes_are_refused)
{
    hl_graph *graph = NULL;
    cr_expect_neq(hl_model_build(hl_model_at(0), 0, 0, &graph), HL_OK);
    cr_expect_null(graph);
    cr_expect_neq(hl_model_build(hl_model_at(0), 0, -3, &graph), HL_OK);
    cr_expect_null(graph);
}

/* Of VGG and AlexNet: as it is, cells of equal size, or whatever the sides give. */
Test(registry, the_map_before_a_classifier_is_pooled_to_its_grid)
{
    static const struct {
        const char *name;
        int64_t size;
        hl_op op;
    } rows[] = {
        {"vgg16", 224, HL_OP_LINEAR},    {"vgg16", 448, HL_OP_POOL},        {"vgg16", 255, HL_OP_LINEAR},
        {"vgg16", 256, HL_OP_GRID_POOL}, {"vgg11_bn", 64, HL_OP_GRID_POOL}, {"vgg11", 32, HL_OP_GRID_POOL},
        {"alexnet", 416, HL_OP_POOL},    {"alexnet", 320, HL_OP_GRID_POOL}, {"alexnet", 63, HL_OP_GRID_POOL}};
    const hl_model_info *info;
    hl_graph *graph;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cr_assert_eq(hl_model_find(rows[i].name, &info), HL_OK);
        cr_assert_eq(hl_model_build(info, rows[i].size, 3, &graph), HL_OK, "%s", hl_last_error());
        hl_op op = HL_OP_LINEAR;
        for (size_t v = 0; v < graph->node_count; v++)
            if (strcmp(graph->nodes[v]->name, "avgpool") == 0)
                op = graph->nodes[v]->op;
        cr_expect_eq(op, rows[i].op, "%s at %lld: %d", rows[i].name, (long long)rows[i].size, (int)op);
        hl_graph_destroy(graph);
    }
}

/* Rates by hand from torchvision's rule: EfficientNet 0.2 id / blocks, ConvNeXt its rate times id / (blocks -
 * 1). */
Test(registry, stochastic_depth_grows_with_depth_as_torchvisions)
{
    static const struct {
        const char *model, *branch;
        double rate;
    } rows[] = {{"efficientnet_b0", "features.6.3.stochastic_depth", 0.2 * 14.0 / 16.0},
                {"efficientnet_v2_s", "features.1.1.stochastic_depth", 0.2 * 1.0 / 40.0},
                {"efficientnet_v2_s", "features.6.14.stochastic_depth", 0.2 * 39.0 / 40.0},
                {"convnext_tiny", "features.1.0.stochastic_depth", 0.0},
                {"convnext_tiny", "features.3.0.stochastic_depth", 0.1 * 3.0 / 17.0},
                {"convnext_small", "features.7.2.stochastic_depth", 0.4},
                {"convnext_base", "features.5.0.stochastic_depth", 0.5 * 6.0 / 35.0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const hl_model_info *info;
        hl_graph *graph;
        cr_assert_eq(hl_model_find(rows[i].model, &info), HL_OK);
        cr_assert_eq(hl_model_build(info, 0, 5, &graph), HL_OK, "%s", hl_last_error());
        int found = 0;
        for (size_t v = 0; v < graph->node_count; v++)
            if (strcmp(graph->nodes[v]->name, rows[i].branch) == 0) {
                cr_assert_float_eq((double)graph->nodes[v]->drop, rows[i].rate, 1e-7, "%s: %g",
                                   rows[i].branch, (double)graph->nodes[v]->drop);
                found++;
            }
        cr_assert_eq(found, 1, "%s", rows[i].branch);
        hl_graph_destroy(graph);
    }
}

Test(registry, every_family_builds_for_one_channel_and_for_four)
{
    for (int i = 0; i < hl_model_count(); i++) {
        const hl_model_info *info = hl_model_at(i);
        hl_graph *own;
        cr_assert_eq(hl_model_build(info, 0, 5, &own), HL_OK, "%s", hl_last_error());
        for (int64_t channels = 1; channels <= 4; channels += 3) {
            hl_graph *graph;
            cr_assert_eq(hl_model_build_for(info, 0, channels, 5, &graph), HL_OK, "%s: %s", info->name,
                         hl_last_error());
            cr_assert_eq(graph->param_count, own->param_count);
            /* The first weight alone differs, in its inputs. */
            for (size_t p = 0; p < own->param_count; p++) {
                const hl_param *a = own->params[p], *b = graph->params[p];
                bool first = p == 0;
                cr_expect_eq(b->count * 3, a->count * (first ? channels : 3), "%s: %s", info->name, a->name);
                cr_expect_eq(b->shape[1], first ? channels : a->shape[1], "%s: %s", info->name, a->name);
            }
            hl_graph_destroy(graph);
        }
        hl_graph_destroy(own);
    }
}

Test(registry, grey_is_normalised_by_the_mean_of_the_three_and_alpha_by_a_half)
{
    const hl_model_info *info;
    float mean[4], std[4];
    cr_assert_eq(hl_model_find("resnet18", &info), HL_OK);
    hl_model_normalisation(info, 1, mean, std);
    cr_expect_float_eq(mean[0], 0.449f, 1e-6f);
    cr_expect_float_eq(std[0], 0.226f, 1e-6f);
    hl_model_normalisation(info, 4, mean, std);
    cr_expect_arr_eq(mean, info->mean, 3 * sizeof *mean);
    cr_expect_arr_eq(std, info->std, 3 * sizeof *std);
    cr_expect(mean[3] == 0.5f && std[3] == 0.5f);
}
