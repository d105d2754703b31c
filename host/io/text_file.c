#include "io/text_file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

hl_status hl_text_file_read(const char *path, size_t limit, char **text, size_t *size)
{
    *text = NULL;
    FILE *stream = fopen(path, "rbe");
    if (stream == NULL)
        return hl_fail(errno == ENOENT || errno == ENOTDIR ? HL_E_NOT_FOUND : HL_E_IO, path, "check the path",
                       "cannot be opened: %s", strerror(errno));
    void *buffer = NULL;
    size_t capacity = 0, used = 0;
    hl_status status = hl_grow(&buffer, &capacity, 4096, 1, path);
    while (status == HL_OK) {
        errno = 0;
        size_t got = fread((char *)buffer + used, 1, capacity - used - 1, stream);
        used += got;
        if (got == 0)
            break;
        if (used > limit)
            status = hl_fail(HL_E_INPUT, path, "is it the right file?",
                             "is larger than the limit of %zu bytes", limit);
        else if (used + 1 == capacity)
            status = hl_grow(&buffer, &capacity, capacity + 1, 1, path);
    }
    if (status == HL_OK && ferror(stream))
        status = hl_fail(HL_E_IO, path, NULL, "cannot be read: %s", strerror(errno));
    fclose(stream);
    if (status != HL_OK) {
        free(buffer);
        return status;
    }
    ((char *)buffer)[used] = '\0';
    *text = buffer;
    if (size != NULL)
        *size = used;
    return HL_OK;
}
