#include "models/weights.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "support/formula.h"
#include "support/zoo.h"

enum { CLASSES = ZOO_CLASSES };

static const hl_model_info *find(const char *name)
{
    const hl_model_info *info;
    cr_assert_eq(hl_model_find(name, &info), HL_OK, "%s", hl_last_error());
    return info;
}

static hl_graph *build(const hl_model_info *info, int64_t classes)
{
    hl_graph *graph;
    cr_assert_eq(hl_model_build(info, 0, classes, &graph), HL_OK, "%s", hl_last_error());
    return graph;
}

/* The state dict of a network with the formula's weights. */
static hl_tensor_map *state_of(const hl_model_info *info, int64_t classes)
{
    hl_graph *graph = build(info, classes);
    hl_tensor_map *map;
    formula_fill(graph);
    cr_assert_eq(hl_weights_export(graph, &map), HL_OK, "%s", hl_last_error());
    hl_graph_destroy(graph);
    return map;
}

static hl_tensor_map *empty_map(void)
{
    hl_tensor_map *map;
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    return map;
}

static void put(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim, const int64_t *shape,
                const void *data)
{
    cr_assert_eq(hl_tensor_map_add(map, name, dtype, ndim, shape, data), HL_OK, "%s", hl_last_error());
}

/* A copy of `map` without the tensor `name`. */
static hl_tensor_map *without(const hl_tensor_map *map, const char *name)
{
    hl_tensor_map *copy = empty_map();
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(map, i);
        if (strcmp(t->name, name) != 0)
            put(copy, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
    return copy;
}

static bool has_formula_values(const hl_param *p)
{
    hl_param expected = *p;
    expected.host = malloc((size_t)p->count * sizeof(float));
    formula_fill_param(&expected);
    bool same = memcmp(expected.host, p->host, (size_t)p->count * sizeof(float)) == 0;
    free(expected.host);
    return same;
}

static bool is_zero(const hl_param *p)
{
    for (int64_t i = 0; i < p->count; i++)
        if (p->host[i] != 0.0f)
            return false;
    return true;
}

/* Loading `map` into a fresh network fails with a message that has all these words. */
static void expect_refused(const char *model, const hl_tensor_map *map, const char *first, const char *second)
{
    hl_graph *graph = build(find(model), CLASSES);
    hl_load_report report;
    cr_expect_eq(hl_weights_load(graph, find(model), map, "file.pth", &report), HL_E_INPUT);
    const char *words[] = {"file.pth", first, second};
    for (size_t i = 0; i < 3; i++)
        cr_expect_not_null(strstr(hl_last_error(), words[i]), "'%s' lacks '%s'", hl_last_error(), words[i]);
    hl_graph_destroy(graph);
}

#ifdef __SANITIZE_ADDRESS__
enum { MOST_WEIGHTS = 12000000 };
#else
enum { MOST_WEIGHTS = 26000000 };
#endif

/* Those of the zoo whose weights it does not take long to fill. Of the others there are smaller variants, but
 * for VGG and AlexNet: for them `narrow` is one with an eighth of the channels. */
static const hl_model_info *small_enough(const hl_model_info *info, hl_model_info *narrow)
{
    zoo_row row;
    zoo_find(info->name, &row);
    if (row.counts[0] < MOST_WEIGHTS)
        return info;
    if (strcmp(info->name, "vgg11") != 0 && strcmp(info->name, "vgg11_bn") != 0 &&
        strcmp(info->name, "alexnet") != 0)
        return NULL;
    *narrow = *info;
    narrow->width = 0.125;
    return narrow;
}

Test(weights, exported_ones_load_again_bit_by_bit)
{
    for (int m = 0; m < hl_model_count(); m++) {
        hl_model_info narrow;
        const hl_model_info *info = small_enough(hl_model_at(m), &narrow);
        if (info == NULL)
            continue;
        hl_tensor_map *map = state_of(info, CLASSES);
        hl_graph *graph = build(info, CLASSES);
        hl_load_report report;
        cr_assert_eq(hl_weights_load(graph, info, map, "state", &report), HL_OK, "%s", hl_last_error());
        cr_expect_eq(report.style, HL_KEYS_NATIVE);
        cr_expect_eq((size_t)report.loaded, graph->param_count);
        cr_expect_eq(report.classes, CLASSES);
        cr_expect_not(report.head_skipped);
        for (size_t i = 0; i < graph->param_count; i++)
            cr_expect(has_formula_values(graph->params[i]), "%s: %s", info->name, graph->params[i]->name);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(map);
    }
}

/* "KEY TYPE SHAPE" of tensors, as many as a state dict has. */
typedef struct lines {
    char *items[4096];
    int count;
} lines;

static void add_line(lines *l, const char *key, hl_dtype dtype, int ndim, const int64_t *shape)
{
    char dims[96], text[512];
    hl_named_tensor t = {.ndim = ndim};
    for (int i = 0; i < ndim; i++)
        t.shape[i] = shape[i];
    snprintf(text, sizeof text, "%s %s %s", key, hl_dtype_name(dtype),
             hl_tensor_shape_text(&t, dims, sizeof dims));
    cr_assert_lt(l->count, 4096);
    l->items[l->count++] = strdup(text);
}

/* What a graph's export would hold, without the values, which are half a gigabyte for some. */
static void lines_of_graph(const hl_graph *graph, lines *l)
{
    for (size_t i = 0; i < graph->param_count; i++) {
        const hl_param *p = graph->params[i];
        int64_t shape[4];
        int ndim = hl_param_file_shape(p, shape);
        add_line(l, p->name, HL_DTYPE_F32, ndim, shape);
        if (p->role == HL_PARAM_NORM_MEAN) {
            char key[256];
            snprintf(key, sizeof key, "%.*s.num_batches_tracked", (int)(strrchr(p->name, '.') - p->name),
                     p->name);
            add_line(l, key, HL_DTYPE_I64, 0, NULL);
        }
    }
}

static void lines_of_map(const hl_tensor_map *map, lines *l)
{
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(map, i);
        add_line(l, t->name, t->dtype, t->ndim, t->shape);
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Frees the lines. */
static int64_t hash_lines(lines *l)
{
    size_t used = 0, room = (size_t)l->count * 256 + 1;
    char *text = malloc(room);
    qsort(l->items, (size_t)l->count, sizeof *l->items, by_text);
    for (int i = 0; i < l->count; i++) {
        used += (size_t)snprintf(text + used, room - used, "%s%s", i > 0 ? "\n" : "", l->items[i]);
        free(l->items[i]);
    }
    int64_t hash = (int64_t)formula_hash(text);
    free(text);
    return hash;
}

/* What load_state_dict(strict=True) asks for: the same keys, types and shapes, num_batches_tracked included.
 */
Test(weights, exported_keys_types_and_shapes_are_those_of_pytorch)
{
    for (int m = 0; m < hl_model_count(); m++) {
        const hl_model_info *info = hl_model_at(m);
        hl_model_info narrow;
        zoo_row row;
        lines of_graph = {.count = 0};
        zoo_find(info->name, &row);
        hl_graph *graph = build(info, CLASSES);
        lines_of_graph(graph, &of_graph);
        hl_graph_destroy(graph);
        cr_expect_eq(of_graph.count, row.tensors, "%s: %d tensors, want %lld", info->name, of_graph.count,
                     (long long)row.tensors);
        cr_expect_eq(hash_lines(&of_graph), row.keys, "%s: scripts/check_models.py says which", info->name);

        /* What is written is that. */
        if ((info = small_enough(info, &narrow)) == NULL)
            continue;
        hl_tensor_map *map = state_of(info, CLASSES);
        lines of_map = {.count = 0};
        of_graph.count = 0;
        graph = build(info, CLASSES);
        lines_of_graph(graph, &of_graph);
        lines_of_map(map, &of_map);
        cr_expect_eq(hash_lines(&of_map), hash_lines(&of_graph), "%s", info->name);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(map);
    }
}

/* "denselayer1.norm1" is "denselayer1.norm.1" in the files that torchvision published. */
Test(weights, old_names_of_densenet_reach_their_parameters)
{
    const hl_model_info *info = find("densenet121");
    hl_tensor_map *native = state_of(info, CLASSES), *map = empty_map();
    int renamed = 0;
    for (size_t i = 0; i < hl_tensor_map_count(native); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(native, i);
        char key[256];
        const char *layer = strstr(t->name, "denselayer"), *part = layer != NULL ? strchr(layer, '.') : NULL;
        if (part != NULL) { /* .norm1.weight, .conv2.weight, ... */
            snprintf(key, sizeof key, "%.*s.%s", (int)(part + 5 - t->name), t->name, part + 5);
            renamed++;
        } else {
            snprintf(key, sizeof key, "%s", t->name);
        }
        put(map, key, t->dtype, t->ndim, t->shape, t->data);
    }
    cr_assert_eq(renamed, 58 * 12);
    hl_graph *graph = build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "densenet.pth", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq(report.style, HL_KEYS_DENSENET);
    for (size_t i = 0; i < graph->param_count; i++)
        cr_expect(has_formula_values(graph->params[i]), "%s", graph->params[i]->name);
    hl_graph_destroy(graph);
    hl_tensor_map *less = without(map, "features.denseblock3.denselayer24.conv.2.weight");
    expect_refused("densenet121", less, "1 missing", "features.denseblock3.denselayer24.conv.2.weight");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(native);
}

Test(weights, efficientnet_pytorch_names_reach_their_parameters)
{
    const hl_model_info *info = find("efficientnet_lite0");
    hl_tensor_map *native = state_of(info, CLASSES), *map = empty_map();
    FILE *f = fopen("tests/fixtures/models/efficientnet_pytorch_keys.txt", "r");
    cr_assert_not_null(f);
    char line[256], theirs[128], ours[128];
    while (fgets(line, sizeof line, f) != NULL) {
        if (line[0] == '#' || sscanf(line, "%127s %127s", theirs, ours) != 2)
            continue;
        const hl_named_tensor *t = hl_tensor_map_find(native, ours);
        cr_assert_not_null(t, "%s", ours);
        put(map, theirs, t->dtype, t->ndim, t->shape, t->data);
    }
    fclose(f);
    cr_assert_eq(hl_tensor_map_count(map), hl_tensor_map_count(native));
    hl_graph *graph = build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "lite0.pth", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq(report.style, HL_KEYS_EFFICIENTNET);
    cr_expect_eq(report.classes, CLASSES);
    cr_expect_eq(hl_weights_classes(info, map), CLASSES);
    for (size_t i = 0; i < graph->param_count; i++)
        cr_expect(has_formula_values(graph->params[i]), "%s", graph->params[i]->name);
    hl_graph_destroy(graph);

    /* A key that is missing is named as the file would name it. */
    hl_tensor_map *less = without(map, "_blocks.15._bn2.running_var");
    expect_refused("efficientnet_lite0", less, "1 missing", "_blocks.15._bn2.running_var");
    /* A larger network of the family has more blocks. */
    expect_refused("efficientnet_lite1", map, "missing", "_blocks.");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(native);
}

Test(weights, efficientnet_pytorch_names_include_squeeze_excite)
{
    static const struct {
        const char *ours, *theirs;
    } rows[] = {{"blocks.0.0.se.conv_reduce.weight", "_blocks.0._se_reduce.weight"},
                {"blocks.0.0.conv_pw.weight", "_blocks.0._project_conv.weight"},
                {"blocks.2.1.se.conv_expand.bias", "_blocks.4._se_expand.bias"},
                {"blocks.6.0.conv_pwl.weight", "_blocks.15._project_conv.weight"}};
    hl_graph *graph = build(find("tf_efficientnet_b0"), CLASSES);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[256];
        cr_assert_not_null(hl_graph_find_param(graph, rows[i].ours), "%s", rows[i].ours);
        cr_expect_str_eq(hl_weights_key(HL_KEYS_EFFICIENTNET, graph, rows[i].ours, key, sizeof key),
                         rows[i].theirs);
    }
    hl_graph_destroy(graph);
}

Test(weights, every_parameter_has_its_own_key_in_every_style)
{
    for (int m = 0; m < hl_model_count(); m++)
        for (int style = HL_KEYS_NATIVE; style < HL_KEYS_COUNT; style++) {
            hl_graph *graph = build(hl_model_at(m), CLASSES);
            hl_tensor_map *seen = empty_map();
            for (size_t i = 0; i < graph->param_count; i++) {
                char key[256];
                const float zero = 0.0f;
                hl_weights_key((hl_key_style)style, graph, graph->params[i]->name, key, sizeof key);
                put(seen, key, HL_DTYPE_F32, 0, NULL, &zero);
            }
            hl_tensor_map_destroy(seen);
            hl_graph_destroy(graph);
        }
}

Test(weights, a_head_for_other_classes_is_left_out)
{
    const hl_model_info *info = find("mobilenet_v2");
    hl_tensor_map *map = state_of(info, 1000), *weightless = without(map, "classifier.1.weight"),
                  *headless = without(weightless, "classifier.1.bias");
    const struct {
        const hl_tensor_map *map;
        int64_t classes;
    } cases[] = {{map, 1000}, {headless, 0}};
    for (size_t c = 0; c < 2; c++) {
        hl_graph *graph = build(info, CLASSES);
        hl_load_report report;
        cr_assert_eq(hl_weights_load(graph, info, cases[c].map, "file", &report), HL_OK, "%s",
                     hl_last_error());
        cr_expect(report.head_skipped);
        cr_expect_eq(report.classes, cases[c].classes);
        cr_expect_eq((size_t)report.loaded, graph->param_count - 2);
        for (size_t i = 0; i < graph->param_count; i++) {
            const hl_param *p = graph->params[i];
            cr_expect(p->head ? is_zero(p) : has_formula_values(p), "%s", p->name);
        }
        hl_graph_destroy(graph);
    }
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(weightless);
    hl_tensor_map_destroy(headless);
}

Test(weights, auxiliary_classifiers_are_passed_over)
{
    const hl_model_info *info = find("googlenet");
    hl_tensor_map *map = state_of(info, CLASSES);
    const float one = 1.0f;
    put(map, "aux1.conv.conv.weight", HL_DTYPE_F32, 0, NULL, &one);
    put(map, "aux2.fc2.bias", HL_DTYPE_F32, 0, NULL, &one);
    hl_graph *graph = build(info, CLASSES);
    hl_load_report report;
    cr_expect_eq(hl_weights_load(graph, info, map, "file", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq((size_t)report.loaded, graph->param_count);
    hl_graph_destroy(graph);
    put(map, "AuxLogits.fc.weight", HL_DTYPE_F32, 0, NULL, &one);
    expect_refused("googlenet", map, "1 unexpected", "AuxLogits.fc.weight");
    hl_tensor_map_destroy(map);
}

Test(weights, a_head_that_is_a_convolution_is_left_out_as_well)
{
    const hl_model_info *info = find("squeezenet1_1");
    hl_tensor_map *map = state_of(info, 1000);
    hl_graph *graph = build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "file", &report), HL_OK, "%s", hl_last_error());
    cr_expect(report.head_skipped);
    cr_expect_eq(report.classes, 1000);
    hl_graph_destroy(graph);
    hl_tensor_map_destroy(map);
}

Test(weights, a_head_that_does_not_belong_to_the_network_is_refused)
{
    const hl_model_info *info = find("resnet18");
    hl_tensor_map *map = state_of(info, CLASSES), *less = without(map, "fc.weight");
    static float zeros[(CLASSES + 1) * 100];
    put(less, "fc.weight", HL_DTYPE_F32, 2, (const int64_t[]){CLASSES, 100}, zeros);
    expect_refused("resnet18", less, "fc.weight is [17, 100]", "[17, 512]");
    hl_tensor_map_destroy(less);
    /* Other classes do not excuse another width. */
    less = without(map, "fc.weight");
    put(less, "fc.weight", HL_DTYPE_F32, 2, (const int64_t[]){CLASSES + 1, 100}, zeros);
    expect_refused("resnet18", less, "fc.weight is [18, 100]", "[17, 512]");
    hl_tensor_map_destroy(less);
    less = without(map, "fc.weight");
    put(less, "fc.weight", HL_DTYPE_F32, 1, (const int64_t[]){CLASSES}, zeros);
    expect_refused("resnet18", less, "1 wrongly shaped", "fc.weight is [17]");
    hl_tensor_map_destroy(less);
    less = without(map, "fc.weight");
    put(less, "fc.weight", HL_DTYPE_F32, 0, NULL, zeros);
    cr_expect_eq(hl_weights_classes(info, less), 0);
    expect_refused("resnet18", less, "1 wrongly shaped", "fc.weight is []");
    hl_tensor_map_destroy(less);
    less = without(map, "fc.bias");
    expect_refused("resnet18", less, "1 missing", "fc.bias");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}

Test(weights, missing_extra_and_misshaped_keys_are_named_and_counted)
{
    const hl_model_info *info = find("resnet18");
    hl_tensor_map *map = state_of(info, CLASSES), *less = without(map, "layer2.0.bn1.weight");
    const float one = 1.0f;
    expect_refused("resnet18", less, "1 missing", "layer2.0.bn1.weight");
    put(less, "layer2.0.bn9.weight", HL_DTYPE_F32, 0, NULL, &one);
    expect_refused("resnet18", less, "1 missing", "1 unexpected, first layer2.0.bn9.weight");
    put(less, "layer2.0.bn1.weight", HL_DTYPE_F32, 0, NULL, &one);
    expect_refused("resnet18", less, "1 wrongly shaped",
                   "layer2.0.bn1.weight is [] where the model has [128]");
    hl_tensor_map_destroy(less);

    /* The same number of elements in another shape. */
    const hl_named_tensor *conv = hl_tensor_map_find(map, "layer1.0.conv1.weight");
    less = without(map, conv->name);
    put(less, conv->name, HL_DTYPE_F32, 4, (const int64_t[]){64, 3, 64, 3}, conv->data);
    expect_refused("resnet18", less, "[64, 3, 64, 3]", "[64, 64, 3, 3]");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}

Test(weights, those_of_another_network_or_of_nothing_are_refused)
{
    hl_tensor_map *resnet34 = state_of(find("resnet34"), CLASSES), *nothing = empty_map();
    expect_refused("resnet18", resnet34, "unexpected", "not those of resnet18");
    expect_refused("resnet50", resnet34, "missing", "wrongly shaped");
    expect_refused("mobilenet_v2", resnet34, "missing, first features.0.0.weight", "unexpected, first conv1");
    expect_refused("mobilenet_v2", nothing, "missing", "features.0.0.weight");
    cr_expect_eq(hl_weights_classes(find("resnet18"), nothing), 0);
    hl_tensor_map_destroy(resnet34);
    hl_tensor_map_destroy(nothing);
}

/* A tensor of the network replaced by one with `bad` at element `at`. */
static void expect_value_refused(const hl_tensor_map *map, const char *name, int64_t at, float bad,
                                 const char *words)
{
    const hl_named_tensor *t = hl_tensor_map_find(map, name);
    hl_tensor_map *changed = without(map, name);
    float *values = malloc(t->bytes);
    memcpy(values, t->data, t->bytes);
    values[at] = bad;
    put(changed, name, HL_DTYPE_F32, t->ndim, t->shape, values);
    expect_refused("mobilenet_v2", changed, name, words);
    free(values);
    hl_tensor_map_destroy(changed);
}

Test(weights, values_that_are_not_finite_are_refused_wherever_they_are)
{
    hl_tensor_map *map = state_of(find("mobilenet_v2"), CLASSES);
    expect_value_refused(map, "features.0.0.weight", 0, NAN, "not finite (element 0)");
    expect_value_refused(map, "features.18.0.weight", 320 * 1280 - 1, INFINITY, "(element 409599)");
    expect_value_refused(map, "features.4.conv.0.1.running_mean", 3, -INFINITY, "(element 3)");
    expect_value_refused(map, "classifier.1.bias", 16, NAN, "(element 16)");
    expect_value_refused(map, "features.0.1.running_var", 31, -1e-3f, "negative variance (element 31)");
    hl_tensor_map_destroy(map);
}

Test(weights, any_floating_point_type_is_read_and_no_other)
{
    hl_tensor_map *map = state_of(find("mobilenet_v2"), CLASSES), *less = without(map, "features.0.1.bias");
    const int64_t shape[] = {32};
    static const uint16_t halves[32] = {0x3c00, 0xc000}, brains[32] = {0x3f80, 0xc000};
    static const double doubles[32] = {1.0, -2.0}, large[32] = {1e300};
    static const int32_t integers[32] = {1, -2};
    const struct {
        hl_dtype dtype;
        const void *data;
    } good[] = {{HL_DTYPE_F16, halves}, {HL_DTYPE_BF16, brains}, {HL_DTYPE_F64, doubles}};
    for (size_t i = 0; i < 3; i++) {
        hl_tensor_map *copy = without(less, "");
        put(copy, "features.0.1.bias", good[i].dtype, 1, shape, good[i].data);
        hl_graph *graph = build(find("mobilenet_v2"), CLASSES);
        cr_assert_eq(hl_weights_load(graph, find("mobilenet_v2"), copy, "file", NULL), HL_OK, "%s",
                     hl_last_error());
        const hl_param *p = hl_graph_find_param(graph, "features.0.1.bias");
        cr_expect(p->host[0] == 1.0f && p->host[1] == -2.0f && p->host[2] == 0.0f);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(copy);
    }
    hl_tensor_map *wrong = without(less, "");
    put(wrong, "features.0.1.bias", HL_DTYPE_I32, 1, shape, integers);
    expect_refused("mobilenet_v2", wrong, "features.0.1.bias", "I32");
    hl_tensor_map_destroy(wrong);
    put(less, "features.0.1.bias", HL_DTYPE_F64, 1, shape, large);
    expect_refused("mobilenet_v2", less, "features.0.1.bias", "not finite");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
}
