#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/pytorch.h"
#include "io/safetensors.h"
#include "support/scratch.h"

#define WEIGHTS "tests/fixtures/weights/"

static void check_same(const char *path, const hl_tensor_map *got, const hl_tensor_map *expected)
{
    cr_assert_eq(hl_tensor_map_count(got), hl_tensor_map_count(expected), "%s", path);
    for (size_t i = 0; i < hl_tensor_map_count(expected); i++) {
        const hl_named_tensor *e = hl_tensor_map_at(expected, i), *g = hl_tensor_map_find(got, e->name);
        cr_assert_not_null(g, "%s: no %s", path, e->name);
        cr_assert_eq(g->dtype, e->dtype, "%s: %s", path, e->name);
        cr_assert_eq(g->ndim, e->ndim, "%s: %s", path, e->name);
        for (int d = 0; d < e->ndim; d++)
            cr_assert_eq(g->shape[d], e->shape[d], "%s: %s", path, e->name);
        cr_assert_eq(g->bytes, e->bytes);
        if (e->bytes > 0)
            cr_assert_eq(memcmp(g->data, e->data, e->bytes), 0, "%s: %s", path, e->name);
    }
}

Test(pytorch, every_dtype_stride_and_format_reads_as_in_python)
{
    static const char *const files[] = {WEIGHTS "all_zip.pt", WEIGHTS "all_zip_protocol4.pt",
                                        WEIGHTS "all_legacy.pth", WEIGHTS "all_legacy_protocol4.pth",
                                        WEIGHTS "all_deflated.pt"};
    hl_tensor_map *expected;
    cr_assert_eq(hl_safetensors_read(WEIGHTS "expected.safetensors", &expected), HL_OK, "%s",
                 hl_last_error());
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        hl_tensor_map *got;
        cr_assert_eq(hl_pytorch_read(files[i], &got), HL_OK, "%s", hl_last_error());
        check_same(files[i], got, expected);
        cr_assert_str_eq(hl_tensor_map_at(got, 0)->name, "f64"); /* in the order of saving */
        hl_tensor_map_destroy(got);
    }
    hl_tensor_map_destroy(expected);
}

Test(pytorch, a_view_has_its_own_order_of_the_storage_it_shares)
{
    static const char *const files[] = {WEIGHTS "all_zip.pt", WEIGHTS "all_legacy.pth"};
    for (int i = 0; i < 2; i++) {
        hl_tensor_map *map;
        cr_assert_eq(hl_pytorch_read(files[i], &map), HL_OK, "%s", hl_last_error());
        const hl_named_tensor *whole = hl_tensor_map_find(map, "f32"),
                              *turned = hl_tensor_map_find(map, "transposed");
        /* floats.permute(2, 0, 1): element [1, 0, 0] is floats[0, 0, 1] */
        cr_assert_eq(((const float *)turned->data)[12], ((const float *)whole->data)[1]);
        cr_assert_eq((uintptr_t)whole->data % 64, 0);
        hl_tensor_map_destroy(map);
    }
}

Test(pytorch, the_state_dict_of_a_checkpoint_is_found_and_its_prefix_removed)
{
    static const char *const files[] = {WEIGHTS "checkpoint_zip.pt", WEIGHTS "checkpoint_legacy.pth"};
    for (int i = 0; i < 2; i++) {
        hl_tensor_map *map;
        cr_assert_eq(hl_pytorch_read(files[i], &map), HL_OK, "%s", hl_last_error());
        cr_assert_eq(hl_tensor_map_count(map), 2);
        cr_assert_str_eq(hl_tensor_map_meta(map, "checkpoint_key"), "state_dict");
        const hl_named_tensor *weight = hl_tensor_map_find(map, "weight"),
                              *bias = hl_tensor_map_find(map, "bias");
        cr_assert_not_null(weight);
        cr_assert_not_null(bias);
        for (int k = 0; k < 6; k++)
            cr_assert_eq(((const float *)weight->data)[k], (float)k);
        cr_assert_eq(((const float *)bias->data)[1], 20.0F);
        hl_tensor_map_destroy(map);
    }
}

Test(pytorch, under_unknown_keys_the_dict_with_most_tensors_is_taken)
{
    hl_tensor_map *map;
    cr_assert_eq(hl_pytorch_read(WEIGHTS "checkpoint_other_key.pt", &map), HL_OK, "%s", hl_last_error());
    cr_assert_str_eq(hl_tensor_map_meta(map, "checkpoint_key"), "weights");
    cr_assert_not_null(hl_tensor_map_find(map, "q"));
    hl_tensor_map_destroy(map);
}

static const struct {
    const char *file;
    hl_status status;
    const char *words; /* in the message */
} refused[] = {
    {"bad_foreign_zip.pt", HL_E_INPUT,
     "foreign global posix.system; only tensors are read, nothing is executed"},
    {"bad_foreign_legacy.pth", HL_E_INPUT, "foreign global posix.system"},
    {"bad_model.pt", HL_E_INPUT, "foreign global torch.nn.modules.linear.Linear"},
    {"bad_no_tensors.pt", HL_E_INPUT, "no dict of named tensors"},
    {"bad_type.pt", HL_E_UNSUPPORTED, "'w'"},
    {"bad_float8.pt", HL_E_UNSUPPORTED, "float8"},
    {"bad_big_endian.pt", HL_E_UNSUPPORTED, "byte order"},
    {"bad_no_storage.pt", HL_E_INPUT, "data/0"},
    {"bad_short_storage.pt", HL_E_INPUT, "20 bytes instead of 24"},
    {"bad_no_pickle.pt", HL_E_INPUT, "data.pkl"},
    {"bad_script.pt", HL_E_UNSUPPORTED, "TorchScript"},
    {"bad_offset.pt", HL_E_INPUT, "element 6 of a storage of 6"},
    {"bad_size.pt", HL_E_INPUT, "element 6 of a storage of 6"},
    {"bad_stride.pt", HL_E_INPUT, "element 6 of a storage of 6"},
    {"bad_negative_offset.pt", HL_E_INPUT, "offset"},
    {"bad_negative_size.pt", HL_E_INPUT, "non-negative"},
    {"bad_huge_size.pt", HL_E_INPUT, "overflow"},
    {"bad_huge_stride.pt", HL_E_INPUT, "overflow"},
    {"bad_expanded.pt", HL_E_INPUT, "memory"},
};

Test(pytorch, bad_files_are_refused_with_their_name_and_the_reason)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        char *path = scratch_path("tests/fixtures/weights", refused[i].file);
        hl_tensor_map *map = (hl_tensor_map *)1;
        cr_expect_eq(hl_pytorch_read(path, &map), refused[i].status, "%s", refused[i].file);
        cr_expect_null(map);
        cr_expect_not_null(strstr(hl_last_error(), refused[i].file), "%s", hl_last_error());
        cr_expect_not_null(strstr(hl_last_error(), refused[i].words), "%s", hl_last_error());
        free(path);
    }
    cr_expect_neq(access("executed", F_OK), 0);
}

static const char *const sound[] = {WEIGHTS "checkpoint_zip.pt", WEIGHTS "checkpoint_legacy.pth",
                                    WEIGHTS "all_legacy_protocol4.pth", WEIGHTS "all_deflated.pt"};

/* A copy of exact size, so that a sanitizer sees every byte read beyond it. */
static hl_status parse_copy(const uint8_t *bytes, size_t size, hl_tensor_map **map)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    cr_assert_not_null(copy);
    memcpy(copy, bytes, size);
    hl_status status = hl_pytorch_parse("copy", copy, size, map);
    free(copy);
    return status;
}

Test(pytorch, a_file_cut_anywhere_is_refused)
{
    for (size_t f = 0; f < sizeof sound / sizeof sound[0]; f++) {
        size_t size;
        uint8_t *bytes = scratch_read(sound[f], &size);
        for (size_t length = 0; length < size; length++) {
            hl_tensor_map *map;
            cr_assert_neq(parse_copy(bytes, length, &map), HL_OK, "%s cut to %zu bytes", sound[f], length);
            cr_assert_null(map);
        }
        free(bytes);
    }
}

Test(pytorch, a_file_with_any_byte_changed_is_read_or_refused)
{
    for (size_t f = 0; f < sizeof sound / sizeof sound[0]; f++) {
        size_t size;
        uint8_t *bytes = scratch_read(sound[f], &size);
        for (size_t at = 0; at < size; at++)
            for (int change = 0; change < 3; change++) {
                static const uint8_t masks[] = {0xff, 0x01, 0x80};
                hl_tensor_map *map;
                bytes[at] ^= masks[change];
                hl_status status = parse_copy(bytes, size, &map);
                cr_assert((status == HL_OK) == (map != NULL));
                hl_tensor_map_destroy(map);
                bytes[at] ^= masks[change];
            }
        free(bytes);
    }
}
