/* What the files that read ONNX share. */
#ifndef HL_IO_ONNX_READ_H
#define HL_IO_ONNX_READ_H

#include "io/mapped_file.h"
#include "io/onnx.h"
#include "io/protobuf.h"

/* Nodes, attributes, names, tensors and list elements in all; more than any network has. */
enum { HL_ONNX_MAX_ITEMS = 1 << 20 };
/* Files of external data. */
enum { HL_ONNX_MAX_EXTERNAL = 64 };

typedef struct hl_onnx_reader {
    hl_onnx *model;
    const char *what, *folder;
    size_t items;
    size_t tensor_bytes; /* allowed for decoded tensors, what is left of it */
    struct {
        const char *location;
        const hl_mapped_file *file;
    } external[HL_ONNX_MAX_EXTERNAL];
    size_t external_count;
} hl_onnx_reader;

/* "the file is damaged" with what exactly. */
hl_status hl_onnx_damaged(const hl_onnx_reader *r, const char *part);

/* Counts `count` more things; HL_E_INPUT past the limit. */
hl_status hl_onnx_count(hl_onnx_reader *r, size_t count);

/* A copy of the text in the arena; a zero byte in it is damage. */
hl_status hl_onnx_text(hl_onnx_reader *r, hl_pb_span bytes, const char **text);

/* A TensorProto; the data is valid as long as the model. Its name may be "". */
hl_status hl_onnx_read_tensor(hl_onnx_reader *r, hl_pb_span message, hl_named_tensor *tensor);

/* The elements of a repeated number, packed or not, as one more field of it comes: appended to the list. */
typedef struct hl_onnx_list {
    int64_t *ints;
    float *floats;
    size_t count, capacity;
} hl_onnx_list;
hl_status hl_onnx_list_add(hl_onnx_reader *r, hl_onnx_list *list, const hl_pb_field *field, bool floats);

#endif
