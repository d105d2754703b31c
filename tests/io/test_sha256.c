#include <criterion/criterion.h>
#include <stdlib.h>

#include "io/pytorch.h"
#include "io/safetensors.h"
#include "io/sha256.h"
#include "support/scratch.h"

Test(sha256, the_test_vectors_of_fips_180_hold)
{
    char hex[HL_SHA256_HEX];
    hl_sha256_bytes("", 0, hex);
    cr_expect_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hl_sha256_bytes("abc", 3, hex);
    cr_expect_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

Test(sha256, a_file_of_a_million_letters_hashes_as_published)
{
    char *folder = scratch_make(), *path = scratch_path(folder, "a"), hex[HL_SHA256_HEX];
    char *letters = malloc(1000000);
    for (int i = 0; i < 1000000; i++)
        letters[i] = 'a';
    scratch_write(path, letters, 1000000);
    cr_assert_eq(hl_sha256_file(path, hex), HL_OK);
    cr_expect_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    cr_expect_eq(hl_sha256_file("none", hex), HL_E_NOT_FOUND);
    cr_expect_eq(hl_sha256_file(folder, hex), HL_E_IO);
    free(letters);
    free(path);
    scratch_remove(folder);
}

Test(sha256, equal_tensors_hash_equal_whatever_file_they_come_from)
{
    hl_tensor_map *a, *b;
    char hex_a[HL_SHA256_HEX], hex_b[HL_SHA256_HEX];
    cr_assert_eq(hl_pytorch_read("tests/fixtures/weights/all_zip.pt", &a), HL_OK);
    cr_assert_eq(hl_safetensors_read("tests/fixtures/weights/expected.safetensors", &b), HL_OK);
    cr_assert_eq(hl_sha256_tensor_map(a, hex_a), HL_OK);
    cr_assert_eq(hl_sha256_tensor_map(b, hex_b), HL_OK);
    cr_expect_str_eq(hex_a, hex_b);
    hl_tensor_map_destroy(a);
    hl_tensor_map_destroy(b);
}

static void hash_of(const char *name, hl_dtype dtype, int ndim, const int64_t *shape, const void *data,
                    char hex[HL_SHA256_HEX])
{
    hl_tensor_map *map;
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, name, dtype, ndim, shape, data), HL_OK);
    cr_assert_eq(hl_sha256_tensor_map(map, hex), HL_OK);
    hl_tensor_map_destroy(map);
}

Test(sha256, name_dtype_shape_and_data_all_count)
{
    const int32_t data[4] = {1, 2, 3, 4}, other[4] = {1, 2, 3, 5};
    char hex[5][HL_SHA256_HEX];
    hash_of("a", HL_DTYPE_I32, 2, (int64_t[]){2, 2}, data, hex[0]);
    hash_of("b", HL_DTYPE_I32, 2, (int64_t[]){2, 2}, data, hex[1]);
    hash_of("a", HL_DTYPE_F32, 2, (int64_t[]){2, 2}, data, hex[2]);
    hash_of("a", HL_DTYPE_I32, 1, (int64_t[]){4}, data, hex[3]);
    hash_of("a", HL_DTYPE_I32, 2, (int64_t[]){2, 2}, other, hex[4]);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < i; j++)
            cr_expect_str_neq(hex[i], hex[j], "%d and %d", i, j);
}
