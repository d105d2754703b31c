#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/dataset.h"
#include "support/scratch.h"

/* Classes of 1, 2, 9 and 100 images. */
static hl_dataset *make(void)
{
    static const int counts[] = {1, 2, 9, 100};
    hl_dataset *dataset;
    cr_assert_eq(hl_dataset_create(&dataset), HL_OK);
    for (int c = 0; c < 4; c++) {
        char name[32];
        snprintf(name, sizeof name, "class%d", c);
        cr_assert_eq(hl_dataset_add_class(dataset, name), HL_OK);
        for (int i = 0; i < counts[c]; i++) {
            snprintf(name, sizeof name, "%d/%d.png", c, i);
            cr_assert_eq(hl_dataset_add_sample(dataset, HL_SPLIT_TRAIN, name, c), HL_OK);
        }
    }
    return dataset;
}

Test(dataset, the_validation_split_takes_its_part_of_every_class)
{
    static const int64_t val[] = {0, 1, 2, 25};
    hl_dataset *dataset = make();
    cr_assert_eq(hl_dataset_split_validation(dataset, 0.25, 1), HL_OK);
    cr_assert_eq(hl_dataset_count(dataset, HL_SPLIT_TRAIN) + hl_dataset_count(dataset, HL_SPLIT_VAL), 112);
    for (int32_t c = 0; c < 4; c++) {
        cr_assert_eq(hl_dataset_count_of_class(dataset, HL_SPLIT_VAL, c), val[c], "class %d", c);
        cr_assert_geq(hl_dataset_count_of_class(dataset, HL_SPLIT_TRAIN, c), 1);
    }
    for (int64_t i = 0; i < hl_dataset_count(dataset, HL_SPLIT_VAL); i++)
        for (int64_t j = 0; j < hl_dataset_count(dataset, HL_SPLIT_TRAIN); j++)
            cr_assert_str_neq(hl_dataset_sample_path(dataset, HL_SPLIT_VAL, i),
                              hl_dataset_sample_path(dataset, HL_SPLIT_TRAIN, j));
    hl_dataset_destroy(dataset);
}

Test(dataset, the_validation_split_depends_on_the_seed_alone)
{
    hl_dataset *sets[3];
    for (uint64_t i = 0; i < 3; i++) {
        sets[i] = make();
        cr_assert_eq(hl_dataset_split_validation(sets[i], 0.25, i / 2), HL_OK);
    }
    int same = 0;
    for (int64_t i = 0; i < hl_dataset_count(sets[0], HL_SPLIT_VAL); i++) {
        const char *path = hl_dataset_sample_path(sets[0], HL_SPLIT_VAL, i);
        cr_assert_str_eq(path, hl_dataset_sample_path(sets[1], HL_SPLIT_VAL, i));
        same += strcmp(path, hl_dataset_sample_path(sets[2], HL_SPLIT_VAL, i)) == 0;
    }
    cr_assert_lt(same, 14);
    for (int i = 0; i < 3; i++)
        hl_dataset_destroy(sets[i]);
}

Test(dataset, even_a_large_validation_fraction_leaves_an_image_to_train_on)
{
    hl_dataset *dataset = make();
    cr_assert_eq(hl_dataset_split_validation(dataset, 0.999, 1), HL_OK);
    for (int32_t c = 0; c < 4; c++)
        cr_assert_eq(hl_dataset_count_of_class(dataset, HL_SPLIT_TRAIN, c), 1);
    hl_dataset_destroy(dataset);
}

Test(dataset, a_validation_fraction_out_of_range_is_refused)
{
    static const double wrong[] = {-0.1, 1.0, 2.0, (double)NAN};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        hl_dataset *dataset;
        hl_dataset_options options = {.val_fraction = wrong[i]};
        cr_assert_eq(hl_dataset_open("tests", &options, &dataset), HL_E_ARG);
    }
}

static hl_status read_square(const hl_dataset *dataset, hl_split split, int64_t index, hl_image *image)
{
    HL_TRY(hl_image_reserve(image, 2, 1, dataset->splits[split].items[index].path));
    memset(image->pixels, *(const int *)dataset->source + (int)index, 6);
    return HL_OK;
}

static void forget_source(void *source)
{
    *(int *)source = -1;
}

Test(dataset, a_layout_without_image_files_gives_its_pixels_itself)
{
    int source = 40;
    hl_image image = {0};
    hl_dataset *dataset = make();
    dataset->read = read_square;
    dataset->source = &source;
    dataset->free_source = forget_source;
    cr_assert_eq(hl_dataset_read(dataset, HL_SPLIT_TRAIN, 2, &image), HL_OK);
    cr_assert_eq(image.width, 2);
    cr_assert_eq(image.pixels[5], 42);
    hl_dataset_destroy(dataset);
    cr_assert_eq(source, -1);
    hl_image_clear(&image);
}

static void expect_hash(const hl_dataset *dataset, char hex[HL_SHA256_HEX])
{
    cr_assert_eq(hl_dataset_hash(dataset, HL_SPLIT_TRAIN, hex), HL_OK, "%s", hl_last_error());
}

Test(dataset, the_hash_of_files_changes_with_size_and_time_and_order_and_not_with_labels)
{
    char *folder = scratch_make(), *a = scratch_path(folder, "a"), *b = scratch_path(folder, "b");
    char hash[6][HL_SHA256_HEX];
    const struct timespec times[2] = {{.tv_sec = 5}, {.tv_sec = 5, .tv_nsec = 1}};
    hl_dataset *sets[3];
    scratch_write(a, "1", 1);
    scratch_write(b, "2", 1);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(hl_dataset_create(&sets[i]), HL_OK);
        cr_assert_eq(hl_dataset_add_sample(sets[i], HL_SPLIT_TRAIN, i < 2 ? a : b, i), HL_OK);
        cr_assert_eq(hl_dataset_add_sample(sets[i], HL_SPLIT_TRAIN, i < 2 ? b : a, 0), HL_OK);
        expect_hash(sets[i], hash[i]);
    }
    cr_expect_str_eq(hash[0], hash[1]);
    cr_expect_str_neq(hash[0], hash[2]);
    cr_assert_eq(utimensat(AT_FDCWD, a, times, 0), 0);
    expect_hash(sets[0], hash[3]);
    cr_expect_str_neq(hash[0], hash[3]);
    scratch_write(a, "12", 2);
    cr_assert_eq(utimensat(AT_FDCWD, a, times, 0), 0);
    expect_hash(sets[0], hash[4]);
    cr_expect_str_neq(hash[3], hash[4]);
    cr_assert_eq(remove(a), 0);
    cr_expect_eq(hl_dataset_hash(sets[0], HL_SPLIT_TRAIN, hash[5]), HL_E_IO);
    for (int i = 0; i < 3; i++)
        hl_dataset_destroy(sets[i]);
    free(a);
    free(b);
    scratch_remove(folder);
}

Test(dataset, the_hash_of_a_layout_without_files_is_of_its_pixels)
{
    int source = 40;
    char hash[3][HL_SHA256_HEX];
    hl_dataset *dataset = make();
    dataset->read = read_square;
    dataset->source = &source;
    expect_hash(dataset, hash[0]);
    expect_hash(dataset, hash[1]);
    source = 41;
    expect_hash(dataset, hash[2]);
    cr_expect_str_eq(hash[0], hash[1]);
    cr_expect_str_neq(hash[0], hash[2]);
    hl_dataset_destroy(dataset);
}
