/* Short lists of numbers as text: a value for every channel. */
#ifndef HL_BASE_NUMBERS_H
#define HL_BASE_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

enum { HL_NUMBERS_SIZE = 80 }; /* holds the text of four numbers */

/* Writes `count` numbers with `separator` between them, so that reading them gives the same floats; returns
 * buf. What does not fit is cut off. */
const char *hl_numbers_text(const float *values, int64_t count, char separator, char *buf, size_t size);

/* Reads 1 to `most` finite numbers with `separator` between them and nothing else; returns how many, 0 where
 * the text is something else. */
int64_t hl_numbers_parse(const char *text, char separator, int64_t most, float *values);

#endif
