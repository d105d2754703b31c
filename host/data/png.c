/* PNG files through libpng. */
#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
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

/* Grey values of 16 bits, big-endian, to the image's channels with the values above 255 clipped. They lie at
 * the end of the buffer of their pixels, or where these are smaller at its beginning, so the writing end
 * never overtakes the reading one. */
static void convert_grey16(hl_image *image, const uint8_t *grey)
{
    size_t count = (size_t)image->width * (size_t)image->height, channels = (size_t)hl_image_channels(image);
    for (size_t i = 0; i < count; i++) {
        uint8_t value = grey[2 * i] != 0 ? 255 : grey[2 * i + 1];
        memset(image->pixels + channels * i, value, channels);
        if (channels == 4)
            image->pixels[4 * i + 3] = 255;
    }
}

/* Ancillary chunks have no bearing on the pixels, and some are costly to parse; but one has on alpha. */
static void ignore_ancillary_chunks(png_structp png, bool alpha)
{
    static const png_byte names[] = "iCCP\0iTXt\0tEXt\0zTXt\0eXIf\0sPLT\0hIST\0bKGD\0tRNS";
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, 0);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, (int)(sizeof names / 5) - alpha);
}

/* What libpng is to make of a file's pixels. */
static void ask_for(png_structp png, png_infop info, int64_t channels, bool grey16)
{
    int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    bool transparent = colour == PNG_COLOR_TYPE_PALETTE && png_get_valid(png, info, PNG_INFO_tRNS) != 0,
         coloured = (colour & PNG_COLOR_MASK_COLOR) != 0, alpha = (colour & PNG_COLOR_MASK_ALPHA) != 0;
    if (colour == PNG_COLOR_TYPE_PALETTE)
        png_set_palette_to_rgb(png);
    if (colour == PNG_COLOR_TYPE_GRAY && depth < 8)
        png_set_expand_gray_1_2_4_to_8(png);
    if (depth == 16 && !grey16)
        png_set_strip_16(png);
    if (alpha && channels < 4)
        png_set_strip_alpha(png);
    if (!coloured && !grey16 && channels > 1)
        png_set_gray_to_rgb(png);
    if (transparent && channels == 4)
        png_set_tRNS_to_alpha(png);
    else if (!alpha && !grey16 && channels == 4)
        png_set_add_alpha(png, 255, PNG_FILLER_AFTER);
}

/* The one transparent colour of a file without a palette, as PIL takes it: the low bytes of what the file
 * says; 1 in a file of one bit is white. False where there is none. To be asked before libpng's
 * transformations are fixed, which change what it says of the file. */
static bool transparent_colour(png_structp png, png_infop info, uint8_t rgb[3])
{
    png_color_16p key = NULL;
    int colour = png_get_color_type(png, info);
    if ((colour != PNG_COLOR_TYPE_GRAY && colour != PNG_COLOR_TYPE_RGB) ||
        png_get_tRNS(png, info, NULL, NULL, &key) == 0 || key == NULL)
        return false;
    rgb[0] = (uint8_t)key->red;
    rgb[1] = (uint8_t)key->green;
    rgb[2] = (uint8_t)key->blue;
    if (colour == PNG_COLOR_TYPE_GRAY)
        memset(rgb, png_get_bit_depth(png, info) > 1 ? (uint8_t)key->gray : key->gray != 0 ? 255 : 0, 3);
    return true;
}

static void key_out(hl_image *image, const uint8_t rgb[3])
{
    size_t count = (size_t)image->width * (size_t)image->height;
    for (size_t i = 0; i < count; i++)
        if (memcmp(image->pixels + 4 * i, rgb, 3) == 0)
            image->pixels[4 * i + 3] = 0;
}

static void decode(png_structp png, png_infop info, png_job *job)
{
    hl_image *image = job->image;
    int64_t channels = hl_image_channels(image);
    png_set_read_fn(png, job, read_bytes);
    ignore_ancillary_chunks(png, channels == 4);
    png_read_info(png, info);
    png_uint_32 width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    job->status = hl_image_reserve(image, width, height, job->name);
    if (job->status != HL_OK)
        longjmp(job->failed, 1);

    int colour = png_get_color_type(png, info), depth = png_get_bit_depth(png, info);
    bool coloured = (colour & PNG_COLOR_MASK_COLOR) != 0,
         grey16 = colour == PNG_COLOR_TYPE_GRAY && depth == 16;
    uint8_t key[3];
    bool keyed = channels == 4 && transparent_colour(png, info, key);
    ask_for(png, info, channels, grey16);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);

    size_t count = (size_t)width * height, pixel = grey16 ? 2 : (size_t)channels;
    if (coloured && channels == 1)
        pixel = 3; /* made grey afterwards */
    size_t row = (size_t)width * pixel;
    if (png_get_rowbytes(png, info) != row)
        png_error(png, "unexpected size of a decoded row");
    uint8_t *first = image->pixels + (pixel < (size_t)channels ? ((size_t)channels - pixel) * count : 0);
    for (int pass = 0; pass < passes; pass++)
        for (png_uint_32 y = 0; y < height; y++)
            png_read_row(png, first + y * row, NULL);
    png_read_end(png, NULL);
    if (grey16)
        convert_grey16(image, first);
    else if (pixel > (size_t)channels)
        hl_image_from_rgb(image, first, image->pixels, count);
    if (keyed)
        key_out(image, key);
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
