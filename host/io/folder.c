#include "io/folder.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

hl_status hl_folder_make(const char *path, const char *next_step)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return hl_fail(HL_E_ARG, path, next_step, "the path is too long");
    for (char *slash = strchr(part + (*part == '/'), '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(part, 0777); /* what fails here shows below */
        *slash = '/';
    }
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
        return hl_fail(HL_E_ARG, path, next_step, "the folder cannot be made: %s", strerror(errno));
    struct stat info;
    if (stat(part, &info) != 0 || !S_ISDIR(info.st_mode))
        return hl_fail(HL_E_ARG, path, next_step, "is there already and is no folder");
    return HL_OK;
}
