/* JSON documents and JSON Lines logs, by jansson. */
#ifndef HL_IO_JSON_H
#define HL_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Reads one document of at most `limit` bytes; duplicate keys are refused; errors give the line. The caller
 * calls json_decref. */
hl_status hl_json_read(const char *path, size_t limit, json_t **document);

/* Writes a document, indented, keys in the order they were set, whole or not at all. NULL (jansson's answer
 * to a failed call) is an error, so that results of json_pack can be passed on. Takes no reference. */
hl_status hl_json_write(const char *path, const json_t *document);

/* A number; null where JSON has none for it (NaN and infinities). NULL only when memory is out. */
json_t *hl_json_real(double value);

/* Class names as the text of an array; one that is not UTF-8, which cannot stand in JSON, becomes "class N".
 * The caller frees the text. */
hl_status hl_json_class_names(const char *const *names, int64_t count, char **text);

/* A log of one object a line. */
typedef struct hl_json_lines hl_json_lines;

/* Opens for appending, or anew (`append` false). When appending, a last line without its newline, which a
 * killed process leaves, is removed. */
hl_status hl_json_lines_open(const char *path, bool append, hl_json_lines **lines);

/* Appends the object as one line in one write, so that a reader never sees half of it; takes over the
 * reference, also on failure. */
hl_status hl_json_lines_put(hl_json_lines *lines, json_t *object);

/* Syncs and closes; NULL is fine. */
hl_status hl_json_lines_close(hl_json_lines *lines);

#endif
