#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/transform.h"
#include "support/images.h"

static hl_image image_of(const expected_image *source)
{
    return (hl_image){.pixels = source->pixels,
                      .width = source->width,
                      .height = source->height,
                      .channels = source->channels};
}

Test(transform, evaluation_equals_torchvision_bit_for_bit)
{
    static const char *const filters[] = {"bilinear", "bicubic"};
    static const int sizes[][2] = {{24, 21}, {32, 32}, {43, 40}, {20, 33}, {11, 16}, {90, 64}, {15, 22}};
    hl_resizer resizer = {0};
    expected_image source = expected_read("source");
    expected_image turned = {source.height, source.width, 3,
                             malloc((size_t)source.width * (size_t)source.height * 3)};
    for (int y = 0; y < turned.height; y++)
        for (int x = 0; x < turned.width; x++)
            memcpy(turned.pixels + (y * turned.width + x) * 3, source.pixels + (x * source.width + y) * 3, 3);
    for (int f = 0; f < 2; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int t = 0; t < 2; t++) {
                char name[64];
                snprintf(name, sizeof name, "eval_%s_%d_%d%s", filters[f], sizes[s][0], sizes[s][1],
                         t ? "_turned" : "");
                expected_image expected = expected_read(name);
                hl_transform transform = {.resize = sizes[s][0], .crop = sizes[s][1], .filter = (hl_filter)f};
                cr_assert_eq(hl_transform_check(&transform), HL_OK);
                hl_image image = image_of(t ? &turned : &source);
                size_t bytes = (size_t)(transform.crop * transform.crop * 3);
                uint8_t *out = malloc(bytes), flip = 9;
                memset(out, 0xee, bytes);
                cr_assert_eq(hl_transform_apply(&transform, &resizer, &image, 1, 0, 0, out, &flip), HL_OK);
                cr_assert_eq(memcmp(out, expected.pixels, bytes), 0, "%s", name);
                cr_assert_eq(flip, 0);
                free(out);
                expected_free(&expected);
            }
    expected_free(&turned);
    expected_free(&source);
    hl_resizer_clear(&resizer);
}

Test(transform, evaluation_of_grey_and_rgba_images_equals_torchvision_bit_for_bit)
{
    static const char *const filters[] = {"bilinear", "bicubic"};
    static const int sizes[][2] = {{24, 21}, {20, 33}, {90, 64}};
    hl_resizer resizer = {0};
    for (int channels = 1; channels <= 4; channels += 3) {
        expected_image source = expected_read_as(channels == 1 ? "source" : "source_alpha", channels);
        for (int f = 0; f < 2; f++)
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                char name[64];
                snprintf(name, sizeof name, "eval_%s_%d_%d", filters[f], sizes[s][0], sizes[s][1]);
                expected_image expected = expected_read_as(name, channels);
                hl_transform transform = {
                    .resize = sizes[s][0], .crop = sizes[s][1], .filter = (hl_filter)f, .channels = channels};
                cr_assert_eq(hl_transform_check(&transform), HL_OK);
                hl_image image = image_of(&source);
                size_t bytes = (size_t)(transform.crop * transform.crop * channels);
                uint8_t *out = malloc(bytes), flip = 9;
                memset(out, 0xee, bytes);
                cr_assert_eq(hl_transform_apply(&transform, &resizer, &image, 1, 0, 0, out, &flip), HL_OK);
                cr_assert_eq(memcmp(out, expected.pixels, bytes), 0, "%s, %d channels", name, channels);
                free(out);
                expected_free(&expected);
            }
        expected_free(&source);
    }
    hl_resizer_clear(&resizer);
}

Test(transform, random_crops_of_any_channels_are_those_of_their_channels)
{
    hl_resizer resizer = {0};
    expected_image rgb = expected_read("source_alpha"), rgba = expected_read_as("source_alpha", 4);
    uint8_t three[20 * 20 * 3], four[20 * 20 * 4], flip[2];
    hl_transform transform = {.resize = 20, .crop = 20, .augment = HL_AUGMENT_STANDARD};
    cr_assert_eq(hl_transform_check(&transform), HL_OK);
    for (int i = 0; i < rgba.width * rgba.height; i++)
        rgba.pixels[4 * i + 3] = 255; /* opaque, so that colours are not weighted */
    for (int64_t i = 0; i < 8; i++) {
        hl_image a = image_of(&rgb), b = image_of(&rgba);
        cr_assert_eq(hl_transform_apply(&transform, &resizer, &a, 5, 1, i, three, &flip[0]), HL_OK);
        cr_assert_eq(hl_transform_apply(&transform, &resizer, &b, 5, 1, i, four, &flip[1]), HL_OK);
        cr_assert_eq(flip[0], flip[1]);
        for (int p = 0; p < 20 * 20; p++) {
            cr_assert_arr_eq(four + 4 * p, three + 3 * p, 3);
            cr_assert_eq(four[4 * p + 3], 255);
        }
    }
    expected_free(&rgb);
    expected_free(&rgba);
    hl_resizer_clear(&resizer);
}

Test(transform, random_crops_stay_inside_and_keep_to_scale_and_ratio)
{
    static const int64_t sizes[][2] = {{100, 80}, {640, 480}, {31, 33}, {1, 1}, {2, 500}, {3000, 7}};
    hl_transform transform = {.resize = 32, .crop = 32, .augment = HL_AUGMENT_STANDARD};
    cr_assert_eq(hl_transform_check(&transform), HL_OK);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int64_t i = 0; i < 2000; i++) {
            int64_t width = sizes[s][0], height = sizes[s][1];
            hl_rect crop = hl_transform_random_crop(&transform, width, height, 3, 1, i);
            cr_assert(crop.x >= 0 && crop.y >= 0 && crop.width > 0 && crop.height > 0);
            cr_assert(crop.x + crop.width <= width && crop.y + crop.height <= height);
            if (width < 100 || height < 80)
                continue;
            /* A pixel of rounding at each side. */
            double w = (double)crop.width, h = (double)crop.height, area = (double)(width * height);
            cr_assert((w + 1) * (h + 1) >= 0.35 * area && (w - 1) * (h - 1) <= area);
            cr_assert((w + 1) / (h - 1) >= 0.75 && (w - 1) / (h + 1) <= 4.0 / 3.0);
        }
}

Test(transform, what_is_random_depends_on_seed_epoch_and_index_and_half_are_flipped)
{
    enum { N = 4000 };
    hl_transform transform = {.resize = 32, .crop = 32, .augment = HL_AUGMENT_STANDARD};
    cr_assert_eq(hl_transform_check(&transform), HL_OK);
    int flips = 0, same_crop = 0, same_flip_other_epoch = 0, same_flip_other_seed = 0;
    for (int64_t i = 0; i < N; i++) {
        bool flip = hl_transform_flips(&transform, 5, 2, i);
        cr_assert_eq(flip, hl_transform_flips(&transform, 5, 2, i));
        flips += flip;
        same_flip_other_epoch += flip == hl_transform_flips(&transform, 5, 3, i);
        same_flip_other_seed += flip == hl_transform_flips(&transform, 6, 2, i);
        hl_rect a = hl_transform_random_crop(&transform, 500, 400, 5, 2, i);
        hl_rect b = hl_transform_random_crop(&transform, 500, 400, 5, 3, i);
        same_crop += memcmp(&a, &b, sizeof a) == 0;
    }
    /* Binomial with standard deviation 31.6: five of them. */
    cr_assert(abs(flips - N / 2) < 158 && abs(same_flip_other_epoch - N / 2) < 158);
    cr_assert(abs(same_flip_other_seed - N / 2) < 158 && same_crop < 20);
    transform.augment = HL_AUGMENT_NONE;
    for (int64_t i = 0; i < 100; i++)
        cr_assert_not(hl_transform_flips(&transform, 5, 2, i));
}

Test(transform, flip_alone_leaves_the_evaluation_pixels)
{
    hl_resizer resizer = {0};
    expected_image source = expected_read("source");
    hl_image image = image_of(&source);
    hl_transform plain = {.resize = 24, .crop = 21}, mirrored = plain;
    mirrored.augment = HL_AUGMENT_FLIP;
    hl_transform_check(&plain);
    hl_transform_check(&mirrored);
    uint8_t a[21 * 21 * 3], b[21 * 21 * 3], flip_a, flip_b;
    int flips = 0;
    for (int64_t i = 0; i < 20; i++) {
        hl_transform_apply(&plain, &resizer, &image, 1, 0, i, a, &flip_a);
        hl_transform_apply(&mirrored, &resizer, &image, 1, 0, i, b, &flip_b);
        cr_assert_arr_eq(a, b, sizeof a);
        flips += flip_b;
    }
    cr_assert(flips > 0 && flips < 20);
    expected_free(&source);
    hl_resizer_clear(&resizer);
}

Test(transform, very_long_images_take_memory_for_the_window_only)
{
    enum { LONG = 3000000 };
    hl_resizer resizer = {0};
    hl_image image = {.pixels = calloc(LONG, 3), .width = 1, .height = LONG};
    hl_transform transform = {.resize = 224, .crop = 224};
    cr_assert_eq(hl_transform_check(&transform), HL_OK);
    uint8_t *out = malloc(224 * 224 * 3), flip;
    cr_assert_eq(hl_transform_apply(&transform, &resizer, &image, 1, 0, 0, out, &flip), HL_OK, "%s",
                 hl_last_error());
    cr_assert_lt(resizer.row_capacity, (size_t)1 << 20);
    free(out);
    free(image.pixels);
    hl_resizer_clear(&resizer);
}

Test(transform, options_out_of_range_are_refused)
{
    hl_transform t = {.resize = 10, .crop = 0};
    cr_assert_eq(hl_transform_check(&t), HL_E_ARG);
    t = (hl_transform){.resize = 10, .crop = 10, .channels = 2};
    cr_assert_eq(hl_transform_check(&t), HL_E_ARG);
    t = (hl_transform){.resize = -1, .crop = 10};
    cr_assert_eq(hl_transform_check(&t), HL_E_ARG);
    t = (hl_transform){.resize = 10, .crop = 10, .scale_min = 0.5, .scale_max = 0.4};
    cr_assert_eq(hl_transform_check(&t), HL_E_ARG);
    t = (hl_transform){.resize = 10, .crop = 10, .flip_probability = 1.5};
    cr_assert_eq(hl_transform_check(&t), HL_E_ARG);
}
