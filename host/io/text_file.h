/* Small text files read whole. */
#ifndef HL_IO_TEXT_FILE_H
#define HL_IO_TEXT_FILE_H

#include <stddef.h>

#include "base/error.h"

/* *text: the file's bytes and a NUL after them, to be freed by the caller. *size (may be NULL) does not count
 * that NUL. More than `limit` bytes are refused. Pipes can be read too. */
hl_status hl_text_file_read(const char *path, size_t limit, char **text, size_t *size);

#endif
