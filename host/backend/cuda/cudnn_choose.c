#include "backend/cuda/cudnn_choose.h"

enum { CANDIDATES = 64, TIMED = 12, TIMED_RUNS = 5 };

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

hl_status hl_cudnn_operations(const hl_cudnn_graph *g, cudnnBackendDescriptor_t *operations)
{
    HL_TRY(create(g, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, operations));
    HL_TRY(set(g, *operations, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->op_count,
               g->ops));
    if (!g->cuda->planner)
        HL_TRY(set(g, *operations, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &g->cuda->cudnn));
    return hl_cudnn_status(cudnnBackendFinalize(*operations), g->subject, "plan a graph");
}

void hl_cudnn_drop(hl_cudnn_candidate *c)
{
    hl_cudnn_destroy(&c->plan);
    hl_cudnn_destroy(&c->config);
    hl_cudnn_destroy(&c->engine);
    for (int k = 0; k < HL_PLAN_KNOBS; k++)
        hl_cudnn_destroy(&c->knobs[k]);
}

/* Asks one heuristic; adds what it proposes. A heuristic that knows nothing is no failure. */
static hl_status ask(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations,
                     cudnnBackendHeurMode_t mode, hl_cudnn_candidate *list, int *count)
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
            list[(*count)++] = (hl_cudnn_candidate){.config = configs[i]};
        else
            hl_cudnn_destroy(&configs[i]);
    }
    hl_cudnn_destroy(&heuristic);
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
        hl_cudnn_destroy(&knobs[i]);
}

/* Looks at a candidate's engine and makes its plan. False: not this one, *why says why not. */
static bool make_plan(const hl_cudnn_graph *g, hl_cudnn_candidate *c, const char **why)
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
    hl_cudnn_destroy(&engine);
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
        hl_cudnn_destroy(&c->plan);
    return good;
}

/* ---- timing ---- */

static hl_status time_plan(const hl_cudnn_graph *g, hl_cudnn_candidate *c, void *const *pointers,
                           void *workspace, cudaEvent_t *events, float *best)
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
static hl_status sort_by_time(const hl_cudnn_graph *g, hl_cudnn_candidate *list, int count)
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
    hl_cudnn_candidate first = list[winner];
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

hl_status hl_cudnn_choose(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations,
                          hl_cudnn_candidate *chosen)
{
    static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
    hl_cudnn_candidate list[CANDIDATES] = {{0}};
    int count = 0, good = 0, wanted = g->cuda->autotune && !g->cuda->planner ? TIMED : 1;
    const char *why = "cuDNN knows no engine for it";
    hl_status status = HL_OK;
    for (size_t m = 0; m < sizeof modes / sizeof *modes && status == HL_OK && good == 0; m++) {
        int first = count;
        status = ask(g, operations, modes[m], list, &count);
        for (int i = first; status == HL_OK && i < count && good < wanted; i++)
            if (make_plan(g, &list[i], &why)) {
                hl_cudnn_candidate swap = list[good];
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
        list[0] = (hl_cudnn_candidate){0};
        read_knobs(chosen->config, &chosen->choice);
    }
    for (int i = 0; i < count; i++)
        hl_cudnn_drop(&list[i]);
    return status;
}

static hl_status set_knobs(const hl_cudnn_graph *g, hl_cudnn_candidate *c)
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

bool hl_cudnn_restore(const hl_cudnn_graph *g, cudnnBackendDescriptor_t operations, hl_cudnn_candidate *c)
{
    const char *why;
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
        hl_cudnn_drop(c);
    return good;
}
