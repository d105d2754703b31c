/* Heuristics, engines and plans.
 *
 * Three engines compute every graph, so that a choice can be seen:
 *   11  proposed first: tensor cores (float32 factors become tf32), weight gradients not deterministic,
 *       two knobs, the largest workspace
 *   23  proposed second, twice as fast, exact, one knob, a small workspace
 *    7  the fallback, slow, no workspace */
#include "cuda_double/cudnn.hpp"
#include "cuda_double/double.h"

namespace cuda_double
{
namespace
{
struct knob {
    int type;
    int64_t least, most, step, usual;
};
struct engine {
    int64_t index, workspace;
    double milliseconds;
    std::vector<knob> knobs;
};
const auto &engines = *new std::vector<engine>{
    {11, 4096, 0.2, {{CUDNN_KNOB_TYPE_TILE_SIZE, 0, 3, 1, 2}, {CUDNN_KNOB_TYPE_SPLIT_K_SLC, 1, 9, 2, 3}}},
    {23, 512, 0.1, {{CUDNN_KNOB_TYPE_KERNEL_CFG, 0, 7, 1, 5}}},
    {7, 0, 0.4, {}}};

auto &refused = *new std::string;

void reset()
{
    refused.clear();
}

const bool added = add_part(4, {nullptr, reset});

const engine *find(int64_t index)
{
    for (const engine &e : engines)
        if (e.index == index)
            return &e;
    return nullptr;
}

/* A convolution's sum with another map and nothing more: the real library has no engine for it. */
bool is_bare_sum(const compiled_graph &graph)
{
    const std::vector<operation> &o = graph.operations;
    return o.size() == 2 && o[0].name == "conv_forward" && o[1].name == "add" && o[1].inputs.size() == 2 &&
           o[1].inputs[0].dims == o[1].inputs[1].dims;
}

/* NOT_SUPPORTED where there is no engine, or a test wants that there is none. */
cudnnStatus_t supported(const compiled_graph &graph)
{
    if (is_bare_sum(graph))
        return refuse(CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN, "no engine computes %s", graph.text.c_str());
    for (const operation &o : graph.operations)
        if (o.name == refused)
            return refuse(CUDNN_STATUS_NOT_SUPPORTED_GRAPH_PATTERN, "no engine computes %s",
                          graph.text.c_str());
    return CUDNN_STATUS_SUCCESS;
}

void fill_notes(descriptor &d, const engine &e, const compiled_graph &graph)
{
    std::vector<int> notes, behaviour;
    bool multiplies = false, filter = false, curved = false;
    for (const operation &o : graph.operations) {
        multiplies = multiplies || o.multiplies;
        filter = filter || o.name == "conv_filter";
        curved = curved || o.name == "sigmoid" || o.name == "swish" || o.name == "gelu" || o.name == "tanh";
    }
    if (e.index == 11 && multiplies) {
        notes.push_back(CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
        if (graph.single)
            notes.push_back(CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS);
    }
    if (e.index == 11 && filter)
        notes.push_back(CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
    if (e.index == 11 && curved)
        behaviour.push_back(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
    d.put(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, notes);
    d.put(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, behaviour);
}

shared_descriptor make(cudnnBackendDescriptorType_t type)
{
    shared_descriptor d = std::make_shared<descriptor>();
    d->type = type;
    return d;
}

shared_descriptor knob_info(const knob &k)
{
    shared_descriptor d = make(CUDNN_BACKEND_KNOB_INFO_DESCRIPTOR);
    d->put<int>(CUDNN_ATTR_KNOB_INFO_TYPE, CUDNN_TYPE_KNOB_TYPE, {k.type});
    d->put<int64_t>(CUDNN_ATTR_KNOB_INFO_MINIMUM_VALUE, CUDNN_TYPE_INT64, {k.least});
    d->put<int64_t>(CUDNN_ATTR_KNOB_INFO_MAXIMUM_VALUE, CUDNN_TYPE_INT64, {k.most});
    d->put<int64_t>(CUDNN_ATTR_KNOB_INFO_STRIDE, CUDNN_TYPE_INT64, {k.step});
    d->finalized = true;
    return d;
}

shared_descriptor knob_choice(const knob &k)
{
    shared_descriptor d = make(CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    d->put<int>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, {k.type});
    d->put<int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, {k.usual});
    d->finalized = true;
    return d;
}

/* A proposal: an engine with its usual knobs. */
shared_descriptor propose(const shared_descriptor &graph, int64_t index)
{
    shared_descriptor e = make(CUDNN_BACKEND_ENGINE_DESCRIPTOR),
                      config = make(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    std::vector<shared_descriptor> choices;
    e->put_children(CUDNN_ATTR_ENGINE_OPERATION_GRAPH, {graph});
    e->put<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, {index});
    e->finalized = finalize_engine(*e) == CUDNN_STATUS_SUCCESS;
    for (const knob &k : find(index)->knobs)
        choices.push_back(knob_choice(k));
    config->put_children(CUDNN_ATTR_ENGINECFG_ENGINE, {e});
    if (!choices.empty())
        config->put_children(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, choices);
    config->finalized = finalize_config(*config) == CUDNN_STATUS_SUCCESS;
    return config;
}

cudnnStatus_t check_knob(const engine &e, const descriptor &choice)
{
    int type = choice.get<int>(CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, -1);
    int64_t number = choice.get<int64_t>(CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, -1);
    for (const knob &k : e.knobs)
        if (k.type == type)
            return number >= k.least && number <= k.most && (number - k.least) % k.step == 0
                       ? CUDNN_STATUS_SUCCESS
                       : refuse(CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND, "engine %lld: knob %d cannot be %lld",
                                (long long)e.index, type, (long long)number);
    return refuse(CUDNN_STATUS_BAD_PARAM, "engine %lld has no knob %d", (long long)e.index, type);
}
} // namespace

bool engine_is_tf32(int64_t index)
{
    return index == 11;
}

double engine_time(int64_t index)
{
    return find(index)->milliseconds;
}

cudnnStatus_t finalize_heuristic(descriptor &d)
{
    shared_descriptor graph = d.values.at(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH).children[0];
    int mode = d.get<int>(CUDNN_ATTR_ENGINEHEUR_MODE, -1);
    cudnnStatus_t status = supported(*graph->graph);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    if (mode < 0 || mode >= CUDNN_HEUR_MODES_COUNT)
        return refuse(CUDNN_STATUS_BAD_PARAM, "there is no heuristic mode %d", mode);
    std::vector<shared_descriptor> results;
    if (mode == CUDNN_HEUR_MODE_FALLBACK)
        results = {propose(graph, 7)};
    else
        results = {propose(graph, 11), propose(graph, 23)};
    d.put_children(CUDNN_ATTR_ENGINEHEUR_RESULTS, results);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_engine(descriptor &d)
{
    const compiled_graph &graph = *d.child(CUDNN_ATTR_ENGINE_OPERATION_GRAPH).graph;
    int64_t index = d.get<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, -1);
    const engine *e = find(index);
    if (e == nullptr)
        return refuse(CUDNN_STATUS_NOT_SUPPORTED, "there is no engine %lld", (long long)index);
    cudnnStatus_t status = supported(graph);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    fill_notes(d, *e, graph);
    std::vector<shared_descriptor> knobs;
    for (const knob &k : e->knobs)
        knobs.push_back(knob_info(k));
    d.put_children(CUDNN_ATTR_ENGINE_KNOB_INFO, knobs);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_config(descriptor &d)
{
    int64_t index = d.child(CUDNN_ATTR_ENGINECFG_ENGINE).get<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, -1);
    const engine &e = *find(index);
    if (d.has(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES))
        for (const shared_descriptor &choice : d.values.at(CUDNN_ATTR_ENGINECFG_KNOB_CHOICES).children) {
            cudnnStatus_t status = check_knob(e, *choice);
            if (status != CUDNN_STATUS_SUCCESS)
                return status;
        }
    d.put<int64_t>(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, CUDNN_TYPE_INT64, {e.workspace});
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t finalize_plan(descriptor &d)
{
    const descriptor &config = d.child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    if (!d.has(CUDNN_ATTR_EXECUTION_PLAN_HANDLE) && !d.has(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP))
        return refuse(CUDNN_STATUS_BAD_PARAM, "a plan is for a handle's device or for described properties");
    d.put<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                   {config.get<int64_t>(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, 0)});
    return CUDNN_STATUS_SUCCESS;
}
} // namespace cuda_double

extern "C" void double_refuse(const char *operation)
{
    cuda_double::refused = operation != nullptr ? operation : "";
}
