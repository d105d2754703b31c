#include "data/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

/* Larger than any file whose pixels would be accepted, and a stop to reading devices and logs. */
#define MAX_FILE_BYTES ((off_t)1 << 30)

void hl_image_clear(hl_image *image)
{
    free(image->pixels);
    free(image->encoded);
    *image = (hl_image){.max_pixels = image->max_pixels, .channels = image->channels};
}

hl_status hl_image_reserve(hl_image *image, uint64_t width, uint64_t height, const char *name)
{
    uint64_t limit = (uint64_t)(image->max_pixels > 0 ? image->max_pixels : HL_IMAGE_MAX_PIXELS);
    if (width == 0 || height == 0)
        return hl_fail(HL_E_INPUT, name, "replace the file", "declares an empty image of %llu x %llu pixels",
                       (unsigned long long)width, (unsigned long long)height);
    if (width > limit / height)
        return hl_fail(HL_E_INPUT, name, "scale the image down or remove it",
                       "declares %llu x %llu pixels, more than the limit of %llu", (unsigned long long)width,
                       (unsigned long long)height, (unsigned long long)limit);
    size_t pixel = hl_image_channels(image) > 3 ? (size_t)hl_image_channels(image) : 3;
    size_t bytes = (size_t)width * (size_t)height * pixel;
    if (bytes > image->pixel_capacity) {
        /* The old pixels are of no use, so they need not be copied as realloc would. */
        free(image->pixels);
        image->pixel_capacity = 0;
        image->pixels = malloc(bytes);
        if (image->pixels == NULL)
            return hl_fail_nomem(name, bytes);
        image->pixel_capacity = bytes;
    }
    image->width = (int64_t)width;
    image->height = (int64_t)height;
    return HL_OK;
}

/* PIL's integer form of ITU-R 601. */
static uint8_t luma(const uint8_t *rgb)
{
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

void hl_image_from_rgb(const hl_image *image, const uint8_t *rgb, uint8_t *out, size_t count)
{
    int64_t channels = hl_image_channels(image);
    if (channels == 3)
        memmove(out, rgb, 3 * count);
    for (size_t i = 0; channels == 1 && i < count; i++)
        out[i] = luma(rgb + 3 * i);
    for (size_t i = 0; channels == 4 && i < count; i++) {
        memcpy(out + 4 * i, rgb + 3 * i, 3);
        out[4 * i + 3] = 255;
    }
}

static const struct {
    const char *magic;
    size_t offset, length;
    const char *format;
} unread_formats[] = {
    {"GIF8", 0, 4, "GIF"},   {"BM", 0, 2, "BMP"},     {"WEBP", 8, 4, "WebP"},
    {"II*\0", 0, 4, "TIFF"}, {"MM\0*", 0, 4, "TIFF"}, {"ftyp", 4, 4, "HEIF/AVIF"},
    {"P5", 0, 2, "PGM"},     {"P6", 0, 2, "PPM"},     {"\0\0\0\x0cjP  ", 0, 8, "JPEG 2000"},
};

hl_status hl_image_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name)
{
    static const uint8_t png[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t jpeg[3] = {0xff, 0xd8, 0xff};
    hl_status status;
    image->width = image->height = 0;
    if (size >= sizeof png && memcmp(bytes, png, sizeof png) == 0)
        status = hl_png_decode(image, bytes, size, name);
    else if (size >= sizeof jpeg && memcmp(bytes, jpeg, sizeof jpeg) == 0)
        status = hl_jpeg_decode(image, bytes, size, name);
    else if (size == 0)
        status = hl_fail(HL_E_INPUT, name, "replace or remove the file", "the file is empty");
    else {
        for (size_t i = 0; i < sizeof unread_formats / sizeof *unread_formats; i++) {
            size_t offset = unread_formats[i].offset, length = unread_formats[i].length;
            if (size >= offset + length && memcmp(bytes + offset, unread_formats[i].magic, length) == 0)
                return hl_fail(HL_E_UNSUPPORTED, name, "convert it to PNG or JPEG", "%s images are not read",
                               unread_formats[i].format);
        }
        status = hl_fail(HL_E_INPUT, name, "replace or remove the file", "is neither a PNG nor a JPEG image");
    }
    if (status != HL_OK)
        image->width = image->height = 0;
    return status;
}

static hl_status read_open_file(hl_image *image, int file, const char *path, size_t *size)
{
    struct stat about;
    if (fstat(file, &about) != 0)
        return hl_fail(HL_E_IO, path, NULL, "%s", strerror(errno));
    if (!S_ISREG(about.st_mode))
        return hl_fail(HL_E_INPUT, path, "remove it from the data", "is not a regular file");
    if (about.st_size > MAX_FILE_BYTES)
        return hl_fail(HL_E_INPUT, path, "remove it from the data",
                       "%lld bytes are more than the limit of %lld", (long long)about.st_size,
                       (long long)MAX_FILE_BYTES);
    size_t wanted = (size_t)about.st_size, have = 0;
    HL_TRY(hl_grow((void **)&image->encoded, &image->encoded_capacity, wanted, 1, path));
    while (have < wanted) {
        ssize_t got = read(file, image->encoded + have, wanted - have);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return hl_fail(HL_E_IO, path, "check the disk and the permissions", "%s", strerror(errno));
        if (got == 0)
            break;
        have += (size_t)got;
    }
    *size = have;
    return HL_OK;
}

hl_status hl_image_decode_file(hl_image *image, const char *path)
{
    image->width = image->height = 0;
    /* Not blocking: a pipe among the images must not stop the run before it is recognised. */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0 && (errno == ENOENT || errno == ENOTDIR))
        return hl_fail(HL_E_NOT_FOUND, path, "restore the file or remove it from the data", "%s",
                       strerror(errno));
    if (file < 0)
        return hl_fail(HL_E_IO, path, "check the permissions", "%s", strerror(errno));
    size_t size = 0;
    hl_status status = read_open_file(image, file, path, &size);
    close(file);
    return status == HL_OK ? hl_image_decode(image, image->encoded, size, path) : status;
}
