/* Copies and fills. */
#include <cuda_runtime_api.h>
#include <string.h>

#include "cuda_double/device.hpp"
#include "cuda_double/double.h"
#include "cuda_double/memory.hpp"
#include "cuda_double/stream.hpp"

namespace cuda_double
{
namespace
{
struct transfer {
    void *to;
    const void *from;
    size_t bytes;
    range device_to, device_from; /* of no bytes where it is host memory */
    bool pageable_from, pageable_to;
};

/* Looks at both ends: each must be where the kind of copy says. */
cudaError_t plan(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, transfer *t)
{
    bool device_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice,
         device_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) {
        device_to = kind_of(to) == memory_kind::device;
        device_from = kind_of(from) == memory_kind::device;
    } else if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDeviceToDevice) {
        complain("%d is not a kind of copy", (int)kind);
        return fail(cudaErrorInvalidMemcpyDirection);
    }
    *t = {to,
          from,
          bytes,
          {},
          {},
          kind_of(from) == memory_kind::pageable,
          kind_of(to) == memory_kind::pageable};
    if ((!device_to && kind_of(to) == memory_kind::device) ||
        (!device_from && kind_of(from) == memory_kind::device)) {
        complain("%p is device memory, and not used as such", device_to ? from : to);
        return fail(cudaErrorInvalidValue);
    }
    if ((device_to && !find_range(to, bytes, "the copy's destination", &t->device_to)) ||
        (device_from && !find_range(from, bytes, "the copy's source", &t->device_from)))
        return fail(cudaErrorInvalidValue);
    const char *a = static_cast<const char *>(to), *b = static_cast<const char *>(from);
    if (a < b + bytes && b < a + bytes) {
        complain("source and destination overlap");
        return fail(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

void perform(const transfer &t)
{
    if (still_there(t.device_to) && still_there(t.device_from))
        memcpy(t.to, t.from, t.bytes);
}

cudaError_t fill(cudaStream_t in, void *to, int value, size_t bytes)
{
    range r;
    if (bytes == 0)
        return cudaSuccess;
    if (!find_range(to, bytes, "the memory to fill", &r))
        return fail(cudaErrorInvalidValue);
    auto run = [=] {
        if (still_there(r))
            memset(to, value, bytes);
    };
    return enqueue_on(in, {run, small_work});
}

/* Pageable memory is read before the call returns; a copy to it is done when the call returns. */
cudaError_t copy_pageable(const std::shared_ptr<stream> &s, const transfer &t)
{
    if (t.pageable_from) {
        const char *from = static_cast<const char *>(t.from);
        auto staged = std::make_shared<std::vector<char>>(from, from + t.bytes);
        transfer later = t;
        later.from = staged->data();
        cudaError_t status = enqueue(s, {[later, staged] { perform(later); }, small_work});
        if (status != cudaSuccess || !t.pageable_to)
            return status;
    } else {
        cudaError_t status = enqueue(s, {[t] { perform(t); }, small_work});
        if (status != cudaSuccess)
            return status;
    }
    call waits("pageable copy", s->number, (int64_t)t.bytes);
    run_all_of(s);
    return cudaSuccess;
}
} // namespace
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    call c("cudaMemcpy", 0, (int64_t)bytes);
    cudaError_t status = begin(c);
    transfer t;
    if (status != cudaSuccess || bytes == 0)
        return status;
    status = plan(to, from, bytes, kind, &t);
    std::shared_ptr<stream> s = find_stream(nullptr);
    if (status == cudaSuccess)
        status = order_with_legacy(s);
    if (status != cudaSuccess)
        return status;
    run_all_of(s);
    perform(t);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t in)
{
    call c("cudaMemcpyAsync", stream_number(in), (int64_t)bytes);
    cudaError_t status = begin(c);
    transfer t;
    std::shared_ptr<stream> s = find_stream(in);
    if (s == nullptr)
        return fail(cudaErrorInvalidResourceHandle);
    if (status != cudaSuccess || bytes == 0)
        return status;
    status = plan(to, from, bytes, kind, &t);
    if (status != cudaSuccess)
        return status;
    bool pageable = t.pageable_from || t.pageable_to;
    if (pageable && s->capturing != nullptr)
        complain("a captured copy keeps the address of pageable host memory");
    if (pageable && s->capturing == nullptr)
        return copy_pageable(s, t);
    return enqueue(s, {[t] { perform(t); }, small_work});
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    call c("cudaMemset", 0, (int64_t)bytes);
    cudaError_t status = begin(c);
    return status != cudaSuccess ? status : fill(nullptr, to, value, bytes);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t in)
{
    call c("cudaMemsetAsync", stream_number(in), (int64_t)bytes);
    cudaError_t status = begin(c);
    return status != cudaSuccess ? status : fill(in, to, value, bytes);
}
}
