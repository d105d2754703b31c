#include "models/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "support/state_dict.h"
#include "support/zoo.h"

enum { CLASSES = ZOO_CLASSES };

static bool is_zero(const hl_param *p)
{
    for (int64_t i = 0; i < p->count; i++)
        if (p->host[i] != 0.0f)
            return false;
    return true;
}
Test(weights, exported_ones_load_again_bit_by_bit)
{
    for (int m = 0; m < hl_model_count(); m++) {
        hl_model_info narrow;
        const hl_model_info *info = state_small_enough(hl_model_at(m), &narrow);
        if (info == NULL)
            continue;
        hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE);
        hl_graph *graph = state_build(info, CLASSES);
        hl_load_report report;
        cr_assert_eq(hl_weights_load(graph, info, map, "state", &report), HL_OK, "%s", hl_last_error());
        cr_expect_eq(report.style, HL_KEYS_NATIVE);
        cr_expect_eq((size_t)report.loaded, graph->param_count);
        cr_expect_eq(report.classes, CLASSES);
        cr_expect_not(report.head_skipped);
        state_expect_formula(graph, info->name);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(map);
    }
}

Test(weights, a_head_for_other_classes_is_left_out)
{
    const hl_model_info *info = state_find("mobilenet_v2");
    hl_tensor_map *map = state_of(info, 1000, HL_KEYS_NATIVE),
                  *weightless = state_without(map, "classifier.1.weight"),
                  *headless = state_without(weightless, "classifier.1.bias");
    const struct {
        const hl_tensor_map *map;
        int64_t classes;
    } cases[] = {{map, 1000}, {headless, 0}};
    for (size_t c = 0; c < 2; c++) {
        hl_graph *graph = state_build(info, CLASSES);
        hl_load_report report;
        cr_assert_eq(hl_weights_load(graph, info, cases[c].map, "file", &report), HL_OK, "%s",
                     hl_last_error());
        cr_expect(report.head_skipped);
        cr_expect_eq(report.classes, cases[c].classes);
        cr_expect_eq((size_t)report.loaded, graph->param_count - 2);
        for (size_t i = 0; i < graph->param_count; i++) {
            const hl_param *p = graph->params[i];
            cr_expect(p->head ? is_zero(p) : state_has_formula_values(p), "%s", p->name);
        }
        hl_graph_destroy(graph);
    }
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(weightless);
    hl_tensor_map_destroy(headless);
}

static const char input_conv[] = "features.0.weight";

/* A state dict of SqueezeNet whose first convolution is a tensor of the golden. */
static hl_tensor_map *with_input_conv(const hl_model_info *info, const hl_named_tensor *weight)
{
    hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE), *made = state_without(map, input_conv);
    state_put(made, input_conv, HL_DTYPE_F32, weight->ndim, weight->shape, weight->data);
    hl_tensor_map_destroy(map);
    return made;
}

static const hl_param *find_param(const hl_graph *graph, const char *name)
{
    for (size_t i = 0; i < graph->param_count; i++)
        if (strcmp(graph->params[i]->name, name) == 0)
            return graph->params[i];
    cr_assert_fail("there is no %s", name);
    return NULL;
}

Test(weights, a_first_convolution_fits_images_of_other_channels_as_timm_makes_it)
{
    static const char *const names[] = {"grey", "rgb", "rgba"};
    static const int64_t channels[] = {1, 3, 4};
    const hl_model_info *info = state_find("squeezenet1_1");
    hl_tensor_map *golden;
    cr_assert_eq(hl_safetensors_read("tests/fixtures/models/input_conv.safetensors", &golden), HL_OK, "%s",
                 hl_last_error());
    for (int file = 0; file < 3; file++) {
        hl_tensor_map *map = with_input_conv(info, hl_tensor_map_find(golden, names[file]));
        for (int wanted = 0; wanted < 3; wanted++) {
            hl_graph *graph;
            hl_load_report report;
            cr_assert_eq(hl_model_build_for(info, 0, channels[wanted], CLASSES, &graph), HL_OK, "%s",
                         hl_last_error());
            hl_status status = hl_weights_load(graph, info, map, "file.pth", &report);
            if (file != wanted && file != 1) {
                char todo[64];
                snprintf(todo, sizeof todo, "(give --in-channels %d, or other weights)", (int)channels[file]);
                cr_expect_eq(status, HL_E_INPUT);
                cr_expect(strstr(hl_last_error(), input_conv) != NULL &&
                              strstr(hl_last_error(), todo) != NULL,
                          "%s", hl_last_error());
                hl_graph_destroy(graph);
                continue;
            }
            cr_assert_eq(status, HL_OK, "%s", hl_last_error());
            cr_expect_eq(report.adapted, file != wanted);
            cr_expect_eq((size_t)report.loaded, graph->param_count);
            const hl_param *p = find_param(graph, input_conv);
            const hl_named_tensor *want = hl_tensor_map_find(golden, names[wanted]);
            cr_assert_eq((size_t)p->count * sizeof(float), want->bytes);
            for (int64_t i = 0; i < p->count; i++) {
                float expected = ((const float *)want->data)[i];
                /* A sum of three normal numbers in another order: two roundings of partial sums below 8. */
                float most = wanted == 0 && file != wanted ? 2.0f * 8.0f * 0x1p-24f : 0.0f;
                cr_assert(fabsf(p->host[i] - expected) <= most, "%s from %s, %lld: %.9g, not %.9g",
                          names[wanted], names[file], (long long)i, (double)p->host[i], (double)expected);
            }
            hl_graph_destroy(graph);
        }
        hl_tensor_map_destroy(map);
    }
    hl_tensor_map_destroy(golden);
}

/* Only the images' own convolution is adapted, and values are looked at as in any other tensor. */
Test(weights, no_other_convolution_is_adapted_and_bad_values_are_found)
{
    const hl_model_info *info = state_find("squeezenet1_1");
    hl_tensor_map *golden, *map, *bad, *other;
    hl_graph *graph;
    cr_assert_eq(hl_safetensors_read("tests/fixtures/models/input_conv.safetensors", &golden), HL_OK);
    const hl_named_tensor *rgb = hl_tensor_map_find(golden, "rgb");
    float *values = malloc(rgb->bytes);
    memcpy(values, rgb->data, rgb->bytes);
    values[1000] = NAN;
    hl_named_tensor damaged = *rgb;
    damaged.data = values;
    bad = with_input_conv(info, &damaged);
    cr_assert_eq(hl_model_build_for(info, 0, 1, CLASSES, &graph), HL_OK);
    cr_expect_eq(hl_weights_load(graph, info, bad, "file.pth", NULL), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "features.0.weight holds a value that is not finite"), "%s",
                       hl_last_error());
    /* 16 filters of 1x1 over 64 channels where a file has them over 3. */
    static const int64_t shape[4] = {16, 3, 1, 1};
    map = with_input_conv(info, rgb);
    other = state_without(map, "features.3.squeeze.weight");
    state_put(other, "features.3.squeeze.weight", HL_DTYPE_F32, 4, shape, rgb->data);
    cr_expect_eq(hl_weights_load(graph, info, other, "file.pth", NULL), HL_E_INPUT);
    cr_expect(strstr(hl_last_error(), "features.3.squeeze.weight") != NULL &&
                  strstr(hl_last_error(), "--in-channels") == NULL,
              "%s", hl_last_error());
    hl_graph_destroy(graph);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(other);
    hl_tensor_map_destroy(bad);
    hl_tensor_map_destroy(golden);
    free(values);
}

Test(weights, auxiliary_classifiers_are_passed_over)
{
    const hl_model_info *info = state_find("googlenet");
    hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE);
    const float one = 1.0f;
    state_put(map, "aux1.conv.conv.weight", HL_DTYPE_F32, 0, NULL, &one);
    state_put(map, "aux2.fc2.bias", HL_DTYPE_F32, 0, NULL, &one);
    hl_graph *graph = state_build(info, CLASSES);
    hl_load_report report;
    cr_expect_eq(hl_weights_load(graph, info, map, "file", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq((size_t)report.loaded, graph->param_count);
    hl_graph_destroy(graph);
    state_put(map, "AuxLogits.fc.weight", HL_DTYPE_F32, 0, NULL, &one);
    state_expect_refused("googlenet", map, "1 unexpected", "AuxLogits.fc.weight");
    hl_tensor_map_destroy(map);
}

Test(weights, a_head_that_is_a_convolution_is_left_out_as_well)
{
    const hl_model_info *info = state_find("squeezenet1_1");
    hl_tensor_map *map = state_of(info, 1000, HL_KEYS_NATIVE);
    hl_graph *graph = state_build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "file", &report), HL_OK, "%s", hl_last_error());
    cr_expect(report.head_skipped);
    cr_expect_eq(report.classes, 1000);
    hl_graph_destroy(graph);
    hl_tensor_map_destroy(map);
}

Test(weights, a_head_that_does_not_belong_to_the_network_is_refused)
{
    const hl_model_info *info = state_find("resnet18");
    hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE), *less = state_without(map, "fc.weight");
    static float zeros[(CLASSES + 1) * 100];
    state_put(less, "fc.weight", HL_DTYPE_F32, 2, (const int64_t[]){CLASSES, 100}, zeros);
    state_expect_refused("resnet18", less, "fc.weight is [17, 100]", "[17, 512]");
    hl_tensor_map_destroy(less);
    /* Other classes do not excuse another width. */
    less = state_without(map, "fc.weight");
    state_put(less, "fc.weight", HL_DTYPE_F32, 2, (const int64_t[]){CLASSES + 1, 100}, zeros);
    state_expect_refused("resnet18", less, "fc.weight is [18, 100]", "[17, 512]");
    hl_tensor_map_destroy(less);
    less = state_without(map, "fc.weight");
    state_put(less, "fc.weight", HL_DTYPE_F32, 1, (const int64_t[]){CLASSES}, zeros);
    state_expect_refused("resnet18", less, "1 wrongly shaped", "fc.weight is [17]");
    hl_tensor_map_destroy(less);
    less = state_without(map, "fc.weight");
    state_put(less, "fc.weight", HL_DTYPE_F32, 0, NULL, zeros);
    cr_expect_eq(hl_weights_classes(info, less), 0);
    state_expect_refused("resnet18", less, "1 wrongly shaped", "fc.weight is []");
    hl_tensor_map_destroy(less);
    less = state_without(map, "fc.bias");
    state_expect_refused("resnet18", less, "1 missing", "fc.bias");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}

Test(weights, missing_extra_and_misshaped_keys_are_named_and_counted)
{
    const hl_model_info *info = state_find("resnet18");
    hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE),
                  *less = state_without(map, "layer2.0.bn1.weight");
    const float one = 1.0f;
    state_expect_refused("resnet18", less, "1 missing", "layer2.0.bn1.weight");
    state_put(less, "layer2.0.bn9.weight", HL_DTYPE_F32, 0, NULL, &one);
    state_expect_refused("resnet18", less, "1 missing", "1 unexpected, first layer2.0.bn9.weight");
    state_put(less, "layer2.0.bn1.weight", HL_DTYPE_F32, 0, NULL, &one);
    state_expect_refused("resnet18", less, "1 wrongly shaped",
                         "layer2.0.bn1.weight is [] where the model has [128]");
    hl_tensor_map_destroy(less);

    /* The same number of elements in another shape. */
    const hl_named_tensor *conv = hl_tensor_map_find(map, "layer1.0.conv1.weight");
    less = state_without(map, conv->name);
    state_put(less, conv->name, HL_DTYPE_F32, 4, (const int64_t[]){64, 3, 64, 3}, conv->data);
    state_expect_refused("resnet18", less, "[64, 3, 64, 3]", "[64, 64, 3, 3]");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}

Test(weights, those_of_another_network_or_of_nothing_are_refused)
{
    hl_tensor_map *resnet34 = state_of(state_find("resnet34"), CLASSES, HL_KEYS_NATIVE),
                  *nothing = state_empty();
    state_expect_refused("resnet18", resnet34, "unexpected", "not those of resnet18");
    state_expect_refused("resnet50", resnet34, "missing", "wrongly shaped");
    state_expect_refused("mobilenet_v2", resnet34, "missing, first features.0.0.weight",
                         "unexpected, first conv1");
    state_expect_refused("mobilenet_v2", nothing, "missing", "features.0.0.weight");
    cr_expect_eq(hl_weights_classes(state_find("resnet18"), nothing), 0);
    hl_tensor_map_destroy(resnet34);
    hl_tensor_map_destroy(nothing);
}

/* A tensor of the network replaced by one with `bad` at element `at`. */
static void expect_value_refused(const hl_tensor_map *map, const char *name, int64_t at, float bad,
                                 const char *words)
{
    const hl_named_tensor *t = hl_tensor_map_find(map, name);
    hl_tensor_map *changed = state_without(map, name);
    float *values = malloc(t->bytes);
    memcpy(values, t->data, t->bytes);
    values[at] = bad;
    state_put(changed, name, HL_DTYPE_F32, t->ndim, t->shape, values);
    state_expect_refused("mobilenet_v2", changed, name, words);
    free(values);
    hl_tensor_map_destroy(changed);
}

Test(weights, values_that_are_not_finite_are_refused_wherever_they_are)
{
    hl_tensor_map *map = state_of(state_find("mobilenet_v2"), CLASSES, HL_KEYS_NATIVE);
    expect_value_refused(map, "features.0.0.weight", 0, NAN, "not finite (element 0)");
    expect_value_refused(map, "features.18.0.weight", 320 * 1280 - 1, INFINITY, "(element 409599)");
    expect_value_refused(map, "features.4.conv.0.1.running_mean", 3, -INFINITY, "(element 3)");
    expect_value_refused(map, "classifier.1.bias", 16, NAN, "(element 16)");
    expect_value_refused(map, "features.0.1.running_var", 31, -1e-3f, "negative variance (element 31)");
    hl_tensor_map_destroy(map);
}

Test(weights, any_floating_point_type_is_read_and_no_other)
{
    hl_tensor_map *map = state_of(state_find("mobilenet_v2"), CLASSES, HL_KEYS_NATIVE),
                  *less = state_without(map, "features.0.1.bias");
    const int64_t shape[] = {32};
    static const uint16_t halves[32] = {0x3c00, 0xc000}, brains[32] = {0x3f80, 0xc000};
    static const double doubles[32] = {1.0, -2.0}, large[32] = {1e300};
    static const int32_t integers[32] = {1, -2};
    const struct {
        hl_dtype dtype;
        const void *data;
    } good[] = {{HL_DTYPE_F16, halves}, {HL_DTYPE_BF16, brains}, {HL_DTYPE_F64, doubles}};
    for (size_t i = 0; i < 3; i++) {
        hl_tensor_map *copy = state_without(less, "");
        state_put(copy, "features.0.1.bias", good[i].dtype, 1, shape, good[i].data);
        hl_graph *graph = state_build(state_find("mobilenet_v2"), CLASSES);
        cr_assert_eq(hl_weights_load(graph, state_find("mobilenet_v2"), copy, "file", NULL), HL_OK, "%s",
                     hl_last_error());
        const hl_param *p = hl_graph_find_param(graph, "features.0.1.bias");
        cr_expect(p->host[0] == 1.0f && p->host[1] == -2.0f && p->host[2] == 0.0f);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(copy);
    }
    hl_tensor_map *wrong = state_without(less, "");
    state_put(wrong, "features.0.1.bias", HL_DTYPE_I32, 1, shape, integers);
    state_expect_refused("mobilenet_v2", wrong, "features.0.1.bias", "I32");
    hl_tensor_map_destroy(wrong);
    state_put(less, "features.0.1.bias", HL_DTYPE_F64, 1, shape, large);
    state_expect_refused("mobilenet_v2", less, "features.0.1.bias", "not finite");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}
