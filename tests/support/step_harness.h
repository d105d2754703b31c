/* One step on a backend, built by hand: its tensors lie between guard zones, start out as NaN, and come
 * and go as doubles.
 *
 *     step_harness h;
 *     harness_open(&h);
 *     hl_tensor *x = harness_tensor(&h, "x", shape, HL_ELEM_F32), *y = ...;
 *     hl_step *step = harness_step(&h, HL_STEP_ACT, 1, (hl_tensor *[]){x}, 1, (hl_tensor *[]){y});
 *     step->act.act = HL_ACT_RELU;
 *     harness_build(&h);
 *     harness_set(x, values);
 *     harness_run(&h, step);              checks the guard zones too
 *     harness_get(y, values);
 *     harness_close(&h); */
#ifndef TESTS_SUPPORT_STEP_HARNESS_H
#define TESTS_SUPPORT_STEP_HARNESS_H

#include "backend/backend.h"

enum { HARNESS_TENSORS = 24, HARNESS_STEPS = 4, HARNESS_PARAMS = 8, HARNESS_OPERANDS = 16 };

typedef struct step_harness {
    hl_backend *backend;
    hl_run_state run;
    hl_tensor tensors[HARNESS_TENSORS];
    unsigned char *memory[HARNESS_TENSORS];
    hl_step steps[HARNESS_STEPS];
    hl_tensor *operands[HARNESS_STEPS][HARNESS_OPERANDS];
    hl_param params[HARNESS_PARAMS];
    int tensor_count, step_count, param_count;
    unsigned char *scratch;
    size_t scratch_bytes;
} step_harness;

void harness_open(step_harness *h);
void harness_close(step_harness *h);

hl_tensor *harness_tensor(step_harness *h, const char *name, hl_shape shape, hl_elem elem);
/* A vector of `count`; values NULL: zeros. Its gradient starts as NaN. */
hl_param *harness_param(step_harness *h, hl_param_role role, int64_t count, bool trained,
                        const double *values);
hl_step *harness_step(step_harness *h, hl_step_kind kind, int in_count, hl_tensor *const *in, int out_count,
                      hl_tensor *const *out);
/* Prepares, gives memory, binds; everything is NaN afterwards. */
void harness_build(step_harness *h);
/* For a step that must be refused; its message is hl_last_error(). */
hl_status harness_prepare(step_harness *h, hl_step *step);
void harness_run(step_harness *h, hl_step *step);

/* Element types f32, bf16, u8 and i32. */
void harness_set(const hl_tensor *t, const double *values);
void harness_get(const hl_tensor *t, double *values);
void harness_poison(const hl_tensor *t);
/* A tensor of structures: `bytes` as they are. */
void harness_set_bytes(const hl_tensor *t, const void *from, size_t bytes);

#endif
