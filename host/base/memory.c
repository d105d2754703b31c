#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A huge page of x86-64. Buffers of several get them where the kernel leaves that to the program
 * (transparent_hugepage: madvise): passes over activations cross 4 KiB pages every few hundred cycles, where
 * prefetching stops and an address has to be looked up. */
enum { HUGE_PAGE = 2 << 20, HUGE_FROM = 4 * HUGE_PAGE };
enum { LAZY_FROM = 1 << 20, LAZY_PAGE = 1 << 16 /* a multiple of every page size */ };

bool hl_size_mul(size_t a, size_t b, size_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

hl_status hl_alloc(size_t bytes, const char *what, void **buffer)
{
    *buffer = NULL;
    size_t rounded = bytes == 0 ? HL_ALIGNMENT : bytes;
    size_t alignment = bytes < HUGE_FROM ? HL_ALIGNMENT : HUGE_PAGE;
    if (__builtin_add_overflow(rounded, alignment - 1, &rounded))
        return hl_fail_nomem(what, bytes);
    rounded -= rounded % alignment;
    void *memory = aligned_alloc(alignment, rounded);
    if (memory == NULL)
        return hl_fail_nomem(what, bytes);
    if (alignment == HUGE_PAGE)
        madvise(memory, rounded, MADV_HUGEPAGE); /* without it, it is only slower */
    memset(memory, 0, rounded);
    *buffer = memory;
    return HL_OK;
}

hl_status hl_alloc_array(size_t count, size_t size, const char *what, void **buffer)
{
    size_t bytes;
    *buffer = NULL;
    if (!hl_size_mul(count, size, &bytes))
        return hl_fail(HL_E_NOMEM, what, NULL, "%zu elements of %zu bytes overflow the address space", count,
                       size);
    return hl_alloc(bytes, what, buffer);
}

hl_status hl_alloc_lazy(size_t count, size_t size, const char *what, void **buffer)
{
    size_t bytes;
    *buffer = NULL;
    if (!hl_size_mul(count, size, &bytes) || bytes > SIZE_MAX - LAZY_PAGE)
        return hl_fail(HL_E_NOMEM, what, NULL, "%zu elements of %zu bytes overflow the address space", count,
                       size);
    if (bytes < LAZY_FROM)
        return hl_alloc(bytes, what, buffer);
    bytes = (bytes + LAZY_PAGE - 1) / LAZY_PAGE * LAZY_PAGE;
    void *memory = aligned_alloc(LAZY_PAGE, bytes);
    if (memory == NULL)
        return hl_fail_nomem(what, bytes);
    /* On Linux private pages that are given back read as zeros from then on. */
    if (madvise(memory, bytes, MADV_DONTNEED) != 0)
        memset(memory, 0, bytes);
    *buffer = memory;
    return HL_OK;
}

hl_status hl_grow(void **array, size_t *capacity, size_t needed, size_t size, const char *what)
{
    if (needed <= *capacity)
        return HL_OK;
    size_t wanted = *capacity < 8 ? 8 : *capacity, bytes;
    while (wanted < needed)
        if (!hl_size_mul(wanted, 2, &wanted))
            return hl_fail_nomem(what, needed);
    if (!hl_size_mul(wanted, size, &bytes))
        return hl_fail_nomem(what, needed);
    void *moved = realloc(*array, bytes);
    if (moved == NULL)
        return hl_fail_nomem(what, bytes);
    *array = moved;
    *capacity = wanted;
    return HL_OK;
}

typedef struct block {
    struct block *next;
    size_t used, size;
    _Alignas(16) unsigned char data[];
} block;

struct hl_arena {
    block *blocks;
};

enum { BLOCK_SIZE = 64 * 1024 };

hl_status hl_arena_create(hl_arena **arena)
{
    *arena = calloc(1, sizeof **arena);
    return *arena == NULL ? hl_fail_nomem("arena", sizeof **arena) : HL_OK;
}

void hl_arena_destroy(hl_arena *arena)
{
    if (arena == NULL)
        return;
    for (block *b = arena->blocks; b != NULL;) {
        block *next = b->next;
        free(b);
        b = next;
    }
    free(arena);
}

void *hl_arena_take(hl_arena *arena, size_t bytes)
{
    size_t rounded;
    if (__builtin_add_overflow(bytes, (size_t)15, &rounded)) {
        hl_fail_nomem("arena", bytes);
        return NULL;
    }
    rounded -= rounded % 16;
    block *b = arena->blocks;
    if (b == NULL || b->size - b->used < rounded) {
        size_t size = rounded > BLOCK_SIZE ? rounded : BLOCK_SIZE;
        b = size > SIZE_MAX - sizeof *b ? NULL : calloc(1, sizeof *b + size);
        if (b == NULL) {
            hl_fail_nomem("arena", bytes);
            return NULL;
        }
        b->size = size;
        b->next = arena->blocks;
        arena->blocks = b;
    }
    void *taken = b->data + b->used;
    b->used += rounded;
    return taken;
}

char *hl_arena_copy(hl_arena *arena, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = hl_arena_take(arena, size);
    if (copy != NULL)
        memcpy(copy, text, size);
    return copy;
}

char *hl_arena_format(hl_arena *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : hl_arena_take(arena, (size_t)length + 1);
    if (text == NULL)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}
