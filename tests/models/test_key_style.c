/* Names of parameters: those of state dicts of torchvision and timm, and those of other files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/formula.h"
#include "support/state_dict.h"
#include "support/zoo.h"

enum { CLASSES = ZOO_CLASSES };

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
static void lines_of_graph(const hl_model_info *info, const hl_graph *graph, hl_key_style style, lines *l)
{
    for (size_t i = 0; i < graph->param_count; i++) {
        const hl_param *p = graph->params[i];
        char name[256], key[256];
        int64_t shape[4];
        int ndim = hl_weights_shape(info, style, p, shape);
        add_line(l, hl_weights_key(style, info, graph, p->name, key, sizeof key), HL_DTYPE_F32, ndim, shape);
        if (p->role == HL_PARAM_NORM_MEAN) {
            snprintf(name, sizeof name, "%.*s.num_batches_tracked", (int)(strrchr(p->name, '.') - p->name),
                     p->name);
            add_line(l, hl_weights_key(style, info, graph, name, key, sizeof key), HL_DTYPE_I64, 0, NULL);
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
Test(key_style, exported_keys_types_and_shapes_are_those_of_pytorch)
{
    for (int m = 0; m < hl_model_count(); m++) {
        const hl_model_info *info = hl_model_at(m);
        hl_model_info narrow;
        zoo_row row;
        lines of_graph = {.count = 0};
        zoo_find(info->name, &row);
        hl_graph *graph = state_build(info, CLASSES);
        lines_of_graph(info, graph, HL_KEYS_NATIVE, &of_graph);
        hl_graph_destroy(graph);
        cr_expect_eq(of_graph.count, row.tensors, "%s: %d tensors, want %lld", info->name, of_graph.count,
                     (long long)row.tensors);
        cr_expect_eq(hash_lines(&of_graph), row.keys, "%s: scripts/check_models.py says which", info->name);

        /* What is written is that. */
        if ((info = state_small_enough(info, &narrow)) == NULL)
            continue;
        hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_NATIVE);
        lines of_map = {.count = 0};
        of_graph.count = 0;
        graph = state_build(info, CLASSES);
        lines_of_graph(info, graph, HL_KEYS_NATIVE, &of_graph);
        lines_of_map(map, &of_map);
        cr_expect_eq(hash_lines(&of_map), hash_lines(&of_graph), "%s", info->name);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(map);
    }
}

/* The same of timm's, for every network that it has. */
Test(key_style, timm_keys_types_and_shapes_are_those_of_timm)
{
    for (int m = 0; m < hl_model_count(); m++) {
        const hl_model_info *info = hl_model_at(m);
        zoo_row row;
        zoo_find(info->name, &row);
        hl_key_style style;
        hl_status status = hl_weights_library_style(info, "timm", &style);
        cr_expect_eq(status == HL_OK, row.timm_keys != 0, "%s", info->name);
        if (status != HL_OK || row.timm_keys == 0)
            continue;
        lines l = {.count = 0};
        hl_graph *graph = state_build(info, CLASSES);
        lines_of_graph(info, graph, style, &l);
        hl_graph_destroy(graph);
        cr_expect_eq(hash_lines(&l), row.timm_keys, "%s: scripts/check_models.py --parts timm says which",
                     info->name);
    }
}

/* One model for each way of naming. */
Test(key_style, what_is_exported_with_timm_names_loads_again_bit_by_bit)
{
    static const char *const names[] = {"mobilenet_v2",    "mobilenet_v3_small", "mnasnet0_5",
                                        "efficientnet_b0", "regnet_y_400mf",     "vgg11"};
    for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
        hl_model_info narrow;
        const hl_model_info *info = state_small_enough(state_find(names[m]), &narrow);
        cr_assert_not_null(info);
        hl_tensor_map *map = state_of(info, CLASSES, HL_KEYS_TIMM);
        cr_expect_eq(hl_weights_classes(info, map), CLASSES, "%s", names[m]);
        hl_graph *graph = state_build(info, CLASSES);
        hl_load_report report;
        cr_assert_eq(hl_weights_load(graph, info, map, "state", &report), HL_OK, "%s", hl_last_error());
        cr_expect_eq(report.style, HL_KEYS_TIMM);
        cr_expect_not(report.head_skipped);
        state_expect_formula(graph, names[m]);
        hl_graph_destroy(graph);
        hl_tensor_map_destroy(map);
    }
}

Test(key_style, a_key_that_is_missing_is_named_as_in_the_file)
{
    static const struct {
        const char *model, *key;
    } cases[] = {{"mobilenet_v2", "blocks.6.0.bn3.running_var"},
                 {"mobilenet_v3_small", "conv_head.weight"},
                 {"regnet_y_400mf", "s4.b6.se.fc2.bias"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hl_tensor_map *map = state_of(state_find(cases[i].model), CLASSES, HL_KEYS_TIMM),
                      *less = state_without(map, cases[i].key);
        state_expect_refused(cases[i].model, less, "1 missing", cases[i].key);
        hl_tensor_map_destroy(less);
        hl_tensor_map_destroy(map);
    }
}

Test(key_style, a_library_without_the_network_is_refused)
{
    static const struct {
        const char *model, *library;
        bool has;
    } rows[] = {{"resnet50", "timm", true},
                {"resnet50", "torchvision", true},
                {"alexnet", "timm", false},
                {"googlenet", "timm", false},
                {"mnasnet1_3", "timm", false},
                {"mnasnet1_3", "torchvision", true},
                {"seresnet50", "torchvision", false},
                {"seresnet50", "timm", true},
                {"efficientnet_lite0", "torchvision", false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_key_style style;
        hl_status status = hl_weights_library_style(state_find(rows[i].model), rows[i].library, &style);
        cr_expect_eq(status, rows[i].has ? HL_OK : HL_E_ARG, "%s", rows[i].model);
        if (!rows[i].has)
            cr_expect(strstr(hl_last_error(), rows[i].model) != NULL &&
                          strstr(hl_last_error(), rows[i].library) != NULL,
                      "%s", hl_last_error());
    }
}

/* "denselayer1.norm1" is "denselayer1.norm.1" in the files that torchvision published. */
Test(key_style, old_names_of_densenet_reach_their_parameters)
{
    const hl_model_info *info = state_find("densenet121");
    hl_tensor_map *native = state_of(info, CLASSES, HL_KEYS_NATIVE), *map = state_empty();
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
        state_put(map, key, t->dtype, t->ndim, t->shape, t->data);
    }
    cr_assert_eq(renamed, 58 * 12);
    hl_graph *graph = state_build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "densenet.pth", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq(report.style, HL_KEYS_DENSENET);
    state_expect_formula(graph, info->name);
    hl_graph_destroy(graph);
    hl_tensor_map *less = state_without(map, "features.denseblock3.denselayer24.conv.2.weight");
    state_expect_refused("densenet121", less, "1 missing", "features.denseblock3.denselayer24.conv.2.weight");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(native);
}

Test(key_style, efficientnet_pytorch_names_reach_their_parameters)
{
    const hl_model_info *info = state_find("efficientnet_lite0");
    hl_tensor_map *native = state_of(info, CLASSES, HL_KEYS_NATIVE), *map = state_empty();
    FILE *f = fopen("tests/fixtures/models/efficientnet_pytorch_keys.txt", "r");
    cr_assert_not_null(f);
    char line[256], theirs[128], ours[128];
    while (fgets(line, sizeof line, f) != NULL) {
        if (line[0] == '#' || sscanf(line, "%127s %127s", theirs, ours) != 2)
            continue;
        const hl_named_tensor *t = hl_tensor_map_find(native, ours);
        cr_assert_not_null(t, "%s", ours);
        state_put(map, theirs, t->dtype, t->ndim, t->shape, t->data);
    }
    fclose(f);
    cr_assert_eq(hl_tensor_map_count(map), hl_tensor_map_count(native));
    hl_graph *graph = state_build(info, CLASSES);
    hl_load_report report;
    cr_assert_eq(hl_weights_load(graph, info, map, "lite0.pth", &report), HL_OK, "%s", hl_last_error());
    cr_expect_eq(report.style, HL_KEYS_EFFICIENTNET);
    cr_expect_eq(report.classes, CLASSES);
    cr_expect_eq(hl_weights_classes(info, map), CLASSES);
    state_expect_formula(graph, info->name);
    hl_graph_destroy(graph);

    /* A key that is missing is named as the file would name it. */
    hl_tensor_map *less = state_without(map, "_blocks.15._bn2.running_var");
    state_expect_refused("efficientnet_lite0", less, "1 missing", "_blocks.15._bn2.running_var");
    /* A larger network of the family has more blocks. */
    state_expect_refused("efficientnet_lite1", map, "missing", "_blocks.");
    hl_tensor_map_destroy(less);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(native);
}

Test(key_style, efficientnet_pytorch_names_include_squeeze_excite)
{
    static const struct {
        const char *ours, *theirs;
    } rows[] = {{"blocks.0.0.se.conv_reduce.weight", "_blocks.0._se_reduce.weight"},
                {"blocks.0.0.conv_pw.weight", "_blocks.0._project_conv.weight"},
                {"blocks.2.1.se.conv_expand.bias", "_blocks.4._se_expand.bias"},
                {"blocks.6.0.conv_pwl.weight", "_blocks.15._project_conv.weight"}};
    const hl_model_info *info = state_find("tf_efficientnet_b0");
    hl_graph *graph = state_build(info, CLASSES);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char key[256];
        cr_assert_not_null(hl_graph_find_param(graph, rows[i].ours), "%s", rows[i].ours);
        cr_expect_str_eq(hl_weights_key(HL_KEYS_EFFICIENTNET, info, graph, rows[i].ours, key, sizeof key),
                         rows[i].theirs);
    }
    hl_graph_destroy(graph);
}

Test(key_style, every_parameter_has_its_own_key_in_every_style)
{
    for (int m = 0; m < hl_model_count(); m++)
        for (int style = HL_KEYS_NATIVE; style < HL_KEYS_COUNT; style++) {
            hl_graph *graph = state_build(hl_model_at(m), CLASSES);
            hl_tensor_map *seen = state_empty();
            for (size_t i = 0; i < graph->param_count; i++) {
                char key[256];
                const float zero = 0.0f;
                hl_weights_key((hl_key_style)style, hl_model_at(m), graph, graph->params[i]->name, key,
                               sizeof key);
                state_put(seen, key, HL_DTYPE_F32, 0, NULL, &zero);
            }
            hl_tensor_map_destroy(seen);
            hl_graph_destroy(graph);
        }
}