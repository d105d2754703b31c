#include "io/tensor_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

typedef struct resource {
    void *pointer;
    void (*release)(void *);
} resource;

typedef struct meta {
    const char *key, *value;
} meta;

struct hl_tensor_map {
    hl_arena *names; /* names and metadata */
    hl_named_tensor *tensors;
    size_t count, capacity;
    size_t
        *slots; /* open addressing, index + 1 of a tensor; slot_count is a power of two, at most half full */
    size_t slot_count;
    meta *meta;
    size_t meta_count, meta_capacity;
    resource *resources;
    size_t resource_count, resource_capacity;
};

size_t hl_dtype_size(hl_dtype dtype)
{
    static const size_t sizes[] = {
#define X(name, bytes, safetensors, storage, torch) bytes,
        HL_DTYPE_LIST(X)
#undef X
    };
    return sizes[dtype];
}

const char *hl_dtype_name(hl_dtype dtype)
{
    static const char *const names[] = {
#define X(name, bytes, safetensors, storage, torch) safetensors,
        HL_DTYPE_LIST(X)
#undef X
    };
    return names[dtype];
}

hl_status hl_tensor_extent(const char *what, hl_dtype dtype, int ndim, const int64_t *shape, size_t *count,
                           size_t *bytes)
{
    if (ndim < 0 || ndim > HL_TENSOR_MAX_NDIM)
        return hl_fail(HL_E_INPUT, what, NULL, "has %d dimensions, at most %d are supported", ndim,
                       HL_TENSOR_MAX_NDIM);
    size_t product = 1, total;
    bool empty = false;
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 0)
            return hl_fail(HL_E_INPUT, what, NULL, "dimension %d is %lld, it cannot be negative", d,
                           (long long)shape[d]);
        if (shape[d] == 0)
            empty = true;
        else if (!hl_size_mul(product, (size_t)shape[d], &product))
            return hl_fail(HL_E_INPUT, what, NULL, "the product of its dimensions overflows");
    }
    if (empty)
        product = 0;
    if (!hl_size_mul(product, hl_dtype_size(dtype), &total) || total > PTRDIFF_MAX)
        return hl_fail(HL_E_INPUT, what, NULL, "%zu elements overflow the address space", product);
    if (count != NULL)
        *count = product;
    if (bytes != NULL)
        *bytes = total;
    return HL_OK;
}

const char *hl_tensor_shape_text(const hl_named_tensor *tensor, char *buf, size_t size)
{
    size_t used = (size_t)snprintf(buf, size, "[");
    for (int d = 0; d < tensor->ndim && used < size; d++)
        used += (size_t)snprintf(buf + used, size - used, d == 0 ? "%lld" : ", %lld",
                                 (long long)tensor->shape[d]);
    if (used < size)
        snprintf(buf + used, size - used, "]");
    return buf;
}

hl_status hl_tensor_map_create(hl_tensor_map **map)
{
    *map = calloc(1, sizeof **map);
    if (*map == NULL)
        return hl_fail_nomem("tensor map", sizeof **map);
    hl_status status = hl_arena_create(&(*map)->names);
    if (status != HL_OK) {
        free(*map);
        *map = NULL;
    }
    return status;
}

void hl_tensor_map_destroy(hl_tensor_map *map)
{
    if (map == NULL)
        return;
    for (size_t i = map->resource_count; i-- > 0;)
        map->resources[i].release(map->resources[i].pointer);
    free(map->resources);
    free(map->tensors);
    free(map->slots);
    free(map->meta);
    hl_arena_destroy(map->names);
    free(map);
}

static uint64_t hash(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (const unsigned char *c = (const unsigned char *)name; *c != '\0'; c++)
        h = (h ^ *c) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The slot that holds `name`, or the free one where it belongs. */
static size_t slot_of(const hl_tensor_map *map, const char *name)
{
    size_t slot = (size_t)hash(name) & (map->slot_count - 1);
    while (map->slots[slot] != 0 && strcmp(map->tensors[map->slots[slot] - 1].name, name) != 0)
        slot = (slot + 1) & (map->slot_count - 1);
    return slot;
}

static hl_status make_room(hl_tensor_map *map)
{
    void *tensors = map->tensors;
    hl_status status = hl_grow(&tensors, &map->capacity, map->count + 1, sizeof *map->tensors, "tensor map");
    map->tensors = tensors;
    HL_TRY(status);
    if (map->count * 2 < map->slot_count)
        return HL_OK;
    size_t wanted = map->slot_count == 0 ? 64 : map->slot_count * 2;
    size_t *slots = calloc(wanted, sizeof *slots);
    if (slots == NULL)
        return hl_fail_nomem("tensor map", wanted * sizeof *slots);
    free(map->slots);
    map->slots = slots;
    map->slot_count = wanted;
    for (size_t i = 0; i < map->count; i++)
        map->slots[slot_of(map, map->tensors[i].name)] = i + 1;
    return HL_OK;
}

hl_status hl_tensor_map_adopt(hl_tensor_map *map, void *pointer, void (*release)(void *))
{
    void *resources = map->resources;
    hl_status status = hl_grow(&resources, &map->resource_capacity, map->resource_count + 1,
                               sizeof *map->resources, "tensor map");
    map->resources = resources;
    if (status != HL_OK)
        release(pointer);
    else
        map->resources[map->resource_count++] = (resource){pointer, release};
    return status;
}

static hl_status add(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim, const int64_t *shape,
                     const void *data, bool copy)
{
    hl_named_tensor tensor = {.dtype = dtype, .ndim = ndim, .data = data};
    HL_TRY(hl_tensor_extent(name, dtype, ndim, shape, NULL, &tensor.bytes));
    if (ndim > 0)
        memcpy(tensor.shape, shape, (size_t)ndim * sizeof *shape);
    HL_TRY(make_room(map));
    size_t slot = slot_of(map, name);
    if (map->slots[slot] != 0)
        return hl_fail(HL_E_INPUT, name, NULL, "there are two tensors of this name");
    tensor.name = hl_arena_copy(map->names, name);
    if (tensor.name == NULL)
        return HL_E_NOMEM;
    if (copy && tensor.bytes > 0) {
        void *owned;
        HL_TRY(hl_alloc(tensor.bytes, name, &owned));
        memcpy(owned, data, tensor.bytes);
        HL_TRY(hl_tensor_map_adopt(map, owned, free));
        tensor.data = owned;
    }
    if (tensor.bytes == 0)
        tensor.data = NULL;
    map->tensors[map->count++] = tensor;
    map->slots[slot] = map->count;
    return HL_OK;
}

hl_status hl_tensor_map_add(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim,
                            const int64_t *shape, const void *data)
{
    return add(map, name, dtype, ndim, shape, data, true);
}

hl_status hl_tensor_map_add_ref(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim,
                                const int64_t *shape, const void *data)
{
    return add(map, name, dtype, ndim, shape, data, false);
}

size_t hl_tensor_map_count(const hl_tensor_map *map)
{
    return map->count;
}

const hl_named_tensor *hl_tensor_map_at(const hl_tensor_map *map, size_t i)
{
    return &map->tensors[i];
}

const hl_named_tensor *hl_tensor_map_find(const hl_tensor_map *map, const char *name)
{
    if (map->count == 0)
        return NULL;
    size_t found = map->slots[slot_of(map, name)];
    return found == 0 ? NULL : &map->tensors[found - 1];
}

static meta *find_meta(const hl_tensor_map *map, const char *key)
{
    for (size_t i = 0; i < map->meta_count; i++)
        if (strcmp(map->meta[i].key, key) == 0)
            return &map->meta[i];
    return NULL;
}

hl_status hl_tensor_map_set_meta(hl_tensor_map *map, const char *key, const char *value)
{
    const char *kept = hl_arena_copy(map->names, value);
    if (kept == NULL)
        return HL_E_NOMEM;
    meta *present = find_meta(map, key);
    if (present != NULL) {
        present->value = kept;
        return HL_OK;
    }
    void *grown = map->meta;
    hl_status status =
        hl_grow(&grown, &map->meta_capacity, map->meta_count + 1, sizeof *map->meta, "tensor map");
    map->meta = grown;
    HL_TRY(status);
    const char *kept_key = hl_arena_copy(map->names, key);
    if (kept_key == NULL)
        return HL_E_NOMEM;
    map->meta[map->meta_count++] = (meta){kept_key, kept};
    return HL_OK;
}

const char *hl_tensor_map_meta(const hl_tensor_map *map, const char *key)
{
    const meta *present = find_meta(map, key);
    return present == NULL ? NULL : present->value;
}

size_t hl_tensor_map_meta_count(const hl_tensor_map *map)
{
    return map->meta_count;
}

void hl_tensor_map_meta_at(const hl_tensor_map *map, size_t i, const char **key, const char **value)
{
    *key = map->meta[i].key;
    *value = map->meta[i].value;
}
