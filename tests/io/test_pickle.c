#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "io/pickle.h"

static hl_arena *arena;
static hl_pickle *value;

static void setup(void)
{
    cr_assert_eq(hl_arena_create(&arena), HL_OK);
}

static void teardown(void)
{
    hl_arena_destroy(arena);
}

TestSuite(pickle, .init = setup, .fini = teardown);

static bool allow(const char *name)
{
    return strcmp(name, "collections.OrderedDict") == 0 || strcmp(name, "m.f") == 0;
}

static hl_status read_bytes(const void *bytes, size_t size)
{
    /* A copy of exact size, so that a sanitizer sees every byte read beyond it. */
    uint8_t *copy = malloc(size);
    memcpy(copy, bytes, size);
    hl_status status = hl_pickle_read("file", copy, size, allow, arena, &value, NULL);
    free(copy);
    return status;
}

#define READ(literal) read_bytes(literal, sizeof(literal) - 1)

Test(pickle, numbers_keep_their_sign_and_size)
{
    cr_assert_eq(READ("\x80\x02J\xfe\xff\xff\xff."), HL_OK);
    cr_expect_eq(value->integer, -2);
    cr_assert_eq(READ("K\xff."), HL_OK);
    cr_expect_eq(value->integer, 255);
    cr_assert_eq(READ("\x8a\x02\x00\x80."), HL_OK);
    cr_expect_eq(value->integer, -32768);
    cr_assert_eq(READ("\x8a\x00."), HL_OK);
    cr_expect_eq(value->integer, 0);
    cr_assert_eq(READ("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f."), HL_OK);
    cr_expect_eq(value->integer, INT64_MAX);
    cr_assert_eq(READ("\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01."), HL_OK);
    cr_expect_eq(value->kind, HL_PICKLE_LONG);
    cr_assert_eq(READ("G\x3f\xe0\x00\x00\x00\x00\x00\x00."), HL_OK);
    cr_expect_eq(value->real, 0.5);
    cr_assert_eq(READ("I01\n."), HL_OK);
    cr_expect(value->kind == HL_PICKLE_BOOL && value->integer == 1);
    cr_assert_eq(READ("L12L\n."), HL_OK);
    cr_expect_eq(value->integer, 12);
}

Test(pickle, the_last_value_of_a_key_counts)
{
    cr_assert_eq(READ("}(U\1aK\1U\1bK\2U\1aK\3u."), HL_OK);
    cr_assert_eq(value->kind, HL_PICKLE_DICT);
    cr_expect_eq(hl_pickle_find(value, "a")->integer, 3);
    cr_expect_eq(hl_pickle_find(value, "b")->integer, 2);
    cr_expect_null(hl_pickle_find(value, "c"));
}

Test(pickle, an_ordered_dict_of_python_2_is_a_dict)
{
    cr_assert_eq(READ("ccollections\nOrderedDict\n(](](U\1aK\7eetR."), HL_OK);
    cr_assert_eq(value->kind, HL_PICKLE_DICT);
    cr_expect_eq(hl_pickle_find(value, "a")->integer, 7);
}

Test(pickle, a_call_is_recorded_and_not_made)
{
    cr_assert_eq(READ("cm\nf\nK\1K\2\x86R."), HL_OK);
    cr_assert(hl_pickle_is_call(value, "m.f"));
    cr_expect_eq(value->items[1]->count, 2);
    cr_assert_eq(READ("\x8c\1m\x8c\1f\x93)\x81}b."), HL_OK);
    cr_expect(hl_pickle_is_call(value, "m.f"));
}

Test(pickle, a_global_that_is_not_allowed_is_refused_by_name)
{
    cr_expect_eq(READ("cos\nsystem\n(U\2lstR."), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "foreign global os.system"));
    cr_expect_eq(READ("\x8c\x08"
                      "builtins\x8c\4eval\x93."),
                 HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "builtins.eval"));
    cr_expect_eq(READ("ios\nsystem\n."), HL_E_INPUT); /* INST */
}

Test(pickle, a_list_may_contain_itself)
{
    cr_assert_eq(READ("]q\0h\0a."), HL_OK);
    cr_expect_eq(value->items[0], value);
}

Test(pickle, an_empty_tuple_may_come_before_anything_else)
{
    cr_assert_eq(READ(")."), HL_OK);
    cr_expect(value->kind == HL_PICKLE_TUPLE && value->count == 0);
}

Test(pickle, broken_programs_are_refused)
{
    cr_expect_eq(READ("."), HL_E_INPUT);
    cr_expect_eq(READ("a"), HL_E_INPUT);
    cr_expect_eq(READ("K\1t."), HL_E_INPUT);
    cr_expect_eq(READ("K\1(a."), HL_E_INPUT); /* APPEND may not reach below a mark */
    cr_expect_eq(READ("}K\1a."), HL_E_INPUT);
    cr_expect_eq(READ("](K\1K\1u."), HL_E_INPUT);
    cr_expect_eq(READ("}(K\1u."), HL_E_INPUT);
    cr_expect_eq(READ("h\0."), HL_E_INPUT);
    cr_expect_eq(READ("K\1r\xff\xff\xff\xff."), HL_E_INPUT);
    cr_expect_eq(READ("K\1)R."), HL_E_INPUT);
    cr_expect_eq(READ("X\xff\xff\xff\xff"
                      "a."),
                 HL_E_INPUT);
    cr_expect_eq(READ("\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                      "a."),
                 HL_E_INPUT);
    cr_expect_eq(READ("\x8a\xff\1."), HL_E_INPUT);
    cr_expect_eq(READ("\x80\x06N."), HL_E_INPUT);
    cr_expect_eq(READ("Iabc\n."), HL_E_INPUT);
    cr_expect_eq(READ("\xff."), HL_E_INPUT);
    cr_expect_eq(READ("N"), HL_E_INPUT);
    cr_expect_eq(READ("cm\nf"), HL_E_INPUT);
}

Test(pickle, nesting_and_copying_are_bounded)
{
    enum { DEEP = 2000 };
    char deep[DEEP];
    memset(deep, '(', sizeof deep);
    cr_expect_eq(read_bytes(deep, sizeof deep), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "nested"));

    /* OrderedDict(list of 10,000 pairs) asked for again and again. */
    enum { PAIRS = 10000, CALLS = 1000 };
    static char bomb[64 + PAIRS * 2 + CALLS * 8];
    size_t at = 0;
    memcpy(bomb,
           "ccollections\nOrderedDict\nq\0]K\1K\2\x86q\1"
           "0](",
           38);
    at = 38;
    for (int i = 0; i < PAIRS; i++, at += 2)
        memcpy(bomb + at, "h\1", 2);
    memcpy(bomb + at, "e\x85q\2", 4);
    at += 4;
    for (int i = 0; i < CALLS; i++, at += 5)
        memcpy(bomb + at, "h\0h\2R", 5);
    bomb[at++] = '.';
    cr_expect_eq(read_bytes(bomb, at), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "4 million"), "%s", hl_last_error());
}
