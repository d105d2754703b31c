#include "io/sha256.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void hl_sha256_end(struct sha256_ctx *context, char hex[HL_SHA256_HEX])
{
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_digest(context, sizeof digest, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
}

void hl_sha256_bytes(const void *bytes, size_t size, char hex[HL_SHA256_HEX])
{
    struct sha256_ctx context;
    sha256_init(&context);
    sha256_update(&context, size, bytes);
    hl_sha256_end(&context, hex);
}

hl_status hl_sha256_file(const char *path, char hex[HL_SHA256_HEX])
{
    enum { CHUNK = 1 << 16 };
    FILE *stream = fopen(path, "rbe");
    if (stream == NULL)
        return hl_fail(errno == ENOENT || errno == ENOTDIR ? HL_E_NOT_FOUND : HL_E_IO, path, "check the path",
                       "cannot be opened: %s", strerror(errno));
    void *buffer;
    hl_status status = hl_alloc(CHUNK, path, &buffer);
    struct sha256_ctx context;
    sha256_init(&context);
    errno = 0;
    for (size_t got; status == HL_OK && (got = fread(buffer, 1, CHUNK, stream)) > 0;)
        sha256_update(&context, got, buffer);
    if (status == HL_OK && ferror(stream))
        status = hl_fail(HL_E_IO, path, NULL, "cannot be read: %s", strerror(errno));
    if (status == HL_OK)
        hl_sha256_end(&context, hex);
    fclose(stream);
    free(buffer);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const hl_named_tensor *const *)a)->name, (*(const hl_named_tensor *const *)b)->name);
}

static void update_int64(struct sha256_ctx *context, int64_t value)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)((uint64_t)value >> 8 * i);
    sha256_update(context, sizeof bytes, bytes);
}

static void update_text(struct sha256_ctx *context, const char *text)
{
    sha256_update(context, strlen(text) + 1, (const uint8_t *)text);
}

hl_status hl_sha256_tensor_map(const hl_tensor_map *map, char hex[HL_SHA256_HEX])
{
    size_t count = hl_tensor_map_count(map);
    void *memory;
    HL_TRY(hl_alloc_array(count, sizeof(hl_named_tensor *), "SHA-256 of tensors", &memory));
    const hl_named_tensor **order = memory;
    for (size_t i = 0; i < count; i++)
        order[i] = hl_tensor_map_at(map, i);
    qsort(order, count, sizeof *order, by_name);
    struct sha256_ctx context;
    sha256_init(&context);
    for (size_t i = 0; i < count; i++) {
        update_text(&context, order[i]->name);
        update_text(&context, hl_dtype_name(order[i]->dtype));
        update_int64(&context, order[i]->ndim);
        for (int d = 0; d < order[i]->ndim; d++)
            update_int64(&context, order[i]->shape[d]);
        if (order[i]->bytes > 0)
            sha256_update(&context, order[i]->bytes, order[i]->data);
    }
    hl_sha256_end(&context, hex);
    free(memory);
    return HL_OK;
}
