#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_SIZE = 2048, NAME_MAX_COMPARED = 63 };

static _Thread_local char last_error[MESSAGE_SIZE];

const char *hl_status_text(hl_status status)
{
    switch (status) {
#define X(name, exit_code, text)                                                                             \
    case HL_##name:                                                                                          \
        return text;
        HL_STATUS_LIST(X)
#undef X
    }
    return "unknown status";
}

int hl_status_exit_code(hl_status status)
{
    switch (status) {
#define X(name, exit_code, text)                                                                             \
    case HL_##name:                                                                                          \
        return exit_code;
        HL_STATUS_LIST(X)
#undef X
    }
    return 1;
}

const char *hl_last_error(void)
{
    return last_error;
}

hl_status hl_fail(hl_status status, const char *what, const char *todo, const char *why, ...)
{
    char reason[MESSAGE_SIZE];
    va_list args;
    va_start(args, why);
    vsnprintf(reason, sizeof reason, why, args);
    va_end(args);
    /* `what` and `todo` may point into the previous message, so the new one is built apart. */
    char message[MESSAGE_SIZE];
    int length = snprintf(message, sizeof message, "%s: %s", what, reason);
    if (todo != NULL && length > 0 && length < MESSAGE_SIZE)
        snprintf(message + length, sizeof message - (size_t)length, " (%s)", todo);
    return hl_fail_text(status, message);
}

hl_status hl_fail_text(hl_status status, const char *message)
{
    char copy[MESSAGE_SIZE];
    snprintf(copy, sizeof copy, "%s", message);
    /* One line, whatever a hostile file put into a name. */
    for (char *c = copy; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            *c = '?';
    memcpy(last_error, copy, sizeof copy);
    return status;
}

hl_status hl_fail_nomem(const char *what, unsigned long long bytes)
{
    return hl_fail(HL_E_NOMEM, what, "use a smaller batch or image size", "cannot allocate %llu bytes",
                   bytes);
}

static int smallest(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

static int edit_distance(const char *a, const char *b)
{
    int row[NAME_MAX_COMPARED + 1];
    int length_b = (int)strnlen(b, NAME_MAX_COMPARED);
    for (int j = 0; j <= length_b; j++)
        row[j] = j;
    for (int i = 1; i <= NAME_MAX_COMPARED && a[i - 1] != '\0'; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= length_b; j++) {
            int substituted = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, substituted);
        }
    }
    return row[length_b];
}

void hl_nearest_names(const char *name, const char *const *names, int count, char *buf, int buf_size)
{
    enum { SHOWN = 3 };
    int best[SHOWN], distance[SHOWN], found = 0;
    int limit = (int)(strnlen(name, NAME_MAX_COMPARED) / 2) + 1;
    for (int i = 0; i < count; i++) {
        int d = edit_distance(name, names[i]);
        /* A name typed in part ("mobilenet") is near to the whole one. */
        if (d > limit && strncmp(names[i], name, strlen(name)) != 0)
            continue;
        int at = found < SHOWN ? found++ : SHOWN;
        while (at > 0 && distance[at - 1] > d) {
            if (at < SHOWN) {
                distance[at] = distance[at - 1];
                best[at] = best[at - 1];
            }
            at--;
        }
        if (at < SHOWN) {
            distance[at] = d;
            best[at] = i;
        }
    }
    if (buf_size > 0)
        buf[0] = '\0';
    for (int i = 0, used = 0; i < found && used < buf_size; i++) {
        const char *separator = i == 0 ? "" : i + 1 == found ? " or " : ", ";
        used += snprintf(buf + used, (size_t)(buf_size - used), "%s%s", separator, names[best[i]]);
    }
}
