/* SHA-256 of files and of what tensor maps hold, as 64 hexadecimal digits. */
#ifndef HL_IO_SHA256_H
#define HL_IO_SHA256_H

#include <nettle/sha2.h>

#include "io/tensor_map.h"

enum { HL_SHA256_HEX = 65 }; /* digits and the NUL */

void hl_sha256_bytes(const void *bytes, size_t size, char hex[HL_SHA256_HEX]);

/* The digest of what nettle's sha256_update has been given. */
void hl_sha256_end(struct sha256_ctx *context, char hex[HL_SHA256_HEX]);

hl_status hl_sha256_file(const char *path, char hex[HL_SHA256_HEX]);

/* Of the tensors, whatever file they came from and in which order: sorted by name, for each the name and its
 * NUL, the dtype's name and its NUL, the number of dimensions and each of them as little-endian int64, the
 * data. Metadata is left out. */
hl_status hl_sha256_tensor_map(const hl_tensor_map *map, char hex[HL_SHA256_HEX]);

#endif
