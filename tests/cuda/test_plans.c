/* cuDNN graphs of every model (all of some, of the others one for each kind of step in bf16 and fp32),
 * planned by the real cuDNN for a device that need not be there: an H100 described by
 * fixtures/cuda/h100.json. A plan shows that cuDNN has an engine for the graph; it says nothing about speed.
 */
#include <criterion/criterion.h>
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

/* One planner a precision: graphs that models share are planned once. */
static hl_backend *open_planner(void)
{
    char json[4096] = "";
    FILE *file = fopen("tests/fixtures/cuda/h100.json", "r");
    cr_assert_not_null(file);
    cr_assert_gt(fread(json, 1, sizeof json - 1, file), 0);
    fclose(file);
    hl_backend *planner;
    const hl_backend_options options = {.deterministic = false};
    cr_assert_eq(hl_cuda_planner_open(json, &options, &planner), HL_OK, "%s", hl_last_error());
    return planner;
}

/* ---- kinds of steps: a zoo of a hundred networks has some thousand graphs, but not many kinds ---- */

enum { KINDS = 8192, KIND_SIZE = 400 };

typedef struct kinds {
    char text[KINDS][KIND_SIZE];
    int count;
} kinds;

static void describe_tensor(const hl_tensor *t, char *buf, size_t size)
{
    if (t == NULL)
        snprintf(buf, size, "-");
    else
        snprintf(buf, size, "%d%s%s/%d", (int)t->elem, t->opaque ? "o" : "",
                 t->shape.h == 1 && t->shape.w == 1 ? "v" : "",
                 t->shape.c % 8 == 0 ? 8 : (int)t->shape.c % 8);
}

/* What an engine's support may hang on: the operation, its window and groups, and how operands are aligned;
 * not sizes. */
static void describe(const hl_step *step, char *buf, size_t size)
{
    int used = snprintf(buf, size, "%s", hl_step_kind_name(step->kind));
    bool conv = step->kind == HL_STEP_FOLD || step->kind == HL_STEP_CONV || step->kind == HL_STEP_CONV_DATA ||
                step->kind == HL_STEP_CONV_WEIGHT;
    if (conv) {
        const hl_window *w = &step->conv.window;
        const hl_weight_expr *e = step->conv.expr;
        used += snprintf(buf + used, size - (size_t)used,
                         " %lldx%lld/%lld:%lld %lld,%lld,%lld,%lld g%lld i%lld o%lld a%d s%d",
                         (long long)w->kh, (long long)w->kw, (long long)w->sh, (long long)w->dh,
                         (long long)w->top, (long long)w->bottom, (long long)w->left, (long long)w->right,
                         (long long)(step->conv.groups > 1), (long long)e->weight->shape[1] % 8,
                         (long long)(e->weight->shape[0] / step->conv.groups) % 8, (int)step->conv.act,
                         step->conv.subfunction);
    }
    for (int i = 0; i < step->in_count + step->out_count && used + 16 < (int)size; i++) {
        char text[16];
        describe_tensor(i < step->in_count ? step->in[i] : step->out[i - step->in_count], text, sizeof text);
        used += snprintf(buf + used, size - (size_t)used, " %s", text);
    }
}

/* Notes the step's kind; was it there before? */
static bool is_known(kinds *k, const hl_step *step)
{
    char text[KIND_SIZE];
    describe(step, text, sizeof text);
    for (int i = 0; i < k->count; i++)
        if (strcmp(k->text[i], text) == 0)
            return true;
    cr_assert_lt(k->count, KINDS);
    strcpy(k->text[k->count++], text);
    return false;
}

/* A layer's steps are prepared together, since they share its packed weights: where one is of a new kind, all
 * are. */
static void choose_steps(const hl_step_list *const *lists, kinds *k, bool **chosen)
{
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            chosen[l][i] = !is_known(k, lists[l]->items[i]);
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            for (int m = 0; m < 4 && !chosen[l][i]; m++)
                for (size_t j = 0; j < lists[m]->count && !chosen[l][i]; j++)
                    chosen[l][i] =
                        chosen[m][j] && strcmp(lists[m]->items[j]->name, lists[l]->items[i]->name) == 0;
}

/* Prepares every step of a training program, also behind one that has no plan; with `k` those of layers that
 * have something new. */
static int prepare_all(hl_backend *planner, hl_graph *graph, const number *p, int64_t batch,
                       const char *model, kinds *k)
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
    bool *chosen[4];
    int failures = 0;
    for (int l = 0; l < 4; l++) {
        chosen[l] = malloc(lists[l]->count + 1);
        memset(chosen[l], true, lists[l]->count);
    }
    if (k != NULL)
        choose_steps(lists, k, chosen);
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            if (chosen[l][i] && planner->ops->prepare(planner, lists[l]->items[i]) != HL_OK) {
                fprintf(stderr, "%s, %s, batch %lld: %s\n", model, p->name, (long long)batch,
                        hl_last_error());
                failures++;
            }
    for (int l = 0; l < 4; l++)
        for (size_t i = 0; i < lists[l]->count; i++)
            if (chosen[l][i])
                planner->ops->release(planner, lists[l]->items[i]);
    for (int l = 0; l < 4; l++)
        free(chosen[l]);
    hl_code_free(&code);
    hl_arena_destroy(arena);
    return failures;
}

static int plan_model(hl_backend *planner, const hl_model_info *info, const char *method_text,
                      const number *p, const int64_t *batches, int count, kinds *k)
{
    hl_graph *graph;
    hl_method method;
    int failures = 0;
    cr_assert_eq(hl_model_build(info, info->image_size, 1000, &graph), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_method_parse(method_text, &method), HL_OK);
    cr_assert_eq(hl_method_apply(graph, &method, HL_NORM_DEFAULT, 0), HL_OK);
    cr_assert_eq(hl_graph_place(graph, planner), HL_OK);
    for (int b = 0; b < count; b++)
        failures += prepare_all(planner, graph, p, batches[b], info->name, k);
    hl_graph_destroy(graph);
    return failures;
}

/* Of these every graph is planned, for three sizes of batches. */
static bool in_full(const char *name)
{
    static const char *const names[] = {"mobilenet_v2", "resnet18", "resnet34", "resnet50",
                                        "efficientnet_lite"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(name, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

static void plan_all(const number *p)
{
    static const int64_t batches[] = {1, 32, 256}, batch[] = {32};
    hl_backend *planner = open_planner();
    kinds *k = calloc(1, sizeof *k);
    int failures = 0;
    cr_assert_not_null(k);
    for (int m = 0; m < hl_model_count(); m++) {
        const hl_model_info *info = hl_model_at(m);
        bool full = in_full(info->name);
        if (!full &&
            (p->tf32 || p->elem == HL_ELEM_F16)) /* engines that take bf16 take fp16, likewise fp32, tf32 */
            continue;
        /* Frozen norms folded and gates; batch statistics and plain weights. */
        static const char *const methods[] = {"projection", "full"};
        for (int i = 0; i < 2; i++)
            failures += plan_model(planner, info, methods[i], p, full ? batches : batch, full ? 3 : 1,
                                   full ? NULL : k);
    }
    hl_cuda_plan_counts counts = hl_cuda_count_plans(planner);
    printf("%s: %d graphs have plans, %d of them compiled at run time; %d requests found one made before; %d "
           "kinds of "
           "steps\n",
           p->name, counts.plans, counts.compiled, counts.reused, k->count);
    hl_backend_close(planner);
    free(k);
    cr_assert_eq(failures, 0, "%d graphs have no plan, see above", failures);
    cr_assert_gt(counts.plans, 100);
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
