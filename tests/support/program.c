#include "support/program.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MAX_WORDS = 64 };

/* Beside the folder `tests` that this program lies in: BUILD/tests/DIR/PROGRAM -> BUILD/heirloom. */
static void program_path(char *buf, size_t size)
{
    char self[4096];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    cr_assert_gt(length, 0);
    self[length] = '\0';
    for (int up = 0; up < 3; up++)
        *strrchr(self, '/') = '\0';
    cr_assert_lt(snprintf(buf, size, "%s/heirloom", self), (int)size);
}

static char *read_all(FILE *file)
{
    long size = (fseek(file, 0, SEEK_END), ftell(file));
    char *text = calloc(1, (size_t)size + 1);
    rewind(file);
    cr_assert_eq(fread(text, 1, (size_t)size, file), (size_t)size);
    fclose(file);
    return text;
}

/* Puts the folder's name where a word has "@/". */
static char *expand(const char *folder, const char *word)
{
    const char *at = strstr(word, "@/");
    char *text = malloc(strlen(folder) + strlen(word) + 1);
    if (at == NULL || (at != word && at[-1] != '='))
        return strcpy(text, word);
    sprintf(text, "%.*s%s%s", (int)(at - word), word, folder, at + 1);
    return text;
}

static void child(char **words, size_t file_limit, FILE *out, FILE *err)
{
    const struct rlimit limit = {file_limit, file_limit};
    dup2(fileno(out), STDOUT_FILENO);
    dup2(fileno(err), STDERR_FILENO);
    if (file_limit > 0)
        setrlimit(RLIMIT_FSIZE, &limit);
    execv(words[0], words);
    _exit(127);
}

program_started program_start(const char *folder, size_t file_limit, const char *line)
{
    char path[4096], copy[4096], *words[MAX_WORDS] = {path}, *rest = NULL;
    int count = 1;
    program_path(path, sizeof path);
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok_r(copy, " ", &rest); word != NULL && count < MAX_WORDS - 1;
         word = strtok_r(NULL, " ", &rest))
        words[count++] = expand(folder, word);
    program_started p = {.out = tmpfile(), .err = tmpfile()};
    cr_assert(p.out != NULL && p.err != NULL);
    fflush(NULL);
    p.pid = fork();
    cr_assert_geq(p.pid, 0);
    if (p.pid == 0)
        child(words, file_limit, p.out, p.err);
    for (int i = 1; i < count; i++)
        free(words[i]);
    return p;
}

program_result program_wait(program_started p)
{
    int status;
    cr_assert_eq(waitpid(p.pid, &status, 0), p.pid);
    return (program_result){.status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status),
                            .out = read_all(p.out),
                            .err = read_all(p.err)};
}

program_result program_run(const char *folder, size_t file_limit, const char *line)
{
    return program_wait(program_start(folder, file_limit, line));
}

void program_free(program_result *result)
{
    free(result->out);
    free(result->err);
}

char *program_succeeds(const char *folder, const char *line)
{
    program_result r = program_run(folder, 0, line);
    cr_assert_eq(r.status, 0, "heirloom %s: exit status %d: %s", line, r.status, r.err);
    free(r.err);
    return r.out;
}

json_t *program_json(const char *folder, const char *line)
{
    char *out = program_succeeds(folder, line);
    json_error_t error;
    json_t *object = json_loads(out, JSON_REJECT_DUPLICATES, &error);
    cr_assert(json_is_object(object), "heirloom %s: %s in: %s", line, error.text, out);
    free(out);
    return object;
}

double program_number(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    cr_assert(json_is_number(value), "%s", key);
    return json_number_value(value);
}

void program_fails(const char *folder, const char *line, int status, const char *text)
{
    program_result r = program_run(folder, 0, line);
    cr_assert_eq(r.status, status, "heirloom %s: exit status %d, stderr: %s", line, r.status, r.err);
    cr_assert_str_empty(r.out, "heirloom %s: stdout: %s", line, r.out);
    int errors = 0;
    char *rest = NULL, *copy = strdup(r.err);
    for (char *l = strtok_r(copy, "\n", &rest); l != NULL; l = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(l, "warning: ", 9) == 0)
            continue;
        errors++;
        cr_assert(strncmp(l, "heirloom: ", 10) == 0 && strstr(l + 10, ": ") != NULL,
                  "heirloom %s: stderr: %s", line, l);
    }
    cr_assert_eq(errors, 1, "heirloom %s: %d lines of error: %s", line, errors, r.err);
    cr_assert_not_null(strstr(r.err, text), "heirloom %s: \"%s\" is not in: %s", line, text, r.err);
    free(copy);
    program_free(&r);
}
