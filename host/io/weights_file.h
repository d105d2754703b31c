/* Weights in any supported format. */
#ifndef HL_IO_WEIGHTS_FILE_H
#define HL_IO_WEIGHTS_FILE_H

#include "io/tensor_map.h"

typedef enum hl_weights_format {
    HL_WEIGHTS_UNKNOWN,
    HL_WEIGHTS_SAFETENSORS,
    HL_WEIGHTS_PYTORCH_ZIP,
    HL_WEIGHTS_PYTORCH_LEGACY,
    HL_WEIGHTS_ONNX /* its initialisers */
} hl_weights_format;

const char *hl_weights_format_name(hl_weights_format format);

/* Tells the format by the first bytes; the name plays no part. */
hl_weights_format hl_weights_sniff(const void *bytes, size_t size);

/* Reads a file of any of these formats. What is none of them gets an error that says what it looks like: an
 * empty file, a git-lfs pointer, a web page, a compressed file ... `format` may be NULL. */
hl_status hl_weights_open(const char *path, hl_tensor_map **map, hl_weights_format *format);

#endif
