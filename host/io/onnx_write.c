#include "io/onnx_write.h"

#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"
#include "io/protobuf.h"

struct hl_onnx_writer {
    hl_pb_buffer nodes, ports; /* fields of GraphProto */
    hl_pb_buffer node;         /* the NodeProto that is open */
    bool open;
    hl_tensor_map *tensors; /* initialisers; its metadata is the model's */
    hl_status status;
};

hl_status hl_onnx_writer_create(hl_onnx_writer **writer)
{
    *writer = calloc(1, sizeof **writer);
    if (*writer == NULL)
        return hl_fail_nomem("ONNX writer", sizeof **writer);
    hl_status status = hl_tensor_map_create(&(*writer)->tensors);
    if (status != HL_OK) {
        free(*writer);
        *writer = NULL;
    }
    return status;
}

void hl_onnx_writer_destroy(hl_onnx_writer *w)
{
    if (w == NULL)
        return;
    free(w->nodes.bytes);
    free(w->ports.bytes);
    free(w->node.bytes);
    hl_tensor_map_destroy(w->tensors);
    free(w);
}

static void end_node(hl_onnx_writer *w)
{
    if (w->open)
        hl_pb_put_message(&w->nodes, 1, &w->node);
    w->open = false;
}

void hl_onnx_put_port(hl_onnx_writer *w, bool output, const char *name, int ndim, const int64_t *dims)
{
    static const char *const symbols[] = {"N", "H", "W", "out_h", "out_w"};
    hl_pb_buffer shape = {0}, tensor = {0}, type = {0}, port = {0};
    for (int i = 0; i < ndim; i++) {
        hl_pb_buffer dim = {0};
        if (dims[i] >= 0)
            hl_pb_put_varint(&dim, 1, (uint64_t)dims[i]);
        else
            hl_pb_put_text(&dim, 2, symbols[-dims[i] - 1]);
        hl_pb_put_message(&shape, 1, &dim);
    }
    hl_pb_put_varint(&tensor, 1, 1); /* float32 */
    hl_pb_put_message(&tensor, 2, &shape);
    hl_pb_put_message(&type, 1, &tensor);
    hl_pb_put_text(&port, 1, name);
    hl_pb_put_message(&port, 2, &type);
    hl_pb_put_message(&w->ports, output ? 12 : 11, &port);
}

void hl_onnx_put_node(hl_onnx_writer *w, const char *op, const char *name, const char *const *in,
                      int in_count, const char *const *out, int out_count)
{
    end_node(w);
    for (int i = 0; i < in_count; i++)
        hl_pb_put_text(&w->node, 1, in[i]);
    for (int i = 0; i < out_count; i++)
        hl_pb_put_text(&w->node, 2, out[i]);
    hl_pb_put_text(&w->node, 3, name);
    hl_pb_put_text(&w->node, 4, op);
    w->open = true;
}

/* AttributeProto: name, value, type. */
static void put_attr(hl_onnx_writer *w, hl_pb_buffer *attr, const char *name, uint64_t type)
{
    hl_pb_put_text(attr, 1, name);
    hl_pb_put_varint(attr, 20, type);
    hl_pb_put_message(&w->node, 5, attr);
}

void hl_onnx_put_int(hl_onnx_writer *w, const char *name, int64_t value)
{
    hl_pb_buffer attr = {0};
    hl_pb_put_varint(&attr, 3, (uint64_t)value);
    put_attr(w, &attr, name, 2);
}

void hl_onnx_put_ints(hl_onnx_writer *w, const char *name, const int64_t *values, int count)
{
    hl_pb_buffer attr = {0};
    for (int i = 0; i < count; i++)
        hl_pb_put_varint(&attr, 8, (uint64_t)values[i]);
    put_attr(w, &attr, name, 7);
}

void hl_onnx_put_float(hl_onnx_writer *w, const char *name, float value)
{
    hl_pb_buffer attr = {0};
    hl_pb_put_float(&attr, 2, value);
    put_attr(w, &attr, name, 1);
}

void hl_onnx_put_tensor(hl_onnx_writer *w, const char *name, hl_dtype dtype, int ndim, const int64_t *shape,
                        const void *data)
{
    if (w->status == HL_OK)
        w->status = hl_tensor_map_add(w->tensors, name, dtype, ndim, shape, data);
}

void hl_onnx_put_meta(hl_onnx_writer *w, const char *key, const char *value)
{
    if (w->status == HL_OK)
        w->status = hl_tensor_map_set_meta(w->tensors, key, value);
}

/* TensorProto.DataType; 0 for what this writer is not asked for. */
static uint64_t type_of(hl_dtype dtype)
{
    return dtype == HL_DTYPE_F32 ? 1 : dtype == HL_DTYPE_I64 ? 7 : 0;
}

/* A TensorProto up to its data: that follows in the file, and the length counts it. */
static void put_tensor_head(hl_pb_buffer *graph, const hl_named_tensor *t)
{
    hl_pb_buffer head = {0};
    for (int d = 0; d < t->ndim; d++)
        hl_pb_put_varint(&head, 1, (uint64_t)t->shape[d]);
    hl_pb_put_varint(&head, 2, type_of(t->dtype));
    hl_pb_put_text(&head, 8, t->name);
    hl_pb_put_length(&head, 9, t->bytes);
    hl_pb_put_length(graph, 5, head.size + t->bytes);
    if (graph->status == HL_OK)
        graph->status = head.status;
    hl_pb_put_raw(graph, head.bytes, head.size);
    free(head.bytes);
}

/* All of the file but the tensors' data: `begin` up to the first tensor, then a head for each. */
static hl_status write_model(hl_onnx_writer *w, hl_atomic_file *file, hl_pb_buffer *begin, hl_pb_buffer *head)
{
    hl_pb_buffer opset = {0};
    size_t count = hl_tensor_map_count(w->tensors), size;
    hl_pb_put_varint(begin, 1, HL_ONNX_IR_WRITTEN);
    hl_pb_put_text(begin, 2, "heirloom");
    hl_pb_put_text(&opset, 1, "");
    hl_pb_put_varint(&opset, 2, HL_ONNX_OPSET_WRITTEN);
    hl_pb_put_message(begin, 8, &opset);
    for (size_t i = 0; i < hl_tensor_map_meta_count(w->tensors); i++) {
        const char *key, *value;
        hl_pb_buffer entry = {0};
        hl_tensor_map_meta_at(w->tensors, i, &key, &value);
        hl_pb_put_text(&entry, 1, key);
        hl_pb_put_text(&entry, 2, value);
        hl_pb_put_message(begin, 14, &entry);
    }
    size = w->nodes.size + w->ports.size;
    hl_pb_buffer name = {0};
    hl_pb_put_text(&name, 2, "heirloom");
    size += name.size;
    for (size_t i = 0; i < count; i++) {
        const hl_named_tensor *t = hl_tensor_map_at(w->tensors, i);
        head->size = 0;
        put_tensor_head(head, t);
        size += head->size + t->bytes;
    }
    hl_pb_put_length(begin, 7, size);
    hl_pb_put_raw(begin, name.bytes, name.size);
    free(name.bytes);
    hl_pb_put_raw(begin, w->nodes.bytes, w->nodes.size);
    hl_pb_put_raw(begin, w->ports.bytes, w->ports.size);
    HL_TRY(begin->status);
    HL_TRY(head->status);
    if (begin->size + size > INT32_MAX)
        return hl_fail(HL_E_UNSUPPORTED, "ONNX", "write a .safetensors file instead",
                       "a file holds at most 2 GiB, this one would have %zu bytes", size);
    HL_TRY(hl_atomic_write(file, begin->bytes, begin->size));
    for (size_t i = 0; i < count; i++) {
        const hl_named_tensor *t = hl_tensor_map_at(w->tensors, i);
        head->size = 0;
        put_tensor_head(head, t);
        HL_TRY(head->status);
        HL_TRY(hl_atomic_write(file, head->bytes, head->size));
        HL_TRY(hl_atomic_write(file, t->data, t->bytes));
    }
    return HL_OK;
}

hl_status hl_onnx_writer_save(hl_onnx_writer *w, const char *path)
{
    hl_atomic_file *file;
    hl_pb_buffer begin = {0}, head = {0};
    end_node(w);
    HL_TRY(w->status);
    HL_TRY(w->nodes.status);
    HL_TRY(w->ports.status);
    HL_TRY(hl_atomic_begin(path, &file));
    hl_status status = write_model(w, file, &begin, &head);
    if (status == HL_OK)
        status = hl_atomic_commit(file);
    else
        hl_atomic_abort(file);
    free(begin.bytes);
    free(head.bytes);
    return status;
}
