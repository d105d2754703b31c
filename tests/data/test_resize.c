#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/resize.h"
#include "support/images.h"

static const char *const filter_names[] = {"bilinear", "bicubic"};

static void assert_same(const uint8_t *got, const expected_image *expected, const char *name)
{
    size_t bytes = (size_t)expected->width * (size_t)expected->height * (size_t)expected->channels;
    for (size_t i = 0; i < bytes; i++)
        cr_assert_eq(got[i], expected->pixels[i], "%s, byte %zu: %d, not %d", name, i, got[i],
                     expected->pixels[i]);
}

static hl_view view_of(const expected_image *image)
{
    return (hl_view){image->pixels, image->width, image->height, (size_t)(image->width * image->channels),
                     image->channels};
}

Test(resize, every_size_up_and_down_equals_pil_bit_for_bit)
{
    static const int sizes[][2] = {{20, 15}, {61, 17}, {30, 43}, {123, 90}, {7, 5},
                                   {1, 1},   {60, 44}, {200, 3}, {50, 21},  {50, 20}};
    hl_resizer resizer = {0};
    expected_image source = expected_read("source");
    for (int f = 0; f < 2; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            char name[64];
            snprintf(name, sizeof name, "resize_%s_%dx%d", filter_names[f], sizes[s][0], sizes[s][1]);
            expected_image expected = expected_read(name);
            int64_t width = expected.width, height = expected.height;
            uint8_t *out = malloc((size_t)(width * height * 3));
            cr_assert_eq(hl_resize(&resizer, view_of(&source), (hl_filter)f, width, height,
                                   (hl_rect){0, 0, width, height}, out, (size_t)width * 3),
                         HL_OK);
            assert_same(out, &expected, name);
            free(out);
            expected_free(&expected);
        }
    expected_free(&source);
    hl_resizer_clear(&resizer);
}

Test(resize, a_view_of_a_crop_equals_pil_on_the_cropped_image)
{
    static const int boxes[][4] = {{0, 0, 31, 20}, {13, 9, 48, 34}, {30, 11, 5, 32}, {7, 3, 1, 1}};
    hl_resizer resizer = {0};
    expected_image source = expected_read("source");
    for (int f = 0; f < 2; f++)
        for (size_t b = 0; b < sizeof boxes / sizeof *boxes; b++) {
            const int *box = boxes[b];
            char name[64];
            snprintf(name, sizeof name, "crop_%s_%d_%d_%dx%d", filter_names[f], box[0], box[1], box[2],
                     box[3]);
            expected_image expected = expected_read(name);
            hl_view view = view_of(&source);
            view.pixels += (size_t)box[1] * view.stride + (size_t)box[0] * 3;
            view.width = box[2];
            view.height = box[3];
            uint8_t out[24 * 24 * 3];
            cr_assert_eq(
                hl_resize(&resizer, view, (hl_filter)f, 24, 24, (hl_rect){0, 0, 24, 24}, out, 24 * 3), HL_OK);
            assert_same(out, &expected, name);
            expected_free(&expected);
        }
    expected_free(&source);
    hl_resizer_clear(&resizer);
}

Test(resize, a_window_is_that_part_of_the_whole_result_and_nothing_else_is_written)
{
    enum { WIDTH = 50, HEIGHT = 71, X = 11, Y = 23, W = 17, H = 19, STRIDE = W * 3 + 8, GUARD = 0xa5 };
    hl_resizer resizer = {0};
    expected_image source = expected_read("source");
    static uint8_t whole[WIDTH * HEIGHT * 3], part[STRIDE * H];
    for (int f = 0; f < 2; f++) {
        memset(part, GUARD, sizeof part);
        hl_resize(&resizer, view_of(&source), (hl_filter)f, WIDTH, HEIGHT, (hl_rect){0, 0, WIDTH, HEIGHT},
                  whole, WIDTH * 3);
        hl_resize(&resizer, view_of(&source), (hl_filter)f, WIDTH, HEIGHT, (hl_rect){X, Y, W, H}, part,
                  STRIDE);
        for (int y = 0; y < H; y++) {
            cr_assert_arr_eq(part + y * STRIDE, whole + ((Y + y) * WIDTH + X) * 3, W * 3);
            for (int i = W * 3; i < STRIDE; i++)
                cr_assert_eq(part[y * STRIDE + i], GUARD);
        }
    }
    expected_free(&source);
    hl_resizer_clear(&resizer);
}

Test(resize, grey_and_rgba_images_equal_pil_bit_for_bit)
{
    static const int sizes[][2] = {{20, 15}, {61, 17}, {30, 43}, {123, 90}, {50, 20}, {61, 43}};
    static const int box[4] = {13, 9, 48, 34};
    hl_resizer resizer = {0};
    for (int channels = 1; channels <= 4; channels += 3) {
        expected_image source = expected_read_as(channels == 1 ? "source" : "source_alpha", channels);
        for (int f = 0; f < 2; f++) {
            for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                char name[64];
                snprintf(name, sizeof name, "resize_%s_%dx%d", filter_names[f], sizes[s][0], sizes[s][1]);
                expected_image expected = expected_read_as(name, channels);
                int64_t width = expected.width, height = expected.height;
                uint8_t *out = malloc((size_t)(width * height * channels));
                cr_assert_eq(hl_resize(&resizer, view_of(&source), (hl_filter)f, width, height,
                                       (hl_rect){0, 0, width, height}, out, (size_t)(width * channels)),
                             HL_OK);
                assert_same(out, &expected, name);
                free(out);
                expected_free(&expected);
            }
            char name[64];
            snprintf(name, sizeof name, "crop_%s_13_9_48x34", filter_names[f]);
            expected_image expected = expected_read_as(name, channels);
            hl_view view = view_of(&source);
            view.pixels += (size_t)box[1] * view.stride + (size_t)(box[0] * channels);
            view.width = box[2];
            view.height = box[3];
            uint8_t out[24 * 24 * 4];
            cr_assert_eq(hl_resize(&resizer, view, (hl_filter)f, 24, 24, (hl_rect){0, 0, 24, 24}, out,
                                   (size_t)(24 * channels)),
                         HL_OK);
            assert_same(out, &expected, name);
            expected_free(&expected);
        }
        expected_free(&source);
    }
    hl_resizer_clear(&resizer);
}
