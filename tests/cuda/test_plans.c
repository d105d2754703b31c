/* Every cuDNN graph of every model, planned by the real cuDNN for a device that need not be there: an H100
 * described by fixtures/cuda/h100.json. A plan shows that cuDNN has an engine for the graph; it says nothing
 * about speed.
 *
 * By default of all models in bf16 and fp32 for batches of 32, and of some in every precision for three sizes
 * of batches; with HEIRLOOM_TEST_EVERYTHING set, everything of all (four times as long). */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda_backend.h"
#include "graph/lower.h"
#include "graph/params.h"
#include "method/method.h"
#include "models/registry.h"

typedef struct number {
    const char *name;
    hl_elem elem;
    bool tf32;
} number;

/* cuDNN opens the run-time compiler for every plan and, without a driver, closes it again: a library of a
 * hundred megabytes, whose relocations are nine tenths of the time. Not where it is held open. */
static void hold_compiler(void)
{
    static const char *const names[] = {"libnvrtc.so.12", "libnvrtc.so.13"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        dlopen(names[i], RTLD_LAZY); /* without it, it is only slower */
}

/* One planner a precision: graphs that models share are planned once. */
static hl_backend *open_planner(void)
{
    char json[4096] = "";
    hold_compiler();
    FILE *file = fopen("tests/fixtures/cuda/h100.json", "r");
    cr_assert_not_null(file);
    cr_assert_gt(fread(json, 1, sizeof json - 1, file), 0);
    fclose(file);
    hl_backend *planner;
    const hl_backend_options options = {.deterministic = false};
    cr_assert_eq(hl_cuda_planner_open(json, &options, &planner), HL_OK, "%s", hl_last_error());
    return planner;
}

/* Prepares every step of a training program, also behind one that has no plan. */
static int prepare_all(hl_backend *planner, hl_graph *graph, const number *p, int64_t batch,
                       const char *model)
{
    const hl_run_state run = {.grad_scale = 1.0f};
    const hl_compile_options options = {
        .batch = batch, .training = true, .elem = p->elem, .tf32 = p->tf32, .run = &run, .std = {1, 1, 1, 1}};
    hl_arena *arena;
    cr_assert_eq(hl_arena_create(&arena), HL_OK);
    hl_code code = {.arena = arena, .options = &options, .backend = planner};
    cr_assert_eq(hl_units_form(graph, &options, arena, &code.units), HL_OK);
    cr_assert_eq(hl_lower(&code), HL_OK, "%s", hl_last_error());
    const hl_step_list *const lists[] = {&code.forward, &code.backward, &code.once, &code.refresh};
    int failures = 0;
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            if (planner->ops->prepare(planner, lists[l]->items[i]) != HL_OK) {
                fprintf(stderr, "%s, %s, batch %lld: %s\n", model, p->name, (long long)batch,
                        hl_last_error());
                failures++;
            }
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            planner->ops->release(planner, lists[l]->items[i]);
    hl_code_free(&code);
    hl_arena_destroy(arena);
    return failures;
}

static int plan_model(hl_backend *planner, const hl_model_info *info, int64_t channels,
                      const char *method_text, const number *p, bool thorough)
{
    static const int64_t batches[] = {32, 1, 256};
    hl_graph *graph;
    hl_method method;
    int failures = 0;
    cr_assert_eq(hl_model_build_for(info, info->image_size, channels, 1000, &graph), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(hl_method_parse(method_text, &method), HL_OK);
    cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 0), HL_OK);
    cr_assert_eq(hl_graph_place(graph, planner), HL_OK);
    for (int b = 0; b < (thorough ? 3 : 1); b++)
        failures += prepare_all(planner, graph, p, batches[b], info->name);
    hl_graph_destroy(graph);
    return failures;
}

static bool is_thorough(const char *name)
{
    static const char *const names[] = {"mobilenet_v2", "resnet18", "resnet34", "resnet50",
                                        "efficientnet_lite"};
    if (getenv("HEIRLOOM_TEST_EVERYTHING") != NULL)
        return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* One model for every window that images are read with. */
static bool has_a_stem_of_its_own(const char *name)
{
    static const char *const names[] = {"alexnet",      "vgg11",         "resnet18",      "squeezenet1_0",
                                        "mobilenet_v2", "squeezenet1_1", "convnext_tiny", "inception_v3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static void plan_all(const number *p)
{
    hl_backend *planner = open_planner();
    int failures = 0;
    for (int m = 0; m < hl_model_count(); m++) {
        const hl_model_info *info = hl_model_at(m);
        bool thorough = is_thorough(info->name);
        /* Engines that take bf16 take fp16, and those that take fp32 take tf32. */
        if (!thorough && (p->tf32 || p->elem == HL_ELEM_F16))
            continue;
        /* Frozen norms folded and gates; batch statistics and plain weights. */
        failures += plan_model(planner, info, 3, "projection", p, thorough);
        failures += plan_model(planner, info, 3, "full", p, thorough);
        /* The first convolution alone is another for grey and RGBA; the rest is found again. */
        for (int64_t channels = 1; channels <= 4 && has_a_stem_of_its_own(info->name); channels += 3)
            failures += plan_model(planner, info, channels, "projection", p, false);
    }
    hl_cuda_plan_counts counts = hl_cuda_count_plans(planner);
    printf("%s: %d graphs have plans, %d of them compiled at run time; %d requests found one made before\n",
           p->name, counts.plans, counts.compiled, counts.reused);
    hl_backend_close(planner);
    cr_assert_eq(failures, 0, "%d graphs have no plan, see above", failures);
    cr_assert_gt(counts.plans, 100);
}

/* Layers that methods insert: grouped, narrow, of odd widths. */
Test(plans, inserted_layers)
{
    static const char *const models[] = {"resnet50", "mobilenet_v2", "resnext50_32x4d", "regnet_y_400mf"},
                             *const methods[] = {"conv-adapter", "residual-adapter:series=1", "repadapter"};
    static const number numbers[] = {{"bf16", HL_ELEM_BF16, false}, {"fp32", HL_ELEM_F32, false}};
    int failures = 0;
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        hl_backend *planner = open_planner();
        for (size_t m = 0; m < sizeof models / sizeof *models; m++)
            for (size_t k = 0; k < sizeof methods / sizeof *methods; k++) {
                const hl_model_info *info;
                cr_assert_eq(hl_model_find(models[m], &info), HL_OK);
                failures += plan_model(planner, info, 3, methods[k], &numbers[n], false);
            }
        hl_backend_close(planner);
    }
    cr_assert_eq(failures, 0, "%d graphs have no plan, see above", failures);
}

Test(plans, bf16)
{
    plan_all(&(number){"bf16", HL_ELEM_BF16, false});
}

Test(plans, fp16)
{
    plan_all(&(number){"fp16", HL_ELEM_F16, false});
}

Test(plans, tf32)
{
    plan_all(&(number){"tf32", HL_ELEM_F32, true});
}

Test(plans, fp32)
{
    plan_all(&(number){"fp32", HL_ELEM_F32, false});
}
