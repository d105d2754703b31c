#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "data/dataset.h"

static hl_status add_file(struct sha256_ctx *context, const char *path)
{
    struct stat info;
    char text[96];
    if (stat(path, &info) != 0)
        return hl_fail(HL_E_IO, path, "check the data set", "cannot be examined: %s", strerror(errno));
    int n = snprintf(text, sizeof text, "%" PRIdMAX " %" PRIdMAX ".%09ld", (intmax_t)info.st_size,
                     (intmax_t)info.st_mtim.tv_sec, (long)info.st_mtim.tv_nsec);
    sha256_update(context, strlen(path) + 1, (const uint8_t *)path);
    sha256_update(context, (size_t)n + 1, (const uint8_t *)text);
    return HL_OK;
}

static hl_status add_pixels(struct sha256_ctx *context, const hl_dataset *d, hl_split split, int64_t index)
{
    hl_image image = {0};
    hl_status status = hl_dataset_read(d, split, index, &image);
    if (status == HL_OK) {
        const int64_t size[] = {image.width, image.height};
        sha256_update(context, sizeof size, (const uint8_t *)size);
        sha256_update(context, (size_t)image.width * (size_t)image.height * (size_t)hl_image_channels(&image),
                      image.pixels);
    }
    hl_image_clear(&image);
    return status;
}

hl_status hl_dataset_hash(const hl_dataset *d, hl_split split, char hex[HL_SHA256_HEX])
{
    struct sha256_ctx context;
    sha256_init(&context);
    for (size_t i = 0; i < d->splits[split].count; i++)
        HL_TRY(d->read != NULL ? add_pixels(&context, d, split, (int64_t)i)
                               : add_file(&context, d->splits[split].items[i].path));
    hl_sha256_end(&context, hex);
    return HL_OK;
}
