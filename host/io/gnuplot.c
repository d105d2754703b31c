#include "io/gnuplot.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static bool put(const char *path, const char *text)
{
    FILE *file = fopen(path, "wxe");
    bool written = file != NULL && fputs(text, file) >= 0;
    return file != NULL && fclose(file) == 0 && written;
}

/* Temporary files lie in a folder of their own, the picture beside its final place so that it can be renamed.
 */
static bool make_folder(char *folder, size_t size)
{
    const char *base = getenv("TMPDIR");
    return snprintf(folder, size, "%s/heirloom-XXXXXX", base != NULL && *base != '\0' ? base : "/tmp") <
               (int)size &&
           mkdtemp(folder) != NULL;
}

static bool spawn(const char *script, const char *data, const char *part)
{
    char *const arguments[] = {"gnuplot", "-c", (char *)script, (char *)data, (char *)part, NULL};
    posix_spawn_file_actions_t quiet;
    pid_t child;
    int status = -1;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&child, arguments[0], &quiet, NULL, arguments, environ) == 0)
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    posix_spawn_file_actions_destroy(&quiet);
    return status == 0;
}

static bool draw(const char *folder, const char *script, const char *data, const char *picture)
{
    char commands[4096 + 32], part[4096 + 32];
    const char *slash = strrchr(picture, '/');
    int length = slash != NULL ? (int)(slash - picture) + 1 : 0;
    if (snprintf(commands, sizeof commands, "%s/script.gp", folder) >= (int)sizeof commands ||
        snprintf(part, sizeof part, "%.*s.%s.part.png", length, picture, picture + length) >=
            (int)sizeof part)
        return false;
    bool done = put(commands, script) && spawn(commands, data, part) && rename(part, picture) == 0;
    if (!done)
        unlink(part);
    unlink(commands);
    return done;
}

bool hl_gnuplot(const char *script, const char *data, const char *picture)
{
    char folder[4096];
    if (!make_folder(folder, sizeof folder))
        return false;
    bool done = draw(folder, script, data, picture);
    rmdir(folder);
    return done;
}

bool hl_gnuplot_text(const char *script, const char *text, const char *picture)
{
    char folder[4096], data[4096 + 32];
    if (!make_folder(folder, sizeof folder))
        return false;
    snprintf(data, sizeof data, "%s/data", folder);
    bool done = put(data, text) && draw(folder, script, data, picture);
    unlink(data);
    rmdir(folder);
    return done;
}
