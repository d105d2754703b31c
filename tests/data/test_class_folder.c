#include <criterion/criterion.h>
#include <string.h>

#include <heirloom/data.h>

#include "support/tree.h"

static tree t;

static void setup(void)
{
    t = tree_create();
}

static void teardown(void)
{
    tree_remove(&t);
}

TestSuite(class_folder, .init = setup, .fini = teardown);

static hl_dataset *open_tree(const hl_dataset_options *options)
{
    hl_dataset *dataset;
    cr_assert_eq(hl_dataset_open(t.root, options, &dataset), HL_OK, "%s", hl_last_error());
    return dataset;
}

static void refuse_tree(hl_status expected, const char *part)
{
    hl_dataset *dataset;
    hl_status status = hl_dataset_open(t.root, NULL, &dataset);
    cr_assert_eq(status, expected, "%s: %s", hl_status_text(status), hl_last_error());
    cr_assert_null(dataset);
    cr_assert_not_null(strstr(hl_last_error(), part), "%s", hl_last_error());
}

static void expect_sample(const hl_dataset *dataset, hl_split split, int64_t index, const char *name,
                          int32_t label)
{
    const char *path = hl_dataset_sample_path(dataset, split, index);
    cr_assert_str_eq(path + strlen(t.root) + 1, name);
    cr_assert_eq(hl_dataset_sample_label(dataset, split, index), label);
}

Test(class_folder, classes_and_images_are_sorted_and_other_files_passed_over)
{
    tree_text(&t, "wolf/b.png", "");
    tree_text(&t, "wolf/a.JPG", "");
    tree_text(&t, "wolf/notes.txt", "");
    tree_text(&t, "wolf/.hidden.png", "");
    tree_text(&t, "cat/z.jpeg", "");
    tree_text(&t, "cat/deeper/a.png", "");
    tree_text(&t, "Zebra/1.webp", "");
    tree_text(&t, ".cache/1.png", "");
    tree_text(&t, "readme.png", "");
    hl_dataset *dataset = open_tree(NULL);
    cr_assert_eq(hl_dataset_class_count(dataset), 3);
    cr_assert_str_eq(hl_dataset_class_name(dataset, 0), "Zebra");
    cr_assert_str_eq(hl_dataset_class_name(dataset, 1), "cat");
    cr_assert_str_eq(hl_dataset_class_name(dataset, 2), "wolf");
    cr_assert_null(hl_dataset_class_name(dataset, 3));
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_TRAIN), 5);
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_VAL), 0);
    expect_sample(dataset, HL_SPLIT_TRAIN, 0, "Zebra/1.webp", 0);
    expect_sample(dataset, HL_SPLIT_TRAIN, 1, "cat/z.jpeg", 1);
    expect_sample(dataset, HL_SPLIT_TRAIN, 2, "cat/deeper/a.png", 1);
    expect_sample(dataset, HL_SPLIT_TRAIN, 3, "wolf/a.JPG", 2);
    expect_sample(dataset, HL_SPLIT_TRAIN, 4, "wolf/b.png", 2);
    cr_assert_eq(hl_dataset_count_of_class(dataset, HL_SPLIT_TRAIN, 2), 2);
    cr_assert_str_eq(hl_dataset_name(dataset), strrchr(t.root, '/') + 1);
    hl_dataset_destroy(dataset);
}

Test(class_folder, split_folders_are_found_under_their_usual_names)
{
    tree_text(&t, "train/a/1.png", "");
    tree_text(&t, "train/b/1.png", "");
    tree_text(&t, "valid/b/1.png", "");
    tree_text(&t, "test/a/1.png", "");
    tree_text(&t, "test/a/2.png", "");
    hl_dataset *dataset = open_tree(NULL);
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_TRAIN), 2);
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_VAL), 1);
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_TEST), 2);
    expect_sample(dataset, HL_SPLIT_VAL, 0, "valid/b/1.png", 1);
    hl_dataset_destroy(dataset);

    hl_dataset_options options = {.train_name = "test", .val_name = "train"};
    cr_assert_eq(hl_dataset_open(t.root, &options, &dataset), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "class \"b\" is not among the training classes"), "%s",
                       hl_last_error());
    options = (hl_dataset_options){.val_name = "dev"};
    cr_assert_eq(hl_dataset_open(t.root, &options, &dataset), HL_E_NOT_FOUND);
    tree_text(&t, "val/a/1.png", "");
    refuse_tree(HL_E_INPUT, "has both val/ and valid/");
}

Test(class_folder, a_class_may_be_called_train)
{
    tree_text(&t, "train/1.png", "");
    tree_text(&t, "tram/1.png", "");
    hl_dataset *dataset = open_tree(NULL);
    cr_assert_eq(hl_dataset_class_count(dataset), 2);
    cr_assert_str_eq(hl_dataset_class_name(dataset, 0), "train");
    hl_dataset_destroy(dataset);
}

Test(class_folder, images_for_evaluation_need_no_training_images_beside_them)
{
    static const hl_dataset_options evaluation = {.evaluation = true};
    tree_text(&t, "test/dog/1.png", "");
    refuse_tree(HL_E_INPUT, "the only class is \"test\"");
    hl_dataset *dataset = open_tree(&evaluation);
    cr_assert_eq(hl_dataset_class_count(dataset), 1);
    cr_assert_str_eq(hl_dataset_class_name(dataset, 0), "dog");
    expect_sample(dataset, HL_SPLIT_TEST, 0, "test/dog/1.png", 0);
    hl_dataset_destroy(dataset);

    /* The classes of both splits, sorted. */
    tree_text(&t, "val/cat/1.png", "");
    tree_text(&t, "val/dog/1.png", "");
    tree_text(&t, "val/yak/1.png", "");
    tree_text(&t, "test/emu/1.png", "");
    dataset = open_tree(&evaluation);
    cr_assert_eq(hl_dataset_class_count(dataset), 4);
    expect_sample(dataset, HL_SPLIT_VAL, 2, "val/yak/1.png", 3);
    expect_sample(dataset, HL_SPLIT_TEST, 0, "test/dog/1.png", 1);
    expect_sample(dataset, HL_SPLIT_TEST, 1, "test/emu/1.png", 2);
    hl_dataset_destroy(dataset);
}

Test(class_folder, what_cannot_be_trained_on_is_refused)
{
    refuse_tree(HL_E_INPUT, "has no class folders");
    tree_folder(&t, "a");
    refuse_tree(HL_E_INPUT, "no training images");
    tree_text(&t, "a/1.png", "");
    refuse_tree(HL_E_INPUT, "the only class is \"a\"");
    tree_folder(&t, "b");
    refuse_tree(HL_E_INPUT, "class \"b\" has no training image");
}

Test(class_folder, a_split_without_images_or_class_folders_is_refused)
{
    tree_text(&t, "train/a/1.png", "");
    tree_text(&t, "train/b/1.png", "");
    tree_folder(&t, "val");
    refuse_tree(HL_E_INPUT, "val: has no class folders");
    tree_folder(&t, "val/a");
    refuse_tree(HL_E_INPUT, "val: holds no images");
}

Test(class_folder, a_link_that_goes_round_is_refused_and_one_that_leads_nowhere_kept)
{
    tree_text(&t, "a/1.png", "");
    tree_text(&t, "b/1.png", "");
    tree_link(&t, "b/2.png", "nowhere.png");
    hl_dataset *dataset = open_tree(NULL);
    cr_assert_eq(hl_dataset_count_of_class(dataset, HL_SPLIT_TRAIN, 1), 2);
    hl_dataset_destroy(dataset);
    tree_link(&t, "a/round", "..");
    refuse_tree(HL_E_INPUT, "folders deep");
}

Test(class_folder, a_missing_folder_or_an_unknown_file_is_named)
{
    hl_dataset *dataset;
    cr_assert_eq(hl_dataset_open(tree_path(&t, "none"), NULL, &dataset), HL_E_NOT_FOUND);
    cr_assert_not_null(strstr(hl_last_error(), "none"));
    tree_text(&t, "data.bin", "x");
    cr_assert_eq(hl_dataset_open(tree_path(&t, "data.bin"), NULL, &dataset), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "is not a data set"));
}
