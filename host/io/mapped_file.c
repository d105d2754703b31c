#include "io/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

hl_status hl_mapped_file_open(const char *path, hl_mapped_file *file)
{
    *file = (hl_mapped_file){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return hl_fail(errno == ENOENT || errno == ENOTDIR ? HL_E_NOT_FOUND : HL_E_IO, path, "check the path",
                       "cannot be opened: %s", strerror(errno));
    hl_status status = HL_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = hl_fail(HL_E_IO, path, NULL, "cannot be examined: %s", strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = hl_fail(HL_E_INPUT, path, "name a file", "is %s, not a regular file",
                         S_ISDIR(info.st_mode) ? "a folder" : "a device or pipe");
    } else if (info.st_size > 0) {
        void *memory = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (memory == MAP_FAILED)
            status = hl_fail(HL_E_IO, path, NULL, "cannot be mapped into memory: %s", strerror(errno));
        else
            *file = (hl_mapped_file){.bytes = memory, .size = (size_t)info.st_size};
    }
    close(fd);
    return status;
}

void hl_mapped_file_close(hl_mapped_file *file)
{
    if (file->bytes != NULL)
        munmap((void *)(uintptr_t)file->bytes, file->size);
    *file = (hl_mapped_file){0};
}
