/* The expected pixels under tests/fixtures/images. */
#ifndef HL_TESTS_IMAGES_H
#define HL_TESTS_IMAGES_H

#include <stddef.h>
#include <stdint.h>

#define IMAGE_FIXTURES "tests/fixtures/images/"

typedef struct expected_image {
    int32_t width, height, channels;
    uint8_t *pixels;
} expected_image;

/* Reads NAME.rgb; a missing file fails the test. */
expected_image expected_read(const char *name);
/* The same of NAME.l, NAME.rgb or NAME.rgba, for 1, 3 or 4 channels. */
expected_image expected_read_as(const char *name, int channels);
void expected_free(expected_image *image);

/* A whole file of the fixtures; the caller frees it. */
uint8_t *fixture_bytes(const char *name, size_t *size);

#endif
