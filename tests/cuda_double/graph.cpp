/* Captures and graphs. */
#include <cuda_runtime_api.h>

#include <map>

#include "cuda_double/device.hpp"
#include "cuda_double/double.h"
#include "cuda_double/stream.hpp"

namespace cuda_double
{
namespace
{
typedef std::shared_ptr<std::vector<work>> works;
auto &graphs = *new std::map<cudaGraph_t, works>;
auto &executables = *new std::map<cudaGraphExec_t, works>;
uintptr_t next_handle = 0x1000; /* handles are never used twice, so that stale ones are noticed */

void find_leaks(std::vector<std::string> &found)
{
    for (auto &entry : graphs)
        found.push_back(format("a graph of %zu nodes", entry.second->size()));
    for (auto &entry : executables)
        found.push_back(format("an executable graph of %zu nodes", entry.second->size()));
}

void reset()
{
    graphs.clear();
    executables.clear();
}

const bool added = add_part(0, {find_leaks, reset});

template <typename T> T new_handle()
{
    next_handle += 16;
    return reinterpret_cast<T>(next_handle);
}

template <typename T> works find(const std::map<T, works> &in, T handle, const char *what)
{
    auto found = in.find(handle);
    if (found != in.end())
        return found->second;
    complain("%p is not %s", (void *)handle, what);
    return nullptr;
}

cudaError_t end(const std::shared_ptr<stream> &s, const std::shared_ptr<capture> &c, cudaGraph_t *graph)
{
    cudaError_t status = c->invalid             ? cudaErrorStreamCaptureInvalidated
                         : !c->unjoined.empty() ? cudaErrorStreamCaptureUnjoined
                                                : cudaSuccess;
    if (status == cudaErrorStreamCaptureUnjoined)
        complain("%zu streams that joined the capture are not waited for", c->unjoined.size());
    for (stream *other : c->unjoined)
        other->capturing = nullptr;
    s->capturing = nullptr;
    c->origin = nullptr;
    if (status != cudaSuccess)
        return fail(status);
    *graph = new_handle<cudaGraph_t>();
    graphs[*graph] = std::make_shared<std::vector<work>>(std::move(c->works));
    return cudaSuccess;
}
} // namespace
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
cudaError_t cudaStreamBeginCapture(cudaStream_t handle, enum cudaStreamCaptureMode mode)
{
    call c("cudaStreamBeginCapture", stream_number(handle));
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    std::shared_ptr<stream> s = find_stream(handle);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    if (s->capturing != nullptr || s->number == 0) {
        complain(s->number == 0 ? "the legacy stream cannot be captured" : "the stream is captured already");
        return fail(s->number == 0 ? cudaErrorStreamCaptureUnsupported : cudaErrorIllegalState);
    }
    s->capturing = std::make_shared<capture>();
    s->capturing->origin = s.get();
    s->capturing->mode = mode;
    s->capturing->thread = std::this_thread::get_id();
    add_capture(s->capturing);
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph)
{
    call c("cudaStreamEndCapture", stream_number(handle));
    *graph = nullptr;
    std::shared_ptr<stream> s = find_stream(handle);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    std::shared_ptr<capture> in = s->capturing;
    if (in == nullptr || in->origin != s.get()) {
        complain("the stream's capture was not begun in it");
        return fail(in == nullptr ? cudaErrorIllegalState : cudaErrorStreamCaptureUnmatched);
    }
    if (in->mode != cudaStreamCaptureModeRelaxed && in->thread != std::this_thread::get_id()) {
        complain("the capture was begun by another thread");
        return fail(cudaErrorStreamCaptureWrongThread);
    }
    if (c.injected != 0)
        in->invalid = true;
    cudaError_t status = end(s, in, graph);
    return c.injected != 0 ? fail((cudaError_t)c.injected) : status;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, enum cudaStreamCaptureStatus *status)
{
    call c("cudaStreamIsCapturing", stream_number(handle));
    std::shared_ptr<stream> s = find_stream(handle);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    *status = s->capturing == nullptr ? cudaStreamCaptureStatusNone
              : s->capturing->invalid ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
    return begin(c);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long flags)
{
    call c("cudaGraphInstantiate");
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    works from = find(graphs, graph, "a graph");
    if (from == nullptr || executable == nullptr || (flags & ~7ull) != 0)
        return fail(cudaErrorInvalidValue);
    *executable = new_handle<cudaGraphExec_t>();
    executables[*executable] = std::make_shared<std::vector<work>>(*from);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *executable, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(executable, graph, flags);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t in)
{
    call c("cudaGraphLaunch", stream_number(in));
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    works list = find(executables, handle, "an executable graph");
    if (list == nullptr)
        return fail(cudaErrorInvalidValue);
    describe_call(format("%zu nodes", list->size()));
    double milliseconds = 0;
    for (const work &w : *list)
        milliseconds += w.milliseconds;
    auto run = [list] {
        for (const work &w : *list)
            w.run();
    };
    return enqueue_on(in, {run, milliseconds});
}

cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t in)
{
    call c("cudaGraphUpload", stream_number(in));
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    return find(executables, handle, "an executable graph") != nullptr && find_stream(in) != nullptr
               ? cudaSuccess
               : fail(cudaErrorInvalidValue);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle)
{
    call c("cudaGraphExecDestroy");
    auto found = executables.find(handle);
    if (found == executables.end()) {
        complain("%p is not an executable graph", (void *)handle);
        return fail(cudaErrorInvalidValue);
    }
    if (found->second.use_count() > 1)
        complain("an executable graph is destroyed while launches of it are under way");
    executables.erase(found);
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    call c("cudaGraphDestroy");
    if (find(graphs, graph, "a graph") == nullptr)
        return fail(cudaErrorInvalidValue);
    graphs.erase(graph);
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

/* Only the number of nodes: there are no handles of them. */
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    call c("cudaGraphGetNodes");
    works list = find(graphs, graph, "a graph");
    if (list == nullptr || nodes != nullptr)
        return fail(cudaErrorInvalidValue);
    *count = list->size();
    return begin(c);
}
}
