/* Python pickles as a tree of plain values. Nothing is executed: a class or function ("global") is only a
 * name, which must be on the caller's list, and calling one gives an OBJECT that records the callable and its
 * arguments. */
#ifndef HL_IO_PICKLE_H
#define HL_IO_PICKLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"

typedef enum hl_pickle_kind {
    HL_PICKLE_NONE,
    HL_PICKLE_BOOL,   /* integer: 0 or 1 */
    HL_PICKLE_INT,    /* integer */
    HL_PICKLE_LONG,   /* text, size: little-endian two's complement, more than 8 bytes */
    HL_PICKLE_FLOAT,  /* real */
    HL_PICKLE_STRING, /* text (NUL-terminated), size */
    HL_PICKLE_BYTES,  /* the same */
    HL_PICKLE_TUPLE,  /* items, count */
    HL_PICKLE_LIST,   /* the same; sets too */
    HL_PICKLE_DICT,   /* items: key, value, key, value ...; count: of both; OrderedDict too */
    HL_PICKLE_GLOBAL, /* text: "module.name" */
    HL_PICKLE_PERSID, /* items[0]: the persistent id */
    HL_PICKLE_OBJECT  /* items[0]: the callable, items[1]: a TUPLE of its arguments */
} hl_pickle_kind;

/* Values are shared where the pickle shares them and may even contain themselves: walks must be bounded. */
typedef struct hl_pickle {
    hl_pickle_kind kind;
    bool visited; /* for the caller's walks */
    union {
        int64_t integer;
        double real;
        const char *text;
        struct hl_pickle **items;
    };
    uint32_t size; /* of text */
    uint32_t count, capacity;
} hl_pickle;

/* Reads one pickle from the start of `bytes`. Values live in `arena`; *used (may be NULL) is the number of
 * bytes it took. allow(name) tells whether the global "module.name" is known. `what` names the file in
 * errors. */
hl_status hl_pickle_read(const char *what, const uint8_t *bytes, size_t size, bool (*allow)(const char *name),
                         hl_arena *arena, hl_pickle **value, size_t *used);

/* The value of a text key in a DICT (the last one set); NULL when there is none. */
hl_pickle *hl_pickle_find(const hl_pickle *dict, const char *key);

/* True for an OBJECT whose callable is the global `name`. */
bool hl_pickle_is_call(const hl_pickle *value, const char *name);

#endif
