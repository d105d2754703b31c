/* A whole file as read-only memory. */
#ifndef HL_IO_MAPPED_FILE_H
#define HL_IO_MAPPED_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct hl_mapped_file {
    const uint8_t *bytes; /* page-aligned; NULL when the file is empty */
    size_t size;
} hl_mapped_file;

/* Maps a regular file. HL_E_NOT_FOUND when there is none, HL_E_INPUT for a folder or device. Whoever shortens
 * the file while it is mapped makes reads fail with SIGBUS; files replaced by renaming are safe. */
hl_status hl_mapped_file_open(const char *path, hl_mapped_file *file);
void hl_mapped_file_close(hl_mapped_file *file); /* of zeros: nothing to do */

#endif
