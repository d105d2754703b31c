#include "io/pickle_machine.h"

#include <string.h>

/* A state dict of ten thousand tensors takes about 300 thousand values; what is above this is not one. */
enum { VALUES_LIMIT = 4 * 1000 * 1000 };

hl_status hl_pm_broken(const hl_pickle_machine *m, const char *why)
{
    return hl_fail(HL_E_INPUT, m->what, "download or save the file again",
                   "its pickle is broken at byte %zu: %s", m->at, why);
}

/* --- stack and values --- */

hl_status hl_pm_push(hl_pickle_machine *m, hl_pickle *value)
{
    void *grown = m->stack;
    hl_status status = hl_grow(&grown, &m->stack_capacity, m->depth + 1, sizeof *m->stack, m->what);
    m->stack = grown;
    if (status == HL_OK)
        m->stack[m->depth++] = value;
    return status;
}

static hl_status make(hl_pickle_machine *m, hl_pickle_kind kind, hl_pickle **value)
{
    if (++m->values > VALUES_LIMIT)
        return hl_pm_broken(m, "it holds more than 4 million values");
    *value = hl_arena_take(m->arena, sizeof **value);
    if (*value == NULL)
        return HL_E_NOMEM;
    (*value)->kind = kind;
    return HL_OK;
}

hl_status hl_pm_push_new(hl_pickle_machine *m, hl_pickle_kind kind, hl_pickle **value)
{
    HL_TRY(make(m, kind, value));
    return hl_pm_push(m, *value);
}

hl_status hl_pm_push_int(hl_pickle_machine *m, hl_pickle_kind kind, int64_t integer)
{
    hl_pickle *value = NULL;
    HL_TRY(hl_pm_push_new(m, kind, &value));
    value->integer = integer;
    return HL_OK;
}

/* Below this depth no opcode but MARK's partner may reach. */
static size_t floor_of(const hl_pickle_machine *m)
{
    return m->mark_count == 0 ? 0 : m->marks[m->mark_count - 1];
}

hl_status hl_pm_pop(hl_pickle_machine *m, hl_pickle **value)
{
    if (m->depth <= floor_of(m))
        return hl_pm_broken(m, "the stack is empty");
    *value = m->stack[--m->depth];
    return HL_OK;
}

hl_status hl_pm_top(hl_pickle_machine *m, hl_pickle **value)
{
    if (m->depth <= floor_of(m))
        return hl_pm_broken(m, "the stack is empty");
    *value = m->stack[m->depth - 1];
    return HL_OK;
}

/* Takes the values since the last MARK off the stack; they stay readable in *items until the next push. */
static hl_status pop_mark(hl_pickle_machine *m, hl_pickle ***items, size_t *count)
{
    if (m->mark_count == 0)
        return hl_pm_broken(m, "there is no mark");
    size_t begin = m->marks[--m->mark_count];
    *items = m->depth == begin ? NULL : m->stack + begin;
    *count = m->depth - begin;
    m->depth = begin;
    return HL_OK;
}

static hl_status append(hl_pickle_machine *m, hl_pickle *to, hl_pickle *const *items, size_t count)
{
    /* References count as values, or a short pickle could copy a long list again and again. */
    m->values += count;
    if (m->values > VALUES_LIMIT)
        return hl_pm_broken(m, "it holds more than 4 million values");
    if (to->count + count > to->capacity) {
        size_t capacity = to->capacity == 0 ? count : (size_t)to->capacity * 2;
        if (capacity < to->count + count)
            capacity = to->count + count;
        hl_pickle **grown = hl_arena_take(m->arena, capacity * sizeof *grown);
        if (grown == NULL)
            return HL_E_NOMEM;
        if (to->count > 0)
            memcpy(grown, to->items, to->count * sizeof *grown);
        to->items = grown;
        to->capacity = (uint32_t)capacity;
    }
    if (count > 0)
        memcpy(to->items + to->count, items, count * sizeof *items);
    to->count += (uint32_t)count;
    return HL_OK;
}

static hl_status push_sequence(hl_pickle_machine *m, hl_pickle_kind kind, hl_pickle *const *items,
                               size_t count)
{
    hl_pickle *value = NULL;
    HL_TRY(make(m, kind, &value));
    HL_TRY(append(m, value, items, count));
    return hl_pm_push(m, value);
}

/* --- memo, globals, calls --- */

hl_status hl_pm_memo_put(hl_pickle_machine *m, uint64_t index)
{
    hl_pickle *value = NULL;
    HL_TRY(hl_pm_top(m, &value));
    if (index >= VALUES_LIMIT)
        return hl_pm_broken(m, "a memo index of 4 million or more");
    if (index >= m->memo_capacity) {
        size_t before = m->memo_capacity;
        void *grown = m->memo;
        hl_status status = hl_grow(&grown, &m->memo_capacity, (size_t)index + 1, sizeof *m->memo, m->what);
        m->memo = grown;
        HL_TRY(status);
        memset(m->memo + before, 0, (m->memo_capacity - before) * sizeof *m->memo);
    }
    m->memo[index] = value;
    if (index >= m->memo_count)
        m->memo_count = (size_t)index + 1;
    return HL_OK;
}

hl_status hl_pm_memo_get(hl_pickle_machine *m, uint64_t index)
{
    if (index >= m->memo_count || m->memo[index] == NULL)
        return hl_pm_broken(m, "it refers to a value that was never stored");
    return hl_pm_push(m, m->memo[index]);
}

hl_status hl_pm_push_global(hl_pickle_machine *m, const char *module, const char *name)
{
    hl_pickle *value = NULL;
    const char *text = hl_arena_format(m->arena, "%s.%s", module, name);
    if (text == NULL)
        return HL_E_NOMEM;
    if (!m->allow(text))
        return hl_fail(HL_E_INPUT, m->what,
                       "save a plain state dict, or convert it to .safetensors in Python",
                       "foreign global %s; only tensors are read, nothing is executed", text);
    HL_TRY(hl_pm_push_new(m, HL_PICKLE_GLOBAL, &value));
    value->text = text;
    value->size = (uint32_t)strlen(text);
    return HL_OK;
}

hl_status hl_pm_push_stack_global(hl_pickle_machine *m)
{
    hl_pickle *module = NULL, *name = NULL;
    HL_TRY(hl_pm_pop(m, &name));
    HL_TRY(hl_pm_pop(m, &module));
    if (module->kind != HL_PICKLE_STRING || name->kind != HL_PICKLE_STRING)
        return hl_pm_broken(m, "a global is not named by texts");
    return hl_pm_push_global(m, module->text, name->text);
}

/* OrderedDict(), or OrderedDict([(key, value), ...]) as Python 2 wrote it. */
static hl_status push_ordered_dict(hl_pickle_machine *m, const hl_pickle *arguments)
{
    hl_pickle *dict = NULL;
    HL_TRY(make(m, HL_PICKLE_DICT, &dict));
    const hl_pickle *pairs = arguments->count == 0 ? NULL : arguments->items[0];
    if (arguments->count > 1 || (pairs != NULL && pairs->kind != HL_PICKLE_LIST))
        return hl_pm_broken(m, "an OrderedDict is made of something else than a list");
    for (uint32_t i = 0; pairs != NULL && i < pairs->count; i++) {
        const hl_pickle *pair = pairs->items[i];
        if ((pair->kind != HL_PICKLE_LIST && pair->kind != HL_PICKLE_TUPLE) || pair->count != 2)
            return hl_pm_broken(m, "an OrderedDict is made of something else than pairs");
        HL_TRY(append(m, dict, pair->items, 2));
    }
    return hl_pm_push(m, dict);
}

hl_status hl_pm_call(hl_pickle_machine *m)
{
    hl_pickle *callable = NULL, *arguments = NULL;
    HL_TRY(hl_pm_pop(m, &arguments));
    HL_TRY(hl_pm_pop(m, &callable));
    if (callable->kind != HL_PICKLE_GLOBAL || arguments->kind != HL_PICKLE_TUPLE)
        return hl_pm_broken(m, "something that is not a function is called");
    if (strcmp(callable->text, "collections.OrderedDict") == 0)
        return push_ordered_dict(m, arguments);
    return push_sequence(m, HL_PICKLE_OBJECT, (hl_pickle *[]){callable, arguments}, 2);
}

/* --- containers --- */

static hl_status extend(hl_pickle_machine *m, hl_pickle_kind kind, hl_pickle *const *items, size_t count)
{
    hl_pickle *to = NULL;
    HL_TRY(hl_pm_top(m, &to));
    if (kind == HL_PICKLE_DICT && count % 2 != 0)
        return hl_pm_broken(m, "a key without a value");
    /* Items set on an object (a defaultdict, a namespace) are of no use here. */
    if (to->kind == HL_PICKLE_OBJECT)
        return HL_OK;
    if (to->kind != kind)
        return hl_pm_broken(m, kind == HL_PICKLE_DICT ? "an item is set on what is no dict"
                                                      : "an item is appended to what is no list");
    return append(m, to, items, count);
}

hl_status hl_pm_extend_popped(hl_pickle_machine *m, hl_pickle_kind kind, size_t count)
{
    if (m->depth - floor_of(m) < count)
        return hl_pm_broken(m, "the stack is empty");
    hl_pickle *items[2];
    m->depth -= count;
    memcpy(items, m->stack + m->depth, count * sizeof *items);
    return extend(m, kind, items, count);
}

hl_status hl_pm_extend_marked(hl_pickle_machine *m, hl_pickle_kind kind)
{
    hl_pickle **items = NULL;
    size_t count = 0;
    HL_TRY(pop_mark(m, &items, &count));
    return extend(m, kind, items, count);
}

hl_status hl_pm_push_marked(hl_pickle_machine *m, hl_pickle_kind kind)
{
    hl_pickle **items = NULL;
    size_t count = 0;
    HL_TRY(pop_mark(m, &items, &count));
    if (kind == HL_PICKLE_DICT && count % 2 != 0)
        return hl_pm_broken(m, "a key without a value");
    return push_sequence(m, kind, items, count);
}

hl_status hl_pm_push_tuple(hl_pickle_machine *m, size_t count)
{
    if (m->depth - floor_of(m) < count)
        return hl_pm_broken(m, "the stack is empty");
    hl_pickle *items[3];
    m->depth -= count;
    if (count > 0) /* the stack may not exist yet */
        memcpy(items, m->stack + m->depth, count * sizeof *items);
    return push_sequence(m, HL_PICKLE_TUPLE, items, count);
}

hl_status hl_pm_push_persid(hl_pickle_machine *m)
{
    hl_pickle *id = NULL;
    HL_TRY(hl_pm_pop(m, &id));
    return push_sequence(m, HL_PICKLE_PERSID, &id, 1);
}

/* The state of an object (attributes of a dict: _metadata) is not kept. */
hl_status hl_pm_build(hl_pickle_machine *m)
{
    hl_pickle *ignored = NULL;
    HL_TRY(hl_pm_pop(m, &ignored));
    return hl_pm_top(m, &ignored);
}

hl_status hl_pm_pop_value_or_mark(hl_pickle_machine *m)
{
    hl_pickle *ignored = NULL;
    if (m->mark_count > 0 && m->depth == floor_of(m)) {
        m->mark_count--;
        return HL_OK;
    }
    return hl_pm_pop(m, &ignored);
}

hl_status hl_pm_mark(hl_pickle_machine *m)
{
    if (m->mark_count == HL_PICKLE_MARKS_LIMIT)
        return hl_pm_broken(m, "it is nested deeper than 1000");
    m->marks[m->mark_count++] = m->depth;
    return HL_OK;
}

hl_status hl_pm_pop_marked(hl_pickle_machine *m)
{
    hl_pickle **items = NULL;
    size_t count = 0;
    return pop_mark(m, &items, &count);
}
