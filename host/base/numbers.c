#include "base/numbers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *hl_numbers_text(const float *values, int64_t count, char separator, char *buf, size_t size)
{
    size_t used = 0;
    buf[0] = '\0';
    for (int64_t i = 0; i < count && used < size; i++) {
        const char between[] = {i > 0 ? separator : '\0', '\0'};
        used += (size_t)snprintf(buf + used, size - used, "%s%.9g", between, (double)values[i]);
    }
    return buf;
}

int64_t hl_numbers_parse(const char *text, char separator, int64_t most, float *values)
{
    for (int64_t i = 0; i < most; i++) {
        char *end;
        values[i] = strtof(text, &end);
        if (end == text || !isfinite(values[i]) || (*end != separator && *end != '\0'))
            return 0;
        if (*end == '\0')
            return i + 1;
        text = end + 1;
    }
    return 0;
}
