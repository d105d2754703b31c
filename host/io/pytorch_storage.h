/* The two containers of torch.save: where the pickle is and where the storages' bytes are. */
#ifndef HL_IO_PYTORCH_STORAGE_H
#define HL_IO_PYTORCH_STORAGE_H

#include "io/pickle.h"
#include "io/tensor_map.h"

/* One storage: memory that tensors are views of. Sizes are in bytes. */
typedef struct hl_torch_storage {
    const char *key;
    size_t element_size, size;
    const uint8_t *data; /* owned by the tensor map; NULL until it is read */
    bool wanted;         /* by a tensor of the state dict; others are not loaded */
    bool found;          /* in the legacy format's list */
} hl_torch_storage;

typedef struct hl_torch_file {
    const char *what;
    const uint8_t *bytes;
    size_t size;
    hl_arena *arena;
    hl_tensor_map *map;
    hl_pickle *root; /* of the object pickle */
    size_t budget;   /* bytes that may still be allocated for storages and copies */

    struct zip *archive; /* zip format: the open archive and the folder inside it, "archive/" */
    const char *folder;
    size_t storages_at; /* legacy format: where the list of keys begins */

    hl_torch_storage *storages;
    size_t storage_count, storage_capacity;
    size_t *slots, slot_count; /* hash table of indices + 1 */
} hl_torch_file;

/* Opens the container (by its first bytes) and reads the object pickle into `root`. */
hl_status hl_torch_file_open(hl_torch_file *file);
void hl_torch_file_close(hl_torch_file *file);

/* Notes a storage that a tensor refers to: `count` elements of element_size bytes. *index is its place in
 * `storages`. Naming one again with another size is refused. */
hl_status hl_torch_storage_note(hl_torch_file *file, const char *key, size_t element_size, int64_t count,
                                size_t *index);

/* Reads the wanted storages; the tensor map owns them. Call it once, after all storages are noted. */
hl_status hl_torch_storages_load(hl_torch_file *file);

/* Memory the tensor map owns, against the budget, so that a small file cannot ask for much. */
hl_status hl_torch_take(hl_torch_file *file, size_t bytes, uint8_t **memory);

#endif
