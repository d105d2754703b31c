/* A block's threads as fibers of one thread of the system. */
#ifndef __SANITIZE_THREAD__
#include <stdlib.h>

#include <ucontext.h>

#include <vector>

#include "cuda_shim/block.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace cuda_shim
{
enum { STACK = 128 << 10, MOST = 1024, WARP = 32 };
enum state_t { READY, AT_BARRIER, AT_WARP_BARRIER, DONE };

/* The registers that a call preserves lie on the stack; a context is its stack pointer. */
struct fiber {
    void *sp;
    char *stack;
    state_t state;
    const char *file;
    int line;
    alignas(16) unsigned char slot[16];
#ifdef __SANITIZE_ADDRESS__
    void *fake;
#endif
};

static fiber fibers[MOST];
static void *scheduler_sp;
static int current;
static const std::function<void()> *body;
#ifdef __SANITIZE_ADDRESS__
static void *scheduler_fake;
static const void *scheduler_stack;
static size_t scheduler_size;
#endif

#if !defined(__x86_64__)
#error "the shim switches fibers on x86-64 only"
#endif
extern "C" void cuda_shim_switch(void **save, void *to);
asm(".text\n"
    ".globl cuda_shim_switch\n"
    ".type cuda_shim_switch,@function\n"
    "cuda_shim_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size cuda_shim_switch, .-cuda_shim_switch\n");

static void to_scheduler(bool ends)
{
    fiber &f = fibers[current];
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(ends ? nullptr : &f.fake, scheduler_stack, scheduler_size);
#else
    (void)ends;
#endif
    cuda_shim_switch(&f.sp, scheduler_sp);
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
    cuda_shim_switch(&scheduler_sp, fibers[i].sp);
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
    /* Six registers and the address of entry; at entry the stack is as after a call. */
    void **sp = (void **)((uintptr_t)(f.stack + STACK) & ~(uintptr_t)15) - 8;
    memset(sp, 0, 8 * sizeof *sp);
    sp[6] = (void *)entry;
    f.sp = sp;
}

void barrier(const char *file, int line)
{
    fiber &f = fibers[current];
    f.state = AT_BARRIER;
    f.file = file;
    f.line = line;
    to_scheduler(false);
}

void warp_barrier(const char *file, int line)
{
    fiber &f = fibers[current];
    f.state = AT_WARP_BARRIER;
    f.file = file;
    f.line = line;
    to_scheduler(false);
}

void *slot(int lane)
{
    int first = current / WARP * WARP;
    return fibers[lane < 0 ? current : first + lane].slot;
}

/* Lets threads [first, last) go on if all of them stand at `state`, at one line. */
static bool release(int first, int last, state_t state)
{
    int waiting = 0, done = 0;
    for (int i = first; i < last; i++) {
        waiting += fibers[i].state == state;
        done += fibers[i].state == DONE;
    }
    if (waiting == 0 || waiting + done < last - first)
        return false;
    const fiber *some = nullptr;
    for (int i = first; i < last; i++)
        if (fibers[i].state == state && some == nullptr)
            some = &fibers[i];
    for (int i = first; i < last; i++)
        if (fibers[i].state != state || fibers[i].line != some->line)
            fail("not all threads come to this barrier", some->file, some->line);
    for (int i = first; i < last; i++)
        fibers[i].state = READY;
    return true;
}

static void make_order(std::vector<int> &order, int threads)
{
    static uint32_t state;
    state = state == 0 ? current_order.seed | 1u : state;
    order.resize((size_t)threads);
    for (int i = 0; i < threads; i++)
        order[(size_t)i] = current_order.order == CUDA_SHIM_REVERSE ? threads - 1 - i : i;
    for (int i = threads - 1; i > 0 && current_order.order == CUDA_SHIM_RANDOM; i--) {
        state = state * 1664525u + 1013904223u;
        std::swap(order[(size_t)i], order[(size_t)((state >> 8) % (uint32_t)(i + 1))]);
    }
}

void run_block(uint3 block, int threads, const std::function<void()> &kernel)
{
    static std::vector<int> order;
    body = &kernel;
    cuda_shim_block = block;
    for (int i = 0; i < threads; i++)
        start(i);
    for (bool moved = true; moved;) {
        moved = false;
        make_order(order, threads);
        for (int i : order)
            if (fibers[i].state == READY) {
                to_fiber(i);
                moved = true;
            }
        for (int first = 0; first < threads; first += WARP)
            moved = release(first, first + WARP < threads ? first + WARP : threads, AT_WARP_BARRIER) || moved;
        moved = release(0, threads, AT_BARRIER) || moved;
    }
    for (int i = 0; i < threads; i++)
        if (fibers[i].state != DONE)
            fail("not all threads come to this barrier", fibers[i].file, fibers[i].line);
}
} // namespace cuda_shim
#endif
