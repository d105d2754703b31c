#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/image.h"
#include "support/images.h"

/* Every image file of the fixtures in turn; true while there is one. */
static bool next_image(DIR *folder, char *name, size_t size)
{
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot != NULL && (strcmp(dot, ".png") == 0 || strcmp(dot, ".jpg") == 0)) {
            snprintf(name, size, "%s", entry->d_name);
            return true;
        }
    }
    return false;
}

static void expect_decoded(const char *path, const char *name, int channels)
{
    /* New, so that the address sanitizer knows where the pixels end. */
    hl_image image = {.channels = channels};
    cr_assert_eq(hl_image_decode_file(&image, path), HL_OK, "%s", hl_last_error());
    expected_image expected = expected_read_as(name, channels);
    cr_assert_eq(image.width, expected.width, "%s", name);
    cr_assert_eq(image.height, expected.height, "%s", name);
    size_t bytes = (size_t)image.width * (size_t)image.height * (size_t)channels;
    for (size_t i = 0; i < bytes; i++)
        cr_assert_eq(image.pixels[i], expected.pixels[i], "%s, %d channels, byte %zu: %d, not %d", name,
                     channels, i, image.pixels[i], expected.pixels[i]);
    expected_free(&expected);
    hl_image_clear(&image);
}

Test(image, every_kind_of_file_decodes_to_the_pixels_of_pil)
{
    DIR *folder = opendir(IMAGE_FIXTURES);
    cr_assert_not_null(folder);
    char name[256], path[512];
    int files = 0;
    for (; next_image(folder, name, sizeof name); files++) {
        snprintf(path, sizeof path, IMAGE_FIXTURES "%s", name);
        *strrchr(name, '.') = '\0';
        expect_decoded(path, name, 1);
        expect_decoded(path, name, 3);
        expect_decoded(path, name, 4);
    }
    closedir(folder);
    cr_assert_geq(files, 55);
}

Test(image, a_file_cut_short_anywhere_is_refused)
{
    hl_image image = {0};
    DIR *folder = opendir(IMAGE_FIXTURES);
    char name[256];
    while (next_image(folder, name, sizeof name)) {
        size_t size;
        uint8_t *bytes = fixture_bytes(name, &size);
        for (size_t cut = 0; cut < size; cut += cut < 64 ? 1 : 7) {
            image.channels = 1 + (int64_t)(cut % 2) * 3;
            /* A copy of the very size lets the address sanitizer see reads beyond the end. */
            uint8_t *part = malloc(cut + (cut == 0));
            memcpy(part, bytes, cut);
            hl_status status = hl_image_decode(&image, part, cut, name);
            cr_assert_eq(status, HL_E_INPUT, "%s cut to %zu of %zu bytes: %s", name, cut, size,
                         hl_status_text(status));
            cr_assert_eq(image.width, 0);
            free(part);
        }
        free(bytes);
    }
    closedir(folder);
    hl_image_clear(&image);
}

Test(image, damaged_bytes_never_crash_the_decoder)
{
    hl_image image = {.max_pixels = 1 << 20};
    DIR *folder = opendir(IMAGE_FIXTURES);
    char name[256];
    while (next_image(folder, name, sizeof name)) {
        size_t size;
        uint8_t *bytes = fixture_bytes(name, &size);
        for (size_t at = 8; at < size; at += 5) {
            uint8_t kept = bytes[at];
            bytes[at] ^= (uint8_t)(1u << (at % 8));
            (void)hl_image_decode(&image, bytes, size, name);
            bytes[at] = 0xff;
            image.channels = at % 2 == 0 ? 1 : 4;
            (void)hl_image_decode(&image, bytes, size, name);
            bytes[at] = kept;
            image.channels = 3;
        }
        free(bytes);
    }
    closedir(folder);
    hl_image_clear(&image);
}

Test(image, a_declared_size_over_the_limit_is_refused_before_memory_is_taken)
{
    static const uint8_t png[] = {0x89, 'P',  'N', 'G', '\r', '\n', 0x1a, '\n', 0,    0, 0,
                                  13,   'I',  'H', 'D', 'R',  0,    1,    0x00, 0x00, 0, 1,
                                  0x00, 0x00, 8,   2,   0,    0,    0x00, 0x00, 0x00, 0, 0};
    hl_image image = {0};
    uint8_t *bytes;
    size_t size;
    bytes = fixture_bytes("png_rgb_8.png", &size);
    /* 65,536 x 65,536, with the checksum of that header. */
    memcpy(bytes, png, 29);
    memcpy(bytes + 29, "\xe3\xe6\xa7\xb4", 4);
    hl_status status = hl_image_decode(&image, bytes, size, "bomb.png");
    cr_assert_eq(status, HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "bomb.png: declares 65536 x 65536 pixels"), "%s",
                       hl_last_error());
    cr_assert_eq(image.pixel_capacity, 0);
    free(bytes);

    bytes = fixture_bytes("jpeg_420.jpg", &size);
    image.max_pixels = 45 * 35 - 1;
    cr_assert_eq(hl_image_decode(&image, bytes, size, "large.jpg"), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "large.jpg: declares 45 x 35 pixels"), "%s", hl_last_error());
    image.max_pixels = 45 * 35;
    cr_assert_eq(hl_image_decode(&image, bytes, size, "large.jpg"), HL_OK, "%s", hl_last_error());
    free(bytes);
    hl_image_clear(&image);
}

Test(image, other_formats_are_named_in_the_error)
{
    hl_image image = {0};
    cr_assert_eq(hl_image_decode(&image, (const uint8_t *)"GIF89a......", 12, "a.gif"), HL_E_UNSUPPORTED);
    cr_assert_not_null(strstr(hl_last_error(), "a.gif: GIF images are not read"), "%s", hl_last_error());
    cr_assert_eq(hl_image_decode(&image, (const uint8_t *)"RIFF....WEBPVP8 ", 16, "a.jpg"), HL_E_UNSUPPORTED);
    cr_assert_eq(hl_image_decode(&image, (const uint8_t *)"<html></html>", 13, "a.jpg"), HL_E_INPUT);
    cr_assert_eq(hl_image_decode(&image, (const uint8_t *)"", 0, "a.jpg"), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "empty"));
}

Test(image, what_is_no_readable_file_is_named_in_the_error)
{
    hl_image image = {0};
    cr_assert_eq(hl_image_decode_file(&image, "no/such/image.png"), HL_E_NOT_FOUND);
    cr_assert_not_null(strstr(hl_last_error(), "no/such/image.png"));
    cr_assert_eq(hl_image_decode_file(&image, "tests"), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "not a regular file"));
    hl_image_clear(&image);
}

/* Where the last scan of a JPEG file begins. */
static size_t last_scan(const uint8_t *bytes, size_t size)
{
    size_t found = 0;
    for (size_t i = 0; i + 1 < size; i++)
        if (bytes[i] == 0xff && bytes[i + 1] == 0xda)
            found = i;
    return found;
}

Test(image, a_jpeg_file_of_very_many_scans_is_refused)
{
    enum { REPEATS = 200 };
    size_t size, start;
    uint8_t *bytes = fixture_bytes("jpeg_progressive.jpg", &size);
    start = last_scan(bytes, size);
    /* The last scan without the end marker, over and over. */
    size_t scan = size - 2 - start;
    uint8_t *many = malloc(start + REPEATS * scan + 2);
    memcpy(many, bytes, start);
    for (size_t i = 0; i < REPEATS; i++)
        memcpy(many + start + i * scan, bytes + start, scan);
    memcpy(many + start + REPEATS * scan, bytes + size - 2, 2);
    hl_image image = {0};
    cr_assert_eq(hl_image_decode(&image, many, start + REPEATS * scan + 2, "slow.jpg"), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "slow.jpg: not a whole JPEG image: too many scans"), "%s",
                       hl_last_error());
    free(many);
    free(bytes);
    hl_image_clear(&image);
}
