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
    hl_tensor *subfunctions;             /* CONV with cache: S; of a ROW its output before the factors */
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

/* Used by lower.c, lower_cached.c and lower_backward.c. */
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
/* A FOLD step of `expr`, in `refresh` where what it makes `changes` by training, else in `once`. */
hl_step *hl_code_fold(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr, bool changes);
/* The FOLD of `expr` into `weights` (or NULL) and `bias` (or NULL): two where training changes the bias
 * alone, so that weights are not packed anew in every step. Returns the one of the weights; NULL when memory
 * is out. */
hl_step *hl_code_fold_both(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr, hl_tensor *weights,
                           hl_tensor *bias);
/* A tensor for b_eff of `expr` (NULL where it has none), for the value that the unit makes, for one that it
 * reads (NULL for HL_NO_VALUE), and a value's shape for the whole batch. */
hl_tensor *hl_code_bias(hl_code *code, const hl_unit *unit, const hl_weight_expr *expr);
hl_tensor *hl_code_output(hl_code *code, const hl_unit *unit);
hl_tensor *hl_code_value(const hl_code *code, hl_value value);
hl_shape hl_code_shape(const hl_code *code, hl_value value);
/* A layer with kept values that factors are applied to (lower_cached.c). */
hl_status hl_lower_cached(hl_code *code, const hl_unit *unit, hl_unit_tensors *kept);
hl_status hl_lower_backward(hl_code *code, hl_tensor *dlogits);

#endif
