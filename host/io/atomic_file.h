/* Files that appear whole or not at all: written under a temporary name in the same folder, synced, renamed.
 *
 *     hl_atomic_file *file;
 *     HL_TRY(hl_atomic_begin(path, &file));
 *     HL_TRY_GOTO(hl_atomic_write(file, bytes, size), status, failed);
 *     return hl_atomic_commit(file);
 * failed:
 *     hl_atomic_abort(file);
 */
#ifndef HL_IO_ATOMIC_FILE_H
#define HL_IO_ATOMIC_FILE_H

#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

typedef struct hl_atomic_file hl_atomic_file;

/* Opens the temporary. A symbolic link at `path` is followed; anything there but a regular file is refused.
 */
hl_status hl_atomic_begin(const char *path, hl_atomic_file **file);

hl_status hl_atomic_write(hl_atomic_file *file, const void *bytes, size_t size);
/* The next write goes to `offset` bytes from the beginning. */
hl_status hl_atomic_seek(hl_atomic_file *file, uint64_t offset);
hl_status hl_atomic_printf(hl_atomic_file *file, const char *format, ...) HL_PRINTF(2, 3);

/* The stream itself, for writers that want a FILE. Errors on it are found by hl_atomic_commit; do not close
 * it. */
FILE *hl_atomic_stream(hl_atomic_file *file);

/* Syncs the file, renames it to its final name and syncs the folder. Ends `file`, also on failure, when the
 * temporary is removed and what was at `path` before stays as it was. */
hl_status hl_atomic_commit(hl_atomic_file *file);

/* Removes the temporary and ends `file`; NULL is fine. Leaves the last error as it is. */
void hl_atomic_abort(hl_atomic_file *file);

/* All of the above for bytes that are ready. */
hl_status hl_atomic_put(const char *path, const void *bytes, size_t size);

#endif
