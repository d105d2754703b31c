/* PNG files through libpng. */
#include <png.h>
#include <setjmp.h>
#include <string.h>

#include "data/image.h"

/* All that must outlive a longjmp out of libpng lives here and not in local variables. */
typedef struct png_job {
    const uint8_t *bytes;
    size_t size, at;
    const char *name;
    hl_image *image;
    hl_status status; /* of a failure of ours, HL_OK for one that libpng found */
    jmp_buf failed;
    char message[128];
} png_job;

static _Noreturn void on_error(png_structp png, png_const_charp text)
{
    png_job *job = png_get_error_ptr(png);
    strncpy(job->message, text, sizeof job->message - 1);
    longjmp(job->failed, 1);
}

static void on_warning(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void read_bytes(png_structp png, png_bytep to, size_t count)
{
    png_job *job = png_get_io_ptr(png);
    if (count > job->size - job->at)
        png_error(png, "the file ends too early");
    memcpy(to, job->bytes + job->at, count);
    job->at += count;
}

/* Grey values of 16 bits, big-endian, to RGB with the values above 255 clipped. They lie at the end of the
 * buffer of their RGB pixels, so the writing end never overtakes the reading one. */
static void widen_grey16(hl_image *image)
{
    size_t count = (size_t)image->width * (size_t)image->height;
    const uint8_t *grey = image->pixels + count;
    for (size_t i = 0; i < count; i++) {
        uint8_t value = grey[2 * i] != 0 ? 255 : grey[2 * i + 1];
        memset(image->pixels + 3 * i, value, 3);
    }
}

/* Ancillary chunks have no bearing on the pixels, and some are costly to parse. */
static void ignore_ancillary_chunks(png_structp png)
{
    static const png_byte names[] = "iCCP\0iTXt\0tEXt\0zTXt\0eXIf\0sPLT\0hIST\0tRNS\0bKGD";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5));
}

static void decode(png_structp png, png_infop info, png_job *job)
{
    hl_image *image = job->image;
    png_set_read_fn(png, job, read_bytes);
    ignore_ancillary_chunks(png);
    png_read_info(png, info);
    png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    job->status = hl_image_reserve(image, width, height, job->name);
    if (job->status != HL_OK)
        longjmp(job->failed, 1);

    int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    int grey16 = colour == PNG_COLOR_TYPE_GRAY && depth == 16;
    if (colour == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (colour == PNG_COLOR_TYPE_GRAY && depth < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    if (depth == 16 && !grey16)
        png_set_strip_16(png);
    if (colour & PNG_COLOR_MASK_ALPHA)
        png_set_strip_alpha(png);
    if (!(colour & PNG_COLOR_MASK_COLOR) && !grey16)
        png_set_gray_to_rgb(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);

    size_t row = (size_t)width * (grey16 ? 2 : 3);
    if (png_get_rowbytes(png, info) != row)
        png_error(png, "unexpected size of a decoded row");
    uint8_t *first = image->pixels + (grey16 ? (size_t)width * height : 0);
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++)
            png_read_row(png, first + y * row, NULL);
    png_read_end(png, NULL);
    if (grey16)
        widen_grey16(image);
}

hl_status hl_png_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name)
{
    png_job job = {.bytes = bytes, .size = size, .name = name, .image = image, .status = HL_OK};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, on_error, on_warning);
    if (png == NULL)
        return hl_fail(HL_E_NOMEM, name, NULL, "libpng could not be started");
    png_infop info = png_create_info_struct(png);
    if (info == NULL) {
        png_destroy_read_struct(&png, NULL, NULL);
        return hl_fail(HL_E_NOMEM, name, NULL, "libpng could not be started");
    }
    int failed = setjmp(job.failed);
    if (failed == 0)
        decode(png, info, &job);
    png_destroy_read_struct(&png, &info, NULL);
    if (failed == 0 || job.status != HL_OK)
        return job.status;
    return hl_fail(HL_E_INPUT, name, "replace or remove the file", "not a whole PNG image: %s", job.message);
}
