#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"

static int in_file_order(const void *a, const void *b)
{
    const hl_named_tensor *x = *(const hl_named_tensor *const *)a, *y = *(const hl_named_tensor *const *)b;
    size_t size_x = hl_dtype_size(x->dtype), size_y = hl_dtype_size(y->dtype);
    if (size_x != size_y)
        return size_x > size_y ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* Adds `value` (a new reference, taken over also on failure) to the object; refuses what JSON cannot hold. */
static hl_status put(json_t *object, const char *path, const char *key, json_t *value)
{
    if (value != NULL && json_object_set_new(object, key, value) == 0)
        return HL_OK;
    return hl_fail(HL_E_ARG, path, "names and metadata must be UTF-8", "'%s' cannot be written as JSON", key);
}

static json_t *entry_of(const hl_named_tensor *tensor, uint64_t begin)
{
    json_t *shape = json_array();
    for (int d = 0; d < tensor->ndim; d++)
        json_array_append_new(shape, json_integer(tensor->shape[d]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", hl_dtype_name(tensor->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)(begin + tensor->bytes));
}

static hl_status build_header(const char *path, const hl_tensor_map *map, const hl_named_tensor *const *order,
                              json_t *header)
{
    if (hl_tensor_map_meta_count(map) > 0) {
        json_t *metadata = json_object();
        HL_TRY(put(header, path, "__metadata__", metadata));
        for (size_t i = 0; i < hl_tensor_map_meta_count(map); i++) {
            const char *key, *value;
            hl_tensor_map_meta_at(map, i, &key, &value);
            HL_TRY(put(metadata, path, key, json_string(value)));
        }
    }
    uint64_t begin = 0;
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        if (strcmp(order[i]->name, "__metadata__") == 0)
            return hl_fail(HL_E_ARG, path, "rename it", "a tensor cannot be named '__metadata__'");
        HL_TRY(put(header, path, order[i]->name, entry_of(order[i], begin)));
        begin += order[i]->bytes;
    }
    return HL_OK;
}

/* The header is padded with spaces so that the data begins at a multiple of 64 bytes; *data says where. */
static hl_status write_header(hl_atomic_file *file, const char *header, uint64_t *data)
{
    static const char spaces[HL_ALIGNMENT + 1] =
        "                                                                ";
    uint64_t length = strlen(header), padding = (HL_ALIGNMENT - (length + 8) % HL_ALIGNMENT) % HL_ALIGNMENT;
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++)
        prefix[i] = (uint8_t)((length + padding) >> 8 * i);
    *data = sizeof prefix + length + padding;
    HL_TRY(hl_atomic_write(file, prefix, sizeof prefix));
    HL_TRY(hl_atomic_write(file, header, length));
    return hl_atomic_write(file, spaces, padding);
}

/* A new array of the map's entries in the order of the file. */
static hl_status sort(const char *path, const hl_tensor_map *map, const hl_named_tensor ***order)
{
    size_t count = hl_tensor_map_count(map);
    HL_TRY(hl_alloc_array(count, sizeof **order, path, (void **)order));
    for (size_t i = 0; i < count; i++)
        (*order)[i] = hl_tensor_map_at(map, i);
    qsort(*order, count, sizeof **order, in_file_order);
    return HL_OK;
}

static hl_status begin(const char *path, const hl_tensor_map *map, const hl_named_tensor *const *order,
                       hl_atomic_file **file, uint64_t *data)
{
    char *text = NULL;
    json_t *header = json_object();
    hl_status status = header == NULL ? hl_fail_nomem(path, 64) : HL_OK;
    if (status == HL_OK)
        status = build_header(path, map, order, header);
    if (status == HL_OK && (text = json_dumps(header, JSON_COMPACT | JSON_SORT_KEYS)) == NULL)
        status = hl_fail_nomem(path, 64);
    if (status == HL_OK)
        status = hl_atomic_begin(path, file);
    if (status == HL_OK)
        status = write_header(*file, text, data);
    free(text);
    json_decref(header);
    return status;
}

hl_status hl_safetensors_begin(const char *path, const hl_tensor_map *map, hl_atomic_file **file,
                               uint64_t *offsets)
{
    const hl_named_tensor **order = NULL, *first = hl_tensor_map_at(map, 0);
    uint64_t at = 0;
    *file = NULL;
    HL_TRY(sort(path, map, &order));
    hl_status status = begin(path, map, order, file, &at);
    for (size_t i = 0; status == HL_OK && i < hl_tensor_map_count(map); i++) {
        offsets[order[i] - first] = at;
        at += order[i]->bytes;
    }
    free(order);
    if (status != HL_OK) {
        hl_atomic_abort(*file);
        *file = NULL;
    }
    return status;
}

hl_status hl_safetensors_write(const char *path, const hl_tensor_map *map)
{
    const hl_named_tensor **order = NULL;
    hl_atomic_file *file = NULL;
    uint64_t data;
    HL_TRY(sort(path, map, &order));
    hl_status status = begin(path, map, order, &file, &data);
    for (size_t i = 0; status == HL_OK && i < hl_tensor_map_count(map); i++)
        status = hl_atomic_write(file, order[i]->data, order[i]->bytes);
    if (status == HL_OK)
        status = hl_atomic_commit(file);
    else
        hl_atomic_abort(file);
    free(order);
    return status;
}
