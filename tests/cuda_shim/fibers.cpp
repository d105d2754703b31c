/* A block's threads as fibers of one thread of the system. */
#include "cuda_shim/block.hpp"

#include <stdlib.h>

#include <utility>
#include <vector>

#include "cuda_shim/switch.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

/* Of the thread sanitizer, where the program has it. This file itself is compiled without, so that what the
 * scheduler and the fibers share here is no race. */
extern "C" {
__attribute__((weak)) void *__tsan_get_current_fiber();
__attribute__((weak)) void *__tsan_create_fiber(unsigned flags);
__attribute__((weak)) void __tsan_destroy_fiber(void *fiber);
__attribute__((weak)) void __tsan_switch_to_fiber(void *fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void *at);
__attribute__((weak)) void __tsan_release(void *at);
}

namespace cuda_shim
{
enum { STACK = 128 << 10, MOST = 1024, WARP = 32, TSAN_NO_SYNC = 1 };
enum state_t { READY, AT_BARRIER, AT_WARP_BARRIER, DONE };

struct fiber {
    stack_pointer at;
    char *stack;
    state_t state;
    const char *file;
    int line;
    unsigned passed, passed_in_warp; /* barriers */
    void *tsan, *fake;               /* the sanitizers' own */
    alignas(16) unsigned char slot[16];
};

/* What the thread sanitizer hangs the order of a block's threads on. Two of each: a thread may reach the next
 * barrier before another has left this one. */
struct tokens {
    uint64_t block[2], warps[MOST / WARP][2];
};

static fiber fibers[MOST];
static stack_pointer scheduler;
static void *scheduler_tsan;
#ifdef __SANITIZE_ADDRESS__
static void *scheduler_fake;
static const void *scheduler_stack;
static size_t scheduler_size;
#endif
static int current;
static const std::function<void()> *body;
static tokens *order_of;
static uint64_t end_of_launch;
static cuda_shim_order order = CUDA_SHIM_FORWARD;
static uint32_t random_state = 1;

/* ---- switching ---- */

static void to_scheduler(bool ends)
{
    fiber &f = fibers[current];
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? nullptr : &f.fake, scheduler_stack, scheduler_size);
#else
    (void)ends;
#endif
    if (f.tsan != nullptr)
        __tsan_switch_to_fiber(scheduler_tsan, TSAN_NO_SYNC);
    switch_stack(&f.at, &scheduler);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(f.fake, nullptr, nullptr);
#endif
}

static void to_fiber(int i)
{
    current = i;
    cuda_shim_thread = {(unsigned)i, 0, 0};
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&scheduler_fake, fibers[i].stack, STACK);
#endif
    if (fibers[i].tsan != nullptr)
        __tsan_switch_to_fiber(fibers[i].tsan, TSAN_NO_SYNC);
    switch_stack(&scheduler, &fibers[i].at);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(scheduler_fake, nullptr, nullptr);
#endif
}

static void entry()
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
    (*body)();
    if (fibers[current].tsan != nullptr)
        __tsan_release(&end_of_launch);
    fibers[current].state = DONE;
    to_scheduler(true);
    abort();
}

static void start(int i)
{
    fiber &f = fibers[i];
    if (f.stack == nullptr)
        f.stack = (char *)malloc(STACK);
    if (f.stack == nullptr)
        fail("out of memory", __FILE__, __LINE__);
    f.state = READY;
    f.passed = f.passed_in_warp = 0;
    f.fake = nullptr;
    f.tsan = __tsan_create_fiber != nullptr ? __tsan_create_fiber(0) : nullptr;
    prepare_stack(&f.at, f.stack, STACK, entry);
}

/* ---- what kernels call ---- */

static void wait_for_others(state_t state, uint64_t *token, const char *file, int line)
{
    fiber &f = fibers[current];
    f.state = state;
    f.file = file;
    f.line = line;
    if (f.tsan != nullptr)
        __tsan_release(token);
    to_scheduler(false);
    if (f.tsan != nullptr)
        __tsan_acquire(token);
}

void barrier(const char *file, int line)
{
    wait_for_others(AT_BARRIER, &order_of->block[fibers[current].passed++ % 2], file, line);
}

void warp_barrier(const char *file, int line)
{
    wait_for_others(AT_WARP_BARRIER, &order_of->warps[current / WARP][fibers[current].passed_in_warp++ % 2],
                    file, line);
}

/* Byte by byte: the thread sanitizer watches memcpy also here, and blocks share the slots. */
static void copy(volatile unsigned char *to, const volatile unsigned char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = from[i];
}

void leave(const void *value, size_t bytes)
{
    copy(fibers[current].slot, (const unsigned char *)value, bytes);
}

void read(int lane, void *value, size_t bytes)
{
    copy((unsigned char *)value, fibers[current / WARP * WARP + lane].slot, bytes);
}

/* ---- a block ---- */

/* Lets threads [first, last) go on if all of them stand at `state`, at one line. */
static bool release(int first, int last, state_t state)
{
    int waiting = 0, done = 0;
    const fiber *some = nullptr;
    for (int i = first; i < last; i++) {
        waiting += fibers[i].state == state;
        done += fibers[i].state == DONE;
        if (fibers[i].state == state && some == nullptr)
            some = &fibers[i];
    }
    if (waiting == 0 || waiting + done < last - first)
        return false;
    for (int i = first; i < last; i++)
        if (fibers[i].state != state || fibers[i].line != some->line ||
            strcmp(fibers[i].file, some->file) != 0)
            fail("not all threads come to this barrier", some->file, some->line);
    for (int i = first; i < last; i++)
        fibers[i].state = READY;
    return true;
}

void make_order(std::vector<uint32_t> &list, uint64_t count)
{
    if (count > UINT32_MAX)
        fail("a grid too large for the shim", __FILE__, __LINE__);
    list.resize(count);
    for (uint32_t i = 0; i < count; i++)
        list[i] = order == CUDA_SHIM_REVERSE ? (uint32_t)count - 1 - i : i;
    for (uint32_t i = (uint32_t)count; i-- > 1 && order == CUDA_SHIM_RANDOM;) {
        random_state = random_state * 1664525u + 1013904223u;
        std::swap(list[i], list[(random_state >> 8) % (i + 1)]);
    }
}

/* Every thread that can go on does so once. */
static bool run_ready(int threads)
{
    static std::vector<uint32_t> list;
    bool moved = false;
    make_order(list, (uint64_t)threads);
    for (uint32_t i : list)
        if (fibers[i].state == READY) {
            to_fiber((int)i);
            moved = true;
        }
    return moved;
}

void run_block(uint3 block, int threads, const std::function<void()> &kernel)
{
    body = &kernel;
    cuda_shim_block = block;
    scheduler_tsan = __tsan_get_current_fiber != nullptr ? __tsan_get_current_fiber() : nullptr;
    /* New ones for each block, as an old one would carry the order of another block's threads. */
    order_of = (tokens *)malloc(sizeof *order_of);
    static int turn =
        0; /* the sanitizer knows a thread by a slot, which the next block's at the same place must not get */
    turn++;
    for (int i = 0; i < threads; i++)
        start((i + turn) % threads);
    for (bool moved = true; moved;) {
        moved = run_ready(threads);
        for (int first = 0; first < threads; first += WARP)
            moved = release(first, first + WARP < threads ? first + WARP : threads, AT_WARP_BARRIER) || moved;
        moved = release(0, threads, AT_BARRIER) || moved;
    }
    for (int i = 0; i < threads; i++) {
        if (fibers[i].state != DONE)
            fail("not all threads come to this barrier", fibers[i].file, fibers[i].line);
        if (fibers[i].tsan != nullptr)
            __tsan_destroy_fiber(fibers[i].tsan);
    }
    free(order_of);
}

void end_launch()
{
    if (__tsan_acquire != nullptr)
        __tsan_acquire(&end_of_launch);
}
} // namespace cuda_shim

extern "C" void cuda_shim_set_order(cuda_shim_order new_order, uint32_t seed)
{
    cuda_shim::order = new_order;
    cuda_shim::random_state = seed;
}
