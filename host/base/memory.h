/* Aligned buffers, overflow-checked sizes, and arenas for objects that live and die together. */
#ifndef HL_BASE_MEMORY_H
#define HL_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Alignment of every tensor buffer: a cache line, and the widest vector register. */
enum { HL_ALIGNMENT = 64 };

/* *product = a * b; false when that overflows size_t. */
bool hl_size_mul(size_t a, size_t b, size_t *product);

/* Zero-filled buffer aligned to HL_ALIGNMENT, at least one byte; the caller frees it with free(). `what`
 * names it in the error. */
hl_status hl_alloc(size_t bytes, const char *what, void **buffer);

/* The same for count * size bytes, with the product checked. */
hl_status hl_alloc_array(size_t count, size_t size, const char *what, void **buffer);

/* The same, for large tables of which parts may never be looked at, such as weights before they are loaded: a
 * page takes memory when it is first touched. */
hl_status hl_alloc_lazy(size_t count, size_t size, const char *what, void **buffer);

/* Grows *array (of *capacity elements of `size` bytes) so that it holds `needed`; doubles, so appends
 * are linear in all. On failure *array stays valid. */
hl_status hl_grow(void **array, size_t *capacity, size_t needed, size_t size, const char *what);

typedef struct hl_arena hl_arena;

hl_status hl_arena_create(hl_arena **arena);
void hl_arena_destroy(hl_arena *arena); /* NULL is fine; frees all that was taken from it */

/* Zero-filled, aligned to 16 bytes, valid until the arena is destroyed; NULL when memory is out (the error is
 * recorded). */
void *hl_arena_take(hl_arena *arena, size_t bytes);
char *hl_arena_copy(hl_arena *arena, const char *text);
char *hl_arena_format(hl_arena *arena, const char *format, ...) HL_PRINTF(2, 3);

#endif
