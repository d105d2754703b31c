/* Lowering: units to steps. */
#ifndef HL_GRAPH_LOWER_H
#define HL_GRAPH_LOWER_H

#include "graph/fuse.h"

typedef struct hl_step_list {
    hl_step **items;
    size_t count, capacity;
} hl_step_list;

/* What the forward half leaves for the backward half, by unit. */
typedef struct hl_unit_tensors {
    hl_tensor *subfunctions;             /* CONV with cache: S */
    hl_tensor *mean, *inverse_deviation; /* NORM with batch statistics */
    hl_tensor *index;                    /* max POOL */
    hl_step *fold; /* CONV, LINEAR without cache: its out 1 is the data gradient's to set */
} hl_unit_tensors;

/* The steps of a program by when they run, and their tensors. Steps and tensors live in the arena; the arrays
 * of the lists do not (hl_code_free). */
typedef struct hl_code {
    hl_arena *arena;
    const hl_compile_options *options;
    const hl_backend *backend;
    hl_units units;
    hl_step_list once;    /* effective weights that never change */
    hl_step_list refresh; /* effective weights that training changes */
    hl_step_list forward;
    hl_step_list backward;
    hl_tensor **tensors;
    size_t tensor_count, tensor_capacity;
    hl_tensor **value;     /* by graph value: what the forward pass keeps of it, or NULL */
    hl_tensor **gradient;  /* by graph value: its gradient, where one tensor holds all of it */
    hl_unit_tensors *kept; /* by unit index */
    hl_tensor *images, *flips, *mixes, *labels, *logits, *losses;
} hl_code;

/* Emits all steps of `code->units`. */
hl_status hl_lower(hl_code *code);
void hl_code_free(hl_code *code);

/* Used by the two halves, lower.c and lower_backward.c. */
hl_tensor *hl_code_tensor(hl_code *code, const char *name, hl_shape shape, hl_elem elem, hl_place place);
/* `base` with the channels of a pixel split into pixels of so many: [n, h, w c / channels, channels]. NULL
 * for NULL. */
hl_tensor *hl_code_view(hl_code *code, hl_tensor *base, int64_t channels);
/* A tensor whose layout the backend chooses. */
hl_tensor *hl_code_opaque(hl_code *code, const char *name, hl_elem elem, hl_place place);
/* A new step at the end of `list` with room for its operands; NULL when memory is out. */
hl_step *hl_code_step(hl_code *code, hl_step_list *list, hl_step_kind kind, const char *name, int in_count,
                      int out_count);
hl_conv_attr hl_unit_conv_attr(const hl_code *code, const hl_unit *unit);
/* A FOLD step of `expr`, in `once` or `refresh` by whether training changes it. */
hl_step *hl_code_fold(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr);
hl_status hl_lower_backward(hl_code *code, hl_tensor *dlogits);

#endif
