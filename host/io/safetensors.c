#include "io/safetensors.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/mapped_file.h"

/* Limits of the reference implementation, and one on metadata, which is searched linearly. */
enum { HEADER_LIMIT = 100 * 1000 * 1000, METADATA_LIMIT = 10000 };

typedef struct span {
    uint64_t begin, end;
    const char *name;
} span;

typedef struct reader {
    const char *what;
    const uint8_t *data; /* after the header */
    uint64_t data_size;
    hl_tensor_map *map;
    span *spans;
    size_t span_count;
} reader;

static hl_status malformed(const reader *r, const char *name, const char *rule)
{
    return hl_fail(HL_E_INPUT, r->what, "download or save the file again", "tensor '%s': %s", name, rule);
}

static hl_status read_dtype(const reader *r, const char *name, const json_t *entry, hl_dtype *dtype)
{
    const char *text = json_string_value(json_object_get(entry, "dtype"));
    if (text == NULL)
        return malformed(r, name, "its header entry has no dtype");
    for (int d = 0; d < HL_DTYPE_COUNT; d++)
        if (strcmp(text, hl_dtype_name((hl_dtype)d)) == 0) {
            *dtype = (hl_dtype)d;
            return HL_OK;
        }
    return hl_fail(HL_E_UNSUPPORTED, r->what, "convert it to F32, F16 or BF16",
                   "tensor '%s': dtype '%s' is not supported", name, text);
}

static hl_status read_shape(const reader *r, const char *name, const json_t *entry, int *ndim, int64_t *shape)
{
    const json_t *list = json_object_get(entry, "shape");
    if (!json_is_array(list))
        return malformed(r, name, "its header entry has no shape");
    if (json_array_size(list) > HL_TENSOR_MAX_NDIM)
        return malformed(r, name, "more than 8 dimensions");
    *ndim = (int)json_array_size(list);
    for (int d = 0; d < *ndim; d++) {
        const json_t *extent = json_array_get(list, (size_t)d);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return malformed(r, name, "a dimension is not a non-negative whole number");
        shape[d] = json_integer_value(extent);
    }
    return HL_OK;
}

static hl_status read_span(const reader *r, const char *name, const json_t *entry, span *where)
{
    const json_t *list = json_object_get(entry, "data_offsets");
    const json_t *begin = json_array_get(list, 0), *end = json_array_get(list, 1);
    if (json_array_size(list) != 2 || !json_is_integer(begin) || !json_is_integer(end) ||
        json_integer_value(begin) < 0 || json_integer_value(end) < json_integer_value(begin))
        return malformed(r, name, "data_offsets are not two growing whole numbers");
    *where = (span){(uint64_t)json_integer_value(begin), (uint64_t)json_integer_value(end), name};
    if (where->end > r->data_size)
        return hl_fail(HL_E_INPUT, r->what, "the file is cut short: download or save it again",
                       "tensor '%s' ends at byte %llu of the data, which has %llu", name,
                       (unsigned long long)where->end, (unsigned long long)r->data_size);
    return HL_OK;
}

static hl_status read_tensor(reader *r, const char *name, const json_t *entry)
{
    if (!json_is_object(entry))
        return malformed(r, name, "its header entry is not an object");
    hl_dtype dtype = HL_DTYPE_F32;
    int ndim = 0;
    int64_t shape[HL_TENSOR_MAX_NDIM];
    span *where = &r->spans[r->span_count];
    size_t bytes;
    char what[512];
    snprintf(what, sizeof what, "%s: tensor '%s'", r->what, name);
    HL_TRY(read_dtype(r, name, entry, &dtype));
    HL_TRY(read_shape(r, name, entry, &ndim, shape));
    HL_TRY(read_span(r, name, entry, where));
    HL_TRY(hl_tensor_extent(what, dtype, ndim, shape, NULL, &bytes));
    if (bytes != where->end - where->begin)
        return hl_fail(HL_E_INPUT, r->what, "download or save the file again",
                       "tensor '%s': its shape takes %zu bytes, its offsets span %llu", name, bytes,
                       (unsigned long long)(where->end - where->begin));
    r->span_count++;
    const uint8_t *data = bytes == 0 ? NULL : r->data + where->begin;
    bool aligned = (uintptr_t)data % hl_dtype_size(dtype) == 0;
    return aligned ? hl_tensor_map_add_ref(r->map, name, dtype, ndim, shape, data)
                   : hl_tensor_map_add(r->map, name, dtype, ndim, shape, data);
}

static hl_status read_metadata(reader *r, const json_t *metadata)
{
    if (!json_is_object(metadata) || json_object_size(metadata) > METADATA_LIMIT)
        return hl_fail(HL_E_INPUT, r->what, NULL, "__metadata__ is not an object of at most %d texts",
                       METADATA_LIMIT);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value)
    {
        if (!json_is_string(value))
            return hl_fail(HL_E_INPUT, r->what, NULL, "__metadata__ entry '%s' is not a text", key);
        HL_TRY(hl_tensor_map_set_meta(r->map, key, json_string_value(value)));
    }
    return HL_OK;
}

static int by_begin(const void *a, const void *b)
{
    const span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The tensors must cover the data exactly, or bytes could hide in it. */
static hl_status check_cover(reader *r)
{
    uint64_t at = 0;
    qsort(r->spans, r->span_count, sizeof *r->spans, by_begin);
    for (size_t i = 0; i < r->span_count; i++) {
        if (r->spans[i].begin != at)
            return malformed(r, r->spans[i].name,
                             r->spans[i].begin < at ? "its bytes overlap with another tensor's"
                                                    : "there are unused bytes before it");
        at = r->spans[i].end;
    }
    if (at != r->data_size)
        return hl_fail(HL_E_INPUT, r->what, "download or save the file again",
                       "the tensors take %llu bytes, but %llu follow the header", (unsigned long long)at,
                       (unsigned long long)r->data_size);
    return HL_OK;
}

static hl_status read_header(reader *r, const json_t *header)
{
    const char *name;
    json_t *entry;
    void *spans;
    HL_TRY(hl_alloc_array(json_object_size(header), sizeof(span), r->what, &spans));
    r->spans = spans;
    json_object_foreach((json_t *)(uintptr_t)header, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0)
            HL_TRY(read_metadata(r, entry));
        else
            HL_TRY(read_tensor(r, name, entry));
    }
    return check_cover(r);
}

hl_status hl_safetensors_parse_into(const char *what, const void *memory, size_t size, hl_tensor_map *map)
{
    const uint8_t *bytes = memory;
    if (size < 8)
        return hl_fail(HL_E_INPUT, what, "download or save the file again",
                       "has %zu bytes, too few for a safetensors file", size);
    uint64_t length = 0;
    for (int i = 0; i < 8; i++)
        length |= (uint64_t)bytes[i] << 8 * i;
    if (length > HEADER_LIMIT)
        return hl_fail(HL_E_INPUT, what, "is it a safetensors file?",
                       "its header would have %llu bytes, at most %d are allowed", (unsigned long long)length,
                       HEADER_LIMIT);
    if (length > size - 8)
        return hl_fail(HL_E_INPUT, what, "the file is cut short: download or save it again",
                       "its header has %llu bytes, but only %zu follow", (unsigned long long)length,
                       size - 8);
    json_error_t error;
    json_t *header = json_loadb((const char *)bytes + 8, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(header)) {
        json_decref(header);
        return hl_fail(HL_E_INPUT, what, "download or save the file again",
                       "its header is not a JSON object: %s", header == NULL ? error.text : "it is a list");
    }
    reader r = {.what = what, .data = bytes + 8 + length, .data_size = size - 8 - length, .map = map};
    hl_status status = read_header(&r, header);
    free(r.spans);
    json_decref(header);
    return status;
}

hl_status hl_safetensors_parse(const char *what, const void *bytes, size_t size, hl_tensor_map **out)
{
    *out = NULL;
    hl_tensor_map *map;
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = hl_safetensors_parse_into(what, bytes, size, map);
    if (status == HL_OK)
        *out = map;
    else
        hl_tensor_map_destroy(map);
    return status;
}

static void close_mapping(void *pointer)
{
    hl_mapped_file_close(pointer);
    free(pointer);
}

hl_status hl_safetensors_read(const char *path, hl_tensor_map **out)
{
    *out = NULL;
    hl_mapped_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return hl_fail_nomem(path, sizeof *file);
    hl_status status = hl_mapped_file_open(path, file);
    if (status != HL_OK) {
        free(file);
        return status;
    }
    hl_tensor_map *map;
    status = hl_tensor_map_create(&map);
    if (status != HL_OK) {
        close_mapping(file);
        return status;
    }
    status = hl_tensor_map_adopt(map, file, close_mapping);
    if (status == HL_OK)
        status = hl_safetensors_parse_into(path, file->bytes, file->size, map);
    if (status == HL_OK)
        *out = map;
    else
        hl_tensor_map_destroy(map);
    return status;
}
