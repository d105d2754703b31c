#include "io/pytorch_storage.h"

#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "io/pytorch.h"

/* A pickle beyond this is no state dict's. */
enum { PICKLE_LIMIT = 64 * 1024 * 1024, INFLATION_LIMIT = 16, FREE_BUDGET = 64 * 1024 * 1024 };

static const char again[] = "the file is cut short or damaged: download or save it again";

static bool allow(const char *name)
{
    static const char *const known[] = {
        "collections.OrderedDict",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.storage.UntypedStorage",
        "torch.storage.TypedStorage",
        "torch.UntypedStorage",
        "torch.Size",
        "torch.device",
        /* Beside the tensors in checkpoints of common training scripts; kept as names and ignored. */
        "argparse.Namespace",
        "collections.defaultdict",
        "collections.Counter",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.PosixPath",
        "_codecs.encode",
        "__builtin__.set",
        "builtins.set",
        "builtins.dict",
        "builtins.list",
        "__builtin__.long",
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(name, known[i]) == 0)
            return true;
    /* torch.FloatStorage, torch.cuda.HalfStorage: */
    static const char ending[] = "Storage";
    size_t length = strlen(name);
    if (strncmp(name, "torch.", 6) != 0)
        return false;
    const char *rest = name + 6;
    if (strncmp(rest, "cuda.", 5) == 0)
        rest += 5;
    if (strchr(rest, '.') == NULL && length >= sizeof ending &&
        strcmp(name + length - (sizeof ending - 1), ending) == 0)
        return true;
    /* torch.float32 and its like, as arguments of _rebuild_tensor_v3 */
    static const char *const types[] = {"float", "bfloat", "int", "uint", "bool", "complex"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strncmp(rest, types[i], strlen(types[i])) == 0 && strchr(rest, '.') == NULL)
            return true;
    return false;
}

/* --- the table of storages --- */

static size_t slot_of(const hl_torch_file *file, const char *key)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (const unsigned char *c = (const unsigned char *)key; *c != '\0'; c++)
        h = (h ^ *c) * 0x100000001b3u;
    size_t slot = (size_t)(h ^ h >> 32) & (file->slot_count - 1);
    while (file->slots[slot] != 0 && strcmp(file->storages[file->slots[slot] - 1].key, key) != 0)
        slot = (slot + 1) & (file->slot_count - 1);
    return slot;
}

static hl_torch_storage *find_storage(const hl_torch_file *file, const char *key)
{
    size_t found = file->slot_count == 0 ? 0 : file->slots[slot_of(file, key)];
    return found == 0 ? NULL : &file->storages[found - 1];
}

hl_status hl_torch_storage_note(hl_torch_file *file, const char *key, size_t element_size, int64_t count,
                                size_t *index)
{
    size_t bytes = 0;
    if (count < 0 || !hl_size_mul((size_t)count, element_size, &bytes) || bytes > file->budget)
        return hl_fail(HL_E_INPUT, file->what, again,
                       "storage '%s' would have %lld elements, more than the file can hold", key,
                       (long long)count);
    hl_torch_storage *known = find_storage(file, key);
    if (known != NULL) {
        if (known->element_size != element_size || known->size != bytes)
            return hl_fail(HL_E_INPUT, file->what, again, "storage '%s' is given two sizes or types", key);
        *index = (size_t)(known - file->storages);
        return HL_OK;
    }
    void *grown = file->storages;
    hl_status status =
        hl_grow(&grown, &file->storage_capacity, file->storage_count + 1, sizeof *file->storages, file->what);
    file->storages = grown;
    HL_TRY(status);
    if (file->storage_count * 2 >= file->slot_count) {
        size_t wanted = file->slot_count == 0 ? 64 : file->slot_count * 2;
        size_t *slots = calloc(wanted, sizeof *slots);
        if (slots == NULL)
            return hl_fail_nomem(file->what, wanted * sizeof *slots);
        free(file->slots);
        file->slots = slots;
        file->slot_count = wanted;
        for (size_t i = 0; i < file->storage_count; i++)
            file->slots[slot_of(file, file->storages[i].key)] = i + 1;
    }
    *index = file->storage_count++;
    file->storages[*index] = (hl_torch_storage){.key = key, .element_size = element_size, .size = bytes};
    file->slots[slot_of(file, key)] = file->storage_count;
    return HL_OK;
}

hl_status hl_torch_take(hl_torch_file *file, size_t bytes, uint8_t **memory)
{
    if (bytes > file->budget)
        return hl_fail(HL_E_INPUT, file->what, again,
                       "its tensors would take far more memory than the file has");
    file->budget -= bytes;
    void *taken;
    HL_TRY(hl_alloc(bytes, file->what, &taken));
    *memory = taken;
    return hl_tensor_map_adopt(file->map, taken, free);
}

/* --- zip --- */

static hl_status zip_fault(const hl_torch_file *file, zip_error_t *error)
{
    return hl_fail(HL_E_INPUT, file->what, again, "the zip archive cannot be read: %s",
                   zip_error_strerror(error));
}

/* Size and index of an entry; HL_E_INPUT when it is missing or cannot be what it says. */
static hl_status zip_locate(const hl_torch_file *file, const char *name, zip_stat_t *info)
{
    if (zip_stat(file->archive, name, 0, info) != 0)
        return hl_fail(HL_E_INPUT, file->what, again, "the archive has no entry '%s'", name);
    if ((info->valid & ZIP_STAT_SIZE) == 0 || (info->valid & ZIP_STAT_COMP_SIZE) == 0 ||
        info->comp_size > file->size || info->size / 1100 > info->comp_size)
        return hl_fail(HL_E_INPUT, file->what, again, "the archive's entry '%s' has an impossible size",
                       name);
    return HL_OK;
}

static hl_status zip_read(const hl_torch_file *file, const zip_stat_t *info, uint8_t *out)
{
    zip_file_t *entry = zip_fopen_index(file->archive, info->index, 0);
    if (entry == NULL)
        return zip_fault(file, zip_get_error(file->archive));
    hl_status status = HL_OK;
    uint64_t at = 0;
    while (status == HL_OK && at < info->size) {
        zip_int64_t got = zip_fread(entry, out + at, info->size - at);
        if (got < 0)
            status = zip_fault(file, zip_file_get_error(entry));
        else if (got == 0)
            status =
                hl_fail(HL_E_INPUT, file->what, again, "the archive's entry '%s' ends early", info->name);
        else
            at += (uint64_t)got;
    }
    /* The checksum is compared when the end is read. */
    uint8_t beyond;
    if (status == HL_OK && zip_fread(entry, &beyond, 1) != 0)
        status = hl_fail(HL_E_INPUT, file->what, again, "the archive's entry '%s' is damaged", info->name);
    zip_fclose(entry);
    return status;
}

static hl_status zip_find_folder(hl_torch_file *file)
{
    static const char pickle[] = "data.pkl";
    zip_int64_t count = zip_get_num_entries(file->archive, 0);
    for (zip_int64_t i = 0; i < count; i++) {
        const char *name = zip_get_name(file->archive, (zip_uint64_t)i, 0);
        const char *slash = name == NULL ? NULL : strchr(name, '/');
        if (slash == NULL || strcmp(slash + 1, pickle) != 0)
            continue;
        char *folder = hl_arena_copy(file->arena, name);
        if (folder == NULL)
            return HL_E_NOMEM;
        folder[slash + 1 - name] = '\0';
        file->folder = folder;
        return HL_OK;
    }
    return hl_fail(HL_E_INPUT, file->what, "give a file written by torch.save or safetensors",
                   "is a zip archive, but not of torch.save: it has no FOLDER/data.pkl");
}

static hl_status zip_small_entry(const hl_torch_file *file, const char *name, uint64_t limit, uint8_t **bytes,
                                 size_t *size)
{
    zip_stat_t info;
    HL_TRY(zip_locate(file, name, &info));
    if (info.size > limit)
        return hl_fail(HL_E_INPUT, file->what, "save a plain state dict",
                       "the archive's entry '%s' has %llu bytes, at most %llu are read", name,
                       (unsigned long long)info.size, (unsigned long long)limit);
    *bytes = hl_arena_take(file->arena, (size_t)info.size + 1);
    if (*bytes == NULL)
        return HL_E_NOMEM;
    *size = (size_t)info.size;
    return zip_read(file, &info, *bytes);
}

static const char *in_folder(const hl_torch_file *file, const char *name)
{
    return hl_arena_format(file->arena, "%s%s", file->folder, name);
}

static hl_status open_zip(hl_torch_file *file)
{
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t *source = zip_source_buffer_create(file->bytes, file->size, 0, &error);
    if (source != NULL)
        file->archive = zip_open_from_source(source, ZIP_RDONLY, &error);
    if (file->archive == NULL) {
        hl_status status = zip_fault(file, &error);
        zip_source_free(source);
        zip_error_fini(&error);
        return status;
    }
    HL_TRY(zip_find_folder(file));
    uint8_t *bytes = NULL;
    size_t size = 0;
    const char *order = in_folder(file, "byteorder"), *constants = in_folder(file, "constants.pkl"),
               *pickle = in_folder(file, "data.pkl");
    if (order == NULL || constants == NULL || pickle == NULL)
        return HL_E_NOMEM;
    if (zip_name_locate(file->archive, constants, 0) >= 0)
        return hl_fail(HL_E_UNSUPPORTED, file->what, "save model.state_dict() with torch.save",
                       "is a TorchScript program, not a state dict");
    if (zip_name_locate(file->archive, order, 0) >= 0) {
        HL_TRY(zip_small_entry(file, order, 64, &bytes, &size));
        if (size != 6 || memcmp(bytes, "little", 6) != 0)
            return hl_fail(HL_E_UNSUPPORTED, file->what, "save it on a little-endian machine",
                           "was written in another byte order than little-endian");
    }
    HL_TRY(zip_small_entry(file, pickle, PICKLE_LIMIT, &bytes, &size));
    return hl_pickle_read(file->what, bytes, size, allow, file->arena, &file->root, NULL);
}

static hl_status load_zip_storage(hl_torch_file *file, hl_torch_storage *storage)
{
    const char *name = hl_arena_format(file->arena, "%sdata/%s", file->folder, storage->key);
    if (name == NULL)
        return HL_E_NOMEM;
    zip_stat_t info;
    HL_TRY(zip_locate(file, name, &info));
    if (info.size != storage->size)
        return hl_fail(HL_E_INPUT, file->what, again, "storage '%s' has %llu bytes instead of %zu",
                       storage->key, (unsigned long long)info.size, storage->size);
    uint8_t *memory = NULL;
    HL_TRY(hl_torch_take(file, storage->size, &memory));
    storage->data = memory;
    return zip_read(file, &info, memory);
}

/* --- legacy: magic number, protocol, system, object, keys (five pickles), then count and bytes of each
 * storage --- */

static const uint8_t legacy_magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9,
                                       0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

bool hl_pytorch_is_legacy(const void *memory, size_t size)
{
    const uint8_t *bytes = memory;
    size_t at = 2;
    if (size < 2 + sizeof legacy_magic || bytes[0] != 0x80)
        return false;
    /* Protocol 4 puts the number into a frame. */
    if (bytes[at] == 0x95)
        at += 9;
    return size - at >= sizeof legacy_magic && memcmp(bytes + at, legacy_magic, sizeof legacy_magic) == 0;
}

static hl_status next_pickle(hl_torch_file *file, hl_pickle **value)
{
    size_t used = 0;
    HL_TRY(hl_pickle_read(file->what, file->bytes + file->storages_at, file->size - file->storages_at, allow,
                          file->arena, value, &used));
    file->storages_at += used;
    return HL_OK;
}

static hl_status open_legacy(hl_torch_file *file)
{
    hl_pickle *value = NULL;
    HL_TRY(next_pickle(file, &value)); /* the magic number */
    HL_TRY(next_pickle(file, &value));
    if (value->kind != HL_PICKLE_INT || value->integer != 1001)
        return hl_fail(HL_E_UNSUPPORTED, file->what, "save it again with a current PyTorch",
                       "its protocol is not 1001, the only one of the legacy format");
    HL_TRY(next_pickle(file, &value));
    const hl_pickle *little = hl_pickle_find(value, "little_endian");
    if (little == NULL || little->kind != HL_PICKLE_BOOL || little->integer != 1)
        return hl_fail(HL_E_UNSUPPORTED, file->what, "save it on a little-endian machine",
                       "was written in another byte order than little-endian");
    return next_pickle(file, &file->root);
}

static hl_status load_legacy_storage(hl_torch_file *file, const hl_pickle *key)
{
    hl_torch_storage *storage = key->kind == HL_PICKLE_STRING ? find_storage(file, key->text) : NULL;
    size_t at = file->storages_at;
    if (storage == NULL || storage->found)
        return hl_fail(HL_E_INPUT, file->what, again,
                       "its list of storages names one that no tensor has, or twice");
    if (file->size - at < 8)
        return hl_fail(HL_E_INPUT, file->what, again, "ends before storage '%s'", storage->key);
    uint64_t count;
    memcpy(&count, file->bytes + at, sizeof count);
    at += 8;
    if (count != storage->size / storage->element_size)
        return hl_fail(HL_E_INPUT, file->what, again, "storage '%s' has %llu elements instead of %zu",
                       storage->key, (unsigned long long)count, storage->size / storage->element_size);
    if (storage->size > file->size - at)
        return hl_fail(HL_E_INPUT, file->what, again, "ends inside storage '%s': %zu bytes of %zu are there",
                       storage->key, file->size - at, storage->size);
    storage->found = true;
    file->storages_at = at + storage->size;
    if (!storage->wanted)
        return HL_OK;
    uint8_t *memory = NULL;
    HL_TRY(hl_torch_take(file, storage->size, &memory));
    memcpy(memory, file->bytes + at, storage->size);
    storage->data = memory;
    return HL_OK;
}

static hl_status load_legacy(hl_torch_file *file)
{
    hl_pickle *keys = NULL;
    HL_TRY(next_pickle(file, &keys));
    if (keys->kind != HL_PICKLE_LIST)
        return hl_fail(HL_E_INPUT, file->what, again, "has no list of storages");
    for (uint32_t i = 0; i < keys->count; i++)
        HL_TRY(load_legacy_storage(file, keys->items[i]));
    for (size_t i = 0; i < file->storage_count; i++)
        if (!file->storages[i].found)
            return hl_fail(HL_E_INPUT, file->what, again, "storage '%s' is not in the file",
                           file->storages[i].key);
    return HL_OK;
}

/* --- both --- */

hl_status hl_torch_file_open(hl_torch_file *file)
{
    if (!hl_size_mul(file->size, INFLATION_LIMIT, &file->budget) ||
        __builtin_add_overflow(file->budget, (size_t)FREE_BUDGET, &file->budget))
        file->budget = SIZE_MAX;
    return hl_pytorch_is_legacy(file->bytes, file->size) ? open_legacy(file) : open_zip(file);
}

hl_status hl_torch_storages_load(hl_torch_file *file)
{
    if (file->archive == NULL)
        return load_legacy(file);
    for (size_t i = 0; i < file->storage_count; i++)
        if (file->storages[i].wanted)
            HL_TRY(load_zip_storage(file, &file->storages[i]));
    return HL_OK;
}

void hl_torch_file_close(hl_torch_file *file)
{
    if (file->archive != NULL)
        zip_discard(file->archive);
    free(file->storages);
    free(file->slots);
}
