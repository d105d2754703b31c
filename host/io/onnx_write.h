/* Writing ONNX files, node by node:
 *
 *     hl_onnx_writer *w;
 *     HL_TRY(hl_onnx_writer_create(&w));
 *     hl_onnx_put_port(w, false, "input", 4, dims);
 *     hl_onnx_put_node(w, "Relu", "act", (const char *[]){"input"}, 1, (const char *[]){"output"}, 1);
 *     hl_onnx_put_port(w, true, "output", 4, dims);
 *     status = hl_onnx_writer_save(w, path);
 *     hl_onnx_writer_destroy(w);
 *
 * Errors of the put functions stick and are what saving returns. */
#ifndef HL_IO_ONNX_WRITE_H
#define HL_IO_ONNX_WRITE_H

#include "io/tensor_map.h"

enum { HL_ONNX_OPSET_WRITTEN = 17, HL_ONNX_IR_WRITTEN = 8 };

typedef struct hl_onnx_writer hl_onnx_writer;

hl_status hl_onnx_writer_create(hl_onnx_writer **writer);
void hl_onnx_writer_destroy(hl_onnx_writer *writer); /* NULL is fine */

/* A float32 input or output of the graph. Dimensions below zero are symbolic: -1 "N", -2 "H", -3 "W", -4
 * "out_h", -5 "out_w". */
void hl_onnx_put_port(hl_onnx_writer *writer, bool output, const char *name, int ndim, const int64_t *dims);

/* A node; attributes that follow are its own. */
void hl_onnx_put_node(hl_onnx_writer *writer, const char *op, const char *name, const char *const *in,
                      int in_count, const char *const *out, int out_count);
void hl_onnx_put_int(hl_onnx_writer *writer, const char *attr, int64_t value);
void hl_onnx_put_ints(hl_onnx_writer *writer, const char *attr, const int64_t *values, int count);
void hl_onnx_put_float(hl_onnx_writer *writer, const char *attr, float value);

/* An initialiser; the data is copied. */
void hl_onnx_put_tensor(hl_onnx_writer *writer, const char *name, hl_dtype dtype, int ndim,
                        const int64_t *shape, const void *data);
void hl_onnx_put_meta(hl_onnx_writer *writer, const char *key, const char *value);

/* Writes the file whole or not at all. What is beyond the 2 GiB of a protobuf message is refused. */
hl_status hl_onnx_writer_save(hl_onnx_writer *writer, const char *path);

#endif
