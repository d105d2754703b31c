#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "data/dataset.h"

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
