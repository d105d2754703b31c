/* Methods that act on what layers give, on networks of the zoo: counts, names, adapter files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "io/safetensors.h"
#include "method/method.h"
#include "models/weights.h"
#include "support/scratch.h"
#include "train/model.h"

enum { CLASSES = 5 };

static const struct {
    const char *text;
    int64_t resnet50; /* trained parameters beside the head; 0: not counted by its paper */
} cases[] = {
    {"bitfit", 26560},
    {"ia3", 26560},
    {"ssf", 53120},
    {"ssf:norms=1", 106240},
    {"conv-adapter", 356848},
    {"conv-adapter:gamma=8", 199192},
    {"conv-adapter:form=sequential", 356848},
    {"conv-adapter:form=residual-parallel", 0},
    {"conv-adapter:form=residual-sequential", 0},
    {"residual-adapter", 1257472},
    {"residual-adapter:series=1", 1257472 + 2 * 3776},
    {"repadapter", 170688},
    {"repadapter:r=3,s=0.5", 0},
};
enum { CASES = sizeof cases / sizeof *cases };

/* All weights zero, which is enough to count and to see names. */
static hl_graph *zoo(const char *name, int64_t size, const char *text, const hl_model_info **info)
{
    hl_graph *g;
    hl_method method;
    cr_assert_eq(hl_model_find(name, info), HL_OK);
    cr_assert_eq(hl_model_build(*info, size, CLASSES, &g), HL_OK, "%s", hl_last_error());
    if (text != NULL) {
        cr_assert_eq(hl_method_parse(text, &method), HL_OK);
        cr_assert_eq(hl_method_apply(g, &method, HL_NORM_DEFAULT, 7), HL_OK, "%s", hl_last_error());
    }
    return g;
}

Test(adapter_models, trained_parameters_of_resnet50)
{
    for (int c = 0; c < CASES; c++) {
        if (cases[c].resnet50 == 0)
            continue;
        const hl_model_info *info;
        hl_graph *g = zoo("resnet50", 64, cases[c].text, &info);
        int64_t trained = 0;
        for (size_t i = 0; i < g->param_count; i++)
            trained += g->params[i]->trained && !g->params[i]->head ? g->params[i]->count : 0;
        cr_expect_eq(trained, cases[c].resnet50, "%s: %lld", cases[c].text, (long long)trained);
        hl_graph_destroy(g);
    }
}

/* A state dict that the library's own network loads with strict=True has its names. */
Test(adapter_models, merged_networks_have_the_tensors_of_plain_ones)
{
    static const struct {
        const char *model, *method;
        int64_t size;
    } rows[] = {{"resnet18", "bitfit", 32},
                {"resnet18", "ia3", 32},
                {"resnet18", "ssf", 32},
                {"resnet18", "residual-adapter:series=1", 32},
                {"densenet121", "ssf:norms=1", 32},
                {"densenet121", "residual-adapter:series=1", 32},
                {"squeezenet1_1", "ssf", 64},
                {"squeezenet1_1", "repadapter", 64},
                {"mobilenet_v3_small", "ssf", 32},
                {"mobilenet_v3_small", "residual-adapter", 32},
                {"shufflenet_v2_x0_5", "ssf:norms=1", 32},
                {"shufflenet_v2_x0_5", "residual-adapter:series=1", 32},
                {"convnext_tiny", "ssf:norms=1", 32},
                {"efficientnet_lite0", "residual-adapter", 32},
                {"inception_v3", "residual-adapter", 75},
                {"inception_v3", "repadapter", 75},
                {"resnet50", "repadapter", 32}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const hl_model_info *info;
        hl_graph *plain = zoo(rows[r].model, rows[r].size, NULL, &info),
                 *merged = zoo(rows[r].model, rows[r].size, rows[r].method, &info);
        hl_tensor_map *want, *got;
        cr_assert_eq(hl_method_merge(merged), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_weights_export(plain, info, HL_KEYS_NATIVE, &want), HL_OK);
        cr_assert_eq(hl_weights_export(merged, info, HL_KEYS_NATIVE, &got), HL_OK);
        cr_expect_eq(hl_tensor_map_count(got), hl_tensor_map_count(want), "%s, %s", rows[r].model,
                     rows[r].method);
        cr_expect_eq(merged->node_count, plain->node_count, "%s, %s", rows[r].model, rows[r].method);
        for (size_t i = 0; i < hl_tensor_map_count(want); i++)
            cr_expect_not_null(hl_tensor_map_find(got, hl_tensor_map_at(want, i)->name), "%s, %s",
                               rows[r].model, rows[r].method);
        hl_tensor_map_destroy(want);
        hl_tensor_map_destroy(got);
        hl_graph_destroy(plain);
        hl_graph_destroy(merged);
    }
}

static hl_model *create(const char *name, const char *method)
{
    const hl_model_options options = {.name = name, .classes = 102, .image_size = 32, .seed = 1};
    hl_model *model;
    cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_apply_method(model, method, HL_NORM_DEFAULT, 1), HL_OK, "%s", hl_last_error());
    return model;
}

static void move_trained(hl_model *m)
{
    for (size_t i = 0; i < m->graph->param_count; i++) {
        hl_param *p = m->graph->params[i];
        hl_rng rng = hl_rng_make(6, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; hl_param_is_adapted(p) && k < p->count; k++)
            p->host[k] = hl_rng_normal(&rng);
    }
}

/* What is listed by layer adds up to the totals; what a method brings is none of the network's own. */
static void check_counts(const hl_model *model, const char *text)
{
    hl_model_counts counts;
    int64_t params = 0, trainable = 0;
    hl_model_count_params(model, &counts);
    for (int k = 0; k < hl_model_layer_count(model); k++) {
        hl_layer layer;
        hl_model_layer(model, k, &layer);
        params += layer.params;
        trainable += layer.trainable;
    }
    cr_expect(counts.total == 341792 + 103 * 1024 + 102 - 1024 && counts.gates == 0, "%s: %lld", text,
              (long long)counts.total);
    cr_expect_eq(params, counts.total, "%s", text);
    cr_expect_eq(trainable, counts.trainable, "%s", text);
}

Test(adapter_models, files_hold_what_was_trained_and_come_back)
{
    char *folder = scratch_make(), path[4096];
    snprintf(path, sizeof path, "%s/adapter.safetensors", folder);
    for (int c = 0; c < CASES; c++) {
        hl_model *model = create("shufflenet_v2_x0_5", cases[c].text),
                 *again = create("shufflenet_v2_x0_5", cases[c].text);
        check_counts(model, cases[c].text);
        move_trained(model);
        cr_assert_eq(hl_model_save_adapter(model, path), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_model_load_adapter(again, path), HL_OK, "%s", hl_last_error());
        hl_tensor_map *map;
        cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
        size_t adapted_count = 0;
        for (size_t i = 0; i < model->graph->param_count; i++) {
            const hl_param *a = model->graph->params[i], *b = again->graph->params[i];
            adapted_count += hl_param_is_adapted(a);
            cr_expect_eq(memcmp(a->host, b->host, (size_t)a->count * sizeof(float)), 0, "%s: %s",
                         cases[c].text, a->name);
        }
        cr_expect_eq(hl_tensor_map_count(map), adapted_count);
        hl_tensor_map_destroy(map);
        hl_model_destroy(model);
        hl_model_destroy(again);
    }
    scratch_remove(folder);
}
