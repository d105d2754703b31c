/* The memory of a program: how much, whether it fits, and who has it. Private to host/graph. */
#ifndef HL_GRAPH_PROGRAM_MEMORY_H
#define HL_GRAPH_PROGRAM_MEMORY_H

#include "graph/lower.h"
#include "graph/program.h"

/* What steps leave to the steps behind them, and nothing afterwards: programs that never run at once share
 * it. */
typedef struct hl_program_space {
    void *activations, *scratch; /* on the backend */
    size_t activation_bytes, scratch_bytes;
    int users;
} hl_program_space;

struct hl_program {
    hl_arena *arena;
    hl_backend *backend;
    hl_compile_options options;
    hl_code code;
    hl_program_memory memory;
    hl_program_space *space;
    bool folded_once;
    /* Lists as the backend runs them, sealed when first run. */
    hl_sealed *once, *refresh, *forward, *backward, *train[4]; /* train: by hl_program_part */
};

/* Units and steps, not yet prepared (program.c). */
hl_status hl_program_form(hl_program *p, hl_graph *graph);

/* Of a program whose steps are prepared: how much is kept and how large the arena is, to p->memory; offsets
 * of tensors into the arena, which the caller frees. */
hl_status hl_program_plan_memory(hl_program *p, size_t **offset);
/* HL_E_NOMEM, with the batch size that would fit, where the backend knows that this one does not. */
hl_status hl_program_check_memory(hl_program *p, hl_graph *graph);
/* Gives every tensor its address. */
hl_status hl_program_place(hl_program *p, const size_t *offset);
void hl_program_release_memory(hl_program *p);

#endif
