/* A bank of adapters over one backbone: each must say what its run says by itself, bit for bit. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <heirloom/heirloom.h>

#include "base/philox.h"
#include "support/device.h"
#include "support/scratch.h"
#include "support/toy.h"
#include "train/session.h"

enum { IMAGES = 3, MOST = 4 };

static char *folder, *weights;

/* A network with a depthwise layer, whose gates are recombined in training. */
static hl_model *fresh(int64_t classes, int64_t size, uint64_t seed)
{
    hl_model *m;
    const hl_model_options options = {.name = "mobilenet_v2",
                                      .weights = weights,
                                      .classes = classes,
                                      .image_size = size,
                                      .resize = size,
                                      .seed = seed};
    cr_assert_eq(hl_model_create(&options, &m), HL_OK, "%s", hl_last_error());
    return m;
}

static void start(void)
{
    folder = scratch_make();
    toy_images(folder, 2, 0, 0, 2);
    weights = NULL;
    hl_model *m = fresh(5, TOY_SIZE, 3);
    char *path = scratch_path(folder, "w.safetensors");
    cr_assert_eq(hl_model_export(m, path), HL_OK, "%s", hl_last_error());
    hl_model_destroy(m);
    weights = path;
}

static void stop(void)
{
    free(weights);
    scratch_remove(folder);
}

TestSuite(swap, .init = start, .fini = stop);

/* A run folder of that method with every adapted value moved. */
static char *run(const char *name, const char *method, hl_norm_mode norm, int64_t classes, int64_t size,
                 uint32_t sub)
{
    static const char *const names[] = {"cat", "dog", "elk", "fox"};
    hl_model *m = fresh(classes, size, 3);
    char *path = scratch_path(folder, name), file[600];
    cr_assert_eq(hl_model_apply_method(m, method, norm, 3), HL_OK, "%s", hl_last_error());
    for (size_t i = 0; i < m->graph->param_count; i++) {
        hl_param *p = m->graph->params[i];
        hl_rng rng = hl_rng_make(sub, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; hl_param_is_adapted(p) && k < p->count; k++)
            p->host[k] += (p->role == HL_PARAM_NORM_VAR ? 0.3f : 0.05f) *
                          (p->role == HL_PARAM_NORM_VAR ? hl_rng_uniform(&rng) : hl_rng_normal(&rng));
    }
    if (classes <= 4)
        cr_assert_eq(hl_model_set_class_names(m, names + (4 - classes), classes), HL_OK);
    cr_assert_eq(mkdir(path, 0777), 0);
    snprintf(file, sizeof file, "%s/adapter.safetensors", path);
    cr_assert_eq(hl_model_save_adapter(m, file), HL_OK, "%s", hl_last_error());
    hl_model_destroy(m);
    return path;
}

static void predict(hl_model *m, float *logits)
{
    const hl_compute compute = {.device = test_device(), .threads = 1};
    char *paths[IMAGES] = {scratch_path(folder, "test/class00/000.png"),
                           scratch_path(folder, "test/class00/001.png"),
                           scratch_path(folder, "test/class01/000.png")};
    cr_assert_eq(hl_predict(m, (const char *const *)paths, IMAGES, 2, &compute, logits, NULL), HL_OK, "%s",
                 hl_last_error());
    for (int i = 0; i < IMAGES; i++)
        free(paths[i]);
}

static hl_model *opened(const char *path, bool merge)
{
    hl_model *m;
    cr_assert_eq(hl_model_open_run(path, NULL, merge, NULL, &m), HL_OK, "%s", hl_last_error());
    return m;
}

typedef struct member {
    const char *name, *method;
    hl_norm_mode norm;
    int64_t classes;
} member;

/* Gates, norms with and without statistics that move, everything, and the head alone: in an order in which
 * each has to undo what the one before did, with heads of two sizes. */
Test(swap, every_adapter_says_what_its_run_says)
{
    static const member bank[] = {
        {"a", "projection", HL_NORM_DEFAULT, 4}, {"b", "projection", HL_NORM_DEFAULT, 4},
        {"c", "full", HL_NORM_DEFAULT, 4},       {"d", "projection:scope=dense", HL_NORM_AFFINE, 2},
        {"e", "linear", HL_NORM_DEFAULT, 2},     {"f", "norm", HL_NORM_UPDATE, 4}};
    enum { MEMBERS = sizeof bank / sizeof *bank };
    float want[MEMBERS][IMAGES * MOST], have[IMAGES * MOST];
    char *paths[MEMBERS];
    for (uint32_t i = 0; i < MEMBERS; i++) {
        paths[i] = run(bank[i].name, bank[i].method, bank[i].norm, bank[i].classes, TOY_SIZE, i);
        hl_model *alone = opened(paths[i], true);
        predict(alone, want[i]);
        hl_model_destroy(alone);
    }
    hl_model *m = opened(paths[0], false);
    cr_assert_eq(unlink(weights), 0); /* the backbone is not read again */
    static const int order[] = {0, 1, 2, 0, 5, 4, 3, 1, 2, 3, 0};
    for (size_t k = 0; k < sizeof order / sizeof *order; k++) {
        const member *b = &bank[order[k]];
        cr_assert_eq(hl_model_swap_adapter(m, paths[order[k]]), HL_OK, "%s", hl_last_error());
        cr_expect_eq(hl_model_classes(m), b->classes);
        cr_expect_str_eq(hl_model_class_name(m, 0), b->classes == 4 ? "cat" : "elk");
        predict(m, have);
        cr_expect_eq(memcmp(have, want[order[k]], (size_t)(IMAGES * b->classes) * sizeof *have), 0,
                     "%s after %zu others", b->method, k);
    }
    hl_model_destroy(m);
    for (int i = 0; i < MEMBERS; i++)
        free(paths[i]);
}

Test(swap, equal_methods_go_on_with_the_programs_there_are)
{
    float first[IMAGES * MOST], second[IMAGES * MOST];
    char *a = run("a", "projection", HL_NORM_DEFAULT, 4, TOY_SIZE, 0),
         *b = run("b", "projection", HL_NORM_DEFAULT, 4, TOY_SIZE, 1);
    hl_model *m = opened(a, false);
    predict(m, first);
    const hl_program *program = m->inference->slots[0].program;
    const hl_graph *graph = m->graph;
    cr_assert_not_null(program);
    cr_assert_eq(hl_model_swap_adapter(m, b), HL_OK, "%s", hl_last_error());
    predict(m, second);
    cr_expect(m->graph == graph && m->inference->slots[0].program == program &&
              m->inference->slots[1].program == NULL);
    cr_expect_neq(memcmp(first, second, sizeof first), 0);
    hl_model_destroy(m);
    free(a);
    free(b);
}

static void refused(hl_model *m, const char *path, const char *part)
{
    cr_expect_eq(hl_model_swap_adapter(m, path), HL_E_INPUT, "%s", path);
    cr_expect_not_null(strstr(hl_last_error(), part), "'%s' is not in: %s", part, hl_last_error());
}

Test(swap, runs_of_other_networks_are_refused_and_change_nothing)
{
    float before[IMAGES * MOST], after[IMAGES * MOST];
    char *a = run("a", "projection", HL_NORM_DEFAULT, 4, TOY_SIZE, 0),
         *size = run("size", "projection", HL_NORM_DEFAULT, 4, TOY_SIZE + 32, 0), *kept = weights;
    weights = NULL;
    hl_model *other = fresh(4, TOY_SIZE, 9);
    weights = kept;
    char *base = scratch_path(folder, "base"), file[600];
    cr_assert_eq(hl_model_apply_method(other, "projection", HL_NORM_DEFAULT, 0), HL_OK);
    cr_assert_eq(mkdir(base, 0777), 0);
    snprintf(file, sizeof file, "%s/adapter.safetensors", base);
    cr_assert_eq(hl_model_save_adapter(other, file), HL_OK, "%s", hl_last_error());
    hl_model_destroy(other);
    other = toy_model("squeezenet1_1", 4, "projection", HL_NORM_DEFAULT);
    char *model = scratch_path(folder, "model.safetensors");
    cr_assert_eq(hl_model_save_adapter(other, model), HL_OK, "%s", hl_last_error());
    hl_model_destroy(other);

    hl_model *m = opened(a, false);
    predict(m, before);
    refused(m, size, "preprocessing differs: 64 of 64");
    refused(m, base, "base differs");
    refused(m, model, "model differs: squeezenet1_1, here mobilenet_v2");
    refused(m, weights, "no heirloom adapter");
    cr_expect_eq(hl_model_swap_adapter(m, "nowhere"), HL_E_NOT_FOUND);
    predict(m, after);
    cr_expect_eq(memcmp(before, after, sizeof before), 0);
    hl_model_destroy(m);

    hl_model *merged = opened(a, true);
    cr_expect_eq(hl_model_swap_adapter(merged, a), HL_E_ARG);
    hl_model_destroy(merged);
    free(a);
    free(size);
    free(base);
    free(model);
}
