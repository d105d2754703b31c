#include "support/images.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *fixture_bytes(const char *name, size_t *size)
{
    char path[512];
    snprintf(path, sizeof path, IMAGE_FIXTURES "%s", name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s is missing: run the tests from the repository's root", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = malloc(*size);
    cr_assert_eq(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

expected_image expected_read(const char *name)
{
    return expected_read_as(name, 3);
}

expected_image expected_read_as(const char *name, int channels)
{
    char file[256];
    snprintf(file, sizeof file, "%s.%s", name, channels == 1 ? "l" : channels == 3 ? "rgb" : "rgba");
    size_t size;
    uint8_t *bytes = fixture_bytes(file, &size);
    expected_image image = {.channels = channels};
    memcpy(&image.width, bytes, 4);
    memcpy(&image.height, bytes + 4, 4);
    size_t pixels = (size_t)image.width * (size_t)image.height * (size_t)channels;
    cr_assert_eq(size, 8 + pixels);
    image.pixels = malloc(pixels);
    memcpy(image.pixels, bytes + 8, pixels);
    free(bytes);
    return image;
}

void expected_free(expected_image *image)
{
    free(image->pixels);
    image->pixels = NULL;
}
