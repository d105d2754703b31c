/* Parsing methods and what they train. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <heirloom/heirloom.h>

#include "graph/params.h"
#include "method/method.h"
#include "models/registry.h"

/* ---- parsing ---- */

Test(method, defaults_are_filled_in_and_format_is_the_inverse_of_parse)
{
    for (int i = 0; i < hl_method_count(); i++) {
        hl_method method, again;
        char text[1024], text_again[1024];
        cr_assert_eq(hl_method_parse(hl_method_at(i)->name, &method), HL_OK, "%s", hl_last_error());
        cr_assert_eq(method.info, hl_method_at(i));
        hl_method_format(&method, text, sizeof text);
        cr_assert_eq(hl_method_parse(text, &again), HL_OK, "%s: %s", text, hl_last_error());
        cr_assert_str_eq(hl_method_format(&again, text_again, sizeof text_again), text);
    }
}

Test(method, options_are_read)
{
    hl_method m;
    cr_assert_eq(hl_method_parse("projection:scope=layer4.*,bias=1,l1=1e-4,gate-lr=0.5", &m), HL_OK);
    cr_assert_str_eq(hl_method_text(&m, "scope"), "layer4.*");
    cr_assert(hl_method_flag(&m, "bias"));
    cr_assert_not(hl_method_flag(&m, "linear"));
    cr_assert_float_eq(hl_method_number(&m, "l1"), 1e-4, 1e-15);
    cr_assert_float_eq(hl_method_number_or(&m, "gate-lr", 9.0), 0.5, 1e-15);
    cr_assert_float_eq(hl_method_number_or(&m, "alpha", 9.0), 9.0, 0.0);
}

Test(method, text_from_before_an_option_existed_names_the_same_method)
{
    static const struct {
        const char *method, *text;
        bool same;
    } rows[] = {{"projection", "projection:scope=all,bias=0,linear=0,gate-lr=0,init-noise=0,l1=0", true},
                {"projection:l1=1e-4", "projection:l1=1e-4", true},
                {"projection", "projection:bias=1", false},
                {"projection:rank=4", "projection", false},
                {"linear", "linear", true},
                {"linear", "linear:solver=lbfgs", false},
                {"lora", "dora", false},
                {"linear", "linear:nonsense=1", false},
                {"linear", "", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_method m;
        cr_assert_eq(hl_method_parse(rows[i].method, &m), HL_OK);
        cr_assert_eq(hl_method_matches(&m, rows[i].text), rows[i].same, "%s, %s", rows[i].method,
                     rows[i].text);
    }
}

static void refused(const char *text, const char *part)
{
    hl_method m;
    cr_assert_eq(hl_method_parse(text, &m), HL_E_ARG, "%s was taken", text);
    cr_assert_not_null(strstr(hl_last_error(), part), "'%s' does not say '%s'", hl_last_error(), part);
}

Test(method, mistakes_are_refused_with_the_nearest_names)
{
    refused("projektion", "projection");
    refused("", "heirloom methods");
    refused("projection:skope=all", "scope");
    refused("projection:scope", "key=value");
    refused("projection:scope=", "empty");
    refused("projection:bias=2", "0 or 1");
    refused("projection:l1=-1", "from 0");
    refused("projection:l1=nan", "number");
    refused("projection:l1=1e999", "number");
    refused("projection:l1=1x", "number");
    refused("linear:bias=1", "bias");
    refused("lora:r=0", "whole number from 1");
    refused("lora:r=2.5", "whole number");
    char text[2048] = "projection:scope=";
    memset(text + strlen(text), 'x', 200);
    refused(text, "longer");
    memset(text + strlen(text), 'x', 1500);
    refused(text, "longer");
}

/* ---- what is trained ---- */

static hl_model *create(const char *name, int64_t classes, int64_t size, const char *method,
                        hl_norm_mode norm)
{
    const hl_model_options options = {.name = name, .classes = classes, .image_size = size, .seed = 1};
    hl_model *model;
    cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_apply_method(model, method, norm, 1), HL_OK, "%s", hl_last_error());
    return model;
}

Test(method, gate_counts_of_known_networks)
{
    static const struct {
        const char *model;
        int64_t all, spatial;
    } known[] = {{"resnet18", 1392832, 1220800},
                 {"resnet34", 2515136, 2343104},
                 {"resnet50", 13385920, 1257664},
                 {"mobilenet_v2", 2131904, 7232},
                 {"efficientnet_lite0", 3155168, 9056}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        for (int spatial = 0; spatial < 2; spatial++) {
            hl_model *model = create(known[i].model, 102, 0,
                                     spatial ? "projection:scope=spatial" : "projection", HL_NORM_DEFAULT);
            hl_model_counts counts;
            hl_model_count_params(model, &counts);
            int64_t gates = spatial ? known[i].spatial : known[i].all;
            cr_assert_eq(counts.gates, gates, "%s: %lld", known[i].model, (long long)counts.gates);
            cr_assert_eq(counts.trainable, gates + counts.head);
            cr_assert_eq(counts.trainable_conv, gates);
            hl_model_destroy(model);
        }
}

Test(method, trained_parameters_of_resnet50)
{
    static const struct {
        const char *method;
        hl_norm_mode norm;
        int64_t trained;
    } rows[] = {{"linear", HL_NORM_DEFAULT, 0},
                {"linear", HL_NORM_FULL, 53120},
                {"norm", HL_NORM_DEFAULT, 53120},
                {"full", HL_NORM_DEFAULT, 23508032},
                {"full", HL_NORM_FROZEN, 23508032 - 53120},
                {"projection", HL_NORM_AFFINE, 13385920 + 53120},
                {"projection", HL_NORM_UPDATE, 13385920}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_model *model = create("resnet50", 102, 0, rows[i].method, rows[i].norm);
        hl_model_counts counts;
        hl_model_count_params(model, &counts);
        cr_assert_eq(counts.head, 208998);
        cr_assert_eq(counts.total, 23508032 + 208998);
        cr_assert_eq(counts.conv, 23454912);
        cr_assert_eq(counts.trainable, rows[i].trained + counts.head, "%s: %lld", rows[i].method,
                     (long long)counts.trainable);
        int64_t params = 0, trainable = 0, gates = 0, macs = 0;
        for (int k = 0; k < hl_model_layer_count(model); k++) {
            hl_layer layer;
            hl_model_layer(model, k, &layer);
            params += layer.params;
            trainable += layer.trainable;
            gates += layer.gates;
            macs += layer.macs;
        }
        cr_assert_eq(params, counts.total);
        cr_assert_eq(trainable, counts.trainable);
        cr_assert_eq(gates, counts.gates);
        cr_assert_eq(macs, counts.macs);
        hl_model_destroy(model);
    }
}

/* All weights zero, which is enough to see what is trained. */
/* image_size 0: the model's own. */
static hl_graph *graph_sized(const char *model, const char *method_text, hl_norm_mode norm,
                             int64_t image_size)
{
    const hl_model_info *info;
    hl_graph *graph;
    hl_method method;
    cr_assert_eq(hl_model_find(model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, image_size, 5, &graph), HL_OK, "%s", hl_last_error());
    if (method_text != NULL) {
        cr_assert_eq(hl_method_parse(method_text, &method), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_method_apply(graph, &method, norm, 7), HL_OK, "%s", hl_last_error());
    }
    return graph;
}

static hl_graph *graph_of(const char *model, const char *method_text, hl_norm_mode norm)
{
    return graph_sized(model, method_text, norm, 32);
}

Test(method, norm_modes_set_what_is_trained_and_what_moves)
{
    static const struct {
        hl_norm_mode mode;
        bool batch, trained;
    } rows[] = {{HL_NORM_FROZEN, false, false},
                {HL_NORM_AFFINE, false, true},
                {HL_NORM_UPDATE, true, false},
                {HL_NORM_FULL, true, true}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        hl_graph *graph = graph_of("resnet18", "projection", rows[r].mode);
        for (size_t v = 0; v < graph->node_count; v++) {
            const hl_node *node = graph->nodes[v];
            if (node->op != HL_OP_NORM)
                continue;
            cr_assert_eq(node->batch_statistics, rows[r].batch);
            cr_assert_eq(node->norm.mean->moves, rows[r].batch);
            cr_assert_eq(node->norm.var->moves, rows[r].batch);
            cr_assert_eq(node->norm.scale->trained, rows[r].trained);
            cr_assert_eq(node->norm.shift->trained, rows[r].trained);
            cr_assert_not(node->norm.mean->trained);
        }
        hl_graph_destroy(graph);
    }
}

/* Layer norms have no running statistics: update is as frozen, full as affine. */
Test(method, norm_modes_train_layer_norms_and_leave_layer_scales_alone)
{
    for (int mode = HL_NORM_FROZEN; mode <= HL_NORM_FULL; mode++) {
        hl_graph *graph = graph_of("convnext_tiny", "linear", (hl_norm_mode)mode);
        bool trained = mode == HL_NORM_AFFINE || mode == HL_NORM_FULL;
        int norms = 0, scales = 0;
        for (size_t v = 0; v < graph->node_count; v++) {
            const hl_node *node = graph->nodes[v];
            norms += node->op == HL_OP_LAYER_NORM;
            scales += node->op == HL_OP_SCALE;
            cr_assert(node->op != HL_OP_LAYER_NORM ||
                      (node->norm.scale->trained == trained && node->norm.shift->trained == trained));
            cr_assert(node->op != HL_OP_SCALE || !node->norm.scale->trained);
        }
        cr_assert(norms == 1 + 18 + 3 + 1 && scales == 18, "%d norms, %d scales", norms, scales);
        hl_graph_destroy(graph);
    }
}

/* Trained parameters of ConvNeXt-Tiny but for the head. */
Test(method, linear_layers_of_a_backbone_are_projected_on_request)
{
    static const struct {
        const char *method;
        int64_t trained;
    } rows[] = {
        {"projection", 393984},
        {"projection:scope=spatial", 393984},
        {"projection:linear=1", 393984 + 8 * (3 * 96 * 96 + 3 * 192 * 192 + 9 * 384 * 384 + 3 * 768 * 768)},
        {"norm", 2 * (96 + 3 * 96 + 3 * 192 + 9 * 384 + 3 * 768 + 96 + 192 + 384 + 768)}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        hl_graph *graph = graph_of("convnext_tiny", rows[r].method, HL_NORM_DEFAULT);
        int64_t trained = 0;
        for (size_t p = 0; p < graph->param_count; p++)
            trained += graph->params[p]->trained && !graph->params[p]->head ? graph->params[p]->count : 0;
        cr_assert_eq(trained, rows[r].trained, "%s: %lld", rows[r].method, (long long)trained);
        hl_graph_destroy(graph);
    }
}

/* What starts from values of its own for every weight takes time in large networks. */
static bool is_quick(const hl_model_info *model, const hl_method_info *method)
{
    static const char *const slow[] = {"dora", "loha", "lokr", "convlora", "piggyback", "atoms"};
    static const char *const small[] = {"squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5",
                                        "mnasnet0_5", "regnet_x_400mf"};
    bool quick = true, is_small = false;
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++)
        quick = quick && strcmp(method->name, slow[i]) != 0;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        is_small = is_small || strcmp(model->name, small[i]) == 0;
    return quick || is_small;
}

/* Under the address sanitizer one model of four. */
#ifdef __SANITIZE_ADDRESS__
enum { MODEL_STRIDE = 4 };
#else
enum { MODEL_STRIDE = 1 };
#endif

Test(method, every_registered_model_takes_every_method)
{
    for (int i = 0; i < hl_model_count(); i += MODEL_STRIDE)
        for (int k = 0; k < hl_method_count(); k++) {
            if (!is_quick(hl_model_at(i), hl_method_at(k)))
                continue;
            const char *name = hl_model_at(i)->name;
            hl_graph *graph = graph_sized(name, hl_method_at(k)->name, HL_NORM_DEFAULT, 0);
            for (size_t p = 0; p < graph->param_count; p++) {
                cr_assert(!graph->params[p]->head || graph->params[p]->trained, "%s", name);
                cr_assert(!hl_param_is_statistic(graph->params[p]) || !graph->params[p]->trained, "%s", name);
            }
            hl_graph_destroy(graph);
        }
}

static int gated(const hl_graph *graph, bool (*belongs)(const hl_node *))
{
    int count = 0;
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (!hl_node_has_weight(node))
            continue;
        bool has = node->expr.kind == HL_WEIGHT_GATED;
        cr_assert_eq(has, belongs(node), "%s", node->name);
        count += has;
    }
    return count;
}

static bool is_dense_conv(const hl_node *node)
{
    return node->op == HL_OP_CONV && node->groups == 1;
}

static bool is_in_block_3(const hl_node *node)
{
    return strncmp(node->name, "features.3.", 11) == 0;
}

static bool is_in_block_3_or_4_conv_2(const hl_node *node)
{
    return is_in_block_3(node) || strcmp(node->name, "features.4.conv.2") == 0;
}

Test(method, scopes_choose_layers)
{
    hl_graph *graph = graph_of("mobilenet_v2", "projection:scope=dense", HL_NORM_DEFAULT);
    cr_assert_eq(gated(graph, is_dense_conv), 35);
    hl_graph_destroy(graph);
    graph = graph_of("mobilenet_v2", "projection:scope=features.3.*", HL_NORM_DEFAULT);
    cr_assert_eq(gated(graph, is_in_block_3), 3);
    hl_graph_destroy(graph);
    graph =
        graph_of("mobilenet_v2", "projection:scope=features.3.*+nothing+features.4.conv.2", HL_NORM_DEFAULT);
    cr_assert_eq(gated(graph, is_in_block_3_or_4_conv_2), 4);
    hl_graph_destroy(graph);
    hl_method method;
    graph = graph_of("mobilenet_v2", NULL, HL_NORM_DEFAULT);
    cr_assert_eq(hl_method_parse("projection:scope=layer*", &method), HL_OK);
    cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 0), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "layer*"));
    hl_graph_destroy(graph);
}

Test(method, gates_start_at_one_plus_noise)
{
    hl_graph *graph = graph_of("resnet18", "projection:init-noise=0.1", HL_NORM_DEFAULT);
    double sum = 0.0, squares = 0.0, n = 0.0;
    for (size_t i = 0; i < graph->param_count; i++)
        for (int64_t k = 0; graph->params[i]->role == HL_PARAM_GATE && k < graph->params[i]->count; k++) {
            double d = (double)graph->params[i]->host[k];
            sum += d;
            squares += d * d;
            n += 1.0;
        }
    cr_assert_float_eq(sum / n, 0.0, 5.0 * 0.1 / sqrt(n));
    cr_assert_float_eq(sqrt(squares / n), 0.1, 0.001);
    hl_graph_destroy(graph);
}
