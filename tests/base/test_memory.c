#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Also where the allocator hands out memory that was used before. */
Test(memory, lazy_buffers_read_as_zeros)
{
    for (int round = 0; round < 3; round++)
        for (size_t bytes = 1000; bytes < 40u << 20; bytes = bytes * 7 + 13) {
            unsigned char *buffer;
            cr_assert_eq(hl_alloc_lazy(bytes, 1, "test", (void **)&buffer), HL_OK);
            cr_expect_eq((uintptr_t)buffer % HL_ALIGNMENT, 0);
            for (size_t i = 0; i < bytes; i++)
                cr_assert_eq(buffer[i], 0, "byte %zu of %zu", i, bytes);
            memset(buffer, 0xff, bytes);
            free(buffer);
        }
    void *none;
    cr_assert_eq(hl_alloc_lazy(SIZE_MAX / 4, 8, "test", &none), HL_E_NOMEM);
    cr_assert_eq(hl_alloc_lazy(SIZE_MAX - 5, 1, "test", &none), HL_E_NOMEM);
}

Test(memory, buffers_are_aligned_and_zero)
{
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        unsigned char *buffer;
        cr_assert_eq(hl_alloc(bytes, "test", (void **)&buffer), HL_OK);
        cr_assert_eq((uintptr_t)buffer % HL_ALIGNMENT, 0);
        for (size_t i = 0; i < bytes; i++)
            cr_assert_eq(buffer[i], 0);
        free(buffer);
    }
}

Test(memory, products_that_overflow_are_refused)
{
    void *buffer;
    size_t product;
    cr_assert_not(hl_size_mul(SIZE_MAX / 2, 3, &product));
    cr_assert(hl_size_mul(1u << 16, 1u << 16, &product));
    cr_assert_eq(product, (size_t)1 << 32);
    cr_assert_eq(hl_alloc_array(SIZE_MAX / 4, 8, "test", &buffer), HL_E_NOMEM);
    cr_assert_null(buffer);
    cr_assert_eq(hl_alloc(SIZE_MAX - 3, "test", &buffer), HL_E_NOMEM);
}

Test(memory, growing_keeps_what_is_there)
{
    int *array = NULL;
    size_t capacity = 0;
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(hl_grow((void **)&array, &capacity, (size_t)i + 1, sizeof *array, "test"), HL_OK);
        array[i] = i;
    }
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(array[i], i);
    cr_assert_eq(hl_grow((void **)&array, &capacity, SIZE_MAX / 2, sizeof *array, "test"), HL_E_NOMEM);
    cr_assert_eq(array[999], 999);
    free(array);
}

Test(memory, an_arena_gives_distinct_aligned_zeroed_pieces_of_any_size)
{
    enum { PIECES = 200 };
    static const size_t sizes[] = {1, 16, 40, 1000, 70000};
    hl_arena *arena;
    unsigned char *piece[PIECES];
    cr_assert_eq(hl_arena_create(&arena), HL_OK);
    for (int i = 0; i < PIECES; i++) {
        size_t size = sizes[i % 5];
        piece[i] = hl_arena_take(arena, size);
        cr_assert_not_null(piece[i]);
        cr_assert_eq((uintptr_t)piece[i] % 16, 0);
        for (size_t k = 0; k < size; k++)
            cr_assert_eq(piece[i][k], 0);
        memset(piece[i], i + 1, size);
    }
    for (int i = 0; i < PIECES; i++)
        for (size_t k = 0; k < sizes[i % 5]; k++)
            cr_assert_eq(piece[i][k], (unsigned char)(i + 1));
    cr_assert_null(hl_arena_take(arena, SIZE_MAX));
    cr_assert_str_eq(hl_arena_format(arena, "%s.%d", "layer", 3), "layer.3");
    hl_arena_destroy(arena);
    hl_arena_destroy(NULL);
}
