#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "support/tree.h"

#define HEADER "path,label,split\n"

/* Parses a copy of `text` that ends where the text does, so that the address sanitizer sees what is read
 * beyond. */
static hl_status parse_bytes(const char *text, size_t size, hl_dataset **dataset)
{
    char *copy = malloc(size + 1);
    memcpy(copy, text, size);
    copy[size] = '\0';
    cr_assert_eq(hl_dataset_create(dataset), HL_OK);
    hl_status status = hl_csv_manifest_parse(*dataset, copy, size, "dir/list.csv", NULL);
    free(copy);
    return status;
}

static hl_dataset *parse(const char *text)
{
    hl_dataset *dataset;
    cr_assert_eq(parse_bytes(text, strlen(text), &dataset), HL_OK, "%s", hl_last_error());
    return dataset;
}

static void refuse(const char *text, const char *part)
{
    hl_dataset *dataset;
    cr_assert_eq(parse_bytes(text, strlen(text), &dataset), HL_E_INPUT, "accepted: %s", text);
    cr_assert_not_null(strstr(hl_last_error(), part), "%s", hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "dir/list.csv"), "%s", hl_last_error());
    hl_dataset_destroy(dataset);
}

Test(csv_manifest, rows_go_to_their_splits_with_paths_relative_to_the_file)
{
    hl_dataset *d =
        parse(HEADER "img/1.png,dog,train\nimg/2.png,cat,val\n./x//y/../3.png,cat,test\n4.png,ant,train");
    cr_assert_eq(hl_dataset_class_count(d), 3);
    cr_assert_str_eq(hl_dataset_class_name(d, 0), "ant");
    cr_assert_str_eq(hl_dataset_class_name(d, 2), "dog");
    cr_assert_eq(hl_dataset_count(d, HL_SPLIT_TRAIN), 2);
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TRAIN, 0), "dir/img/1.png");
    cr_assert_eq(hl_dataset_sample_label(d, HL_SPLIT_TRAIN, 0), 2);
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TRAIN, 1), "dir/4.png");
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TEST, 0), "dir/x/3.png");
    cr_assert_eq(hl_dataset_sample_label(d, HL_SPLIT_VAL, 0), 1);
    hl_dataset_destroy(d);
}

Test(csv_manifest, byte_order_mark_crlf_quotes_and_other_columns_are_read)
{
    hl_dataset *d = parse("\xef\xbb\xbfsplit, label ,note,path\r\n"
                          "train,\"a, \"\"b\"\"\r\nc\",,\"one, two.png\"\r\n"
                          "\r\n"
                          "val,x,\"\",3.png\r\n");
    cr_assert_eq(hl_dataset_class_count(d), 2);
    cr_assert_str_eq(hl_dataset_class_name(d, 0), "a, \"b\"\r\nc");
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TRAIN, 0), "dir/one, two.png");
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_VAL, 0), "dir/3.png");
    hl_dataset_destroy(d);
}

Test(csv_manifest, integer_labels_are_sorted_by_value_and_others_as_text)
{
    hl_dataset *d = parse(HEADER "1,10,train\n2,9,train\n3,-3,train\n4,09,train\n5,9,train\n");
    static const char *const by_value[] = {"-3", "09", "9", "10"};
    cr_assert_eq(hl_dataset_class_count(d), 4);
    for (int32_t c = 0; c < 4; c++)
        cr_assert_str_eq(hl_dataset_class_name(d, c), by_value[c]);
    hl_dataset_destroy(d);
    d = parse(HEADER "1,10,train\n2,9,train\n3,x,train\n");
    cr_assert_str_eq(hl_dataset_class_name(d, 0), "10");
    cr_assert_str_eq(hl_dataset_class_name(d, 1), "9");
    hl_dataset_destroy(d);
}

Test(csv_manifest, what_is_wrong_is_named_with_its_line)
{
    refuse("", "empty");
    refuse("\n\n", "empty");
    refuse("path,label\n1.png,a\n", "no column \"split\"");
    refuse("1.png,a,train\n", "no column \"path\"");
    refuse("path,label,split,path\n", "two columns are called \"path\"");
    refuse(HEADER, "no rows");
    refuse(HEADER "1.png,a,train\n2.png,a\n", "line 3: 2 fields where the header has 3");
    refuse(HEADER "1.png,a,dev\n", "line 2: unknown split \"dev\"");
    refuse(HEADER "1.png,,train\n", "the label is empty");
    refuse(HEADER ",a,train\n", "the path is empty");
    refuse(HEADER "\"1.png,a,train\n", "line 2: a quoted field does not end");
    refuse(HEADER "\"1\"x,a,train\n", "text follows a closing quote");
    refuse(HEADER "1\"2,a,train\n", "a quote within a field");
    refuse(HEADER "\"a\nb\",a,train\n2,b,tain\n", "line 4: unknown split");
}

Test(csv_manifest, a_path_that_is_absolute_or_leaves_the_folder_is_refused)
{
    refuse(HEADER "/etc/passwd,a,train\n", "absolute");
    refuse(HEADER "../x.png,a,train\n", "leads out of the folder");
    refuse(HEADER "a/../../x.png,a,train\n", "leads out of the folder");
    refuse(HEADER "a/./..//../x.png,a,train\n", "leads out of the folder");
    refuse(HEADER "a/..,a,train\n", "leads out of the folder");
    refuse(HEADER ".,a,train\n", "leads out of the folder");
    /* Taken together before any link is followed, so this stays inside whatever "a" points to. */
    hl_dataset *d = parse(HEADER "a/../x.png,a,train\n...,a,train\n");
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TRAIN, 0), "dir/x.png");
    cr_assert_str_eq(hl_dataset_sample_path(d, HL_SPLIT_TRAIN, 1), "dir/...");
    hl_dataset_destroy(d);
}

Test(csv_manifest, bytes_of_value_zero_are_refused)
{
    hl_dataset *dataset;
    static const char text[] = "path,label,split\n1\0.png,a,train\n";
    cr_assert_eq(parse_bytes(text, sizeof text - 1, &dataset), HL_E_INPUT);
    hl_dataset_destroy(dataset);
}

Test(csv_manifest, every_beginning_of_a_file_is_read_or_refused)
{
    static const char text[] =
        "\xef\xbb\xbfpath,label,split\r\n\"a,\"\"b\",x,train\r\n,,\r\n\"\n\",y,\"val\"\n";
    for (size_t cut = 0; cut < sizeof text; cut++) {
        hl_dataset *dataset;
        (void)parse_bytes(text, cut, &dataset);
        hl_dataset_destroy(dataset);
    }
}

static void keep_line(void *user, hl_log_level level, const char *line)
{
    snprintf(user, 256, "%d %s", (int)level, line);
}

Test(csv_manifest, a_path_in_two_splits_is_kept_and_warned_of)
{
    char line[256] = "";
    hl_log log = {keep_line, line};
    hl_dataset_options options = {.log = &log};
    hl_dataset *dataset;
    tree t = tree_create();
    tree_text(&t, "list.CSV", HEADER "1.png,a,train\n1.png,a,train\n2.png,b,train\n");
    cr_assert_eq(hl_dataset_open(tree_path(&t, "list.CSV"), &options, &dataset), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_TRAIN), 3);
    cr_assert_str_eq(hl_dataset_name(dataset), "list");
    cr_assert(line[0] == '0' && strstr(line, "1 rows repeat"), "%s", line);
    hl_dataset_destroy(dataset);
    tree_text(&t, "list.CSV", HEADER "1.png,a,train\n1.png,a,test\n2.png,b,train\n");
    cr_assert_eq(hl_dataset_open(tree_path(&t, "list.CSV"), &options, &dataset), HL_OK, "%s",
                 hl_last_error());
    cr_assert(line[0] == '1' && strstr(line, "1 images are in more than one split"), "%s", line);
    hl_dataset_destroy(dataset);
    tree_text(&t, "list.CSV", HEADER "1.png,a,train\n1.png,b,val\n");
    cr_assert_eq(hl_dataset_open(tree_path(&t, "list.CSV"), &options, &dataset), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "class \"b\" has no training image"), "%s", hl_last_error());
    tree_remove(&t);
}
