#include "cuda_double/record.hpp"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <deque>
#include <map>

#include "cuda_double/double.h"

namespace cuda_double
{
namespace
{
struct entry {
    const char *name;
    int stream;
    int64_t bytes;
    bool captured;
    std::string text;
};
struct failure {
    std::string function;
    int64_t left;
    int status;
};

std::recursive_mutex mutex;
auto &entries = *new std::deque<entry>;
auto &totals = *new std::map<std::string, int64_t>;
auto &failures = *new std::vector<failure>;
auto &complaints = *new std::vector<std::string>, &leaks = *new std::vector<std::string>;
const char *current = "at the end";

std::multimap<int, part> &parts()
{
    static auto &all = *new std::multimap<int, part>;
    return all;
}

bool is_one_of(const char *name, const char *const *names)
{
    for (; *names != nullptr; names++)
        if (strcmp(name, *names) == 0)
            return true;
    return false;
}

const char *const allocating[] = {"cudaMalloc", "cudaHostAlloc", "cudaMallocHost", nullptr};
const char *const synchronising[] = {"cudaStreamSynchronize",
                                     "cudaEventSynchronize",
                                     "cudaDeviceSynchronize",
                                     "cudaMemcpy",
                                     "cudaFree",
                                     "cudaMalloc",
                                     "pageable copy",
                                     nullptr};
const char *const describing[] = {"cudnnBackendCreateDescriptor",          "cublasLtMatmulDescCreate",
                                  "cublasLtMatmulDescInit_internal",       "cublasLtMatrixLayoutCreate",
                                  "cublasLtMatrixLayoutInit_internal",     "cublasLtMatmulPreferenceCreate",
                                  "cublasLtMatmulPreferenceInit_internal", nullptr};
const char *const launching[] = {"kernel", "cudnnBackendExecute", "cublasLtMatmul", "cudaGraphLaunch",
                                 nullptr};
const char *const copying[] = {"cudaMemcpy", "cudaMemcpyAsync", nullptr};
} // namespace

call::call(const char *name, int stream, int64_t bytes) : injected(0), lock(mutex), outer(current)
{
    current = name;
    entries.push_back({name, stream, bytes, false, ""});
    totals[name]++;
    for (size_t i = 0; i < failures.size(); i++)
        if (failures[i].function == name && --failures[i].left == 0) {
            injected = failures[i].status;
            failures.erase(failures.begin() + (std::ptrdiff_t)i);
            break;
        }
}

call::~call()
{
    current = outer;
}

void describe_call(const std::string &text)
{
    entries.back().text += text;
}

void mark_captured(int stream)
{
    entries.back().captured = true;
    entries.back().stream = stream;
}

static std::string print(const char *text, va_list arguments)
{
    char buffer[2048];
    vsnprintf(buffer, sizeof buffer, text, arguments);
    return buffer;
}

std::string format(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    std::string out = print(text, arguments);
    va_end(arguments);
    return out;
}

void complain(const char *text, ...)
{
    va_list arguments;
    va_start(arguments, text);
    complaints.push_back(std::string(current) + ": " + print(text, arguments));
    va_end(arguments);
}

bool add_part(int order, part p)
{
    parts().insert({order, p});
    return true;
}
} // namespace cuda_double

using namespace cuda_double;

extern "C" {
void double_reset(void)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    for (auto &p : parts())
        p.second.reset();
    entries.clear();
    totals.clear();
    failures.clear();
    complaints.clear();
    leaks.clear();
}

void double_fail(const char *function, int64_t k, int status)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    failures.push_back({function, k, status});
}

int64_t double_call_count(void)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return (int64_t)entries.size();
}

double_call double_call_at(int64_t index)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    const entry &e = entries.at((size_t)index);
    return {e.name, e.stream, e.bytes, e.captured, e.text.c_str()};
}

int64_t double_count(const char *name)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto found = totals.find(name);
    return found != totals.end() ? found->second : 0;
}

int64_t double_mark(void)
{
    return double_call_count();
}

double_counts double_since(int64_t mark)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    double_counts counts = {};
    for (size_t i = (size_t)mark; i < entries.size(); i++) {
        const char *name = entries[i].name;
        counts.calls++;
        counts.allocations += is_one_of(name, allocating);
        counts.synchronisations += is_one_of(name, synchronising);
        counts.descriptors += is_one_of(name, describing);
        counts.launches += is_one_of(name, launching);
        counts.copies += is_one_of(name, copying);
    }
    return counts;
}

int64_t double_count_since(int64_t mark, const char *name)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    int64_t count = 0;
    for (size_t i = (size_t)mark; i < entries.size(); i++)
        count += strcmp(entries[i].name, name) == 0;
    return count;
}

int double_complaint_count(void)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return (int)complaints.size();
}

const char *double_complaint(int index)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return index >= 0 && (size_t)index < complaints.size() ? complaints[(size_t)index].c_str() : "";
}

void double_clear_complaints(void)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    complaints.clear();
}

int double_leak_count(void)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    leaks.clear();
    for (auto &p : parts())
        if (p.second.leaks != nullptr)
            p.second.leaks(leaks);
    return (int)leaks.size();
}

const char *double_leak(int index)
{
    std::lock_guard<std::recursive_mutex> guard(mutex);
    return index >= 0 && (size_t)index < leaks.size() ? leaks[(size_t)index].c_str() : "";
}

int double_report(void)
{
    int count = double_leak_count(); /* may complain, so first */
    std::lock_guard<std::recursive_mutex> guard(mutex);
    for (const std::string &text : complaints)
        fprintf(stderr, "CUDA double: %s\n", text.c_str());
    for (const std::string &text : leaks)
        fprintf(stderr, "CUDA double: still alive: %s\n", text.c_str());
    return count + (int)complaints.size();
}
}
