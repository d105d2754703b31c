/* TensorProto: the ways in which a tensor's elements are stored. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/mapped_file.h"
#include "io/onnx_read.h"

typedef struct proto {
    int64_t shape[HL_TENSOR_MAX_NDIM];
    size_t ndim, external_count;
    uint64_t type;
    bool external, has_raw;
    hl_pb_span raw, message;
    const char *name, *location;
    uint64_t offset, length;
    bool has_length;
} proto;

static bool dtype_of(uint64_t type, hl_dtype *dtype)
{
    static const int8_t dtypes[] = {-1,           HL_DTYPE_F32, HL_DTYPE_U8,  HL_DTYPE_I8, -1,
                                    HL_DTYPE_I16, HL_DTYPE_I32, HL_DTYPE_I64, -1,          HL_DTYPE_BOOL,
                                    HL_DTYPE_F16, HL_DTYPE_F64, -1,           -1,          -1,
                                    -1,           HL_DTYPE_BF16};
    if (type >= sizeof dtypes || dtypes[type] < 0)
        return false;
    *dtype = (hl_dtype)dtypes[type];
    return true;
}

static hl_status wrong(const hl_onnx_reader *r, const char *name, const char *rule)
{
    return hl_fail(HL_E_INPUT, r->what, "export or download it again", "tensor '%s': %s", name, rule);
}

static hl_status read_external(hl_onnx_reader *r, hl_pb_span message, proto *p)
{
    hl_pb_field f;
    const char *text[2] = {"", ""};
    if (p->external_count++ >= 16)
        return hl_onnx_damaged(r, "a tensor says too often where its data is");
    while (hl_pb_next(&message, &f))
        if ((f.number == 1 || f.number == 2) && f.wire == HL_PB_BYTES)
            HL_TRY(hl_onnx_text(r, f.bytes, &text[f.number - 1]));
    bool length = strcmp(text[0], "length") == 0;
    if (strcmp(text[0], "location") == 0) {
        p->location = text[1];
    } else if (length || strcmp(text[0], "offset") == 0) {
        char *end;
        unsigned long long value = strtoull(text[1], &end, 10);
        if (text[1][0] < '0' || text[1][0] > '9' || *end != '\0' || value > INT64_MAX)
            return hl_onnx_damaged(r, "an offset or length of external data is no number");
        *(length ? &p->length : &p->offset) = value;
        p->has_length = p->has_length || length;
    }
    return message.bad ? hl_onnx_damaged(r, "a tensor is cut short") : HL_OK;
}

static hl_status read_dim(hl_onnx_reader *r, proto *p, uint64_t value)
{
    if (p->ndim == HL_TENSOR_MAX_NDIM)
        return hl_onnx_damaged(r, "a tensor has more than 8 dimensions");
    p->shape[p->ndim++] = (int64_t)value;
    return HL_OK;
}

static hl_status read_proto(hl_onnx_reader *r, proto *p)
{
    hl_pb_span message = p->message;
    hl_pb_field f;
    uint64_t value;
    p->name = "";
    while (hl_pb_next(&message, &f)) {
        bool bytes = f.wire == HL_PB_BYTES;
        if (f.number == 1 && !bytes)
            HL_TRY(read_dim(r, p, f.value));
        while (f.number == 1 && bytes && hl_pb_varint(&f.bytes, &value))
            HL_TRY(read_dim(r, p, value));
        if (f.number == 2)
            p->type = f.value;
        if (f.number == 8 && bytes)
            HL_TRY(hl_onnx_text(r, f.bytes, &p->name));
        if (f.number == 9 && bytes) {
            p->raw = f.bytes;
            p->has_raw = true;
        }
        if (f.number == 13 && bytes)
            HL_TRY(read_external(r, f.bytes, p));
        if (f.number == 14)
            p->external = f.value == 1;
    }
    return message.bad ? hl_onnx_damaged(r, "a tensor is cut short") : HL_OK;
}

/* Memory for decoded or copied elements, owned by the map. */
static hl_status reserve(hl_onnx_reader *r, const char *name, size_t bytes, void **memory)
{
    if (bytes > r->tensor_bytes)
        return wrong(r, name, "its shape is larger than the file could hold");
    r->tensor_bytes -= bytes;
    HL_TRY(hl_alloc(bytes, name, memory));
    return hl_tensor_map_adopt(r->model->tensors, *memory, free);
}

/* Stored as a run of bytes: a view where it is aligned. */
static hl_status use_bytes(hl_onnx_reader *r, const uint8_t *bytes, size_t size, hl_named_tensor *t)
{
    if (size != t->bytes)
        return wrong(r, t->name, "its data and its shape differ in size");
    t->data = bytes;
    if (t->bytes == 0 || (uintptr_t)bytes % hl_dtype_size(t->dtype) == 0)
        return HL_OK;
    void *copy;
    HL_TRY(reserve(r, t->name, t->bytes, &copy));
    memcpy(copy, bytes, t->bytes);
    t->data = copy;
    return HL_OK;
}

/* Is `location` a path that stays in the folder, by its text? */
static bool stays_inside(const char *location)
{
    if (location[0] == '\0' || location[0] == '/')
        return false;
    for (const char *part = location; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

static void close_file(void *file)
{
    hl_mapped_file_close(file);
    free(file);
}

/* The file that a tensor's data is in, mapped once. */
static hl_status open_external(hl_onnx_reader *r, const proto *p, hl_mapped_file *file)
{
    static const char todo[] = "export it so that all its files are in one folder";
    if (r->folder == NULL || p->location == NULL || !stays_inside(p->location))
        return hl_fail(HL_E_UNSUPPORTED, r->what, todo,
                       "tensor '%s': its data is to be in '%s', which is not inside the model's folder",
                       p->name, p->location != NULL ? p->location : "");
    char *path = hl_arena_format(r->model->arena, "%s/%s", r->folder, p->location);
    if (path == NULL)
        return HL_E_NOMEM;
    for (size_t i = 0; i < r->external_count; i++)
        if (strcmp(r->external[i].location, p->location) == 0) {
            *file = *r->external[i].file;
            return HL_OK;
        }
    if (r->external_count == HL_ONNX_MAX_EXTERNAL)
        return hl_fail(HL_E_UNSUPPORTED, r->what, todo, "its data is spread over more than %d files",
                       HL_ONNX_MAX_EXTERNAL);
    /* A link must not lead out either. */
    char *real = realpath(path, NULL), *home = realpath(r->folder, NULL);
    size_t length = home != NULL ? strlen(home) : 0;
    bool inside = real == NULL || home == NULL ||
                  (strncmp(real, home, length) == 0 && (real[length] == '/' || home[length - 1] == '/'));
    free(real);
    free(home);
    if (!inside)
        return hl_fail(HL_E_UNSUPPORTED, r->what, todo,
                       "tensor '%s': '%s' is a link that leads out of the model's folder", p->name,
                       p->location);
    hl_mapped_file *opened = calloc(1, sizeof *opened);
    if (opened == NULL)
        return hl_fail_nomem(path, sizeof *opened);
    hl_status status = hl_mapped_file_open(path, opened);
    if (status != HL_OK) {
        free(opened);
        return status;
    }
    HL_TRY(hl_tensor_map_adopt(r->model->tensors, opened, close_file));
    *file = *opened;
    r->external[r->external_count].location = p->location;
    r->external[r->external_count++].file = opened;
    r->model->bytes += opened->size;
    r->tensor_bytes = r->tensor_bytes < SIZE_MAX - opened->size ? r->tensor_bytes + opened->size : SIZE_MAX;
    return HL_OK;
}

static hl_status use_external(hl_onnx_reader *r, const proto *p, hl_named_tensor *t)
{
    hl_mapped_file file = {0};
    HL_TRY(open_external(r, p, &file));
    if (p->offset > file.size || t->bytes > file.size - p->offset)
        return hl_fail(HL_E_INPUT, r->what, "export or download it again",
                       "tensor '%s' ends at byte %llu of '%s', which has %zu", p->name,
                       (unsigned long long)p->offset + t->bytes, p->location, file.size);
    return use_bytes(r, file.bytes + p->offset, p->has_length ? p->length : t->bytes, t);
}

static void store(const hl_named_tensor *t, uint8_t *out, size_t at, uint64_t value)
{
    size_t size = hl_dtype_size(t->dtype);
    memcpy(out + at * size, &value, size); /* little-endian, as the file */
}

/* Stored as numbers: field 4 floats, 5 all small integers and half precision, 7 int64, 10 double. */
static hl_status use_numbers(hl_onnx_reader *r, const proto *p, hl_named_tensor *t)
{
    uint32_t number = t->dtype == HL_DTYPE_F32   ? 4
                      : t->dtype == HL_DTYPE_F64 ? 10
                      : t->dtype == HL_DTYPE_I64 ? 7
                                                 : 5;
    size_t wide = number == 4 ? 4 : number == 10 ? 8 : 0, count = hl_named_tensor_count(t), at = 0;
    hl_pb_span message = p->message;
    hl_pb_field f;
    uint64_t value;
    void *out;
    HL_TRY(reserve(r, t->name, t->bytes, &out));
    t->data = out;
    while (hl_pb_next(&message, &f)) {
        if (f.number != number)
            continue;
        if (f.wire != HL_PB_BYTES) {
            if (at < count)
                store(t, out, at, f.value);
            at++;
            continue;
        }
        while (wide > 0 ? hl_pb_fixed(&f.bytes, wide, &value) : hl_pb_varint(&f.bytes, &value)) {
            if (at < count)
                store(t, out, at, value);
            at++;
        }
        if (f.bytes.bad)
            return wrong(r, t->name, "its data is cut short");
    }
    return at == count ? HL_OK : wrong(r, t->name, "its data and its shape differ in size");
}

hl_status hl_onnx_read_tensor(hl_onnx_reader *r, hl_pb_span message, hl_named_tensor *t)
{
    proto p = {.message = message};
    *t = (hl_named_tensor){0};
    HL_TRY(read_proto(r, &p));
    t->name = p.name;
    if (!dtype_of(p.type, &t->dtype))
        return hl_fail(HL_E_UNSUPPORTED, r->what, "export it in float32",
                       "tensor '%s': elements of type %llu are not supported", p.name,
                       (unsigned long long)p.type);
    t->ndim = (int)p.ndim;
    memcpy(t->shape, p.shape, sizeof p.shape);
    HL_TRY(hl_tensor_extent(p.name, t->dtype, t->ndim, t->shape, NULL, &t->bytes));
    if (p.external)
        return use_external(r, &p, t);
    return p.has_raw ? use_bytes(r, p.raw.at, hl_pb_size(&p.raw), t) : use_numbers(r, &p, t);
}
