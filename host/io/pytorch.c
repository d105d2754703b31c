#include "io/pytorch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/mapped_file.h"
#include "io/pytorch_storage.h"

/* A tensor of the pickle: which part of which storage. */
typedef struct view {
    size_t storage;
    hl_dtype dtype;
    int ndim;
    int64_t offset, shape[HL_TENSOR_MAX_NDIM], stride[HL_TENSOR_MAX_NDIM];
} view;

/* The dict that is taken for the state dict. */
typedef struct choice {
    const hl_pickle *dict;
    const char *key; /* what it was found under, NULL for the outermost */
    size_t tensors;
} choice;

static hl_status odd(const hl_torch_file *file, const char *name, const char *why)
{
    return hl_fail(HL_E_INPUT, file->what, "save it again with torch.save(model.state_dict(), FILE)",
                   "tensor '%s': %s", name, why);
}

/* --- recognising --- */

static bool is_tensor(const hl_pickle *value)
{
    return hl_pickle_is_call(value, "torch._utils._rebuild_tensor_v2") ||
           hl_pickle_is_call(value, "torch._utils._rebuild_parameter") ||
           hl_pickle_is_call(value, "torch._utils._rebuild_parameter_with_state") ||
           hl_pickle_is_call(value, "torch._utils._rebuild_tensor_v3") ||
           hl_pickle_is_call(value, "torch._utils._rebuild_tensor");
}

/* torch.FloatStorage, torch.cuda.FloatStorage, torch.storage.UntypedStorage. The element's size is known for
 * more types than can be read, so that storages of others can be stepped over. */
static size_t storage_type(const char *global, hl_dtype *dtype)
{
    static const struct {
        const char *name;
        size_t size;
        hl_dtype dtype;
    } types[] = {
#define X(name, bytes, safetensors, storage, torch) {storage "Storage", bytes, HL_DTYPE_##name},
        HL_DTYPE_LIST(X)
#undef X
            {"UntypedStorage", 1, HL_DTYPE_COUNT},
        {"ComplexFloatStorage", 8, HL_DTYPE_COUNT},
        {"ComplexDoubleStorage", 16, HL_DTYPE_COUNT},
        {"QInt8Storage", 1, HL_DTYPE_COUNT},
        {"QUInt8Storage", 1, HL_DTYPE_COUNT},
        {"QInt32Storage", 4, HL_DTYPE_COUNT},
    };
    const char *dot = strrchr(global, '.');
    for (size_t i = 0; dot != NULL && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(dot + 1, types[i].name) == 0) {
            *dtype = types[i].dtype;
            return types[i].size;
        }
    return 0;
}

static bool torch_dtype(const char *global, hl_dtype *dtype)
{
    static const char *const names[] = {
#define X(name, bytes, safetensors, storage, torch) "torch." torch,
        HL_DTYPE_LIST(X)
#undef X
    };
    for (int d = 0; d < HL_DTYPE_COUNT; d++)
        if (strcmp(global, names[d]) == 0) {
            *dtype = (hl_dtype)d;
            return true;
        }
    return false;
}

/* ("storage", torch.XStorage, key, device, number of elements [, None or (key, offset, number) of a view in
 * it]) */
static hl_status read_storage(hl_torch_file *file, const hl_pickle *persistent, size_t *index,
                              hl_dtype *dtype, int64_t *view_offset)
{
    const hl_pickle *id = persistent->items[0];
    *view_offset = 0;
    if (id->kind != HL_PICKLE_TUPLE || id->count < 5 || id->items[0]->kind != HL_PICKLE_STRING ||
        strcmp(id->items[0]->text, "storage") != 0 || id->items[1]->kind != HL_PICKLE_GLOBAL ||
        id->items[2]->kind != HL_PICKLE_STRING || id->items[4]->kind != HL_PICKLE_INT)
        return hl_fail(HL_E_INPUT, file->what, "save it again with a current PyTorch",
                       "has a persistent id that is not a storage");
    size_t element_size = storage_type(id->items[1]->text, dtype);
    if (element_size == 0)
        return hl_fail(HL_E_UNSUPPORTED, file->what, "convert its tensors to float32",
                       "storages of type %s are not supported", id->items[1]->text);
    const hl_pickle *part = id->count > 5 ? id->items[5] : NULL;
    if (part != NULL && part->kind == HL_PICKLE_TUPLE && part->count == 3 &&
        part->items[1]->kind == HL_PICKLE_INT)
        *view_offset = part->items[1]->integer;
    return hl_torch_storage_note(file, id->items[2]->text, element_size, id->items[4]->integer, index);
}

static hl_status read_extents(const hl_torch_file *file, const char *name, const hl_pickle *list,
                              int64_t *out, int *count)
{
    if (hl_pickle_is_call(list, "torch.Size") && list->items[1]->count == 1)
        list = list->items[1]->items[0];
    if ((list->kind != HL_PICKLE_TUPLE && list->kind != HL_PICKLE_LIST) || list->count > HL_TENSOR_MAX_NDIM)
        return odd(file, name, "its size or stride is not a tuple of at most 8 numbers");
    *count = (int)list->count;
    for (int d = 0; d < *count; d++) {
        if (list->items[d]->kind != HL_PICKLE_INT || list->items[d]->integer < 0)
            return odd(file, name, "its size or stride is not made of non-negative whole numbers");
        out[d] = list->items[d]->integer;
    }
    return HL_OK;
}

static hl_status read_view(hl_torch_file *file, const char *name, const hl_pickle *value, view *out)
{
    /* _rebuild_parameter(tensor, requires_grad, hooks [, state]) around the tensor itself */
    for (int depth = 0; depth < 4 && value->items[1]->count > 0 &&
                        strncmp(value->items[0]->text, "torch._utils._rebuild_parameter", 31) == 0;
         depth++) {
        value = value->items[1]->items[0];
        if (!is_tensor(value))
            return odd(file, name, "a parameter without a tensor");
    }
    const hl_pickle *arguments = value->items[1];
    if (arguments->count < 4 || arguments->items[0]->kind != HL_PICKLE_PERSID ||
        arguments->items[1]->kind != HL_PICKLE_INT)
        return odd(file, name, "its arguments are not storage, offset, size, stride");
    int strides = 0;
    int64_t view_offset;
    HL_TRY(read_storage(file, arguments->items[0], &out->storage, &out->dtype, &view_offset));
    HL_TRY(read_extents(file, name, arguments->items[2], out->shape, &out->ndim));
    HL_TRY(read_extents(file, name, arguments->items[3], out->stride, &strides));
    if (strides != out->ndim)
        return odd(file, name, "it has more strides than dimensions, or fewer");
    if (__builtin_add_overflow(arguments->items[1]->integer, view_offset, &out->offset) || out->offset < 0)
        return odd(file, name, "its offset is out of range");
    if (hl_pickle_is_call(value, "torch._utils._rebuild_tensor_v3")) {
        const hl_pickle *type = arguments->count > 6 ? arguments->items[6] : NULL;
        if (type == NULL || type->kind != HL_PICKLE_GLOBAL || !torch_dtype(type->text, &out->dtype))
            out->dtype = HL_DTYPE_COUNT;
    }
    if (out->dtype == HL_DTYPE_COUNT)
        return hl_fail(
            HL_E_UNSUPPORTED, file->what, "convert it to float32 before saving",
            "tensor '%s' is of a type that is not supported (complex, quantised, float8 or unsigned)", name);
    return HL_OK;
}

/* --- choosing the state dict --- */

static size_t count_tensors(const hl_pickle *dict)
{
    size_t count = 0;
    for (uint32_t i = 0; dict->kind == HL_PICKLE_DICT && i + 1 < dict->count; i += 2)
        count += dict->items[i]->kind == HL_PICKLE_STRING && is_tensor(dict->items[i + 1]);
    return count;
}

typedef struct pending {
    hl_pickle *value;
    const char *key;
} pending;

/* Visits every value once: notes all storages, finds the dict with the most tensors. */
static hl_status survey(hl_torch_file *file, choice *largest)
{
    pending *stack = NULL;
    size_t depth = 0, capacity = 0;
    hl_status status = HL_OK;
    pending now = {file->root, NULL};
    file->root->visited = true;
    for (;;) {
        hl_pickle *value = now.value;
        size_t tensors = count_tensors(value);
        if (tensors > largest->tensors)
            *largest = (choice){value, now.key, tensors};
        if (value->kind == HL_PICKLE_PERSID) {
            size_t index;
            hl_dtype dtype;
            int64_t offset;
            HL_TRY_GOTO(read_storage(file, value, &index, &dtype, &offset), status, done);
        }
        bool container = value->kind == HL_PICKLE_TUPLE || value->kind == HL_PICKLE_LIST ||
                         value->kind == HL_PICKLE_DICT || value->kind == HL_PICKLE_OBJECT;
        for (uint32_t i = container ? value->count : 0; i-- > 0;) {
            hl_pickle *child = value->items[i];
            if (child->visited)
                continue;
            child->visited = true;
            const char *key = now.key;
            if (value->kind == HL_PICKLE_DICT && i % 2 == 1)
                key = value->items[i - 1]->kind == HL_PICKLE_STRING ? value->items[i - 1]->text : "?";
            void *grown = stack;
            status = hl_grow(&grown, &capacity, depth + 1, sizeof *stack, file->what);
            stack = grown;
            if (status != HL_OK)
                goto done;
            stack[depth++] = (pending){child, key};
        }
        if (depth == 0)
            break;
        now = stack[--depth];
    }
done:
    free(stack);
    return status;
}

static hl_status choose(hl_torch_file *file, choice *chosen)
{
    static const char *const keys[] = {
        "state_dict", "model", "model_state_dict", "model_state", "net", "network",
        "module",     "ema",   "state_dict_ema",   "model_ema"};
    *chosen = (choice){0};
    HL_TRY(survey(file, chosen));
    if (chosen->tensors == 0)
        return hl_fail(HL_E_INPUT, file->what, "save it with torch.save(model.state_dict(), FILE)",
                       "holds no dict of named tensors");
    if (count_tensors(file->root) > 0) {
        *chosen = (choice){file->root, NULL, count_tensors(file->root)};
        return HL_OK;
    }
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const hl_pickle *value = hl_pickle_find(file->root, keys[i]);
        if (value != NULL && count_tensors(value) > 0) {
            *chosen = (choice){value, keys[i], count_tensors(value)};
            break;
        }
    }
    return HL_OK;
}

/* --- tensors --- */

static bool is_contiguous(const view *v)
{
    int64_t expected = 1;
    for (int d = v->ndim - 1; d >= 0; d--) {
        if (v->shape[d] != 1 && v->stride[d] != expected)
            return false;
        expected *= v->shape[d];
    }
    return true;
}

static void gather(const view *v, const uint8_t *from, uint8_t *to, size_t count)
{
    size_t size = hl_dtype_size(v->dtype);
    int64_t index[HL_TENSOR_MAX_NDIM] = {0}, stride[HL_TENSOR_MAX_NDIM] = {0}, at = v->offset;
    /* The stride of a single element is arbitrary and never used. */
    for (int d = 0; d < v->ndim; d++)
        stride[d] = v->shape[d] == 1 ? 0 : v->stride[d];
    for (size_t i = 0; i < count; i++) {
        memcpy(to + i * size, from + (size_t)at * size, size);
        for (int d = v->ndim - 1; d >= 0; d--) {
            at += stride[d];
            if (++index[d] < v->shape[d])
                break;
            at -= stride[d] * v->shape[d];
            index[d] = 0;
        }
    }
}

/* The last element must lie in the storage. */
static hl_status check_bounds(const hl_torch_file *file, const char *name, const view *v,
                              size_t storage_bytes)
{
    int64_t last = v->offset, step;
    for (int d = 0; d < v->ndim; d++)
        if (__builtin_mul_overflow(v->shape[d] - 1, v->stride[d], &step) ||
            __builtin_add_overflow(last, step, &last))
            return odd(file, name, "its strides overflow");
    if ((uint64_t)last >= storage_bytes / hl_dtype_size(v->dtype))
        return hl_fail(HL_E_INPUT, file->what, "the file is damaged: download or save it again",
                       "tensor '%s' reaches element %lld of a storage of %zu", name, (long long)last,
                       storage_bytes / hl_dtype_size(v->dtype));
    return HL_OK;
}

static hl_status add_tensor(hl_torch_file *file, const char *name, const view *v)
{
    size_t count, bytes;
    char what[512];
    snprintf(what, sizeof what, "%s: tensor '%s'", file->what, name);
    HL_TRY(hl_tensor_extent(what, v->dtype, v->ndim, v->shape, &count, &bytes));
    if (count == 0)
        return hl_tensor_map_add_ref(file->map, name, v->dtype, v->ndim, v->shape, NULL);
    const hl_torch_storage *storage = &file->storages[v->storage];
    HL_TRY(check_bounds(file, name, v, storage->size));
    if (is_contiguous(v))
        return hl_tensor_map_add_ref(file->map, name, v->dtype, v->ndim, v->shape,
                                     storage->data + (size_t)v->offset * hl_dtype_size(v->dtype));
    uint8_t *copy = NULL;
    HL_TRY(hl_torch_take(file, bytes, &copy));
    gather(v, storage->data, copy, count);
    return hl_tensor_map_add_ref(file->map, name, v->dtype, v->ndim, v->shape, copy);
}

/* The length of the wrappers' prefixes ("module." of DataParallel, "_orig_mod." of torch.compile) that all
 * names share. */
static size_t shared_prefix(const char *const *names, size_t count)
{
    static const char *const prefixes[] = {"module.", "_orig_mod."};
    size_t length = 0;
    for (bool again = true; again;) {
        again = false;
        for (int p = 0; p < 2; p++) {
            size_t more = strlen(prefixes[p]), having = 0;
            while (having < count && strncmp(names[having] + length, prefixes[p], more) == 0 &&
                   names[having][length + more] != '\0')
                having++;
            if (having == count) {
                length += more;
                again = true;
            }
        }
    }
    return length;
}

static hl_status take_tensors(hl_torch_file *file, const choice *chosen)
{
    view *views = hl_arena_take(file->arena, chosen->tensors * sizeof *views);
    const char **names = hl_arena_take(file->arena, chosen->tensors * sizeof *names);
    if (views == NULL || names == NULL)
        return HL_E_NOMEM;
    size_t count = 0;
    for (uint32_t i = 0; i + 1 < chosen->dict->count; i += 2) {
        const hl_pickle *key = chosen->dict->items[i], *value = chosen->dict->items[i + 1];
        if (key->kind != HL_PICKLE_STRING || !is_tensor(value))
            continue;
        if (strlen(key->text) != key->size)
            return odd(file, key->text, "its name has a zero byte");
        HL_TRY(read_view(file, key->text, value, &views[count]));
        file->storages[views[count].storage].wanted = true;
        names[count++] = key->text;
    }
    HL_TRY(hl_torch_storages_load(file));
    size_t prefix = shared_prefix(names, count);
    for (size_t i = 0; i < count; i++)
        HL_TRY(add_tensor(file, names[i] + prefix, &views[i]));
    return chosen->key == NULL ? HL_OK : hl_tensor_map_set_meta(file->map, "checkpoint_key", chosen->key);
}

hl_status hl_pytorch_parse(const char *what, const void *bytes, size_t size, hl_tensor_map **map)
{
    hl_torch_file file = {.what = what, .bytes = bytes, .size = size};
    choice chosen;
    *map = NULL;
    hl_status status;
    HL_TRY_GOTO(hl_arena_create(&file.arena), status, done);
    HL_TRY_GOTO(hl_tensor_map_create(&file.map), status, done);
    HL_TRY_GOTO(hl_torch_file_open(&file), status, done);
    HL_TRY_GOTO(choose(&file, &chosen), status, done);
    HL_TRY_GOTO(take_tensors(&file, &chosen), status, done);
    *map = file.map;
    file.map = NULL;
done:
    hl_torch_file_close(&file);
    hl_tensor_map_destroy(file.map);
    hl_arena_destroy(file.arena);
    return status;
}

hl_status hl_pytorch_read(const char *path, hl_tensor_map **map)
{
    hl_mapped_file file;
    *map = NULL;
    HL_TRY(hl_mapped_file_open(path, &file));
    hl_status status = hl_pytorch_parse(path, file.bytes, file.size, map);
    hl_mapped_file_close(&file);
    return status;
}
