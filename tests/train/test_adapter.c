/* Adapter files: what is in them for each method, and that they bring it back exactly. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "io/safetensors.h"
#include "support/scratch.h"
#include "support/toy.h"
#include "train/model.h"

enum { CLASSES = 3 };

static char *folder, *file;

static void start(void)
{
    folder = scratch_make();
    file = scratch_path(folder, "adapter.safetensors");
}

static void stop(void)
{
    free(file);
    scratch_remove(folder);
}

TestSuite(adapter, .init = start, .fini = stop);

/* What training would change, changed; every third mask is dropped. */
static void disturb(hl_model *model)
{
    for (size_t i = 0; i < model->graph->param_count; i++) {
        hl_param *p = model->graph->params[i];
        hl_rng rng = hl_rng_make(8, HL_STREAM_TEST, (uint32_t)i, 0);
        if (!hl_param_is_adapted(p))
            continue;
        for (int64_t k = 0; k < p->count; k++)
            p->host[k] += p->role == HL_PARAM_MASK ? (k % 3 == 0 ? -0.02f : 0.001f) : hl_rng_uniform(&rng);
    }
}

static hl_tensor_map *read_file(void)
{
    hl_tensor_map *map;
    cr_assert_eq(hl_safetensors_read(file, &map), HL_OK, "%s", hl_last_error());
    return map;
}

static void expect_same_params(const hl_model *a, const hl_model *b)
{
    for (size_t i = 0; i < a->graph->param_count; i++) {
        const hl_param *p = a->graph->params[i], *q = b->graph->params[i];
        cr_assert_str_eq(p->name, q->name);
        for (int64_t k = 0; k < p->count; k++)
            cr_assert(p->role == HL_PARAM_MASK ? (p->host[k] > p->threshold) == (q->host[k] > q->threshold)
                                               : p->host[k] == q->host[k],
                      "%s[%lld]: %g, %g", p->name, (long long)k, (double)p->host[k], (double)q->host[k]);
    }
}

static void round_trip(const char *method, hl_norm_mode norm)
{
    hl_model *model = toy_model("mobilenet_v3_small", CLASSES, method, norm),
             *other = toy_model("mobilenet_v3_small", CLASSES, method, norm);
    disturb(model);
    cr_assert_eq(hl_model_save_adapter(model, file), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_load_adapter(other, file), HL_OK, "%s: %s", method, hl_last_error());
    expect_same_params(model, other);
    hl_tensor_map *map = read_file();
    size_t adapted = 0, statistics = 0;
    for (size_t i = 0; i < model->graph->param_count; i++) {
        const hl_param *p = model->graph->params[i];
        cr_assert_eq(hl_tensor_map_find(map, p->name) != NULL, hl_param_is_adapted(p), "%s", p->name);
        adapted += hl_param_is_adapted(p);
        statistics += hl_param_is_adapted(p) && hl_param_is_statistic(p);
    }
    cr_assert_eq(hl_tensor_map_count(map), adapted);
    cr_assert_eq(statistics > 0, norm == HL_NORM_UPDATE || norm == HL_NORM_FULL);
    hl_tensor_map_destroy(map);
    hl_model_destroy(model);
    hl_model_destroy(other);
}

Test(adapter, holds_what_a_method_trained_and_brings_it_back)
{
    static const char *const methods[] = {
        "lora", "dora", "loha", "lokr", "convlora", "atoms", "projection:rank=2", "piggyback"};
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        round_trip(methods[i], HL_NORM_DEFAULT);
}

/* Running statistics that moved belong to what was trained: without them the network is another one. */
Test(adapter, holds_running_statistics_where_they_move)
{
    round_trip("lora", HL_NORM_UPDATE);
    round_trip("lora", HL_NORM_FULL);
    round_trip("projection", HL_NORM_FULL);
}

Test(adapter, holds_masks_as_bits_that_merge_into_the_same_weights)
{
    hl_model *model = toy_model("mobilenet_v3_small", CLASSES, "piggyback", HL_NORM_DEFAULT),
             *other = toy_model("mobilenet_v3_small", CLASSES, "piggyback", HL_NORM_DEFAULT);
    disturb(model);
    cr_assert_eq(hl_model_save_adapter(model, file), HL_OK, "%s", hl_last_error());
    hl_tensor_map *map = read_file();
    const hl_named_tensor *t = hl_tensor_map_find(map, "features.0.0.mask");
    cr_assert(t != NULL && t->dtype == HL_DTYPE_U8 && t->ndim == 1);
    cr_assert_eq(t->shape[0], (16 * 3 * 9 + 7) / 8);
    cr_assert_eq(((const uint8_t *)t->data)[0], 0xb6, "values 0, 3 and 6 are dropped");
    hl_tensor_map_destroy(map);
    cr_assert_eq(hl_model_load_adapter(other, file), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_method_merge(model->graph), HL_OK);
    cr_assert_eq(hl_method_merge(other->graph), HL_OK);
    const hl_param *w = hl_graph_find_param(model->graph, "features.0.0.weight");
    cr_assert(w->host[0] == 0.0f && w->host[1] != 0.0f && w->host[3] == 0.0f);
    expect_same_params(model, other);
    hl_model_destroy(model);
    hl_model_destroy(other);
}

Test(adapter, with_masks_that_are_no_bits_is_refused)
{
    hl_model *model =
        toy_model("mobilenet_v3_small", CLASSES, "piggyback:scope=features.0.0", HL_NORM_DEFAULT);
    cr_assert_eq(hl_model_save_adapter(model, file), HL_OK, "%s", hl_last_error());
    hl_tensor_map *map = read_file(), *damaged;
    cr_assert_eq(hl_tensor_map_create(&damaged), HL_OK);
    for (size_t i = 0; i < hl_tensor_map_meta_count(map); i++) {
        const char *key, *value;
        hl_tensor_map_meta_at(map, i, &key, &value);
        cr_assert_eq(hl_tensor_map_set_meta(damaged, key, value), HL_OK);
    }
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(map, i);
        int64_t shorter = t->shape[0] - 1;
        bool mask = t->dtype == HL_DTYPE_U8;
        cr_assert_eq(
            hl_tensor_map_add(damaged, t->name, t->dtype, t->ndim, mask ? &shorter : t->shape, t->data),
            HL_OK);
    }
    cr_assert_eq(hl_safetensors_write(file, damaged), HL_OK);
    cr_assert_eq(hl_model_load_adapter(model, file), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "does not fit"));
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(damaged);
    hl_model_destroy(model);
}
