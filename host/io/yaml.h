/* YAML configurations: a mapping from keys to scalars or lists of scalars. Mappings inside it are flattened,
 * so that "grid: {lr: [0.1, 0.2]}" has the key "grid.lr". */
#ifndef HL_IO_YAML_H
#define HL_IO_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct hl_yaml_scalar {
    const char *text;
    bool quoted; /* written in quotes: a text, whatever it looks like */
} hl_yaml_scalar;

typedef struct hl_yaml_item {
    const char *key;
    int line;     /* in the file, from 1; 0 for an item that was set */
    bool is_list; /* else there is exactly one value */
    bool used;    /* by hl_yaml_find */
    hl_yaml_scalar *values;
    size_t count;
} hl_yaml_item;

typedef struct hl_yaml hl_yaml;

hl_status hl_yaml_create(const char *name, hl_yaml **yaml); /* empty; `name` is for errors */
void hl_yaml_destroy(hl_yaml *yaml);                        /* NULL is fine */

/* At most 1 MiB. Duplicate keys, anchors, aliases, tags, several documents, and lists of anything but scalars
 * are refused with their line. An empty file gives an empty configuration. */
hl_status hl_yaml_read(const char *path, hl_yaml **yaml);
hl_status hl_yaml_parse(const char *name, const char *text, size_t size, hl_yaml **yaml);

/* Items in the file's order. Pointers are valid until the next item is set. */
size_t hl_yaml_count(const hl_yaml *yaml);
const hl_yaml_item *hl_yaml_at(const hl_yaml *yaml, size_t i);

/* NULL when there is none. Marks the item used. */
const hl_yaml_item *hl_yaml_find(hl_yaml *yaml, const char *key);

/* The first item that was never found: a key nobody knows. NULL when all were. */
const hl_yaml_item *hl_yaml_unused(const hl_yaml *yaml);

/* Typed values of an item that is no list; errors name file, line, key and value. A text may be any scalar
 * but null. */
hl_status hl_yaml_text(const hl_yaml *yaml, const hl_yaml_item *item, const char **value);
hl_status hl_yaml_bool(const hl_yaml *yaml, const hl_yaml_item *item, bool *value);
hl_status hl_yaml_int(const hl_yaml *yaml, const hl_yaml_item *item, int64_t *value);
hl_status hl_yaml_real(const hl_yaml *yaml, const hl_yaml_item *item, double *value);
bool hl_yaml_is_null(const hl_yaml_item *item);

/* Adds or replaces an item for writing; keys are written as they are, dots included. Texts are quoted where
 * they would otherwise be read as something else; reals get the shortest digits that give the same double
 * back. */
hl_status hl_yaml_set_text(hl_yaml *yaml, const char *key, const char *value);
hl_status hl_yaml_set_bool(hl_yaml *yaml, const char *key, bool value);
hl_status hl_yaml_set_int(hl_yaml *yaml, const char *key, int64_t value);
hl_status hl_yaml_set_real(hl_yaml *yaml, const char *key, double value);
hl_status hl_yaml_set_null(hl_yaml *yaml, const char *key);

/* Writes one "key: value" a line, lists as "key: [a, b]", whole or not at all. */
hl_status hl_yaml_write(const char *path, const hl_yaml *yaml);

#endif
