#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/yaml.h"
#include "support/scratch.h"

static hl_yaml *yaml;

static hl_status parse(const char *text)
{
    hl_yaml_destroy(yaml);
    return hl_yaml_parse("file.yaml", text, strlen(text), &yaml);
}

static void teardown(void)
{
    hl_yaml_destroy(yaml);
}

TestSuite(yaml, .fini = teardown);

Test(yaml, scalars_are_read_with_their_lines_and_types)
{
    cr_assert_eq(parse("# comment\nmodel: resnet18\nlr: 1e-3\nepochs: 30 # thirty\npretrained: true\n"
                       "name: \"true\"\nnothing:\n"),
                 HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_yaml_count(yaml), 6);
    const char *text;
    double real;
    int64_t integer;
    bool truth;
    cr_assert_eq(hl_yaml_text(yaml, hl_yaml_find(yaml, "model"), &text), HL_OK);
    cr_expect_str_eq(text, "resnet18");
    cr_assert_eq(hl_yaml_real(yaml, hl_yaml_find(yaml, "lr"), &real), HL_OK);
    cr_expect_eq(real, 1e-3);
    cr_assert_eq(hl_yaml_int(yaml, hl_yaml_find(yaml, "epochs"), &integer), HL_OK);
    cr_expect_eq(integer, 30);
    cr_expect_eq(hl_yaml_find(yaml, "epochs")->line, 4);
    cr_assert_eq(hl_yaml_bool(yaml, hl_yaml_find(yaml, "pretrained"), &truth), HL_OK);
    cr_expect(truth);
    cr_expect_eq(hl_yaml_bool(yaml, hl_yaml_find(yaml, "name"), &truth), HL_E_ARG);
    cr_expect(hl_yaml_is_null(hl_yaml_find(yaml, "nothing")));
    cr_expect_null(hl_yaml_find(yaml, "none"));
    cr_expect_null(hl_yaml_unused(yaml));
}

Test(yaml, keys_nobody_asked_for_are_given_back)
{
    cr_assert_eq(parse("lr: 1\nlearning_rate: 2\n"), HL_OK);
    hl_yaml_find(yaml, "lr");
    cr_assert_not_null(hl_yaml_unused(yaml));
    cr_expect_str_eq(hl_yaml_unused(yaml)->key, "learning_rate");
    cr_expect_eq(hl_yaml_unused(yaml)->line, 2);
}

Test(yaml, lists_and_mappings_of_a_sweep_are_flattened)
{
    cr_assert_eq(parse("grid:\n  lr: [0.1, 'x']\n  deep: {seed: [1]}\nnone: []\n"), HL_OK, "%s",
                 hl_last_error());
    const hl_yaml_item *lr = hl_yaml_find(yaml, "grid.lr");
    cr_assert_not_null(lr);
    cr_expect(lr->is_list && lr->count == 2);
    cr_expect_str_eq(lr->values[1].text, "x");
    cr_expect(lr->values[1].quoted && !lr->values[0].quoted);
    cr_expect_eq(hl_yaml_find(yaml, "grid.deep.seed")->count, 1);
    cr_expect_eq(hl_yaml_find(yaml, "none")->count, 0);
    const char *text;
    cr_expect_eq(hl_yaml_text(yaml, lr, &text), HL_E_ARG);
}

Test(yaml, an_empty_file_is_an_empty_configuration)
{
    cr_assert_eq(parse(""), HL_OK);
    cr_expect_eq(hl_yaml_count(yaml), 0);
    cr_assert_eq(parse("# only a comment\n"), HL_OK);
    cr_assert_eq(parse("---\n...\n"), HL_OK, "%s", hl_last_error());
    cr_assert_eq(parse("{}"), HL_OK);
}

static const struct {
    const char *text, *words;
} refused[] = {
    {"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice"},
    {"a: {b: 1}\na.b: 2\n", "'a.b' is there twice"},
    {"a: &x 1\nb: *x\n", "line 1: anchors"},
    {"b: *x\n", "line 1: aliases"},
    {"a: &x [1]\n", "anchors"},
    {"a: !!str 1\n", "tags"},
    {"a: [[1]]\n", "single value"},
    {"a: [{b: 1}]\n", "single value"},
    {"? [a]\n: 1\n", "single value"},
    {"- a\n- b\n", "not a mapping"},
    {"just text", "not a mapping"},
    {"a: 1\n---\nb: 2\n", "several documents"},
    {"a: 1\n b: 2\n", "line 2"},
    {"a: [1, 2\nb: 3\n", "line 2"},
    {"a: \"unfinished", "line"},
    {"a: \"x\\0y\"\n", "zero byte"},
    {"\"\": 1\n", "key is empty"},
    {"a: {b: {c: {d: {e: 1}}}}\n", "deeper"},
    {"a: \xff\n", "line 1"},
};

Test(yaml, what_a_configuration_is_not_is_refused_with_its_line)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        cr_expect_eq(parse(refused[i].text), HL_E_INPUT, "%s", refused[i].text);
        cr_expect_null(yaml);
        cr_expect_not_null(strstr(hl_last_error(), refused[i].words), "%s: %s", refused[i].text,
                           hl_last_error());
    }
}

Test(yaml, values_of_the_wrong_type_are_refused_with_line_key_and_value)
{
    static const char *const not_numbers[] = {
        "v: abc",   "v: 1x",    "v: 0x10", "v: nan", "v: inf",
        "v: 1e999", "v: \"1\"", "v:",      "v: [1]", "v: 99999999999999999999999 2"};
    double real;
    int64_t integer;
    for (size_t i = 0; i < sizeof not_numbers / sizeof not_numbers[0]; i++) {
        cr_assert_eq(parse(not_numbers[i]), HL_OK);
        cr_expect_eq(hl_yaml_real(yaml, hl_yaml_find(yaml, "v"), &real), HL_E_ARG, "%s", not_numbers[i]);
        cr_expect_eq(hl_yaml_int(yaml, hl_yaml_find(yaml, "v"), &integer), HL_E_ARG, "%s", not_numbers[i]);
        cr_expect_not_null(strstr(hl_last_error(), "file.yaml: line 1: v is"), "%s", hl_last_error());
    }
    cr_assert_eq(parse("v: 9223372036854775808"), HL_OK);
    cr_expect_eq(hl_yaml_int(yaml, hl_yaml_find(yaml, "v"), &integer), HL_E_ARG);
    cr_assert_eq(parse("v: 1.5"), HL_OK);
    cr_expect_eq(hl_yaml_int(yaml, hl_yaml_find(yaml, "v"), &integer), HL_E_ARG);
}

Test(yaml, what_is_written_reads_back_with_the_same_types)
{
    static const char *const texts[] = {"resnet18",     "true", "1e-3",       "",         "null",      "a: b",
                                        "# no comment", "'",    "two\nlines", " padded ", "h\u00e9",   "0x1",
                                        "1:30",         "no",   "- x",        "[1]",      "path/to:x", "12"};
    static const double reals[] = {0.1, 1e-5, 3, -2.5e300, DBL_MIN, DBL_MAX, 1.0 / 3, 0, 1e22, 123456789};
    enum { TEXTS = sizeof texts / sizeof texts[0], REALS = sizeof reals / sizeof reals[0] };
    char *folder = scratch_make(), *path = scratch_path(folder, "config.yaml"), key[16];
    cr_assert_eq(hl_yaml_create("new", &yaml), HL_OK);
    for (int i = 0; i < TEXTS; i++) {
        snprintf(key, sizeof key, "t%d", i);
        cr_assert_eq(hl_yaml_set_text(yaml, key, texts[i]), HL_OK);
    }
    for (int i = 0; i < REALS; i++) {
        snprintf(key, sizeof key, "r%d", i);
        cr_assert_eq(hl_yaml_set_real(yaml, key, reals[i]), HL_OK);
    }
    cr_assert_eq(hl_yaml_set_bool(yaml, "flag", false), HL_OK);
    cr_assert_eq(hl_yaml_set_null(yaml, "none"), HL_OK);
    cr_assert_eq(hl_yaml_set_int(yaml, "least", 1), HL_OK);
    cr_assert_eq(hl_yaml_set_int(yaml, "least", INT64_MIN), HL_OK);
    cr_assert_eq(hl_yaml_write(path, yaml), HL_OK, "%s", hl_last_error());
    hl_yaml_destroy(yaml);

    cr_assert_eq(hl_yaml_read(path, &yaml), HL_OK, "%s", hl_last_error());
    cr_expect_eq(hl_yaml_count(yaml), TEXTS + REALS + 3);
    for (int i = 0; i < TEXTS; i++) {
        const char *text = NULL;
        snprintf(key, sizeof key, "t%d", i);
        cr_assert_eq(hl_yaml_text(yaml, hl_yaml_find(yaml, key), &text), HL_OK, "%s", texts[i]);
        cr_expect_str_eq(text, texts[i]);
    }
    for (int i = 0; i < REALS; i++) {
        double real = NAN;
        snprintf(key, sizeof key, "r%d", i);
        cr_assert_eq(hl_yaml_real(yaml, hl_yaml_find(yaml, key), &real), HL_OK, "%s", hl_last_error());
        cr_expect_eq(real, reals[i]);
        cr_expect_not_null(strchr(hl_yaml_find(yaml, key)->values[0].text, '.'));
    }
    int64_t least = 0;
    cr_assert_eq(hl_yaml_int(yaml, hl_yaml_find(yaml, "least"), &least), HL_OK);
    cr_expect_eq(least, INT64_MIN);
    bool truth = true;
    cr_expect_eq(hl_yaml_bool(yaml, hl_yaml_find(yaml, "flag"), &truth), HL_OK);
    cr_expect(!truth && hl_yaml_is_null(hl_yaml_find(yaml, "none")));
    free(path);
    scratch_remove(folder);
}
