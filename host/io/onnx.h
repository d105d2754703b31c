/* ONNX files (github.com/onnx/onnx, onnx.proto): the graph as it is written, nothing interpreted.
 *
 * The file is mapped; tensors are views into it where they lie aligned, copies elsewhere. Everything in it is
 * taken as hostile: lengths are checked before they are used, what is allocated is bounded by the file's size
 * and a limit on the number of things in it, and external data is looked for in the model's folder alone. */
#ifndef HL_IO_ONNX_H
#define HL_IO_ONNX_H

#include "base/memory.h"
#include "io/tensor_map.h"

/* The versions of ONNX' own operators that are read. */
enum { HL_ONNX_OPSET_FIRST = 7, HL_ONNX_OPSET_LAST = 21 };

/* AttributeProto.AttributeType */
typedef enum hl_onnx_attr_type {
    HL_ONNX_FLOAT = 1,
    HL_ONNX_INT = 2,
    HL_ONNX_STRING = 3,
    HL_ONNX_TENSOR = 4,
    HL_ONNX_GRAPH = 5, /* recorded, not read */
    HL_ONNX_FLOATS = 6,
    HL_ONNX_INTS = 7,
    HL_ONNX_OTHER = 0 /* lists of the others */
} hl_onnx_attr_type;

typedef struct hl_onnx_attr {
    const char *name;
    hl_onnx_attr_type type;
    float f;
    int64_t i;
    const char *s;
    const hl_named_tensor *tensor;
    const int64_t *ints;
    const float *floats;
    int count; /* of ints or floats */
} hl_onnx_attr;

typedef struct hl_onnx_node {
    const char *name, *op, *domain; /* never NULL; the name may be "" */
    const char **in, **out;         /* "" where an optional one is left out */
    int in_count, out_count;
    hl_onnx_attr *attrs;
    int attr_count;
} hl_onnx_node;

/* An input or output of the graph. */
typedef struct hl_onnx_port {
    const char *name;
    int elem;                         /* TensorProto.DataType; 0 unknown */
    int ndim;                         /* -1: no shape is given */
    int64_t dims[HL_TENSOR_MAX_NDIM]; /* -1: symbolic */
} hl_onnx_port;

typedef struct hl_onnx hl_onnx;
struct hl_onnx {
    hl_arena *arena;
    const char *path, *producer;
    int64_t opset;
    hl_onnx_node *nodes;
    size_t node_count;
    hl_onnx_port *inputs, *outputs; /* inputs: without those that are initialisers */
    size_t input_count, output_count;
    hl_tensor_map *tensors; /* initialisers; its metadata is the model's metadata_props */
    size_t bytes;           /* of the file and of its external data */
};

/* Reads a file. Errors: HL_E_INPUT for a damaged one, HL_E_UNSUPPORTED for another opset, external data
 * outside the model's folder, element types that no weight has. */
hl_status hl_onnx_read(const char *path, hl_onnx **model);

/* The same of bytes in memory, which must outlive the model. `what` names them in errors. folder: where
 * external data may be; NULL: nowhere. */
hl_status hl_onnx_parse(const char *what, const void *bytes, size_t size, const char *folder,
                        hl_onnx **model);
void hl_onnx_destroy(hl_onnx *model); /* NULL is fine */

/* Whether the bytes begin like an ONNX file (which has no magic number). */
bool hl_onnx_sniff(const void *bytes, size_t size);

/* NULL where the node has no such attribute. */
const hl_onnx_attr *hl_onnx_attr_find(const hl_onnx_node *node, const char *name);

/* Takes the initialisers out, as a map of its own; the model can do without them no longer and is destroyed.
 */
hl_status hl_onnx_take_tensors(hl_onnx *model, hl_tensor_map **map);

#endif
