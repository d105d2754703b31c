#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "support/scratch.h"

#define EXPECTED "tests/fixtures/weights/expected.safetensors"

static char *folder;

static void setup(void)
{
    folder = scratch_make();
}

static void teardown(void)
{
    scratch_remove(folder);
}

TestSuite(safetensors, .init = setup, .fini = teardown);

/* A file with this header and `data_size` bytes 0, 1, 2 ... after it, parsed from memory of exact size. */
static hl_status parse(const char *header, size_t data_size, hl_tensor_map **map)
{
    static uint8_t *bytes; /* outlives the map; freed by the next call */
    free(bytes);
    size_t length = strlen(header);
    bytes = calloc(8 + length + data_size, 1);
    cr_assert_not_null(bytes);
    bytes[0] = (uint8_t)length;
    bytes[1] = (uint8_t)(length >> 8);
    memcpy(bytes + 8, header, length);
    for (size_t i = 0; i < data_size; i++)
        bytes[8 + length + i] = (uint8_t)i;
    return hl_safetensors_parse("file", bytes, 8 + length + data_size, map);
}

Test(safetensors, a_file_of_the_python_package_reads)
{
    hl_tensor_map *map;
    cr_assert_eq(hl_safetensors_read(EXPECTED, &map), HL_OK, "%s", hl_last_error());
    cr_expect_eq(hl_tensor_map_count(map), 17);
    cr_expect_str_eq(hl_tensor_map_meta(map, "purpose"), "test");
    cr_expect_str_eq(hl_tensor_map_meta(map, "note"), "h\u00e9");
    const hl_named_tensor *half = hl_tensor_map_find(map, "f16");
    float values[8];
    cr_assert_eq(hl_named_tensor_count(half), 8);
    hl_named_tensor_to_f32(half, values);
    cr_expect_eq(values[2], 1.0F);
    cr_expect_eq(values[3], 65504.0F);
    cr_expect_eq(values[4], 0x1p-24F); /* 6e-8 as the smallest subnormal */
    cr_expect(isinf(values[5]) && isnan(values[6]) && signbit(values[1]));
    const hl_named_tensor *scalar = hl_tensor_map_find(map, "scalar");
    cr_expect_eq(scalar->ndim, 0);
    cr_expect_eq(*(const int64_t *)scalar->data, 42);
    hl_tensor_map_destroy(map);
}

Test(safetensors, what_is_written_reads_back_the_same)
{
    hl_tensor_map *before, *after;
    char *path = scratch_path(folder, "copy.safetensors");
    cr_assert_eq(hl_safetensors_read(EXPECTED, &before), HL_OK);
    cr_assert_eq(hl_safetensors_write(path, before), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_safetensors_read(path, &after), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_tensor_map_count(after), hl_tensor_map_count(before));
    for (size_t i = 0; i < hl_tensor_map_count(before); i++) {
        const hl_named_tensor *b = hl_tensor_map_at(before, i), *a = hl_tensor_map_find(after, b->name);
        cr_assert_not_null(a);
        cr_expect(a->dtype == b->dtype && a->ndim == b->ndim && a->bytes == b->bytes);
        cr_expect_eq(memcmp(a->shape, b->shape, sizeof a->shape), 0);
        if (a->bytes > 0)
            cr_expect_eq(memcmp(a->data, b->data, a->bytes), 0);
    }
    cr_expect_str_eq(hl_tensor_map_meta(after, "note"), "h\u00e9");
    hl_tensor_map_destroy(before);
    hl_tensor_map_destroy(after);
    free(path);
}

Test(safetensors, the_bytes_do_not_depend_on_the_order_of_adding)
{
    uint8_t *bytes[2];
    size_t sizes[2];
    const float one[2] = {1, 2};
    const uint8_t two[3] = {1, 2, 3};
    for (int turn = 0; turn < 2; turn++) {
        hl_tensor_map *map;
        char *path = scratch_path(folder, turn == 0 ? "a" : "b");
        cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
        for (int i = 0; i < 3; i++)
            switch (turn == 0 ? i : 2 - i) {
            case 0:
                cr_assert_eq(hl_tensor_map_add(map, "z", HL_DTYPE_F32, 1, (int64_t[]){2}, one), HL_OK);
                cr_assert_eq(hl_tensor_map_set_meta(map, "k", "v"), HL_OK);
                break;
            case 1:
                cr_assert_eq(hl_tensor_map_add(map, "a", HL_DTYPE_U8, 1, (int64_t[]){3}, two), HL_OK);
                break;
            default:
                cr_assert_eq(hl_tensor_map_add(map, "b", HL_DTYPE_F32, 0, NULL, one), HL_OK);
                cr_assert_eq(hl_tensor_map_set_meta(map, "j", "w"), HL_OK);
            }
        cr_assert_eq(hl_safetensors_write(path, map), HL_OK);
        bytes[turn] = scratch_read(path, &sizes[turn]);
        hl_tensor_map_destroy(map);
        free(path);
    }
    cr_assert_eq(sizes[0], sizes[1]);
    cr_assert_eq(memcmp(bytes[0], bytes[1], sizes[0]), 0);
    cr_expect_eq((bytes[0][0] + 8) % 64, 0); /* where the data begins */
    free(bytes[0]);
    free(bytes[1]);
}

Test(safetensors, an_empty_map_is_a_file)
{
    hl_tensor_map *map;
    char *path = scratch_path(folder, "empty");
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_safetensors_write(path, map), HL_OK);
    hl_tensor_map_destroy(map);
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    cr_expect_eq(hl_tensor_map_count(map), 0);
    hl_tensor_map_destroy(map);
    free(path);
}

Test(safetensors, unaligned_tensors_are_copied_to_aligned_memory)
{
    hl_tensor_map *map;
    cr_assert_eq(parse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                       "\"b\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[1,9]},"
                       "\"c\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[9,17]}}",
                       17, &map),
                 HL_OK, "%s", hl_last_error());
    for (size_t i = 1; i < 3; i++)
        cr_expect_eq((uintptr_t)hl_tensor_map_at(map, i)->data % 8, 0);
    cr_expect_eq(*(const int64_t *)hl_tensor_map_find(map, "c")->data, 0x100f0e0d0c0b0a09);
    hl_tensor_map_destroy(map);
}

#define ENTRY(dtype, shape, begin, end)                                                                      \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}"

static const struct {
    const char *header;
    size_t data_size;
    const char *words;
} refused[] = {
    {"{\"a\":" ENTRY("F32", "[2]", "0", "8") "}", 7, "ends at byte 8"},
    {"{\"a\":" ENTRY("F32", "[2]", "0", "8") "}", 9, "9 follow"},
    {"{\"a\":" ENTRY("F32", "[3]", "0", "8") "}", 8, "takes 12 bytes"},
    {"{\"a\":" ENTRY("F32", "[2]", "8", "0") "}", 8, "growing"},
    {"{\"a\":" ENTRY("F32", "[-2]", "0", "8") "}", 8, "non-negative"},
    {"{\"a\":" ENTRY("F32", "[2.0]", "0", "8") "}", 8, "whole number"},
    {"{\"a\":" ENTRY("F32", "[2]", "-8", "0") "}", 8, "offsets"},
    {"{\"a\":" ENTRY("F32", "[2]", "0", "8,9") "}", 8, "offsets"},
    {"{\"a\":" ENTRY("F8_E4M3", "[8]", "0", "8") "}", 8, "F8_E4M3"},
    {"{\"a\":" ENTRY("F32", "[4611686018427387904,4]", "0", "0") "}", 0, "overflow"},
    {"{\"a\":" ENTRY("F32", "[4611686018427387904]", "0", "0") "}", 0, "overflow"},
    {"{\"a\":" ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", "0", "4") "}", 4, "8 dimensions"},
    {"{\"a\":" ENTRY("F32", "[1]", "0", "4") ",\"a\":" ENTRY("F32", "[1]", "4", "8") "}", 8, "duplicate"},
    {"{\"a\":" ENTRY("F32", "[1]", "0", "4") ",\"b\":" ENTRY("F32", "[1]", "0", "4") "}", 4, "overlap"},
    {"{\"a\":" ENTRY("F32", "[2]", "0", "8") ",\"b\":" ENTRY("F32", "[1]", "4", "8") "}", 8, "overlap"},
    {"{\"a\":" ENTRY("F32", "[1]", "4", "8") "}", 8, "unused bytes"},
    {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no dtype"},
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "offsets"},
    {"{\"a\":[1]}", 0, "not an object"},
    {"{\"__metadata__\":{\"a\":1}}", 0, "'a' is not a text"},
    {"{\"__metadata__\":3}", 0, "__metadata__"},
    {"[]", 0, "not a JSON object"},
    {"{\"a\":", 0, "not a JSON object"},
    {"{\"a\\u0000b\":" ENTRY("F32", "[1]", "0", "4") "}", 4, "JSON"},
};

Test(safetensors, headers_that_do_not_fit_the_file_are_refused)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        hl_tensor_map *map = (hl_tensor_map *)1;
        hl_status status = parse(refused[i].header, refused[i].data_size, &map);
        cr_expect(status == HL_E_INPUT || status == HL_E_UNSUPPORTED, "%s", refused[i].header);
        cr_expect_null(map);
        cr_expect_not_null(strstr(hl_last_error(), refused[i].words), "%s: %s", refused[i].header,
                           hl_last_error());
    }
}

Test(safetensors, a_tensor_without_elements_takes_no_bytes)
{
    hl_tensor_map *map;
    cr_assert_eq(parse("{\"a\":" ENTRY("F32", "[5,0,4]", "0", "0") "}", 0, &map), HL_OK, "%s",
                 hl_last_error());
    cr_expect_eq(hl_named_tensor_count(hl_tensor_map_at(map, 0)), 0);
    hl_tensor_map_destroy(map);
}

Test(safetensors, a_file_cut_anywhere_is_refused_and_a_changed_one_never_crashes)
{
    size_t size;
    uint8_t *bytes = scratch_read(EXPECTED, &size);
    for (size_t length = 0; length <= size; length++) {
        uint8_t *copy = malloc(length + (length == 0));
        hl_tensor_map *map;
        memcpy(copy, bytes, length);
        hl_status status = hl_safetensors_parse("copy", copy, length, &map);
        cr_assert_eq(status, length == size ? HL_OK : HL_E_INPUT, "cut to %zu", length);
        hl_tensor_map_destroy(map);
        free(copy);
    }
    for (size_t at = 0; at < size; at++) {
        hl_tensor_map *map;
        bytes[at] ^= 0x11;
        hl_safetensors_parse("copy", bytes, size, &map);
        hl_tensor_map_destroy(map);
        bytes[at] ^= 0x11;
    }
    free(bytes);
}

Test(safetensors, names_that_json_cannot_hold_are_refused_and_leave_no_file)
{
    hl_tensor_map *map;
    char *path = scratch_path(folder, "x");
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, "\xff\xfe", HL_DTYPE_U8, 0, NULL, "x"), HL_OK);
    cr_expect_eq(hl_safetensors_write(path, map), HL_E_ARG);
    cr_expect_eq(scratch_count(folder), 0);
    hl_tensor_map_destroy(map);
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, "__metadata__", HL_DTYPE_U8, 0, NULL, "x"), HL_OK);
    cr_expect_eq(hl_safetensors_write(path, map), HL_E_ARG);
    hl_tensor_map_destroy(map);
    free(path);
}

Test(safetensors, a_file_written_piece_by_piece_is_the_file_written_at_once)
{
    static const double seconds = 2.5;
    static const uint16_t halves[] = {1, 2, 3, 4, 5, 6};
    const int64_t shape[] = {3, 2};
    char *whole = scratch_path(folder, "whole"), *pieces = scratch_path(folder, "pieces");
    hl_tensor_map *map, *plan;
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_create(&plan), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "halves", HL_DTYPE_BF16, 2, shape, halves), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "seconds", HL_DTYPE_F64, 0, NULL, &seconds), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(plan, "halves", HL_DTYPE_BF16, 2, shape, NULL), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(plan, "seconds", HL_DTYPE_F64, 0, NULL, NULL), HL_OK);
    cr_assert_eq(hl_safetensors_write(whole, map), HL_OK);

    hl_atomic_file *file;
    uint64_t offsets[2];
    cr_assert_eq(hl_safetensors_begin(pieces, plan, &file, offsets), HL_OK);
    for (int i = 2; i >= 0; i--) {
        cr_assert_eq(hl_atomic_seek(file, offsets[0] + 4 * (uint64_t)i), HL_OK);
        cr_assert_eq(hl_atomic_write(file, halves + 2 * i, 4), HL_OK);
    }
    cr_assert_eq(hl_atomic_seek(file, offsets[1]), HL_OK);
    cr_assert_eq(hl_atomic_write(file, &seconds, sizeof seconds), HL_OK);
    cr_assert_eq(hl_atomic_commit(file), HL_OK);

    size_t size, other_size;
    uint8_t *bytes = scratch_read(whole, &size), *other = scratch_read(pieces, &other_size);
    cr_assert_eq(size, other_size);
    cr_expect_arr_eq(bytes, other, size);
    free(bytes);
    free(other);
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(plan);
    free(whole);
    free(pieces);
}
