/* An ordered map from names to tensors: a PyTorch state dict, a safetensors file, a checkpoint. */
#ifndef HL_IO_TENSOR_MAP_H
#define HL_IO_TENSOR_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* name, bytes, safetensors' name, the X of torch's XStorage, torch's dtype */
#define HL_DTYPE_LIST(X)                                                                                     \
    X(F64, 8, "F64", "Double", "float64")                                                                    \
    X(F32, 4, "F32", "Float", "float32")                                                                     \
    X(F16, 2, "F16", "Half", "float16")                                                                      \
    X(BF16, 2, "BF16", "BFloat16", "bfloat16")                                                               \
    X(I64, 8, "I64", "Long", "int64")                                                                        \
    X(I32, 4, "I32", "Int", "int32")                                                                         \
    X(I16, 2, "I16", "Short", "int16")                                                                       \
    X(I8, 1, "I8", "Char", "int8")                                                                           \
    X(U8, 1, "U8", "Byte", "uint8")                                                                          \
    X(BOOL, 1, "BOOL", "Bool", "bool")

typedef enum hl_dtype {
#define X(name, bytes, safetensors, storage, torch) HL_DTYPE_##name,
    HL_DTYPE_LIST(X)
#undef X
        HL_DTYPE_COUNT
} hl_dtype;

enum { HL_TENSOR_MAX_NDIM = 8 };

size_t hl_dtype_size(hl_dtype dtype);
const char *hl_dtype_name(hl_dtype dtype); /* as safetensors writes it: "F32" */

typedef struct hl_named_tensor {
    const char *name;
    hl_dtype dtype;
    int ndim; /* 0 for a scalar */
    int64_t shape[HL_TENSOR_MAX_NDIM];
    const void *data; /* contiguous, C order, aligned to the element's size; NULL only when bytes is 0, or
                         where the map describes a file to be written piece by piece */
    size_t bytes;
} hl_named_tensor;

/* Number of elements and of bytes of a shape; HL_E_INPUT for a negative extent, too many dimensions or an
 * overflow. `what` names the tensor or file in the error; either result may be NULL. */
hl_status hl_tensor_extent(const char *what, hl_dtype dtype, int ndim, const int64_t *shape, size_t *count,
                           size_t *bytes);

/* "[64, 3, 7, 7]" into buf; returns buf. */
const char *hl_tensor_shape_text(const hl_named_tensor *tensor, char *buf, size_t size);

typedef struct hl_tensor_map hl_tensor_map;

hl_status hl_tensor_map_create(hl_tensor_map **map);
void hl_tensor_map_destroy(hl_tensor_map *map); /* NULL is fine */

/* Adds a copy of `data` (C order, any alignment), which the map owns, aligned to 64 bytes. A name that is
 * there already is refused with HL_E_INPUT. */
hl_status hl_tensor_map_add(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim,
                            const int64_t *shape, const void *data);

/* Adds without copying: `data` must stay valid and unchanged until the map is destroyed, and be aligned to
 * the element's size. Memory given to hl_tensor_map_adopt may be referred to. */
hl_status hl_tensor_map_add_ref(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim,
                                const int64_t *shape, const void *data);

/* Makes the map owner of `resource`, released as release(resource) when the map is destroyed, or at once when
 * this fails. */
hl_status hl_tensor_map_adopt(hl_tensor_map *map, void *resource, void (*release)(void *));

size_t hl_tensor_map_count(const hl_tensor_map *map);
/* Entry i in order of adding, i < count. Pointers to entries are valid until the next add. */
const hl_named_tensor *hl_tensor_map_at(const hl_tensor_map *map, size_t i);
/* By name in constant time; NULL when there is none. */
const hl_named_tensor *hl_tensor_map_find(const hl_tensor_map *map, const char *name);

/* Text beside the tensors, ordered; setting a key again replaces its value. find: NULL when there is none. */
hl_status hl_tensor_map_set_meta(hl_tensor_map *map, const char *key, const char *value);
const char *hl_tensor_map_meta(const hl_tensor_map *map, const char *key);
size_t hl_tensor_map_meta_count(const hl_tensor_map *map);
void hl_tensor_map_meta_at(const hl_tensor_map *map, size_t i, const char **key, const char **value);

/* Number of elements of an entry. */
size_t hl_named_tensor_count(const hl_named_tensor *tensor);

/* Converts all elements into out[hl_named_tensor_count(tensor)]; values out of float's range become infinite,
 * int64 and double are rounded to nearest, bool gives 0 or 1. */
void hl_named_tensor_to_f32(const hl_named_tensor *tensor, float *out);

#endif
