/* The stack machine that a pickle is a program for: its stack, marks and memo, and what its opcodes do to
 * them. */
#ifndef HL_IO_PICKLE_MACHINE_H
#define HL_IO_PICKLE_MACHINE_H

#include "io/pickle.h"

enum { HL_PICKLE_MARKS_LIMIT = 1000 };

typedef struct hl_pickle_machine {
    const char *what;
    const uint8_t *bytes;
    size_t size, at;
    bool (*allow)(const char *name);
    hl_arena *arena;
    hl_pickle **stack, **memo;
    size_t depth, stack_capacity, memo_count, memo_capacity;
    size_t marks[HL_PICKLE_MARKS_LIMIT], mark_count; /* depths of the stack at MARK */
    size_t values;                                   /* made so far, references included */
} hl_pickle_machine;

/* All of these fail on a stack that is too short, on values of the wrong kind and beyond the limits. */
hl_status hl_pm_broken(const hl_pickle_machine *m, const char *why);
hl_status hl_pm_push(hl_pickle_machine *m, hl_pickle *value);
hl_status hl_pm_push_new(hl_pickle_machine *m, hl_pickle_kind kind, hl_pickle **value);
hl_status hl_pm_push_int(hl_pickle_machine *m, hl_pickle_kind kind, int64_t integer);
hl_status hl_pm_pop(hl_pickle_machine *m, hl_pickle **value);
hl_status hl_pm_top(hl_pickle_machine *m, hl_pickle **value);
hl_status hl_pm_memo_put(hl_pickle_machine *m, uint64_t index);
hl_status hl_pm_memo_get(hl_pickle_machine *m, uint64_t index);
hl_status hl_pm_push_global(hl_pickle_machine *m, const char *module, const char *name);
hl_status hl_pm_push_stack_global(hl_pickle_machine *m);
hl_status hl_pm_call(hl_pickle_machine *m);
hl_status hl_pm_extend_popped(hl_pickle_machine *m, hl_pickle_kind kind, size_t count);
hl_status hl_pm_extend_marked(hl_pickle_machine *m, hl_pickle_kind kind);
hl_status hl_pm_push_marked(hl_pickle_machine *m, hl_pickle_kind kind);
hl_status hl_pm_push_tuple(hl_pickle_machine *m, size_t count);
hl_status hl_pm_push_persid(hl_pickle_machine *m);
hl_status hl_pm_build(hl_pickle_machine *m);
hl_status hl_pm_pop_value_or_mark(hl_pickle_machine *m);
hl_status hl_pm_mark(hl_pickle_machine *m);
hl_status hl_pm_pop_marked(hl_pickle_machine *m);

#endif
