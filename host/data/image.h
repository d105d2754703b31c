/* Decoded images: 8-bit RGB, rows of width * 3 bytes without padding (HWC).
 *
 * The pixels equal, bit for bit, those of PIL's Image.open(f).convert("RGB"):
 *   PNG   alpha and transparent colours are dropped, not blended; 16-bit colour and grey + alpha keep the
 * high byte; 16-bit grey alone is clipped at 255 (PIL's mode "I;16"), so a 16-bit grey file whose values use
 * the whole range comes out nearly white, as it does there; an index beyond the palette is black. JPEG
 * accurate integer DCT and smooth chroma upsampling; CMYK and YCCK are taken as inverted (Adobe's
 *         convention); the EXIF orientation is not applied.
 * A PNG without its end chunk is refused, although PIL reads one. */
#ifndef HL_DATA_IMAGE_H
#define HL_DATA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Default of the largest number of pixels a file may declare: 384 MiB once decoded. Checked before memory is
 * taken. */
#define HL_IMAGE_MAX_PIXELS ((int64_t)1 << 27)

/* An image and the buffers that are used again for the next one; all zeros at the start. */
typedef struct hl_image {
    uint8_t *pixels; /* [height, width, 3] */
    int64_t width, height;
    int64_t max_pixels; /* 0: HL_IMAGE_MAX_PIXELS */
    size_t pixel_capacity;
    uint8_t *encoded; /* the file's bytes, kept only as a buffer */
    size_t encoded_capacity;
} hl_image;

/* Frees the buffers and leaves an empty image. */
void hl_image_clear(hl_image *image);

/* Reads and decodes a PNG or JPEG file, told apart by its first bytes. On failure the error names `path`; the
 * image then has no size but stays usable for another call. */
hl_status hl_image_decode_file(hl_image *image, const char *path);

/* The same for `size` bytes in memory; `name` stands for the file in errors. */
hl_status hl_image_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name);

/* For the decoders: checks the declared size against the limit and makes room for the pixels. */
hl_status hl_image_reserve(hl_image *image, uint64_t width, uint64_t height, const char *name);

hl_status hl_png_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name);
hl_status hl_jpeg_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name);

#endif
