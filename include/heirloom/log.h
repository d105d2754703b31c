/* The message sink a program hands to the library. */
#ifndef HEIRLOOM_LOG_H
#define HEIRLOOM_LOG_H

#include <heirloom/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hl_log_level { HL_LOG_INFO, HL_LOG_WARNING } hl_log_level;

/* `write` gets one line without a newline, possibly from several threads, one at a time. */
typedef struct hl_log {
    void (*write)(void *user, hl_log_level level, const char *line);
    void *user;
} hl_log;

#ifdef __cplusplus
}
#endif
#endif
