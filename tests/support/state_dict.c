#include "support/state_dict.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "support/formula.h"
#include "support/zoo.h"

const hl_model_info *state_find(const char *name)
{
    const hl_model_info *info;
    cr_assert_eq(hl_model_find(name, &info), HL_OK, "%s", hl_last_error());
    return info;
}

hl_graph *state_build(const hl_model_info *info, int64_t classes)
{
    hl_graph *graph;
    cr_assert_eq(hl_model_build(info, 0, classes, &graph), HL_OK, "%s", hl_last_error());
    return graph;
}

hl_tensor_map *state_of(const hl_model_info *info, int64_t classes, hl_key_style style)
{
    hl_graph *graph = state_build(info, classes);
    hl_tensor_map *map;
    formula_fill(graph);
    cr_assert_eq(hl_weights_export(graph, info, style, &map), HL_OK, "%s", hl_last_error());
    hl_graph_destroy(graph);
    return map;
}

hl_tensor_map *state_empty(void)
{
    hl_tensor_map *map;
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    return map;
}

void state_put(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim, const int64_t *shape,
               const void *data)
{
    cr_assert_eq(hl_tensor_map_add(map, name, dtype, ndim, shape, data), HL_OK, "%s", hl_last_error());
}

hl_tensor_map *state_without(const hl_tensor_map *map, const char *name)
{
    hl_tensor_map *copy = state_empty();
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(map, i);
        if (strcmp(t->name, name) != 0)
            state_put(copy, t->name, t->dtype, t->ndim, t->shape, t->data);
    }
    return copy;
}

bool state_has_formula_values(const hl_param *p)
{
    hl_param expected = *p;
    expected.host = malloc((size_t)p->count * sizeof(float));
    formula_fill_param(&expected);
    bool same = memcmp(expected.host, p->host, (size_t)p->count * sizeof(float)) == 0;
    free(expected.host);
    return same;
}
#ifdef __SANITIZE_ADDRESS__
enum { MOST_WEIGHTS = 12000000 };
#else
enum { MOST_WEIGHTS = 26000000 };
#endif

const hl_model_info *state_small_enough(const hl_model_info *info, hl_model_info *narrow)
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

void state_expect_refused(const char *model, const hl_tensor_map *map, const char *first, const char *second)
{
    hl_graph *graph = state_build(state_find(model), ZOO_CLASSES);
    hl_load_report report;
    cr_expect_eq(hl_weights_load(graph, state_find(model), map, "file.pth", &report), HL_E_INPUT);
    const char *words[] = {"file.pth", first, second};
    for (size_t i = 0; i < 3; i++)
        cr_expect_not_null(strstr(hl_last_error(), words[i]), "'%s' lacks '%s'", hl_last_error(), words[i]);
    hl_graph_destroy(graph);
}
void state_expect_formula(const hl_graph *graph, const char *model)
{
    for (size_t i = 0; i < graph->param_count; i++)
        cr_expect(state_has_formula_values(graph->params[i]), "%s: %s", model, graph->params[i]->name);
}
