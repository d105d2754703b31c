/* The double of the CUDA runtime, through the runtime's own functions. Each test runs in a process of its
 * own. */
#include <criterion/criterion.h>
#include <cuda_runtime_api.h>
#include <math.h>
#include <string.h>

#include <string>
#include <vector>

#include "cuda_double/double.h"
#include "cuda_shim/stream.hpp"

static float *device_floats(size_t count)
{
    void *memory = nullptr;
    cr_assert_eq(cudaMalloc(&memory, count * sizeof(float)), cudaSuccess);
    return static_cast<float *>(memory);
}

static float *pinned_floats(size_t count)
{
    void *memory = nullptr;
    cr_assert_eq(cudaHostAlloc(&memory, count * sizeof(float), cudaHostAllocDefault), cudaSuccess);
    return static_cast<float *>(memory);
}

static cudaStream_t new_stream(void)
{
    cudaStream_t stream;
    cr_assert_eq(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    return stream;
}

static cudaEvent_t new_event(unsigned flags)
{
    cudaEvent_t event;
    cr_assert_eq(cudaEventCreateWithFlags(&event, flags), cudaSuccess);
    return event;
}

/* As a kernel: *to = *from + 1. */
static void increment(cudaStream_t stream, const float *from, float *to)
{
    cuda_shim_enqueue(stream, [=] { *to = *from + 1.0f; });
}

static float read_back(cudaStream_t stream, const float *from)
{
    float value = 0;
    cr_assert_eq(cudaMemcpyAsync(&value, from, sizeof value, cudaMemcpyDeviceToHost, stream), cudaSuccess);
    return value;
}

#define cr_expect_complaint(word)                                                                            \
    do {                                                                                                     \
        cr_expect(double_complaint_count() > 0, "no complaint");                                             \
        cr_expect(strstr(double_complaint(double_complaint_count() - 1), (word)) != NULL, "%s",              \
                  double_complaint(double_complaint_count() - 1));                                           \
    } while (0)

Test(memory, fresh_memory_is_nan)
{
    float *memory = device_floats(4);
    cr_expect(isnan(read_back(nullptr, memory + 3)));
    cudaFree(memory);
    cr_expect_eq(double_report(), 0);
}

Test(memory, a_copy_beyond_the_end_is_refused)
{
    float *memory = device_floats(4), host[5] = {0};
    cr_expect_eq(cudaMemcpy(memory, host, sizeof host, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    cr_expect_complaint("16");
    cr_expect_eq(cudaGetLastError(), cudaErrorInvalidValue);
    cr_expect_eq(cudaGetLastError(), cudaSuccess);
    cr_expect_eq(cudaMemcpy(memory, host, 16, cudaMemcpyHostToDevice), cudaSuccess);
}

Test(memory, the_kind_of_copy_must_fit_the_pointers)
{
    float *memory = device_floats(4), host[4] = {0};
    cr_expect_neq(cudaMemcpy(memory, host, 16, cudaMemcpyDeviceToHost), cudaSuccess);
    cr_expect_neq(cudaMemcpy(host, memory, 16, cudaMemcpyHostToDevice), cudaSuccess);
    cr_expect_neq(cudaMemcpy(memory, host, 16, cudaMemcpyDeviceToDevice), cudaSuccess);
    cr_expect_eq(double_complaint_count(), 3);
}

Test(memory, freed_memory_is_noticed_when_a_graph_uses_it)
{
    float *from = device_floats(1), *to = device_floats(1);
    cudaStream_t stream = new_stream();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    cudaMemcpyAsync(to, from, 4, cudaMemcpyDeviceToDevice, stream);
    cudaStreamEndCapture(stream, &graph);
    cr_assert_eq(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    cr_expect_eq(cudaFree(from), cudaSuccess);
    cudaGraphLaunch(executable, stream);
    cr_expect_eq(double_complaint_count(), 0);
    cudaStreamSynchronize(stream);
    cr_expect_complaint("freed");
}

#ifndef __SANITIZE_ADDRESS__
Test(memory, writing_into_a_guard_zone_is_noticed)
{
    float *memory = device_floats(4);
    cuda_shim_enqueue(nullptr, [=] { memory[4] = 0; });
    cudaFree(memory);
    cr_expect_complaint("behind");
}
#endif

Test(memory, what_is_not_freed_is_reported)
{
    device_floats(3);
    pinned_floats(2);
    new_stream();
    new_event(cudaEventDefault);
    cr_assert_eq(double_leak_count(), 4);
    std::string all;
    for (int i = 0; i < 4; i++)
        all += double_leak(i);
    cr_expect(all.find("12 bytes of device") != std::string::npos, "%s", all.c_str());
    double_reset();
    cr_expect_eq(double_report(), 0);
}

Test(memory, it_is_as_large_as_was_said)
{
    size_t available, total;
    void *memory;
    double_set_memory(1000);
    cr_expect_eq(cudaMalloc(&memory, 1001), cudaErrorMemoryAllocation);
    cr_expect_eq(cudaMalloc(&memory, 600), cudaSuccess);
    cr_expect_eq(cudaMemGetInfo(&available, &total), cudaSuccess);
    cr_expect_eq(available, 400u);
    cr_expect_eq(total, 1000u);
    cr_expect_eq(double_memory_in_use(), 600u);
    cudaFree(memory);
    cr_expect_eq(double_report(), 0); /* too little memory is no misuse */
}

Test(failures, the_third_call_fails)
{
    void *memory[3] = {};
    double_fail("cudaMalloc", 3, cudaErrorMemoryAllocation);
    cr_expect_eq(cudaMalloc(&memory[0], 8), cudaSuccess);
    cr_expect_eq(cudaMalloc(&memory[1], 8), cudaSuccess);
    cr_expect_eq(cudaMalloc(&memory[2], 8), cudaErrorMemoryAllocation);
    cr_expect_eq(cudaMalloc(&memory[2], 8), cudaSuccess);
    cr_expect_eq(double_count("cudaMalloc"), 4);
}

Test(devices, there_may_be_none_or_two)
{
    int count = -1;
    void *memory;
    cudaDeviceProp properties;
    double_set_devices(0);
    cr_expect_eq(cudaGetDeviceCount(&count), cudaErrorNoDevice);
    cr_expect_eq(cudaMalloc(&memory, 8), cudaErrorNoDevice);
    cr_expect_str_eq(cudaGetErrorName(cudaErrorNoDevice), "cudaErrorNoDevice");
    double_set_devices(2);
    cr_expect_eq(cudaGetDeviceCount(&count), cudaSuccess);
    cr_expect_eq(count, 2);
    cr_expect_eq(cudaSetDevice(2), cudaErrorInvalidDevice);
    cr_expect_eq(cudaSetDevice(1), cudaSuccess);
    cr_expect_eq(cudaGetDeviceProperties(&properties, 1), cudaSuccess);
    cr_expect_eq(properties.totalGlobalMem, (size_t)64 << 30);
    double_set_driver(0);
    cr_expect_eq(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
}

Test(streams, work_waits_until_the_host_does)
{
    bool done = false;
    cudaStream_t stream = new_stream();
    cuda_shim_enqueue(stream, [&] { done = true; });
    cr_expect_not(done);
    cudaStreamSynchronize(stream);
    cr_expect(done);
}

Test(streams, at_once_means_at_once)
{
    bool done = false;
    double_set_schedule(DOUBLE_AT_ONCE, 0);
    cuda_shim_enqueue(new_stream(), [&] { done = true; });
    cr_expect(done);
}

/* Input on one stream, use of it on another. */
static float feed(bool wait)
{
    cudaStream_t copy = new_stream(), compute = new_stream();
    cudaEvent_t filled = new_event(cudaEventDisableTiming);
    float *host = pinned_floats(1), *in = device_floats(1), *out = device_floats(1);
    *host = 41.0f;
    cudaMemcpyAsync(in, host, 4, cudaMemcpyHostToDevice, copy);
    cudaEventRecord(filled, copy);
    if (wait)
        cudaStreamWaitEvent(compute, filled, 0);
    increment(compute, in, out);
    return read_back(compute, out);
}

Test(streams, a_missing_wait_gives_stale_numbers)
{
    cr_expect_eq(feed(true), 42.0f);
    cr_expect(isnan(feed(false)));
}

/* A buffer that is filled again while the first filling may still be read. */
static float refill(bool wait)
{
    cudaStream_t copy = new_stream(), compute = new_stream();
    cudaEvent_t filled = new_event(cudaEventDisableTiming), read = new_event(cudaEventDisableTiming);
    float *host = pinned_floats(2), *in = device_floats(1), *out = device_floats(1);
    host[0] = 1;
    host[1] = 2;
    cudaMemcpyAsync(in, host, 4, cudaMemcpyHostToDevice, copy);
    cudaEventRecord(filled, copy);
    cudaStreamWaitEvent(compute, filled, 0);
    increment(compute, in, out);
    cudaEventRecord(read, compute);
    if (wait)
        cudaStreamWaitEvent(copy, read, 0);
    cudaMemcpyAsync(in, host + 1, 4, cudaMemcpyHostToDevice, copy);
    return read_back(compute, out);
}

Test(streams, a_buffer_overwritten_too_early_shows_where_the_writer_is_ahead)
{
    double_set_schedule(DOUBLE_ONE_AHEAD, 1);
    cr_expect_eq(refill(true), 2.0f);
    double_reset();
    double_set_schedule(DOUBLE_ONE_AHEAD, 1);
    cr_expect_eq(refill(false), 3.0f);
}

Test(streams, shuffled_order_keeps_to_the_waits)
{
    int wrong = 0;
    for (uint32_t seed = 0; seed < 50; seed++) {
        double_reset();
        double_set_schedule(DOUBLE_SHUFFLED, seed);
        cr_expect_eq(feed(true), 42.0f);
        cr_expect_eq(refill(true), 2.0f);
        wrong += refill(false) != 2.0f;
    }
    cr_expect_gt(wrong, 0);
    cr_expect_lt(wrong, 50);
}

Test(streams, pageable_memory_is_read_at_once_and_pinned_memory_late)
{
    cudaStream_t stream = new_stream();
    float pageable = 1, *pinned = pinned_floats(1), *a = device_floats(1), *b = device_floats(1);
    *pinned = 1;
    cudaMemcpyAsync(a, &pageable, 4, cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(b, pinned, 4, cudaMemcpyHostToDevice, stream);
    pageable = *pinned = 2;
    cr_expect_eq(read_back(stream, a), 1.0f);
    cr_expect_eq(read_back(stream, b), 2.0f);
}

Test(streams, stale_handles_are_noticed)
{
    cudaStream_t stream = new_stream();
    cr_expect_eq(cudaStreamDestroy(stream), cudaSuccess);
    cr_expect_eq(cudaStreamSynchronize(stream), cudaErrorInvalidResourceHandle);
    cr_expect_complaint("stream");
}

Test(events, time_is_counted)
{
    cudaStream_t stream = new_stream();
    cudaEvent_t from = new_event(cudaEventDefault), to = new_event(cudaEventDefault),
                untimed = new_event(cudaEventDisableTiming);
    float *memory = device_floats(1), ms = -1;
    cudaEventRecord(from, stream);
    for (int i = 0; i < 3; i++)
        cudaMemsetAsync(memory, 0, 4, stream);
    cudaEventRecord(to, stream);
    cr_expect_eq(cudaEventElapsedTime(&ms, from, to), cudaErrorNotReady);
    cr_expect_eq(cudaEventQuery(to), cudaErrorNotReady);
    cr_expect_eq(cudaEventSynchronize(to), cudaSuccess);
    cr_expect_eq(cudaEventQuery(to), cudaSuccess);
    cr_expect_eq(cudaEventElapsedTime(&ms, from, to), cudaSuccess);
    cr_expect_float_eq(ms, 0.03f, 1e-6f);
    cudaEventRecord(untimed, stream);
    cr_expect_neq(cudaEventElapsedTime(&ms, from, untimed), cudaSuccess);
}

Test(graphs, a_launch_does_again_what_was_captured)
{
    cudaStream_t stream = new_stream();
    float *value = device_floats(1);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaMemsetAsync(value, 0, 4, stream);
    cr_assert_eq(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    increment(stream, value, value);
    increment(stream, value, value);
    cr_assert_eq(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    cr_assert_eq(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    cr_expect_eq(cudaGraphDestroy(graph), cudaSuccess);
    cr_expect_eq(read_back(stream, value), 0.0f);
    int64_t mark = double_mark();
    for (int i = 0; i < 3; i++)
        cr_expect_eq(cudaGraphLaunch(executable, stream), cudaSuccess);
    cr_expect_eq(double_since(mark).launches, 3);
    cr_expect_eq(double_since(mark).synchronisations, 0);
    cr_expect_eq(read_back(stream, value), 6.0f);
    cr_expect_eq(cudaGraphExecDestroy(executable), cudaSuccess);
    cudaFree(value);
    cudaStreamDestroy(stream);
    cr_expect_eq(double_report(), 0);
}

typedef cudaError_t (*forbidden_call)(cudaStream_t stream, float *value);
static const forbidden_call forbidden[] = {
    [](cudaStream_t, float *) {
        void *memory;
        return cudaMalloc(&memory, 8);
    },
    [](cudaStream_t stream, float *) { return cudaStreamSynchronize(stream); },
    [](cudaStream_t, float *) { return cudaDeviceSynchronize(); },
    [](cudaStream_t, float *value) {
        float host = 0;
        return cudaMemcpy(value, &host, 4, cudaMemcpyHostToDevice);
    },
    [](cudaStream_t stream, float *) { return cudaStreamQuery(stream); },
    [](cudaStream_t stream, float *) {
        cudaEvent_t event = new_event(cudaEventDefault);
        cudaEventRecord(event, stream);
        return cudaEventSynchronize(event);
    },
};

Test(graphs, what_is_forbidden_in_a_capture_fails_and_spoils_it)
{
    for (forbidden_call call : forbidden) {
        cudaStream_t stream = new_stream();
        cudaGraph_t graph;
        float *value = device_floats(1);
        double_clear_complaints();
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        cr_expect_neq(call(stream, value), cudaSuccess);
        cr_expect_geq(double_complaint_count(), 1);
        cr_expect_eq(cudaMemsetAsync(value, 0, 4, stream), cudaErrorStreamCaptureInvalidated);
        cr_expect_eq(cudaStreamEndCapture(stream, &graph), cudaErrorStreamCaptureInvalidated);
        cr_expect_null(graph);
        cr_expect_eq(cudaMemsetAsync(value, 0, 4, stream), cudaSuccess);
    }
}

Test(graphs, a_second_stream_must_be_joined_again)
{
    for (int join = 0; join < 2; join++) {
        cudaStream_t stream = new_stream(), other = new_stream();
        cudaEvent_t fork = new_event(cudaEventDisableTiming), back = new_event(cudaEventDisableTiming);
        cudaGraph_t graph;
        float *value = device_floats(1);
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        cudaEventRecord(fork, stream);
        cudaStreamWaitEvent(other, fork, 0);
        cudaMemsetAsync(value, 0, 4, other);
        cudaEventRecord(back, other);
        if (join)
            cudaStreamWaitEvent(stream, back, 0);
        cr_expect_eq(cudaStreamEndCapture(stream, &graph),
                     join ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    }
}
