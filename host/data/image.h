/* Decoded images: 8 bits a channel, rows of width * channels bytes without padding (HWC).
 *
 * The pixels equal, bit for bit, those of PIL's Image.open(f).convert("RGB"), or "L" for one channel and
 * "RGBA" for four.
 *
 * RGB: alpha and transparent colours are dropped, not blended. L: grey files as they are, of others the luma
 * of ITU-R 601; alpha as for RGB. RGBA: alpha is 255 where the file has none; a palette has alphas of its
 * own; pixels of a transparent colour keep it and get alpha 0. That colour is looked for as PIL does it,
 * among 8-bit pixels and by its low bytes, and so is mostly missed in files of 2, 4 and 16 bits.
 *
 * PNG: 16-bit colour and grey + alpha keep the high byte; 16-bit grey alone is clipped at 255 (PIL's mode
 * "I;16"), so a 16-bit grey file whose values use the whole range comes out nearly white, as it does there;
 * an index beyond the palette is black. A file without its end chunk is refused, although PIL reads one.
 *
 * JPEG: accurate integer DCT and smooth chroma upsampling; CMYK and YCCK are taken as inverted (Adobe's
 * convention); the EXIF orientation is not applied. */
#ifndef HL_DATA_IMAGE_H
#define HL_DATA_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Default of the largest number of pixels a file may declare: 384 MiB of RGB once decoded. Checked before
 * memory is taken. */
#define HL_IMAGE_MAX_PIXELS ((int64_t)1 << 27)

/* An image and the buffers that are used again for the next one; all zeros at the start. */
typedef struct hl_image {
    uint8_t *pixels; /* [height, width, channels] */
    int64_t width, height;
    int64_t channels;   /* wanted: 1 grey, 3 RGB, 4 RGBA; 0: 3 */
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

static inline int64_t hl_image_channels(const hl_image *image)
{
    return image->channels == 0 ? 3 : image->channels;
}

/* For the decoders: checks the declared size against the limit and makes room for the pixels, for three bytes
 * of each even where the image is to be grey. */
hl_status hl_image_reserve(hl_image *image, uint64_t width, uint64_t height, const char *name);

/* `count` RGB pixels to as many channels as the image has; `out` may be `rgb` where these are one or three.
 */
void hl_image_from_rgb(const hl_image *image, const uint8_t *rgb, uint8_t *out, size_t count);

hl_status hl_png_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name);
hl_status hl_jpeg_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name);

#endif
