/* From an operation graph to an execution plan. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn_graph.h"
#include "backend/cuda/plan_store.h"
#include "base/log.h"
#include "base/memory.h"

enum { CANDIDATES = 64, TIMED = 12, TIMED_RUNS = 5 };

typedef struct cached_plan {
    char *text; /* of the graph */
    cudnnBackendDescriptor_t plan;
    cudnnBackendDescriptor_t
        parts[HL_CUDNN_MADE + HL_PLAN_KNOBS + 3]; /* what it was made of, which lives as long */
    int part_count;
    size_t workspace;
    bool compiled;
} cached_plan;

struct hl_cuda_plans {
    cached_plan *items;
    size_t count, capacity;
    int reused;
    hl_plan_store *store;
};

hl_status hl_cuda_plans_open(hl_cuda *cuda)
{
    char identity[400];
    hl_cuda_device device;
    cuda->plans = calloc(1, sizeof *cuda->plans);
    if (cuda->plans == NULL)
        return hl_fail_nomem("plans", sizeof *cuda->plans);
    if (cuda->planner)
        return HL_OK;
    HL_TRY(hl_cuda_describe(cuda->number, &device));
    snprintf(identity, sizeof identity, "cuDNN %zu, CUDA %d, %s, %d.%d, %d multiprocessors%s%s",
             cudnnGetVersion(), CUDART_VERSION, device.name, device.major, device.minor,
             device.multiprocessors, cuda->deterministic ? ", deterministic" : "",
             cuda->autotune ? ", timed" : "");
    return hl_plan_store_open(identity, &cuda->plans->store);
}

void hl_cuda_plans_close(hl_cuda *cuda)
{
    hl_cuda_plans *plans = cuda->plans;
    if (plans == NULL)
        return;
    for (size_t i = 0; i < plans->count; i++) {
        cudnnBackendDestroyDescriptor(plans->items[i].plan);
        while (plans->items[i].part_count > 0)
            cudnnBackendDestroyDescriptor(plans->items[i].parts[--plans->items[i].part_count]);
        free(plans->items[i].text);
    }
    hl_plan_store_close(plans->store);
    free(plans->items);
    free(plans);
    cuda->plans = NULL;
}

hl_cuda_plan_counts hl_cuda_count_plans(const hl_backend *backend)
{
    const hl_cuda_plans *plans = ((const hl_cuda *)backend)->plans;
    hl_cuda_plan_counts counts = {.plans = (int)plans->count, .reused = plans->reused};
    for (size_t i = 0; i < plans->count; i++)
        counts.compiled += plans->items[i].compiled;
    return counts;
}

static void destroy(cudnnBackendDescriptor_t *desc)
{
    if (*desc != NULL)
        cudnnBackendDestroyDescriptor(*desc);
    *desc = NULL;
}

static hl_status create(const hl_cudnn_graph *g, cudnnBackendDescriptorType_t type,
                        cudnnBackendDescriptor_t *desc)
{
    *desc = NULL;
    return hl_cudnn_status(cudnnBackendCreateDescriptor(type, desc), g->subject, "plan a graph");
}

static hl_status set(const hl_cudnn_graph *g, cudnnBackendDescriptor_t desc, cudnnBackendAttributeName_t name,
                     cudnnBackendAttributeType_t type, int64_t count, const void *value)
{
    return hl_cudnn_status(cudnnBackendSetAttribute(desc, name, type, count, value), g->subject,
                           "plan a graph");
}

/* The device that a plan is for: a handle's, or the planner's described one. */
static hl_status set_device(const hl_cudnn_graph *g, cudnnBackendDescriptor_t desc,
                            cudnnBackendAttributeName_t handle, cudnnBackendAttributeName_t properties)
{
    if (g->cuda->planner)
        return set(g, desc, properties, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &g->cuda->device_properties);
    return (int)handle == 0 ? HL_OK : set(g, desc, handle, CUDNN_TYPE_HANDLE, 1, &g->cuda->cudnn);
}

static hl_status make_operations(const hl_cudnn_graph *g, cudnnBackendDescriptor_t *operations)
{
    HL_TRY(create(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, operations));
    HL_TRY(set(g, *operations, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count,
               g->ops));
    if (!g->cuda->planner)
        HL_TRY(set(g, *operations, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->cuda->cudnn));
    return hl_cudnn_status(cudnnBackendFinalize(*operations), g->subject, "plan a graph");
}

/* One way to compute a graph: an engine with its knobs, and the plan once that is made. */
typedef struct candidate {
    cudnnBackendDescriptor_t config, plan;
    cudnnBackendDescriptor_t engine, knobs[HL_PLAN_KNOBS]; /* of a choice kept on disk */
    size_t workspace;
    bool compiled;
    hl_plan_choice choice;
} candidate;

static void drop(candidate *c)
{
    destroy(&c->plan);
    destroy(&c->config);
    destroy(&c->engine);
    for (int k = 0; k < HL_PLAN_KNOBS; k++)
        destroy(&c->knobs[k]);
}

/* Asks one heuristic; adds what it proposes. A heuristic that knows nothing is no failure. */
static hl_status ask(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations,
                     cudnnBackendHeurMode_t mode, candidate *list, int *count)
{
    cudnnBackendDescriptor_t heuristic, configs[CANDIDATES] = {NULL};
    int64_t room = CANDIDATES - *count, found = 0;
    HL_TRY(create(g, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristic));
    hl_status status = set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                           1, &operations);
    if (status == HL_OK)
        status = set(g, heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    if (status == HL_OK)
        status = set_device(g, heuristic, (cudnnBackendAttributeName_t)0, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP);
    for (int64_t i = 0; status == HL_OK && i < room; i++)
        status = create(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]);
    if (status == HL_OK && cudnnBackendFinalize(heuristic) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendGetAttribute(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 room, &found, configs) != CUDNN_STATUS_SUCCESS)
        found = 0;
    found = found < room ? found : room;
    for (int64_t i = 0; i < room; i++) {
        if (status == HL_OK && i < found)
            list[(*count)++] = (candidate){.config = configs[i]};
        else
            destroy(&configs[i]);
    }
    destroy(&heuristic);
    return status;
}

static bool has_note(cudnnBackendDescriptor_t engine, cudnnBackendAttributeName_t name,
                     cudnnBackendAttributeType_t type, int note)
{
    int notes[16];
    int64_t count = 0;
    if (cudnnBackendGetAttribute(engine, name, type, 16, &count, notes) != CUDNN_STATUS_SUCCESS)
        return false;
    for (int64_t i = 0; i < count && i < 16; i++)
        if (notes[i] == note)
            return true;
    return false;
}

static bool numerically(cudnnBackendDescriptor_t engine, cudnnBackendNumericalNote_t note)
{
    return has_note(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, (int)note);
}

/* Does the engine compute what was asked for? The reason why not, or NULL. */
static const char *refusal(const hl_cudnn_graph *g, cudnnBackendDescriptor_t engine)
{
    if (g->cuda->deterministic && numerically(engine, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC))
        return "it is not deterministic";
    if (g->single && !g->tf32 &&
        (numerically(engine, CUDNN_NUMERICAL_NOTE_TENSOR_CORE) ||
         numerically(engine, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS)))
        return "it rounds fp32 to tf32";
    if (numerically(engine, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION))
        return "it sums in reduced precision";
    return NULL;
}

static void read_knobs(cudnnBackendDescriptor_t config, hl_plan_choice *choice)
{
    cudnnBackendDescriptor_t knobs[HL_PLAN_KNOBS] = {NULL};
    int64_t count = 0, one;
    for (int i = 0; i < HL_PLAN_KNOBS; i++)
        if (cudnnBackendCreateDescriptor(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &knobs[i]) !=
            CUDNN_STATUS_SUCCESS)
            knobs[i] = NULL;
    if (cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 HL_PLAN_KNOBS, &count, knobs) != CUDNN_STATUS_SUCCESS)
        count = 0;
    for (int64_t i = 0; i < count && i < HL_PLAN_KNOBS; i++) {
        cudnnBackendKnobType_t type;
        int64_t value;
        if (cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1,
                                     &one, &type) != CUDNN_STATUS_SUCCESS ||
            cudnnBackendGetAttribute(knobs[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &one,
                                     &value) != CUDNN_STATUS_SUCCESS)
            continue;
        choice->knob[choice->knob_count] = type;
        choice->value[choice->knob_count++] = value;
    }
    for (int i = 0; i < HL_PLAN_KNOBS; i++)
        destroy(&knobs[i]);
}

/* Looks at a candidate's engine and makes its plan. False: not this one, *why says why not. */
static bool make_plan(const hl_cudnn_graph *g, candidate *c, const char **why)
{
    cudnnBackendDescriptor_t engine = NULL;
    int64_t count, workspace = 0;
    *why = "cuDNN does not make a plan of it";
    if (create(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine) != HL_OK)
        return false;
    bool good =
        cudnnBackendGetAttribute(c->config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
                                 &count, &engine) == CUDNN_STATUS_SUCCESS &&
        cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count,
                                 &c->choice.engine) == CUDNN_STATUS_SUCCESS;
    c->compiled = good && has_note(engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                                   CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
    const char *refused = good ? refusal(g, engine) : NULL;
    destroy(&engine);
    if (refused != NULL)
        *why = refused;
    good = good && refused == NULL && create(g, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &c->plan) == HL_OK &&
           set(g, c->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1,
               &c->config) == HL_OK &&
           set_device(g, c->plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP) ==
               HL_OK &&
           cudnnBackendFinalize(c->plan) == CUDNN_STATUS_SUCCESS &&
           cudnnBackendGetAttribute(c->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1,
                                    &count, &workspace) == CUDNN_STATUS_SUCCESS;
    c->workspace = (size_t)workspace;
    if (good && c->workspace > g->cuda->workspace_limit) {
        *why = "it wants more workspace than the limit";
        good = false;
    }
    if (!good)
        destroy(&c->plan);
    return good;
}

/* ---- timing ---- */

static hl_status time_plan(const hl_cudnn_graph *g, candidate *c, void *const *pointers, void *workspace,
                           cudaEvent_t *events, float *best)
{
    hl_cudnn_call call = {.plan = c->plan, .workspace = c->workspace};
    for (int i = 0; i < g->tensor_count; i++)
        if (!g->tensors[i].is_virtual)
            call.uids[call.operands++] = i + 1;
    *best = 1e30f;
    hl_status status = hl_cudnn_bind(&call, pointers, workspace, g->subject);
    for (int run = 0; status == HL_OK && run <= TIMED_RUNS; run++) {
        float ms;
        HL_TRY_GOTO(hl_cuda_status(cudaEventRecord(events[0], g->cuda->compute), g->subject, "time a plan"),
                    status, done);
        HL_TRY_GOTO(hl_cudnn_run(g->cuda, &call, g->subject), status, done);
        HL_TRY_GOTO(hl_cuda_status(cudaEventRecord(events[1], g->cuda->compute), g->subject, "time a plan"),
                    status, done);
        HL_TRY_GOTO(hl_cuda_status(cudaEventSynchronize(events[1]), g->subject, "time a plan"), status, done);
        HL_TRY_GOTO(
            hl_cuda_status(cudaEventElapsedTime(&ms, events[0], events[1]), g->subject, "time a plan"),
            status, done);
        if (run > 0 && ms < *best) /* the first loads the code */
            *best = ms;
    }
done:
    call.plan = NULL;
    hl_cudnn_release(&call);
    return status;
}

/* Runs the plans on memory of the right sizes, and puts the fastest first. */
static hl_status sort_by_time(const hl_cudnn_graph *g, candidate *list, int count)
{
    void *pointers[HL_CUDNN_TENSORS] = {NULL}, *workspace = NULL;
    float scalars[HL_CUDNN_TENSORS] = {0}, best, fastest = 1e30f;
    cudaEvent_t events[2] = {NULL, NULL};
    size_t most = 0;
    int n = 0, winner = 0;
    hl_status status = HL_OK;
    for (int i = 0; i < count; i++)
        most = list[i].workspace > most ? list[i].workspace : most;
    for (int i = 0; i < 2; i++)
        HL_TRY_GOTO(
            hl_cuda_status(cudaEventCreateWithFlags(&events[i], cudaEventDefault), g->subject, "time plans"),
            status, done);
    for (int i = 0; i < g->tensor_count; i++) {
        if (g->tensors[i].is_virtual)
            continue;
        if (g->tensors[i].is_scalar)
            pointers[n] = &scalars[i];
        else
            HL_TRY_GOTO(hl_cuda_alloc(&g->cuda->base, g->tensors[i].bytes, "timing", &pointers[n]), status,
                        done);
        n++;
    }
    HL_TRY_GOTO(hl_cuda_alloc(&g->cuda->base, most, "timing", &workspace), status, done);
    for (int i = 0; i < count; i++) {
        HL_TRY_GOTO(time_plan(g, &list[i], pointers, workspace, events, &best), status, done);
        if (best < fastest) {
            fastest = best;
            winner = i;
        }
    }
    candidate first = list[winner];
    list[winner] = list[0];
    list[0] = first;
done:
    n = 0;
    for (int i = 0; i < g->tensor_count; i++) {
        if (g->tensors[i].is_virtual)
            continue;
        if (!g->tensors[i].is_scalar)
            hl_cuda_free(&g->cuda->base, pointers[n]);
        n++;
    }
    hl_cuda_free(&g->cuda->base, workspace);
    for (int i = 0; i < 2; i++)
        if (events[i] != NULL)
            cudaEventDestroy(events[i]);
    return status;
}

/* ---- choosing ---- */

/* The first candidate that will do; with autotune the fastest of the first few. */
static hl_status choose(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations, candidate *chosen)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    candidate list[CANDIDATES] = {{0}};
    int count = 0, good = 0, wanted = g->cuda->autotune && !g->cuda->planner ? TIMED : 1;
    const char *why = "cuDNN knows no engine for it";
    hl_status status = HL_OK;
    for (size_t m = 0; m < sizeof modes / sizeof *modes && status == HL_OK && good == 0; m++) {
        int first = count;
        status = ask(g, operations, modes[m], list, &count);
        for (int i = first; status == HL_OK && i < count && good < wanted; i++)
            if (make_plan(g, &list[i], &why)) {
                candidate swap = list[good];
                list[good++] = list[i];
                list[i] = swap;
            }
    }
    if (status == HL_OK && good == 0)
        status = hl_fail(HL_E_UNSUPPORTED, g->subject, NULL, "cuDNN has no plan for %s: %s", g->text, why);
    if (status == HL_OK && good > 1)
        status = sort_by_time(g, list, good);
    if (status == HL_OK) {
        *chosen = list[0];
        list[0] = (candidate){0};
        read_knobs(chosen->config, &chosen->choice);
    }
    for (int i = 0; i < count; i++)
        drop(&list[i]);
    return status;
}

static hl_status set_knobs(const hl_cudnn_graph *g, candidate *c)
{
    for (int k = 0; k < c->choice.knob_count; k++) {
        cudnnBackendKnobType_t type = (cudnnBackendKnobType_t)c->choice.knob[k];
        HL_TRY(create(g, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, &c->knobs[k]));
        HL_TRY(set(g, c->knobs[k], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &type));
        HL_TRY(
            set(g, c->knobs[k], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &c->choice.value[k]));
        HL_TRY(hl_cudnn_status(cudnnBackendFinalize(c->knobs[k]), g->subject, "set a knob"));
    }
    return c->choice.knob_count == 0 ? HL_OK
                                     : set(g, c->config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES,
                                           CUDNN_TYPE_BACKEND_DESCRIPTOR, c->choice.knob_count, c->knobs);
}

/* A choice kept from an earlier run. False where it does not work any more. */
static bool restore(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations, candidate *c)
{
    const char *why;
    if (g->cuda->plans->store == NULL || !hl_plan_store_find(g->cuda->plans->store, g->text, &c->choice))
        return false;
    bool good =
        create(g, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &c->engine) == HL_OK &&
        set(g, c->engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &operations) ==
            HL_OK &&
        set(g, c->engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &c->choice.engine) == HL_OK &&
        cudnnBackendFinalize(c->engine) == CUDNN_STATUS_SUCCESS &&
        create(g, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &c->config) == HL_OK &&
        set(g, c->config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &c->engine) ==
            HL_OK &&
        set_knobs(g, c) == HL_OK && cudnnBackendFinalize(c->config) == CUDNN_STATUS_SUCCESS &&
        make_plan(g, c, &why);
    if (!good)
        drop(c);
    return good;
}

/* Takes the plan and all that it was made of over. */
static hl_status remember(hl_cudnn_graph *g, cudnnBackendDescriptor_t *operations, candidate *c,
                          const cached_plan **cached)
{
    hl_cuda_plans *plans = g->cuda->plans;
    HL_TRY(
        hl_grow((void **)&plans->items, &plans->capacity, plans->count + 1, sizeof *plans->items, "plans"));
    cached_plan *item = &plans->items[plans->count];
    *item = (cached_plan){
        .text = strdup(g->text), .plan = c->plan, .workspace = c->workspace, .compiled = c->compiled};
    if (item->text == NULL)
        return hl_fail_nomem("plans", g->text_length);
    for (int i = 0; i < g->made_count; i++)
        item->parts[item->part_count++] = g->made[i];
    item->parts[item->part_count++] = *operations;
    item->parts[item->part_count++] = c->config;
    if (c->engine != NULL)
        item->parts[item->part_count++] = c->engine;
    for (int k = 0; k < HL_PLAN_KNOBS && c->knobs[k] != NULL; k++)
        item->parts[item->part_count++] = c->knobs[k];
    *c = (candidate){.compiled = c->compiled, .workspace = c->workspace, .choice = c->choice};
    g->made_count = 0;
    *operations = NULL;
    plans->count++;
    *cached = item;
    hl_log_info(&g->cuda->base.log, "%s: cuDNN engine %lld%s, workspace %zu bytes", g->subject,
                (long long)c->choice.engine, c->compiled ? " (compiled at run time)" : "", c->workspace);
    return HL_OK;
}

static hl_status find_plan(hl_cudnn_graph *g, const cached_plan **cached)
{
    hl_cuda_plans *plans = g->cuda->plans;
    for (size_t i = 0; i < plans->count; i++)
        if (strcmp(plans->items[i].text, g->text) == 0) {
            plans->reused++;
            *cached = &plans->items[i];
            return HL_OK;
        }
    cudnnBackendDescriptor_t operations = NULL;
    candidate c = {0};
    hl_status status = make_operations(g, &operations);
    if (status == HL_OK && !restore(g, operations, &c)) {
        status = choose(g, operations, &c);
        if (status == HL_OK && plans->store != NULL)
            hl_plan_store_add(plans->store, g->text, &c.choice);
    }
    if (status == HL_OK)
        status = remember(g, &operations, &c, cached);
    drop(&c);
    destroy(&operations);
    return status;
}

hl_status hl_cudnn_plan(hl_cudnn_graph *g, hl_cudnn_call *call)
{
    const cached_plan *cached = NULL;
    hl_status status = g->status;
    *call = (hl_cudnn_call){0};
    if (status == HL_OK)
        status = find_plan(g, &cached);
    if (status == HL_OK) {
        call->plan = cached->plan;
        call->workspace = cached->workspace;
        for (int i = 0; i < g->tensor_count; i++)
            if (!g->tensors[i].is_virtual)
                call->uids[call->operands++] = i + 1;
    }
    while (g->made_count > 0)
        destroy(&g->made[--g->made_count]);
    return status;
}

hl_status hl_cudnn_bind(hl_cudnn_call *call, void *const *pointers, void *workspace, const char *subject)
{
    HL_CUDNN(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &call->pack), subject,
             "bind addresses");
    HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64,
                                      call->operands, call->uids),
             subject, "bind addresses");
    HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
                                      call->operands, pointers),
             subject, "bind addresses");
    if (call->workspace > 0)
        HL_CUDNN(cudnnBackendSetAttribute(call->pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR,
                                          1, &workspace),
                 subject, "bind addresses");
    return hl_cudnn_status(cudnnBackendFinalize(call->pack), subject, "bind addresses");
}

hl_status hl_cudnn_run(hl_cuda *cuda, const hl_cudnn_call *call, const char *subject)
{
    return hl_cudnn_status(cudnnBackendExecute(cuda->cudnn, call->plan, call->pack), subject, "run a plan");
}

void hl_cudnn_release(hl_cudnn_call *call)
{
    destroy(&call->pack);
    *call = (hl_cudnn_call){0};
}
