/* A double of the CUDA runtime, of cuDNN's graph API and of cuBLASLt, for tests on machines without a device.
 *
 * It is linked in place of the libraries, computes on the CPU what they would compute, and takes note of what
 * it is asked for:
 *
 * - Device memory is host memory with guard zones, filled with NaN. Every pointer must lie in an allocation
 *   that is alive, of the right kind and large enough.
 * - Streams are queues. Work runs as late as CUDA allows: when the host synchronises, or when another stream
 *   that is being run waits for an event behind it. So a missing wait shows as wrong numbers.
 * - While a stream is captured, its work goes into the graph; what CUDA forbids meanwhile fails as there. A
 *   graph captured from several streams runs in the order of its calls.
 * - Time is counted, not measured: each piece of work costs a fixed time, so that timing a plan has a known
 *   winner (the second of the two engines that the heuristics propose).
 * - Misuse is refused as the libraries do where they do, and always leaves a complaint.
 *
 * Streams are numbered from 1 in the order in which they are created, the legacy stream is 0. */
#ifndef TESTS_CUDA_DOUBLE_DOUBLE_H
#define TESTS_CUDA_DOUBLE_DOUBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Forgets everything, frees what is left, and takes back all settings below. */
void double_reset(void);

/* ---- settings ---- */

void double_set_devices(int count);   /* 1 */
void double_set_memory(size_t total); /* bytes of each device; 64 GiB */
void double_set_driver(int version);  /* as cudaDriverGetVersion has it; 0: no driver. That of the headers */
/* The k-th call from now (from 1) of a function returns `status` and does nothing. */
void double_fail(const char *function, int64_t k, int status);
/* Graphs that have this operation have no engine: one of the words that double_call.text uses, such as
 * "conv_data", "relu", "resample_forward", "norm_forward". NULL: all have engines again. */
void double_refuse(const char *operation);

typedef enum double_schedule {
    DOUBLE_LATE,      /* the default, see above */
    DOUBLE_AT_ONCE,   /* everything runs when it is enqueued */
    DOUBLE_ONE_AHEAD, /* stream `number` runs at once, the others late: finds what is overwritten too early */
    DOUBLE_SHUFFLED   /* streams advance by chance at each call; `number` is the seed */
} double_schedule;
void double_set_schedule(double_schedule schedule, uint32_t number);

/* ---- what was called ---- */

typedef struct double_call {
    const char *name; /* of the function; "kernel" for a launch of the CPU shim */
    int stream;       /* -1: none */
    int64_t bytes;
    bool captured;    /* went into a graph */
    const char *text; /* details: "conv_forward relu; x bf16[2,64,8,8] ...; engine 2" */
} double_call;

int64_t double_call_count(void);
/* Valid until the next call of the API. */
double_call double_call_at(int64_t index);
/* Calls of a function since the beginning. */
int64_t double_count(const char *name);

/* A moment; what was called since. */
int64_t double_mark(void);
typedef struct double_counts {
    int64_t calls, allocations, synchronisations, descriptors, launches, copies;
} double_counts;
/* allocations: of device and pinned memory. synchronisations: calls in which the host waits. descriptors:
 * created ones of cuDNN and cuBLASLt. launches: of kernels, plans, matrix products and graphs; those that go
 * into a graph count where they are captured. */
double_counts double_since(int64_t mark);
int64_t double_count_since(int64_t mark, const char *name);

/* ---- what was wrong ---- */

int double_complaint_count(void);
const char *double_complaint(int index);
/* Forgets complaints that were expected. */
void double_clear_complaints(void);
/* Looks at the guard zones of all memory, which may add complaints, and at what is still alive; returns how
 * many things are. */
int double_leak_count(void);
const char *double_leak(int index); /* after double_leak_count */
/* Both together, printed to stderr: 0 is how a test should end. */
int double_report(void);

/* Bytes of device memory that are allocated now. */
size_t double_memory_in_use(void);

#ifdef __cplusplus
}
#endif

#endif
