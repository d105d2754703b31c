#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static void write_line(const hl_log *log, hl_log_level level, const char *format, va_list args)
{
    if (log == NULL || log->write == NULL)
        return;
    char line[1024];
    vsnprintf(line, sizeof line, format, args);
    log->write(log->user, level, line);
}

void hl_log_info(const hl_log *log, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(log, HL_LOG_INFO, format, args);
    va_end(args);
}

void hl_log_warn(const hl_log *log, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    write_line(log, HL_LOG_WARNING, format, args);
    va_end(args);
}
