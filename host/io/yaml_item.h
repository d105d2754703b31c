/* What reading and writing of YAML share. */
#ifndef HL_IO_YAML_ITEM_H
#define HL_IO_YAML_ITEM_H

#include "base/memory.h"
#include "io/yaml.h"

struct hl_yaml {
    hl_arena *arena;
    const char *name;
    hl_yaml_item *items;
    size_t count, capacity;
};

/* A new item at the end, its text copied; no check for duplicates. */
hl_status hl_yaml_append(hl_yaml *yaml, const char *key, int line, hl_yaml_item **item);
hl_status hl_yaml_append_value(hl_yaml *yaml, hl_yaml_item *item, size_t *capacity, const char *text,
                               bool quoted);
hl_yaml_item *hl_yaml_lookup(const hl_yaml *yaml, const char *key);

/* Whether a plain scalar is read as null, a bool or a number by some YAML 1.1 or 1.2 reader. */
bool hl_yaml_looks_typed(const char *text);

#endif
