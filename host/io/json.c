#include "io/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/atomic_file.h"
#include "io/text_file.h"

struct hl_json_lines {
    int fd;
    char *path;
};

hl_status hl_json_read(const char *path, size_t limit, json_t **document)
{
    char *text;
    size_t size;
    json_error_t error;
    *document = NULL;
    HL_TRY(hl_text_file_read(path, limit, &text, &size));
    *document = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    free(text);
    return *document != NULL ? HL_OK
                             : hl_fail(HL_E_INPUT, path, "correct the file", "line %d, column %d: %s",
                                       error.line, error.column, error.text);
}

hl_status hl_json_write(const char *path, const json_t *document)
{
    char *text = document == NULL ? NULL : json_dumps(document, JSON_INDENT(2) | JSON_ENCODE_ANY);
    if (text == NULL)
        return hl_fail(HL_E_INTERNAL, path, NULL, "the document cannot be written as JSON");
    size_t length = strlen(text);
    text[length] = '\n'; /* takes the place of the NUL */
    hl_status status = hl_atomic_put(path, text, length + 1);
    free(text);
    return status;
}

json_t *hl_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

hl_status hl_json_class_names(const char *const *names, int64_t count, char **text)
{
    json_t *list = json_array();
    bool whole = list != NULL;
    for (int64_t i = 0; whole && i < count; i++) {
        json_t *name = json_string(names[i]);
        whole =
            json_array_append_new(list, name != NULL ? name : json_sprintf("class %lld", (long long)i)) == 0;
    }
    *text = whole ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    return *text != NULL ? HL_OK : hl_fail_nomem("class names", 0);
}

/* Cuts what follows the last newline. */
static hl_status drop_partial_line(int fd, const char *path)
{
    char buffer[4096];
    off_t end = lseek(fd, 0, SEEK_END), keep = end;
    for (bool found = false; keep > 0 && !found;) {
        off_t begin = keep > (off_t)sizeof buffer ? keep - (off_t)sizeof buffer : 0;
        ssize_t got = pread(fd, buffer, (size_t)(keep - begin), begin);
        if (got != keep - begin)
            return hl_fail(HL_E_IO, path, NULL, "cannot be read: %s",
                           got < 0 ? strerror(errno) : "it got shorter");
        const char *newline = memrchr(buffer, '\n', (size_t)got);
        found = newline != NULL;
        keep = found ? begin + (newline - buffer) + 1 : begin;
    }
    if (end < 0 || (keep != end && ftruncate(fd, keep) != 0))
        return hl_fail(HL_E_IO, path, NULL, "cannot be cut to whole lines: %s", strerror(errno));
    return HL_OK;
}

hl_status hl_json_lines_open(const char *path, bool append, hl_json_lines **out)
{
    *out = NULL;
    hl_json_lines *lines = calloc(1, sizeof *lines);
    if (lines == NULL)
        return hl_fail_nomem(path, sizeof *lines);
    lines->fd = -1;
    lines->path = strdup(path);
    if (lines->path == NULL) {
        free(lines);
        return hl_fail_nomem(path, strlen(path) + 1);
    }
    hl_status status = HL_OK;
    lines->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | (append ? 0 : O_TRUNC), 0666);
    if (lines->fd < 0)
        status = hl_fail(HL_E_IO, path, "choose a folder that can be written to", "cannot be opened: %s",
                         strerror(errno));
    else if (append)
        status = drop_partial_line(lines->fd, path);
    if (status == HL_OK) {
        *out = lines;
        return HL_OK;
    }
    if (lines->fd >= 0)
        close(lines->fd);
    free(lines->path);
    free(lines);
    return status;
}

hl_status hl_json_lines_put(hl_json_lines *lines, json_t *object)
{
    char *text = object == NULL ? NULL : json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (text == NULL)
        return hl_fail(HL_E_INTERNAL, lines->path, NULL, "a record cannot be written as JSON");
    size_t length = strlen(text) + 1, done = 0;
    text[length - 1] = '\n';
    hl_status status = HL_OK;
    while (status == HL_OK && done < length) {
        ssize_t put = write(lines->fd, text + done, length - done);
        if (put > 0)
            done += (size_t)put;
        else if (put == 0 || errno != EINTR)
            status = hl_fail(HL_E_IO, lines->path, "free disk space and run again", "writing failed: %s",
                             strerror(errno));
    }
    free(text);
    return status;
}

hl_status hl_json_lines_close(hl_json_lines *lines)
{
    if (lines == NULL)
        return HL_OK;
    hl_status status = HL_OK;
    if ((fsync(lines->fd) != 0 && errno != EINVAL) || close(lines->fd) != 0)
        status = hl_fail(HL_E_IO, lines->path, NULL, "closing failed: %s", strerror(errno));
    free(lines->path);
    free(lines);
    return status;
}
