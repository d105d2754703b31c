/* Where the library's messages go: nowhere, unless the caller gives a sink. */
#ifndef HL_BASE_LOG_H
#define HL_BASE_LOG_H

#include <heirloom/log.h>

/* Formats and passes on a message; nothing happens when `log` or its function is NULL. */
void hl_log_info(const hl_log *log, const char *format, ...) HL_PRINTF(2, 3);
void hl_log_warn(const hl_log *log, const char *format, ...) HL_PRINTF(2, 3);

#endif
