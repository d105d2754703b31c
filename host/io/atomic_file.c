#include "io/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct hl_atomic_file {
    char *path, *temporary;
    FILE *stream;
    int first_error; /* errno of the first write that failed, 0 for none */
};

static hl_status io_error(const char *path, const char *doing, int error)
{
    const char *todo = error == ENOSPC || error == EDQUOT || error == EFBIG ? "free disk space and run again"
                       : error == EACCES || error == EROFS ? "choose a folder that can be written to"
                       : error == ENOENT                   ? "create the folder first"
                                                           : NULL;
    return hl_fail(HL_E_IO, path, todo, "%s failed: %s", doing, strerror(error));
}

static void release(hl_atomic_file *file)
{
    free(file->path);
    free(file->temporary);
    free(file);
}

/* The path to rename to, links resolved; NULL with the error recorded. */
static char *final_path(const char *path, hl_status *status)
{
    struct stat info;
    char *result = NULL;
    *status = HL_OK;
    if (stat(path, &info) == 0) {
        if (!S_ISREG(info.st_mode))
            *status = hl_fail(HL_E_ARG, path, "name a file", "exists and is %s, not a regular file",
                              S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
        else if ((result = realpath(path, NULL)) == NULL)
            *status = io_error(path, "resolving the path", errno);
    } else if ((result = strdup(path)) == NULL) {
        *status = hl_fail_nomem(path, strlen(path) + 1);
    }
    return result;
}

hl_status hl_atomic_begin(const char *path, hl_atomic_file **out)
{
    static atomic_uint serial;
    *out = NULL;
    hl_atomic_file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return hl_fail_nomem(path, sizeof *file);
    hl_status status;
    file->path = final_path(path, &status);
    if (file->path == NULL)
        goto failed;
    int fd = -1;
    /* The process and a serial number make the name; a leftover of a dead process is stepped over. */
    for (int attempt = 0; attempt < 100 && fd < 0; attempt++) {
        free(file->temporary);
        if (asprintf(&file->temporary, "%s.%ld-%u.tmp", file->path, (long)getpid(),
                     atomic_fetch_add(&serial, 1)) < 0) {
            file->temporary = NULL;
            status = hl_fail_nomem(path, strlen(path));
            goto failed;
        }
        fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0) {
        status = io_error(path, "creating a temporary file beside it", errno);
        goto failed;
    }
    file->stream = fdopen(fd, "wb");
    if (file->stream == NULL) {
        status = io_error(path, "opening a stream", errno);
        close(fd);
        unlink(file->temporary);
        goto failed;
    }
    *out = file;
    return HL_OK;
failed:
    release(file);
    return status;
}

FILE *hl_atomic_stream(hl_atomic_file *file)
{
    return file->stream;
}

static hl_status written(hl_atomic_file *file, bool good)
{
    if (good)
        return HL_OK;
    if (file->first_error == 0)
        file->first_error = errno == 0 ? EIO : errno;
    return io_error(file->path, "writing", file->first_error);
}

hl_status hl_atomic_write(hl_atomic_file *file, const void *bytes, size_t size)
{
    errno = 0;
    return size == 0 ? HL_OK : written(file, fwrite(bytes, 1, size, file->stream) == size);
}

hl_status hl_atomic_seek(hl_atomic_file *file, uint64_t offset)
{
    errno = 0;
    return written(file, offset <= INT64_MAX && fseeko(file->stream, (off_t)offset, SEEK_SET) == 0);
}

hl_status hl_atomic_printf(hl_atomic_file *file, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    errno = 0;
    int length = vfprintf(file->stream, format, args);
    va_end(args);
    return written(file, length >= 0);
}

static hl_status sync_folder(const char *path)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return hl_fail_nomem(path, strlen(path) + 1);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot sync a folder; the rename itself has happened. */
    int error = fd >= 0 && fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP ? errno : 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return error == 0 ? HL_OK : io_error(path, "syncing its folder", error);
}

hl_status hl_atomic_commit(hl_atomic_file *file)
{
    errno = 0;
    bool good = fflush(file->stream) == 0 && !ferror(file->stream) && file->first_error == 0;
    if (good && fsync(fileno(file->stream)) != 0 && errno != EINVAL)
        good = false;
    hl_status status = written(file, good);
    errno = 0;
    if (fclose(file->stream) != 0 && status == HL_OK)
        status = io_error(file->path, "closing", errno);
    if (status == HL_OK && rename(file->temporary, file->path) != 0)
        status = io_error(file->path, "renaming the finished file", errno);
    if (status != HL_OK)
        unlink(file->temporary);
    else
        status = sync_folder(file->path);
    release(file);
    return status;
}

void hl_atomic_abort(hl_atomic_file *file)
{
    if (file == NULL)
        return;
    fclose(file->stream);
    unlink(file->temporary);
    release(file);
}

hl_status hl_atomic_put(const char *path, const void *bytes, size_t size)
{
    hl_atomic_file *file;
    HL_TRY(hl_atomic_begin(path, &file));
    hl_status status = hl_atomic_write(file, bytes, size);
    if (status != HL_OK) {
        hl_atomic_abort(file);
        return status;
    }
    return hl_atomic_commit(file);
}
