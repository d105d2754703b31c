#include "cuda_double/memory.hpp"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include <map>

#include "cuda_double/device.hpp"
#include "cuda_double/double.h"
#include "cuda_double/record.hpp"
#include "cuda_double/stream.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_double
{
namespace
{
constexpr size_t guard_bytes = 512, alignment = 512;
constexpr unsigned char guard_value = 0xb7, poison = 0xff; /* of NaN in every floating-point type */

struct allocation {
    memory_kind kind;
    unsigned char *block; /* guard, memory, guard */
    size_t bytes;
    uint64_t number;
    int device;
    unsigned char *memory() const
    {
        return block + guard_bytes;
    }
};

auto &table = *new std::map<const unsigned char *, allocation>;
uint64_t next_number = 1;
size_t total = (size_t)64 << 30;
auto &in_use = *new std::map<int, size_t>; /* by device */

const allocation *find(const void *pointer)
{
    const unsigned char *p = static_cast<const unsigned char *>(pointer);
    auto after = table.upper_bound(p);
    if (after == table.begin())
        return nullptr;
    const allocation &a = std::prev(after)->second;
    return p < a.memory() + a.bytes || p == a.memory() ? &a : nullptr;
}

void *allocate(memory_kind kind, size_t bytes, int device)
{
    size_t whole = (2 * guard_bytes + bytes + alignment - 1) / alignment * alignment;
    unsigned char *block = static_cast<unsigned char *>(aligned_alloc(alignment, whole));
    if (block == nullptr)
        return nullptr;
    memset(block, guard_value, whole);
    allocation a = {kind, block, bytes, next_number++, device};
    memset(a.memory(), poison, bytes);
#ifdef __SANITIZE_ADDRESS__
    ASAN_POISON_MEMORY_REGION(block, guard_bytes);
    ASAN_POISON_MEMORY_REGION(a.memory() + bytes, whole - guard_bytes - bytes);
#endif
    table[a.memory()] = a;
    return a.memory();
}

void check_guards(const allocation &a)
{
#ifdef __SANITIZE_ADDRESS__
    (void)a; /* who touches them is stopped there and then */
#else
    for (size_t i = 0; i < guard_bytes; i++)
        if (a.block[i] != guard_value || a.memory()[a.bytes + i] != guard_value) {
            complain("something was written outside of an allocation of %zu bytes, %s it", a.bytes,
                     a.block[i] != guard_value ? "before" : "behind");
            return;
        }
#endif
}

void discard(const allocation &a)
{
#ifdef __SANITIZE_ADDRESS__
    ASAN_UNPOISON_MEMORY_REGION(a.block, guard_bytes + a.bytes + guard_bytes);
#endif
    free(a.block);
}

cudaError_t release(void *pointer, memory_kind kind)
{
    if (pointer == nullptr)
        return cudaSuccess;
    auto found = table.find(static_cast<const unsigned char *>(pointer));
    if (found == table.end() || found->second.kind != kind) {
        complain("%p is not the beginning of %s memory that is allocated", pointer,
                 kind == memory_kind::device ? "device" : "pinned");
        return fail(cudaErrorInvalidValue);
    }
    run_everything(); /* freeing waits for all that may use it */
    check_guards(found->second);
    if (kind == memory_kind::device)
        in_use[found->second.device] -= found->second.bytes;
    discard(found->second);
    table.erase(found);
    return cudaSuccess;
}

void find_leaks(std::vector<std::string> &found)
{
    for (auto &item : table) {
        check_guards(item.second);
        found.push_back(format("%zu bytes of %s memory", item.second.bytes,
                               item.second.kind == memory_kind::device ? "device" : "pinned"));
    }
}

void reset()
{
    for (auto &item : table)
        discard(item.second);
    table.clear();
    in_use.clear();
    total = (size_t)64 << 30;
}

const bool added = add_part(2, {find_leaks, reset});
} // namespace

memory_kind kind_of(const void *pointer)
{
    const allocation *a = find(pointer);
    return a != nullptr ? a->kind : memory_kind::pageable;
}

bool find_range(const void *pointer, size_t bytes, const std::string &what, range *found)
{
    const allocation *a = find(pointer);
    const unsigned char *p = static_cast<const unsigned char *>(pointer);
    if (a == nullptr || a->kind != memory_kind::device) {
        complain("%s: %p is not in device memory%s", what.c_str(), pointer,
                 pointer == nullptr ? ""
                 : a != nullptr     ? " but in pinned memory"
                                    : " that is allocated");
        return false;
    }
    if (bytes > (size_t)(a->memory() + a->bytes - p)) {
        complain("%s: %zu bytes are used at %p, %zu bytes before the end of an allocation of %zu",
                 what.c_str(), bytes, pointer, (size_t)(a->memory() + a->bytes - p), a->bytes);
        return false;
    }
    if (a->device != current_device())
        complain("%s: memory of device %d is used on device %d", what.c_str(), a->device, current_device());
    *found = {pointer, bytes, a->number, what};
    return true;
}

bool still_there(const range &r)
{
    if (r.bytes == 0)
        return true;
    const allocation *a = find(r.pointer);
    if (a != nullptr && a->number == r.allocation)
        return true;
    complain("%s: the memory was freed before the work ran", r.what.c_str());
    return false;
}

bool overlap(const range &a, const range &b)
{
    const char *p = static_cast<const char *>(a.pointer), *q = static_cast<const char *>(b.pointer);
    return a.bytes > 0 && b.bytes > 0 && p < q + b.bytes && q < p + a.bytes;
}
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
void double_set_memory(size_t bytes)
{
    total = bytes;
}

size_t double_memory_in_use(void)
{
    return in_use[current_device()];
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    call c("cudaMalloc", -1, (int64_t)bytes);
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = not_while_capturing("allocating");
    if (status != cudaSuccess)
        return status;
    if (pointer == nullptr)
        return fail(cudaErrorInvalidValue);
    *pointer = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    size_t &used = in_use[current_device()];
    if (used > total || bytes > total - used)
        return fail(cudaErrorMemoryAllocation);
    *pointer = allocate(memory_kind::device, bytes, current_device());
    if (*pointer == nullptr)
        return fail(cudaErrorMemoryAllocation);
    used += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    call c("cudaFree");
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = not_while_capturing("freeing");
    return status != cudaSuccess ? status : release(pointer, memory_kind::device);
}

static cudaError_t allocate_pinned(const call &c, void **pointer, size_t bytes)
{
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = not_while_capturing("allocating");
    if (status != cudaSuccess)
        return status;
    if (pointer == nullptr)
        return fail(cudaErrorInvalidValue);
    *pointer = bytes > 0 ? allocate(memory_kind::pinned, bytes, current_device()) : nullptr;
    return bytes > 0 && *pointer == nullptr ? fail(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags)
{
    call c("cudaHostAlloc", -1, (int64_t)bytes);
    if ((flags & ~(unsigned)(cudaHostAllocPortable | cudaHostAllocMapped | cudaHostAllocWriteCombined)) != 0)
        return fail(cudaErrorInvalidValue);
    return allocate_pinned(c, pointer, bytes);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    call c("cudaMallocHost", -1, (int64_t)bytes);
    return allocate_pinned(c, pointer, bytes);
}

cudaError_t cudaFreeHost(void *pointer)
{
    call c("cudaFreeHost");
    cudaError_t status = begin(c);
    if (status == cudaSuccess)
        status = not_while_capturing("freeing");
    return status != cudaSuccess ? status : release(pointer, memory_kind::pinned);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *all)
{
    call c("cudaMemGetInfo");
    cudaError_t status = begin(c);
    if (status != cudaSuccess)
        return status;
    size_t used = in_use[current_device()];
    *available = used < total ? total - used : 0;
    *all = total;
    return cudaSuccess;
}
}
