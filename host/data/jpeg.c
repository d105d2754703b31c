/* JPEG files through libjpeg-turbo. */
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include <jerror.h>
#include <jpeglib.h>

#include "data/image.h"

/* Progressive files repeat passes over the whole image; real ones have about ten. Beyond this they are an
 * attack on the decoder's time. */
enum { MAX_SCANS = 100 };

/* All that must outlive a longjmp out of libjpeg lives here and not in local variables. */
typedef struct jpeg_job {
    struct jpeg_decompress_struct decoder;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    const uint8_t *bytes;
    size_t size;
    const char *name;
    hl_image *image;
    hl_status status; /* of a failure of ours, HL_OK for one that libjpeg found */
    jmp_buf failed;
    char message[JMSG_LENGTH_MAX];
} jpeg_job;

static _Noreturn void fail_with(jpeg_job *job, const char *text)
{
    snprintf(job->message, sizeof job->message, "%s", text);
    longjmp(job->failed, 1);
}

static _Noreturn void on_error(j_common_ptr common)
{
    jpeg_job *job = common->client_data;
    common->err->format_message(common, job->message);
    longjmp(job->failed, 1);
}

/* Warnings of damaged data are passed over, as PIL does, but not the one that the file ends early: libjpeg
 * would then fill the rest of the image with grey. */
static void on_message(j_common_ptr common, int level)
{
    if (level < 0 && common->err->msg_code == JWRN_JPEG_EOF)
        fail_with(common->client_data, "the file ends too early");
}

static void on_progress(j_common_ptr common)
{
    jpeg_job *job = common->client_data;
    if (job->decoder.input_scan_number > MAX_SCANS)
        fail_with(job, "too many scans");
}

/* One row of inverted CMYK to RGB, with PIL's rounding; `rgb` may be `cmyk`. */
static void cmyk_to_rgb(const uint8_t *cmyk, uint8_t *rgb, size_t width)
{
    for (size_t x = 0; x < width; x++) {
        /* Inverted twice: the file holds 255 - ink, and the light left is 255 - black. */
        unsigned light = cmyk[4 * x + 3];
        for (size_t c = 0; c < 3; c++) {
            unsigned product = (255u - cmyk[4 * x + c]) * light + 128u;
            unsigned taken = ((product >> 8) + product) >> 8;
            rgb[3 * x + c] = (uint8_t)(light - taken);
        }
    }
}

static void decode(jpeg_job *job)
{
    struct jpeg_decompress_struct *decoder = &job->decoder;
    hl_image *image = job->image;
    jpeg_create_decompress(decoder);
    decoder->client_data = job;
    job->progress.progress_monitor = on_progress;
    decoder->progress = &job->progress;
    jpeg_mem_src(decoder, job->bytes, job->size);
    jpeg_read_header(decoder, TRUE);
    if (decoder->num_components != 1 && decoder->num_components != 3 && decoder->num_components != 4)
        fail_with(job, "the number of colour components is not 1, 3 or 4");
    job->status = hl_image_reserve(image, decoder->image_width, decoder->image_height, job->name);
    if (job->status != HL_OK)
        longjmp(job->failed, 1);

    /* A grey file is grey as it is; the luma that a colour file holds is not the one that PIL computes. */
    int64_t channels = hl_image_channels(image);
    int four = decoder->num_components == 4, grey = channels == 1 && decoder->num_components == 1;
    decoder->out_color_space = four ? JCS_CMYK : grey ? JCS_GRAYSCALE : JCS_RGB;
    decoder->dct_method = JDCT_ISLOW;
    decoder->do_fancy_upsampling = TRUE;
    jpeg_start_decompress(decoder);
    size_t width = decoder->output_width;
    if (decoder->output_components != (four   ? 4
                                       : grey ? 1
                                              : 3) ||
        width != (size_t)image->width || decoder->output_height != (size_t)image->height)
        fail_with(job, "unexpected size of the decoded image");
    bool direct = !four && (grey || channels == 3);
    JSAMPARRAY line =
        direct ? NULL
               : decoder->mem->alloc_sarray((j_common_ptr)decoder, JPOOL_IMAGE, (JDIMENSION)(4 * width), 1);
    while (decoder->output_scanline < decoder->output_height) {
        JSAMPROW row = image->pixels + decoder->output_scanline * width * (size_t)channels;
        if (jpeg_read_scanlines(decoder, direct ? &row : line, 1) != 1)
            fail_with(job, "a row could not be read");
        if (four)
            cmyk_to_rgb(line[0], line[0], width);
        if (!direct)
            hl_image_from_rgb(image, line[0], row, width);
    }
    jpeg_finish_decompress(decoder);
}

hl_status hl_jpeg_decode(hl_image *image, const uint8_t *bytes, size_t size, const char *name)
{
    jpeg_job job = {.bytes = bytes, .size = size, .name = name, .image = image, .status = HL_OK};
    job.decoder.err = jpeg_std_error(&job.errors);
    job.decoder.client_data = &job;
    job.errors.error_exit = on_error;
    job.errors.emit_message = on_message;
    int failed = setjmp(job.failed);
    if (failed == 0)
        decode(&job);
    jpeg_destroy_decompress(&job.decoder);
    if (failed == 0 || job.status != HL_OK)
        return job.status;
    return hl_fail(HL_E_INPUT, name, "replace or remove the file", "not a whole JPEG image: %s", job.message);
}
