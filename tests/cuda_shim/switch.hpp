/* From one stack to another. On x86-64 by hand, as swapcontext enters the kernel to save the signal mask. */
#ifndef CUDA_SHIM_SWITCH_HPP
#define CUDA_SHIM_SWITCH_HPP

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && !defined(CUDA_SHIM_UCONTEXT)

namespace cuda_shim
{
/* The registers that a call preserves lie on the stack. */
typedef void *stack_pointer;
} // namespace cuda_shim

extern "C" void cuda_shim_switch(void **save, void *to);
asm(".text\n"
    ".type cuda_shim_switch,@function\n"
    "cuda_shim_switch:\n"
    "    push %rbp\n    push %rbx\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
    "    mov %rsp, (%rdi)\n"
    "    mov %rsi, %rsp\n"
    "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbx\n    pop %rbp\n"
    "    ret\n"
    ".size cuda_shim_switch, .-cuda_shim_switch\n");

namespace cuda_shim
{
static inline void prepare_stack(stack_pointer *at, char *stack, size_t bytes, void (*entry)())
{
    /* Six registers and the address of entry; at entry the stack is as after a call. */
    void **sp = (void **)((uintptr_t)(stack + bytes) & ~(uintptr_t)15) - 8;
    memset(sp, 0, 8 * sizeof *sp);
    sp[6] = (void *)entry;
    *at = sp;
}

static inline void switch_stack(stack_pointer *from, stack_pointer *to)
{
    cuda_shim_switch(from, *to);
}
} // namespace cuda_shim

#else
#include <ucontext.h>

namespace cuda_shim
{
typedef ucontext_t stack_pointer;

static inline void prepare_stack(stack_pointer *at, char *stack, size_t bytes, void (*entry)())
{
    getcontext(at);
    at->uc_stack.ss_sp = stack;
    at->uc_stack.ss_size = bytes;
    at->uc_link = nullptr;
    makecontext(at, entry, 0);
}

static inline void switch_stack(stack_pointer *from, stack_pointer *to)
{
    swapcontext(from, to);
}
} // namespace cuda_shim

#endif
#endif
