/* Raising and passing on errors inside the library. */
#ifndef HL_BASE_ERROR_H
#define HL_BASE_ERROR_H

#include <heirloom/status.h>

/* Records "what: why (todo)" as the calling thread's last error and returns `status`.
 * what: the file, layer or option at fault. todo: the next step, or NULL. why: printf format. */
hl_status hl_fail(hl_status status, const char *what, const char *todo, const char *why, ...) HL_PRINTF(4, 5);

/* Records `message` (already in the form above) unchanged; for errors carried over from a worker thread. */
hl_status hl_fail_text(hl_status status, const char *message);

/* Out of memory while allocating `bytes` for `what`. */
hl_status hl_fail_nomem(const char *what, unsigned long long bytes);

/* Passes a failure up unchanged. */
#define HL_TRY(expr)                                                                                         \
    do {                                                                                                     \
        hl_status hl_try_status_ = (expr);                                                                   \
        if (hl_try_status_ != HL_OK)                                                                         \
            return hl_try_status_;                                                                           \
    } while (0)

/* The same for functions that clean up at one label: sets `status` and jumps. */
#define HL_TRY_GOTO(expr, status, label)                                                                     \
    do {                                                                                                     \
        (status) = (expr);                                                                                   \
        if ((status) != HL_OK)                                                                               \
            goto label;                                                                                      \
    } while (0)

/* Among the `count` names: up to three that are nearest to `name` by edit distance, written
 * "a, b or c" into `buf`; "" where none is near. */
void hl_nearest_names(const char *name, const char *const *names, int count, char *buf, int buf_size);

#endif
