#include "io/pickle.h"

#include <stdlib.h>
#include <string.h>

#include "io/pickle_machine.h"

enum { LINE_LIMIT = 4096 };

/* --- reading the stream --- */

static hl_status take(hl_pickle_machine *m, uint64_t count, const uint8_t **bytes)
{
    if (count > m->size - m->at)
        return hl_pm_broken(m, "it is cut short");
    *bytes = m->bytes + m->at;
    m->at += (size_t)count;
    return HL_OK;
}

static hl_status take_uint(hl_pickle_machine *m, int width, uint64_t *value)
{
    const uint8_t *bytes = NULL;
    HL_TRY(take(m, (uint64_t)width, &bytes));
    *value = 0;
    for (int i = 0; i < width; i++)
        *value |= (uint64_t)bytes[i] << 8 * i;
    return HL_OK;
}

/* A line of text without its newline, as a NUL-terminated copy. */
static hl_status take_line(hl_pickle_machine *m, const char **line)
{
    size_t rest = m->size - m->at;
    const uint8_t *begin = m->bytes + m->at;
    const uint8_t *end = rest == 0 ? NULL : memchr(begin, '\n', rest < LINE_LIMIT ? rest : LINE_LIMIT);
    if (end == NULL)
        return hl_pm_broken(m, "a line does not end");
    size_t length = (size_t)(end - begin);
    char *copy = hl_arena_take(m->arena, length + 1);
    if (copy == NULL)
        return HL_E_NOMEM;
    memcpy(copy, begin, length);
    m->at += length + 1;
    *line = copy;
    return HL_OK;
}

static hl_status push_text(hl_pickle_machine *m, hl_pickle_kind kind, int width)
{
    uint64_t length = 0;
    const uint8_t *bytes = NULL;
    hl_pickle *value = NULL;
    HL_TRY(take_uint(m, width, &length));
    HL_TRY(take(m, length, &bytes));
    if (length > UINT32_MAX - 1)
        return hl_pm_broken(m, "a text of 4 GiB or more");
    char *copy = hl_arena_take(m->arena, (size_t)length + 1);
    if (copy == NULL)
        return HL_E_NOMEM;
    memcpy(copy, bytes, (size_t)length);
    HL_TRY(hl_pm_push_new(m, kind, &value));
    value->text = copy;
    value->size = (uint32_t)length;
    return HL_OK;
}

/* Little-endian two's complement of any length. */
static hl_status push_long(hl_pickle_machine *m, int width)
{
    uint64_t length = 0;
    HL_TRY(take_uint(m, width, &length));
    if (length > 8) {
        m->at -= (size_t)width;
        return push_text(m, HL_PICKLE_LONG, width);
    }
    const uint8_t *bytes = NULL;
    HL_TRY(take(m, length, &bytes));
    uint64_t value = length > 0 && (bytes[length - 1] & 0x80u) != 0 ? UINT64_MAX : 0;
    for (size_t i = 0; i < length; i++)
        value = (value & ~((uint64_t)0xff << 8 * i)) | (uint64_t)bytes[i] << 8 * i;
    return hl_pm_push_int(m, HL_PICKLE_INT, (int64_t)value);
}

/* Protocol 0's decimal numbers; INT's "00" and "01" are False and True. */
static hl_status push_decimal(hl_pickle_machine *m, char opcode)
{
    const char *line = NULL;
    char *end;
    HL_TRY(take_line(m, &line));
    if (opcode == 'F') {
        hl_pickle *value;
        HL_TRY(hl_pm_push_new(m, HL_PICKLE_FLOAT, &value));
        value->real = strtod(line, &end);
        return *line == '\0' || *end != '\0' ? hl_pm_broken(m, "not a number") : HL_OK;
    }
    if (opcode == 'I' && (strcmp(line, "00") == 0 || strcmp(line, "01") == 0))
        return hl_pm_push_int(m, HL_PICKLE_BOOL, line[1] == '1');
    long long integer = strtoll(line, &end, 10);
    if (*line == '\0' || (*end != '\0' && strcmp(end, "L") != 0))
        return hl_pm_broken(m, "not a whole number");
    return hl_pm_push_int(m, HL_PICKLE_INT, integer);
}

static hl_status push_float(hl_pickle_machine *m)
{
    const uint8_t *bytes = NULL;
    hl_pickle *value = NULL;
    HL_TRY(take(m, 8, &bytes));
    HL_TRY(hl_pm_push_new(m, HL_PICKLE_FLOAT, &value));
    uint64_t bits = 0;
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | bytes[i];
    memcpy(&value->real, &bits, sizeof bits);
    return HL_OK;
}

static hl_status by_index(hl_pickle_machine *m, hl_status (*act)(hl_pickle_machine *, uint64_t), int width)
{
    uint64_t index = 0;
    HL_TRY(take_uint(m, width, &index));
    return act(m, index);
}

static hl_status by_decimal(hl_pickle_machine *m, hl_status (*act)(hl_pickle_machine *, uint64_t))
{
    const char *line = NULL;
    char *end;
    HL_TRY(take_line(m, &line));
    unsigned long long index = strtoull(line, &end, 10);
    return *line == '\0' || *end != '\0' ? hl_pm_broken(m, "not a memo index") : act(m, index);
}
/* One opcode; *value is set by the last one. */
static hl_status step(hl_pickle_machine *m, uint8_t opcode, hl_pickle **value)
{
    const uint8_t *ignored;
    const char *line = NULL, *name = NULL;
    hl_pickle *top = NULL;
    uint64_t number = 0;
    switch (opcode) {
    case 0x80: /* PROTO */
        HL_TRY(take_uint(m, 1, &number));
        return number > 5 ? hl_pm_broken(m, "its protocol is newer than 5") : HL_OK;
    case 0x95: /* FRAME: its length is of no use to a reader of memory */
        return take(m, 8, &ignored);
    case '.': /* STOP */
        return hl_pm_pop(m, value);
    case '(':
        return hl_pm_mark(m);
    case '0': /* POP */
        return hl_pm_pop_value_or_mark(m);
    case '1': /* POP_MARK */
        return hl_pm_pop_marked(m);
    case '2': /* DUP */
        HL_TRY(hl_pm_top(m, &top));
        return hl_pm_push(m, top);
    case 'N':
        return hl_pm_push_int(m, HL_PICKLE_NONE, 0);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return hl_pm_push_int(m, HL_PICKLE_BOOL, opcode == 0x88);
    case 'J': /* BININT */
        HL_TRY(take_uint(m, 4, &number));
        return hl_pm_push_int(m, HL_PICKLE_INT, (int32_t)(uint32_t)number);
    case 'K': /* BININT1 */
    case 'M': /* BININT2 */
        HL_TRY(take_uint(m, opcode == 'K' ? 1 : 2, &number));
        return hl_pm_push_int(m, HL_PICKLE_INT, (int64_t)number);
    case 0x8a: /* LONG1 */
        return push_long(m, 1);
    case 0x8b: /* LONG4 */
        return push_long(m, 4);
    case 'G': /* BINFLOAT */
        return push_float(m);
    case 'I':
    case 'L':
    case 'F':
        return push_decimal(m, (char)opcode);
    case 'X': /* BINUNICODE */
    case 'T': /* BINSTRING: a text of Python 2 */
        return push_text(m, HL_PICKLE_STRING, 4);
    case 0x8c: /* SHORT_BINUNICODE */
    case 'U':  /* SHORT_BINSTRING */
        return push_text(m, HL_PICKLE_STRING, 1);
    case 0x8d: /* BINUNICODE8 */
        return push_text(m, HL_PICKLE_STRING, 8);
    case 'B': /* BINBYTES */
        return push_text(m, HL_PICKLE_BYTES, 4);
    case 'C': /* SHORT_BINBYTES */
        return push_text(m, HL_PICKLE_BYTES, 1);
    case 0x8e: /* BINBYTES8 */
    case 0x96: /* BYTEARRAY8 */
        return push_text(m, HL_PICKLE_BYTES, 8);
    case ')': /* EMPTY_TUPLE */
        return hl_pm_push_tuple(m, 0);
    case 0x85: /* TUPLE1 */
    case 0x86:
    case 0x87: /* TUPLE3 */
        return hl_pm_push_tuple(m, (size_t)opcode - 0x84);
    case 't':  /* TUPLE */
    case 0x91: /* FROZENSET */
        return hl_pm_push_marked(m, HL_PICKLE_TUPLE);
    case ']':  /* EMPTY_LIST */
    case 0x8f: /* EMPTY_SET */
        return hl_pm_push_new(m, HL_PICKLE_LIST, &top);
    case 'l': /* LIST */
        return hl_pm_push_marked(m, HL_PICKLE_LIST);
    case 'a': /* APPEND */
        return hl_pm_extend_popped(m, HL_PICKLE_LIST, 1);
    case 'e':  /* APPENDS */
    case 0x90: /* ADDITEMS */
        return hl_pm_extend_marked(m, HL_PICKLE_LIST);
    case '}': /* EMPTY_DICT */
        return hl_pm_push_new(m, HL_PICKLE_DICT, &top);
    case 'd': /* DICT */
        return hl_pm_push_marked(m, HL_PICKLE_DICT);
    case 's': /* SETITEM */
        return hl_pm_extend_popped(m, HL_PICKLE_DICT, 2);
    case 'u': /* SETITEMS */
        return hl_pm_extend_marked(m, HL_PICKLE_DICT);
    case 'c': /* GLOBAL */
        HL_TRY(take_line(m, &line));
        HL_TRY(take_line(m, &name));
        return hl_pm_push_global(m, line, name);
    case 0x93: /* STACK_GLOBAL */
        return hl_pm_push_stack_global(m);
    case 'R':  /* REDUCE */
    case 0x81: /* NEWOBJ */
        return hl_pm_call(m);
    case 0x92: /* NEWOBJ_EX: keyword arguments are of no use here */
        HL_TRY(hl_pm_pop(m, &top));
        return hl_pm_call(m);
    case 'b': /* BUILD */
        return hl_pm_build(m);
    case 'Q': /* BINPERSID */
        return hl_pm_push_persid(m);
    case 'q': /* BINPUT */
        return by_index(m, hl_pm_memo_put, 1);
    case 'r': /* LONG_BINPUT */
        return by_index(m, hl_pm_memo_put, 4);
    case 'p': /* PUT */
        return by_decimal(m, hl_pm_memo_put);
    case 0x94: /* MEMOIZE */
        return hl_pm_memo_put(m, m->memo_count);
    case 'h': /* BINGET */
        return by_index(m, hl_pm_memo_get, 1);
    case 'j': /* LONG_BINGET */
        return by_index(m, hl_pm_memo_get, 4);
    case 'g': /* GET */
        return by_decimal(m, hl_pm_memo_get);
    default:
        return hl_fail(HL_E_INPUT, m->what, "convert the file to .safetensors in Python",
                       "its pickle has the opcode 0x%02x at byte %zu, which no state dict needs", opcode,
                       m->at - 1);
    }
}

hl_status hl_pickle_read(const char *what, const uint8_t *bytes, size_t size, bool (*allow)(const char *name),
                         hl_arena *arena, hl_pickle **value, size_t *used)
{
    hl_pickle_machine *m = calloc(1, sizeof *m);
    if (m == NULL)
        return hl_fail_nomem(what, sizeof *m);
    *m = (hl_pickle_machine){.what = what, .bytes = bytes, .size = size, .allow = allow, .arena = arena};
    hl_status status = HL_OK;
    *value = NULL;
    while (status == HL_OK && *value == NULL) {
        const uint8_t *opcode = NULL;
        status = take(m, 1, &opcode);
        if (status == HL_OK)
            status = step(m, *opcode, value);
    }
    if (status == HL_OK && used != NULL)
        *used = m->at;
    free(m->stack);
    free(m->memo);
    free(m);
    return status;
}

hl_pickle *hl_pickle_find(const hl_pickle *dict, const char *key)
{
    size_t length = strlen(key);
    for (size_t i = dict->kind == HL_PICKLE_DICT ? dict->count : 0; i >= 2; i -= 2) {
        const hl_pickle *name = dict->items[i - 2];
        if (name->kind == HL_PICKLE_STRING && name->size == length && memcmp(name->text, key, length) == 0)
            return dict->items[i - 1];
    }
    return NULL;
}

bool hl_pickle_is_call(const hl_pickle *value, const char *name)
{
    return value->kind == HL_PICKLE_OBJECT && strcmp(value->items[0]->text, name) == 0;
}
