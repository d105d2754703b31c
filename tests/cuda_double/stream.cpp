#include "cuda_double/stream.hpp"

#include <cuda_runtime_api.h>

#include <cmath>
#include <map>
#include <random>

#include "cuda_double/device.hpp"
#include "cuda_double/double.h"
#include "cuda_shim/stream.hpp"

namespace cuda_double
{
namespace
{
/* Here as in all files of the double: never destroyed, so that what they own is not taken for a leak of the
 * program's. */
auto &streams = *new std::map<cudaStream_t, std::shared_ptr<stream>>;
auto &events = *new std::map<cudaEvent_t, std::shared_ptr<event>>;
auto &captures = *new std::vector<std::weak_ptr<capture>>;
int next_stream = 1;
double clock_now; /* milliseconds */
double_schedule schedule = DOUBLE_LATE;
uint32_t schedule_number;
std::mt19937 chance;

std::shared_ptr<stream> &legacy()
{
    static auto &s = *new std::shared_ptr<stream>(std::make_shared<stream>());
    return s;
}

void run_one(const std::shared_ptr<stream> &s);

/* Runs another stream up to a recording. */
void satisfy(const item &wait)
{
    while (std::isnan(wait.e->times[wait.recording - 1]) && !wait.in->queue.empty())
        run_one(wait.in);
}

void run_one(const std::shared_ptr<stream> &s)
{
    item next = std::move(s->queue.front());
    s->queue.pop_front();
    switch (next.kind) {
    case item::WORK:
        clock_now += next.w.milliseconds;
        next.w.run();
        break;
    case item::RECORD:
        next.e->times[next.recording - 1] = clock_now;
        break;
    case item::WAIT:
        satisfy(next);
        break;
    }
}

void advance_by_chance()
{
    std::map<int, std::shared_ptr<stream>> by_number;
    for (auto &entry : streams)
        by_number[entry.second->number] = entry.second;
    for (unsigned n = (unsigned)chance() % 4; n > 0 && !by_number.empty(); n--) {
        auto picked = std::next(by_number.begin(), (std::ptrdiff_t)(chance() % by_number.size()));
        if (!picked->second->queue.empty())
            run_one(picked->second);
    }
}

void push(const std::shared_ptr<stream> &s, item next)
{
    s->queue.push_back(std::move(next));
    if (schedule == DOUBLE_AT_ONCE || (schedule == DOUBLE_ONE_AHEAD && s->number == (int)schedule_number))
        run_all_of(s);
    else if (schedule == DOUBLE_SHUFFLED)
        advance_by_chance();
}

void find_leaks(std::vector<std::string> &found)
{
    for (auto &entry : streams)
        found.push_back(format("stream %d", entry.second->number));
    for (size_t i = 0; i < events.size(); i++)
        found.push_back("an event");
}

void reset()
{
    streams.clear();
    events.clear();
    captures.clear();
    legacy() = std::make_shared<stream>();
    next_stream = 1;
    clock_now = 0;
    schedule = DOUBLE_LATE;
}

const bool added = add_part(1, {find_leaks, reset});

cudaError_t spoil(capture &c, cudaError_t status, const char *what)
{
    complain("%s is not allowed while a stream is captured", what);
    c.invalid = true;
    return fail(status);
}

std::shared_ptr<event> find_event(cudaEvent_t handle)
{
    auto found = events.find(handle);
    if (found != events.end())
        return found->second;
    complain("%p is not an event", (void *)handle);
    return nullptr;
}

/* The capture that a thread's unsafe calls break. */
std::shared_ptr<capture> capture_of_thread()
{
    for (auto &weak : captures) {
        std::shared_ptr<capture> c = weak.lock();
        if (c == nullptr || c->origin == nullptr || c->mode == cudaStreamCaptureModeRelaxed)
            continue;
        if (c->mode == cudaStreamCaptureModeGlobal || c->thread == std::this_thread::get_id())
            return c;
    }
    return nullptr;
}
} // namespace

std::shared_ptr<stream> find_stream(cudaStream_t handle)
{
    if (handle == nullptr || handle == cudaStreamLegacy || handle == cudaStreamPerThread)
        return legacy();
    auto found = streams.find(handle);
    if (found != streams.end())
        return found->second;
    complain("%p is not a stream", (void *)handle);
    return nullptr;
}

int stream_number(cudaStream_t handle)
{
    auto found = streams.find(handle);
    return found != streams.end() ? found->second->number : 0;
}

void run_all_of(const std::shared_ptr<stream> &s)
{
    while (!s->queue.empty())
        run_one(s);
}

void run_everything()
{
    run_all_of(legacy());
    for (auto &entry : streams)
        run_all_of(entry.second);
}

void add_capture(const std::shared_ptr<capture> &c)
{
    captures.push_back(c);
}

cudaError_t not_while_capturing(const char *what)
{
    std::shared_ptr<capture> c = capture_of_thread();
    return c == nullptr ? cudaSuccess : spoil(*c, cudaErrorStreamCaptureUnsupported, what);
}

cudaError_t order_with_legacy(const std::shared_ptr<stream> &s)
{
    if (s == legacy()) {
        std::shared_ptr<capture> c = capture_of_thread();
        if (c != nullptr)
            return spoil(*c, cudaErrorStreamCaptureImplicit, "use of the legacy stream");
        for (auto &entry : streams)
            if (entry.second->blocking)
                run_all_of(entry.second);
    } else if (s->blocking) {
        run_all_of(legacy());
    }
    return cudaSuccess;
}

cudaError_t enqueue(const std::shared_ptr<stream> &s, work w)
{
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    if (s->capturing != nullptr) {
        mark_captured(s->number);
        if (s->capturing->invalid)
            return fail(cudaErrorStreamCaptureInvalidated);
        s->position++;
        if (s.get() != s->capturing->origin)
            s->capturing->unjoined.insert(s.get());
        s->capturing->works.push_back(std::move(w));
        return cudaSuccess;
    }
    cudaError_t status = order_with_legacy(s);
    if (status == cudaSuccess)
        push(s, {item::WORK, std::move(w), nullptr, 0, nullptr});
    return status;
}

cudaError_t enqueue_on(cudaStream_t handle, work w)
{
    return enqueue(find_stream(handle), std::move(w));
}

/* The stream, or the reason why the call fails. */
static cudaError_t stream_for_wait(cudaStream_t handle, const char *what, std::shared_ptr<stream> *s)
{
    *s = find_stream(handle);
    if (*s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    return (*s)->capturing != nullptr ? spoil(*(*s)->capturing, cudaErrorStreamCaptureUnsupported, what)
                                      : cudaSuccess;
}
} // namespace cuda_double

using namespace cuda_double;

/* Launches of kernels that are compiled for the CPU. */
void cuda_shim_enqueue(void *handle, std::function<void()> run)
{
    cudaStream_t s = static_cast<cudaStream_t>(handle);
    call c("kernel", stream_number(s));
    if (c.injected != 0)
        fail((cudaError_t)c.injected);
    else
        (void)enqueue_on(s, {std::move(run), small_work});
}

extern "C" {
void double_set_schedule(double_schedule how, uint32_t number)
{
    schedule = how;
    schedule_number = number;
    chance.seed(number + 1);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *handle, unsigned flags)
{
    call c("cudaStreamCreateWithFlags");
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    if (handle == nullptr || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking))
        return fail(cudaErrorInvalidValue);
    std::shared_ptr<stream> s = std::make_shared<stream>();
    s->number = next_stream++;
    s->blocking = flags != cudaStreamNonBlocking;
    s->device = current_device();
    *handle = reinterpret_cast<cudaStream_t>(s.get());
    streams[*handle] = s;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *handle)
{
    return cudaStreamCreateWithFlags(handle, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle)
{
    call c("cudaStreamDestroy", stream_number(handle));
    auto found = streams.find(handle);
    if (found == streams.end()) {
        complain("%p is not a stream", (void *)handle);
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (found->second->capturing != nullptr)
        complain("stream %d is destroyed while it is captured", found->second->number);
    run_all_of(found->second);
    streams.erase(found);
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    call c("cudaStreamSynchronize", stream_number(handle));
    std::shared_ptr<stream> s;
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = stream_for_wait(handle, "waiting for the stream", &s);
    if (status == cudaSuccess)
        status = order_with_legacy(s);
    if (status == cudaSuccess)
        run_all_of(s);
    return status;
}

/* Not ready when asked for the first time with work outstanding, then done: work advances by itself. */
cudaError_t cudaStreamQuery(cudaStream_t handle)
{
    call c("cudaStreamQuery", stream_number(handle));
    std::shared_ptr<stream> s;
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = stream_for_wait(handle, "asking about the stream", &s);
    if (status != cudaSuccess || s->queue.empty())
        return status;
    run_one(s);
    return cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    call c("cudaDeviceSynchronize");
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = not_while_capturing("waiting for the device");
    if (status == cudaSuccess)
        run_everything();
    return status;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *handle, unsigned flags)
{
    call c("cudaEventCreateWithFlags");
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    if (handle == nullptr || (flags & ~(unsigned)(cudaEventBlockingSync | cudaEventDisableTiming)) != 0)
        return fail(cudaErrorInvalidValue);
    std::shared_ptr<event> e = std::make_shared<event>();
    e->flags = flags;
    *handle = reinterpret_cast<cudaEvent_t>(e.get());
    events[*handle] = e;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *handle)
{
    return cudaEventCreateWithFlags(handle, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle)
{
    call c("cudaEventDestroy");
    if (find_event(handle) == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    events.erase(handle);
    return c.injected != 0 ? fail((cudaError_t)c.injected) : cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t in)
{
    call c("cudaEventRecord", stream_number(in));
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    std::shared_ptr<event> e = find_event(handle);
    std::shared_ptr<stream> s = find_stream(in);
    if (e == nullptr || s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    e->asked = 0;
    e->captured = s->capturing != nullptr;
    e->captured_in = s->capturing;
    e->recorded_in = s;
    e->position = s->position;
    if (e->captured) {
        mark_captured(s->number);
        return s->capturing->invalid ? fail(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
    }
    status = order_with_legacy(s);
    if (status != cudaSuccess)
        return status;
    e->times.push_back(NAN);
    push(s, {item::RECORD, {}, e, e->times.size(), nullptr});
    return cudaSuccess;
}

/* Joins a stream to the capture that an event was recorded in, or back to it. */
static cudaError_t wait_in_capture(const std::shared_ptr<stream> &s, const std::shared_ptr<event> &e)
{
    std::shared_ptr<capture> c = e->captured ? e->captured_in.lock() : nullptr;
    if (c == nullptr || c->origin == nullptr)
        return spoil(*s->capturing, cudaErrorStreamCaptureIsolation,
                     "waiting for an event that was recorded outside of the capture");
    if (s->capturing != nullptr && s->capturing != c)
        return spoil(*s->capturing, cudaErrorStreamCaptureMerge, "waiting for another capture");
    if (s->capturing == nullptr) {
        s->capturing = c;
        c->unjoined.insert(s.get());
    }
    if (s.get() == c->origin && e->position == e->recorded_in->position)
        c->unjoined.erase(e->recorded_in.get());
    mark_captured(s->number);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t what, unsigned flags)
{
    call c("cudaStreamWaitEvent", stream_number(handle));
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    std::shared_ptr<event> e = find_event(what);
    std::shared_ptr<stream> s = find_stream(handle);
    if (e == nullptr || s == nullptr || flags != 0)
        return fail(e == nullptr || s == nullptr ? cudaErrorInvalidResourceHandle : cudaErrorInvalidValue);
    if (s->capturing != nullptr || (e->captured && !e->captured_in.expired()))
        return wait_in_capture(s, e);
    if (e->captured) {
        complain("the event was last recorded in a capture that has ended");
        return fail(cudaErrorCapturedEvent);
    }
    status = order_with_legacy(s);
    if (status == cudaSuccess && !e->times.empty())
        push(s, {item::WAIT, {}, e, e->times.size(), e->recorded_in});
    return status;
}

/* The event, if it may be waited for or asked about. */
static cudaError_t event_for_wait(const call &c, cudaEvent_t handle, std::shared_ptr<event> *e)
{
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    *e = find_event(handle);
    if (*e == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    if (!(*e)->captured)
        return cudaSuccess;
    std::shared_ptr<capture> in = (*e)->captured_in.lock();
    if (in != nullptr)
        return spoil(*in, cudaErrorCapturedEvent, "waiting for an event of the capture");
    complain("the event was last recorded in a capture");
    return fail(cudaErrorCapturedEvent);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle)
{
    call c("cudaEventSynchronize");
    std::shared_ptr<event> e;
    cudaError_t status = event_for_wait(c, handle, &e);
    if (status == cudaSuccess && !e->times.empty())
        satisfy({item::WAIT, {}, e, e->times.size(), e->recorded_in});
    return status;
}

cudaError_t cudaEventQuery(cudaEvent_t handle)
{
    call c("cudaEventQuery");
    std::shared_ptr<event> e;
    cudaError_t status = event_for_wait(c, handle, &e);
    if (status != cudaSuccess || e->times.empty() || !std::isnan(e->times.back()))
        return status;
    if (e->asked++ == 0)
        return cudaErrorNotReady;
    satisfy({item::WAIT, {}, e, e->times.size(), e->recorded_in});
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    call c("cudaEventElapsedTime");
    std::shared_ptr<event> a, b;
    cudaError_t status = event_for_wait(c, start, &a);
    if (status == cudaSuccess)
        status = event_for_wait(c, end, &b);
    if (status != cudaSuccess)
        return status;
    if (((a->flags | b->flags) & cudaEventDisableTiming) != 0 || a->times.empty() || b->times.empty()) {
        complain("an event was made without timing, or never recorded");
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (std::isnan(a->times.back()) || std::isnan(b->times.back()))
        return fail(cudaErrorNotReady);
    *milliseconds = (float)(b->times.back() - a->times.back());
    return cudaSuccess;
}
}
