/* Runs the built program as a user would. */
#ifndef HL_TESTS_PROGRAM_H
#define HL_TESTS_PROGRAM_H

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

typedef struct program_result {
    int status;      /* exit status; -N when a signal N ended it */
    char *out, *err; /* all of stdout and stderr */
} program_result;

/* `line` is split at spaces; "@/" at the start of a word, or after '=', stands for `folder` and a slash.
 * file_limit: largest file it may write, in bytes, 0: any. The caller gives the result to program_free. */
program_result program_run(const char *folder, size_t file_limit, const char *line);

/* The two halves of it, for what is to be done in between. */
typedef struct program_started {
    pid_t pid;
    FILE *out, *err;
} program_started;
program_started program_start(const char *folder, size_t file_limit, const char *line);
program_result program_wait(program_started started);

void program_free(program_result *result);

/* The same without a limit, and checks that all was well; what it printed is the caller's to free. */
char *program_succeeds(const char *folder, const char *line);

/* The same, and checks that it printed exactly one JSON object, which is the caller's to release. */
json_t *program_json(const char *folder, const char *line);
/* The number under `key`, which has to be there. */
double program_number(const json_t *object, const char *key);

/* Runs it, and checks what holds for every failure: this exit status, nothing on stdout, and on stderr,
 * besides warnings, exactly one line "heirloom: WHAT: WHY" which has `text` in it. */
void program_fails(const char *folder, const char *line, int status, const char *text);

#endif
