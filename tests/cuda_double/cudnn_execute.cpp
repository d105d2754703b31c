/* Running a plan on pointers. */
#include <set>

#include "cuda_double/cudnn.hpp"
#include "cuda_double/memory.hpp"
#include "cuda_double/stream.hpp"

namespace cuda_double
{
namespace
{
/* A plan with its pointers, as it goes into a stream. */
struct launch {
    std::shared_ptr<compiled_graph> graph;
    std::map<int64_t, void *> pointers;
    std::map<int64_t, double> values;
    std::map<int64_t, range> ranges;
    range workspace;
    bool tf32 = false;

    void run() const;
};

void launch::run() const
{
    environment e;
    e.tf32 = tf32;
    for (auto &entry : ranges)
        if (!still_there(entry.second))
            return;
    if (!still_there(workspace))
        return;
    for (const tensor &t : graph->inputs)
        if (t.by_value)
            e.at(t).data[0] = values.at(t.uid);
        else
            load(t, pointers.at(t.uid), e.at(t));
    /* It may hold anything from here on. */
    if (workspace.bytes > 0)
        memset(const_cast<void *>(workspace.pointer), 0xff, workspace.bytes);
    for (const operation &o : graph->operations) {
        o.run(e);
        for (const tensor &t : o.outputs)
            if (t.is_virtual)
                round_to_float(e.at(t));
    }
    for (const tensor &t : graph->outputs)
        store(t, e.at(t), pointers.at(t.uid));
}

cudnnStatus_t bind_tensor(const tensor &t, const std::map<int64_t, void *> &given, launch *l)
{
    auto found = given.find(t.uid);
    if (found == given.end())
        return refuse(CUDNN_STATUS_BAD_PARAM, "the pack has no pointer for tensor %s", describe(t).c_str());
    void *pointer = found->second;
    if (t.by_value) {
        if (pointer == nullptr || kind_of(pointer) == memory_kind::device)
            return refuse(CUDNN_STATUS_BAD_PARAM, "a value is read from host memory: %s",
                          describe(t).c_str());
        l->values[t.uid] = load_one(t.type, pointer, 0);
        return CUDNN_STATUS_SUCCESS;
    }
    if (reinterpret_cast<uintptr_t>(pointer) % (uintptr_t)t.alignment != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "%p is not aligned as tensor %s says (%lld)",
                      pointer, describe(t).c_str(), (long long)t.alignment);
    l->pointers[t.uid] = pointer;
    /* find_range has complained already, a device would read or write there. */
    return find_range(pointer, t.extent(), "tensor " + describe(t), &l->ranges[t.uid])
               ? CUDNN_STATUS_SUCCESS
               : refuse(CUDNN_STATUS_EXECUTION_FAILED, "illegal memory access");
}

/* What is written must not be something else that the plan uses, except for the very same elements. */
void check_overlaps(const launch &l)
{
    std::set<int64_t> outputs;
    for (const tensor &out : l.graph->outputs)
        outputs.insert(out.uid);
    for (const tensor &out : l.graph->outputs) {
        const range &written = l.ranges.at(out.uid);
        for (auto &other : l.ranges)
            if (other.first != out.uid && overlap(written, other.second) &&
                (outputs.count(other.first) > 0 || written.pointer != other.second.pointer ||
                 written.bytes != other.second.bytes))
                complain("%s is written, and overlaps %s", written.what.c_str(), other.second.what.c_str());
        /* A product reads its factors again and again. */
        for (const operation &o : l.graph->operations)
            for (const tensor &in : o.inputs)
                if (o.multiplies && l.ranges.count(in.uid) > 0 && in.uid != out.uid &&
                    overlap(written, l.ranges.at(in.uid)))
                    complain("%s is written while it is a factor", written.what.c_str());
    }
    for (auto &entry : l.ranges)
        if (overlap(entry.second, l.workspace))
            complain("%s overlaps the workspace", entry.second.what.c_str());
}

cudnnStatus_t bind_workspace(const descriptor &plan, const descriptor &pack, launch *l)
{
    int64_t bytes = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 0);
    void *pointer = pack.get<void *>(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, nullptr);
    if (bytes == 0)
        return CUDNN_STATUS_SUCCESS;
    if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
        return refuse(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER, "the workspace at %p is not aligned",
                      pointer);
    return find_range(pointer, (size_t)bytes, "the workspace", &l->workspace)
               ? CUDNN_STATUS_SUCCESS
               : refuse(CUDNN_STATUS_BAD_PARAM, "the plan needs %lld bytes of workspace", (long long)bytes);
}

cudnnStatus_t bind_all(const descriptor &plan, const descriptor &pack, launch *l)
{
    auto uids = pack.all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    auto pointers = pack.all<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    std::map<int64_t, void *> given;
    for (size_t i = 0; i < uids.size(); i++)
        given[uids[i]] = pointers[i];
    cudnnStatus_t status = bind_workspace(plan, pack, l);
    size_t wanted = 0;
    for (const std::vector<tensor> *list : {&l->graph->inputs, &l->graph->outputs})
        for (const tensor &t : *list) {
            wanted++;
            if (status == CUDNN_STATUS_SUCCESS)
                status = bind_tensor(t, given, l);
        }
    if (status == CUDNN_STATUS_SUCCESS && wanted != given.size())
        status = refuse(CUDNN_STATUS_BAD_PARAM, "the pack has %zu pointers, the plan uses %zu", given.size(),
                        wanted);
    if (status == CUDNN_STATUS_SUCCESS)
        check_overlaps(*l);
    return status;
}
} // namespace

cudnnStatus_t finalize_pack(descriptor &d)
{
    auto uids = d.all<int64_t>(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    if (uids.size() != d.all<void *>(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS).size())
        return refuse(CUDNN_STATUS_BAD_PARAM, "there are %zu unique ids and another number of pointers",
                      uids.size());
    if (std::set<int64_t>(uids.begin(), uids.end()).size() != uids.size())
        return refuse(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "a unique id is there twice");
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t open_final(cudnnBackendDescriptor_t handle, cudnnBackendDescriptorType_t type,
                                const char *what, shared_descriptor *d)
{
    *d = open(handle, what);
    if (*d == nullptr)
        return CUDNN_STATUS_BAD_PARAM;
    if ((*d)->type != type)
        return refuse(CUDNN_STATUS_BAD_PARAM_DESCRIPTOR_TYPE, "%s is a descriptor of another kind", what);
    return (*d)->finalized ? CUDNN_STATUS_SUCCESS
                           : refuse(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "%s is not final", what);
}
} // namespace cuda_double

using namespace cuda_double;

extern "C" cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t plan_handle,
                                             cudnnBackendDescriptor_t pack_handle)
{
    if (!is_handle(handle)) {
        call c("cudnnBackendExecute");
        return refuse(CUDNN_STATUS_BAD_PARAM, "%p is not a handle", (void *)handle);
    }
    call c("cudnnBackendExecute", stream_number(stream_of(handle)));
    shared_descriptor plan, pack;
    if (c.injected != 0)
        return (cudnnStatus_t)c.injected;
    cudnnStatus_t status =
        open_final(plan_handle, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "the plan", &plan);
    if (status == CUDNN_STATUS_SUCCESS)
        status = open_final(pack_handle, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "the variant pack", &pack);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    const descriptor &engine =
        plan->child(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG).child(CUDNN_ATTR_ENGINECFG_ENGINE);
    int64_t index = engine.get<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, -1);
    auto l = std::make_shared<launch>();
    l->graph = engine.child(CUDNN_ATTR_ENGINE_OPERATION_GRAPH).graph;
    l->tf32 = engine_is_tf32(index);
    describe_call(l->graph->text + "; engine " + std::to_string(index));
    status = bind_all(*plan, *pack, l.get());
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    return enqueue_on(stream_of(handle), {[l] { l->run(); }, engine_time(index)}) == cudaSuccess
               ? CUDNN_STATUS_SUCCESS
               : CUDNN_STATUS_EXECUTION_FAILED_CUDART;
}
