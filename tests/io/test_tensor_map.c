#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/tensor_map.h"

static hl_tensor_map *map;

static void setup(void)
{
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
}

static void teardown(void)
{
    hl_tensor_map_destroy(map);
}

TestSuite(tensor_map, .init = setup, .fini = teardown);

Test(tensor_map, many_names_are_found_and_keep_their_order)
{
    enum { COUNT = 5000 };
    char name[32];
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "layer.%d.weight", i);
        cr_assert_eq(hl_tensor_map_add(map, name, HL_DTYPE_I32, 1, (int64_t[]){1}, &i), HL_OK);
    }
    cr_assert_eq(hl_tensor_map_count(map), COUNT);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "layer.%d.weight", i);
        const hl_named_tensor *tensor = hl_tensor_map_find(map, name);
        cr_assert_not_null(tensor);
        cr_assert_eq(tensor, hl_tensor_map_at(map, (size_t)i));
        cr_assert_eq(*(const int *)tensor->data, i);
    }
    cr_assert_null(hl_tensor_map_find(map, "layer.5000.weight"));
}

Test(tensor_map, an_empty_map_finds_nothing)
{
    cr_assert_null(hl_tensor_map_find(map, "a"));
    cr_assert_eq(hl_tensor_map_count(map), 0);
    hl_tensor_map_destroy(NULL);
}

Test(tensor_map, a_second_tensor_of_a_name_is_refused)
{
    cr_assert_eq(hl_tensor_map_add(map, "a", HL_DTYPE_U8, 0, NULL, "x"), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, "a", HL_DTYPE_U8, 0, NULL, "y"), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "a: "));
    cr_assert_eq(hl_tensor_map_count(map), 1);
}

Test(tensor_map, add_copies_and_add_ref_does_not)
{
    float values[2] = {1, 2};
    cr_assert_eq(hl_tensor_map_add(map, "copy", HL_DTYPE_F32, 1, (int64_t[]){2}, values), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "ref", HL_DTYPE_F32, 1, (int64_t[]){2}, values), HL_OK);
    values[0] = 7;
    cr_expect_eq(((const float *)hl_tensor_map_find(map, "copy")->data)[0], 1);
    cr_expect_eq((uintptr_t)hl_tensor_map_find(map, "copy")->data % 64, 0);
    cr_expect_eq(hl_tensor_map_find(map, "ref")->data, values);
}

Test(tensor_map, impossible_shapes_are_refused)
{
    cr_expect_eq(hl_tensor_map_add(map, "a", HL_DTYPE_F32, 1, (int64_t[]){-1}, NULL), HL_E_INPUT);
    cr_expect_eq(hl_tensor_map_add(map, "a", HL_DTYPE_F32, 2, (int64_t[]){INT64_MAX, 3}, NULL), HL_E_INPUT);
    cr_expect_eq(hl_tensor_map_add(map, "a", HL_DTYPE_F32, 1, (int64_t[]){INT64_MAX / 2}, NULL), HL_E_INPUT);
    cr_expect_eq(hl_tensor_map_add(map, "a", HL_DTYPE_F32, 9, (int64_t[9]){0}, NULL), HL_E_INPUT);
    cr_expect_eq(hl_tensor_map_count(map), 0);
}

static int released;

static void release(void *pointer)
{
    released += *(int *)pointer;
}

Test(tensor_map, adopted_memory_is_released_with_the_map)
{
    int one = 1, ten = 10;
    hl_tensor_map *other;
    cr_assert_eq(hl_tensor_map_create(&other), HL_OK);
    cr_assert_eq(hl_tensor_map_adopt(other, &one, release), HL_OK);
    cr_assert_eq(hl_tensor_map_adopt(other, &ten, release), HL_OK);
    cr_expect_eq(released, 0);
    hl_tensor_map_destroy(other);
    cr_expect_eq(released, 11);
}

Test(tensor_map, metadata_is_replaced_by_key)
{
    cr_assert_eq(hl_tensor_map_set_meta(map, "a", "1"), HL_OK);
    cr_assert_eq(hl_tensor_map_set_meta(map, "b", "2"), HL_OK);
    cr_assert_eq(hl_tensor_map_set_meta(map, "a", "3"), HL_OK);
    cr_expect_eq(hl_tensor_map_meta_count(map), 2);
    cr_expect_str_eq(hl_tensor_map_meta(map, "a"), "3");
    cr_expect_null(hl_tensor_map_meta(map, "c"));
}

static float converted(hl_dtype dtype, const void *element)
{
    float out;
    hl_named_tensor tensor = {.dtype = dtype, .data = element, .bytes = hl_dtype_size(dtype)};
    hl_named_tensor_to_f32(&tensor, &out);
    return out;
}

Test(tensor_map, every_type_converts_to_float)
{
    cr_expect_eq(converted(HL_DTYPE_F64, &(double){1e300}), INFINITY);
    cr_expect_eq(converted(HL_DTYPE_F64, &(double){0.1}), 0.1F);
    cr_expect_eq(converted(HL_DTYPE_F32, &(float){0.1F}), 0.1F);
    cr_expect_eq(converted(HL_DTYPE_BF16, &(uint16_t){0xc0a0}), -5.0F);
    cr_expect_eq(converted(HL_DTYPE_I64, &(int64_t){INT64_MIN}), -0x1p63F);
    cr_expect_eq(converted(HL_DTYPE_I32, &(int32_t){-7}), -7.0F);
    cr_expect_eq(converted(HL_DTYPE_I16, &(int16_t){-7}), -7.0F);
    cr_expect_eq(converted(HL_DTYPE_I8, &(int8_t){-7}), -7.0F);
    cr_expect_eq(converted(HL_DTYPE_U8, &(uint8_t){250}), 250.0F);
    cr_expect_eq(converted(HL_DTYPE_BOOL, &(uint8_t){2}), 1.0F);
}

/* The value of a half by its definition. */
static float half_reference(unsigned bits)
{
    int exponent = (int)(bits >> 10 & 31);
    float mantissa = (float)(bits & 1023);
    float value = exponent == 31  ? (mantissa == 0 ? INFINITY : NAN)
                  : exponent == 0 ? ldexpf(mantissa, -24)
                                  : ldexpf(mantissa + 1024, exponent - 25);
    return (bits & 0x8000u) != 0 ? -value : value;
}

Test(tensor_map, all_65536_halves_convert_exactly)
{
    for (unsigned bits = 0; bits < 65536; bits++) {
        float got = converted(HL_DTYPE_F16, &(uint16_t){(uint16_t)bits}), expected = half_reference(bits);
        cr_assert(isnan(expected) ? isnan(got) : got == expected && signbit(got) == signbit(expected),
                  "half %04x", bits);
    }
}
