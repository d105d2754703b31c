/* What projected networks compute: at the start, and with their gates merged into the weights. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "graph/params.h"
#include "graph/program.h"
#include "method/method.h"
#include "models/registry.h"
#include "support/device.h"
#include "support/formula.h"

enum { BATCH = 2, SIDE = 32, CLASSES = 5 };

static hl_graph *filled(const char *model, const char *method_text)
{
    const hl_model_info *info;
    hl_method method;
    hl_graph *graph;
    cr_assert_eq(hl_model_find(model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, SIDE, CLASSES, &graph), HL_OK, "%s", hl_last_error());
    formula_fill(graph);
    cr_assert_eq(hl_method_parse(method_text, &method), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 7), HL_OK, "%s", hl_last_error());
    return graph;
}

static void logits_of(hl_graph *graph, hl_projection_exec exec, float out[BATCH * CLASSES])
{
    hl_backend *backend = test_backend(1);
    hl_program *program;
    const hl_run_state run = {.grad_scale = 1.0f};
    const hl_compile_options options = {.batch = BATCH, .raw_input = true, .projection = exec, .run = &run};
    cr_assert_eq(hl_graph_place(graph, backend), HL_OK);
    cr_assert_eq(hl_program_compile(graph, backend, &options, &program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK); /* its memory is cleared */
    formula_images(hl_program_images(program), BATCH * SIDE * SIDE * 3);
    cr_assert_eq(hl_program_forward(program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
    memcpy(out, hl_program_logits(program), sizeof(float) * BATCH * CLASSES);
    hl_program_destroy(program);
    hl_graph_destroy(graph);
    hl_backend_close(backend);
}

static void expect_near(const float *a, const float *b)
{
    double scale = 0.0;
    for (int i = 0; i < BATCH * CLASSES; i++)
        scale = fmax(scale, fabs((double)a[i]));
    cr_assert_gt(scale, 0.0);
    for (int i = 0; i < BATCH * CLASSES; i++)
        cr_assert_float_eq(a[i], b[i], 2e-5 * scale, "logit %d: %g and %g", i, (double)a[i], (double)b[i]);
}

Test(projection, step_0_is_the_pretrained_network)
{
    static const char *const models[] = {"mobilenet_v2", "resnet18", "efficientnet_lite0"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        float plain[BATCH * CLASSES], fold[BATCH * CLASSES], cache[BATCH * CLASSES];
        logits_of(filled(models[i], "linear"), HL_PROJECTION_AUTO, plain);
        logits_of(filled(models[i], "projection"), HL_PROJECTION_FOLD, fold);
        logits_of(filled(models[i], "projection"), HL_PROJECTION_AUTO, cache);
        cr_assert_eq(memcmp(plain, fold, sizeof plain), 0, "%s: folding 1 is exact", models[i]);
        expect_near(plain, cache);
    }
}

Test(projection, merged_weights_give_the_same_logits)
{
    static const char *const models[] = {"mobilenet_v2", "resnet18", "efficientnet_lite0"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        float gates[BATCH * CLASSES], merged[BATCH * CLASSES];
        const char *method = "projection:init-noise=0.3";
        hl_graph *graph = filled(models[i], method);
        cr_assert_eq(hl_method_merge(graph), HL_OK, "%s", hl_last_error());
        for (size_t p = 0; p < graph->param_count; p++)
            cr_assert_neq(graph->params[p]->role, HL_PARAM_GATE, "%s", graph->params[p]->name);
        logits_of(graph, HL_PROJECTION_AUTO, merged);
        logits_of(filled(models[i], method), HL_PROJECTION_AUTO, gates);
        expect_near(gates, merged);
        logits_of(filled(models[i], method), HL_PROJECTION_FOLD, gates);
        expect_near(gates, merged);
    }
}
