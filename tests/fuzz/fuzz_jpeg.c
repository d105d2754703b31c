/* JPEG bytes to the decoder. */
#include <stddef.h>
#include <stdint.h>

#include "data/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    for (int64_t channels = 1; channels <= 4; channels += channels == 1 ? 2 : 1) {
        hl_image image = {.max_pixels = 1 << 16, .channels = channels};
        if (hl_jpeg_decode(&image, bytes, size, "fuzz.jpg") == HL_OK && (image.width < 1 || image.height < 1))
            __builtin_trap();
        hl_image_clear(&image);
    }
    return 0;
}
