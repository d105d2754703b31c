/* The safetensors format: a little-endian uint64 header length, a JSON header, the tensors' bytes. */
#ifndef HL_IO_SAFETENSORS_H
#define HL_IO_SAFETENSORS_H

#include "io/atomic_file.h"
#include "io/tensor_map.h"

/* Maps the file; tensors refer to the mapping (kept by the map) unless their place in the file is not aligned
 * to their element's size, when they are copied. Everything in the header is checked: types, shapes, offsets
 * without overlaps or holes, the file's size, duplicate names. Tensors come in the header's order. */
hl_status hl_safetensors_read(const char *path, hl_tensor_map **map);

/* The same of bytes in memory, which must outlive the map. `what` names them in errors. */
hl_status hl_safetensors_parse(const char *what, const void *bytes, size_t size, hl_tensor_map **map);

/* Adds the tensors of `bytes` to `map`; for a caller that owns the memory already. */
hl_status hl_safetensors_parse_into(const char *what, const void *bytes, size_t size, hl_tensor_map *map);

/* Writes all tensors and the metadata, whole or not at all. The bytes depend on the content alone, not on the
 * order of adding: larger element types first, then by name, so that every tensor is aligned in the file. */
hl_status hl_safetensors_write(const char *path, const hl_tensor_map *map);

/* For data that is not all in memory: begins the file and writes its header; offsets[i] is where the data of
 * the map's tensor i goes, for the caller to write all of before hl_atomic_commit. The tensors' own data is
 * not looked at. */
hl_status hl_safetensors_begin(const char *path, const hl_tensor_map *map, hl_atomic_file **file,
                               uint64_t *offsets);

#endif
