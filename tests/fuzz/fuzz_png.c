/* PNG bytes to the decoder, with the checksums of the chunks put right: otherwise next to nothing gets past
 * them. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/image.h"

enum { SIGNATURE = 8, CHUNK_FRAME = 12 };

static uint32_t read_be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static void mend_checksums(uint8_t *bytes, size_t size)
{
    for (size_t at = SIGNATURE; at + CHUNK_FRAME <= size;) {
        size_t length = read_be32(bytes + at);
        if (length > size - at - CHUNK_FRAME)
            return;
        uint32_t crc = crc32_of(bytes + at + 4, 4 + length);
        for (int i = 0; i < 4; i++)
            bytes[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += CHUNK_FRAME + length;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    uint8_t *mended = malloc(size + (size == 0));
    if (mended == NULL)
        abort();
    memcpy(mended, bytes, size);
    mend_checksums(mended, size);
    /* Small, so that time goes into the parser and not into clearing memory. */
    for (int64_t channels = 1; channels <= 4; channels += channels == 1 ? 2 : 1) {
        hl_image image = {.max_pixels = 1 << 16, .channels = channels};
        if (hl_png_decode(&image, mended, size, "fuzz.png") == HL_OK && (image.width < 1 || image.height < 1))
            __builtin_trap();
        hl_image_clear(&image);
    }
    free(mended);
    return 0;
}
