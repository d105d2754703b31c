#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "support/scratch.h"

static char *folder, *path;

static void setup(void)
{
    folder = scratch_make();
    path = scratch_path(folder, "file");
}

static void teardown(void)
{
    free(path);
    scratch_remove(folder);
}

TestSuite(json, .init = setup, .fini = teardown);

static void check_content(const char *expected)
{
    size_t size;
    uint8_t *bytes = scratch_read(path, &size);
    cr_expect_str_eq((char *)bytes, expected);
    free(bytes);
}

Test(json, a_document_reads_back)
{
    json_t *document = json_pack("{s:i, s:o, s:o}", "b", 1, "a", hl_json_real(0.5), "n", hl_json_real(NAN));
    cr_assert_eq(hl_json_write(path, document), HL_OK, "%s", hl_last_error());
    json_decref(document);
    check_content("{\n  \"b\": 1,\n  \"a\": 0.5,\n  \"n\": null\n}\n");
    cr_assert_eq(hl_json_read(path, 100, &document), HL_OK);
    cr_expect_eq(json_integer_value(json_object_get(document, "b")), 1);
    json_decref(document);
    cr_expect_eq(hl_json_write(path, NULL), HL_E_INTERNAL);
}

Test(json, broken_long_and_missing_documents_are_refused)
{
    json_t *document;
    scratch_write(path, "{\n\"a\": 1,\n\"a\": 2}", 18);
    cr_expect_eq(hl_json_read(path, 100, &document), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "line 3"), "%s", hl_last_error());
    cr_expect_null(document);
    cr_expect_eq(hl_json_read(path, 10, &document), HL_E_INPUT);
    cr_expect_not_null(strstr(hl_last_error(), "limit of 10 bytes"));
    cr_expect_eq(hl_json_read("none", 10, &document), HL_E_NOT_FOUND);
}

Test(json, lines_are_appended_and_half_a_line_is_dropped)
{
    hl_json_lines *lines;
    scratch_write(path, "{\"step\":0}\n{\"st", 15);
    cr_assert_eq(hl_json_lines_open(path, true, &lines), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_json_lines_put(lines, json_pack("{s:i}", "step", 1)), HL_OK);
    cr_assert_eq(hl_json_lines_close(lines), HL_OK);
    check_content("{\"step\":0}\n{\"step\":1}\n");
    cr_assert_eq(hl_json_lines_open(path, false, &lines), HL_OK);
    cr_expect_eq(hl_json_lines_put(lines, NULL), HL_E_INTERNAL);
    cr_assert_eq(hl_json_lines_close(lines), HL_OK);
    check_content("");
    cr_assert_eq(hl_json_lines_close(NULL), HL_OK);
}

Test(json, half_a_line_longer_than_the_buffer_is_dropped_whole)
{
    enum { LONG = 10000 };
    char *text = malloc(LONG);
    memset(text, 'x', LONG);
    for (size_t newline = 0; newline < 2; newline++) {
        hl_json_lines *lines;
        if (newline == 1)
            text[100] = '\n';
        scratch_write(path, text, LONG);
        cr_assert_eq(hl_json_lines_open(path, true, &lines), HL_OK);
        cr_assert_eq(hl_json_lines_close(lines), HL_OK);
        size_t size;
        free(scratch_read(path, &size));
        cr_expect_eq(size, newline == 1 ? 101 : 0);
    }
    free(text);
}

Test(json, class_names_that_are_no_utf8_are_numbered)
{
    const char *const names[] = {"a \"b\"", "\xc3\xa9", "\xff"};
    char *text;
    cr_assert_eq(hl_json_class_names(names, 3, &text), HL_OK, "%s", hl_last_error());
    cr_expect_str_eq(text, "[\"a \\\"b\\\"\",\"\xc3\xa9\",\"class 2\"]");
    free(text);
    cr_assert_eq(hl_json_class_names(NULL, 0, &text), HL_OK);
    cr_expect_str_eq(text, "[]");
    free(text);
}
