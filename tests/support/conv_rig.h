/* Steps around one convolution, built by hand: tensors with guard zones, parameters, and the calls that a
 * compiled network would make. */
#ifndef TESTS_SUPPORT_CONV_RIG_H
#define TESTS_SUPPORT_CONV_RIG_H

#include "backend/backend.h"
#include "base/philox.h"

enum { RIG_MAX_TENSORS = 24, RIG_MAX_STEPS = 12, RIG_MAX_PARAMS = 8 };

typedef struct conv_rig {
    hl_backend *backend;
    hl_tensor tensors[RIG_MAX_TENSORS];
    unsigned char *memory[RIG_MAX_TENSORS]; /* with the guard zones around it */
    int tensor_count;
    hl_step steps[RIG_MAX_STEPS];
    hl_tensor *operands[RIG_MAX_STEPS][8];
    int step_count;
    hl_param params[RIG_MAX_PARAMS];
    int param_count;
    unsigned char *scratch;
    size_t scratch_bytes;
    hl_run_state run;
} conv_rig;

void rig_open(conv_rig *rig);
void rig_close(conv_rig *rig);
/* Can this machine's backend compute in `elem`? */
bool rig_computes(hl_elem elem);

hl_tensor *rig_tensor(conv_rig *rig, const char *name, hl_shape shape, hl_elem elem);
/* Packed weights or a weight gradient. */
hl_tensor *rig_opaque(conv_rig *rig, const char *name, hl_elem elem);
/* The packed weights that a data gradient takes: `packed` itself where the backend has one packing. */
hl_tensor *rig_packed_data(conv_rig *rig, hl_tensor *packed);
/* b_eff of a convolution whose output is `elem`. */
hl_tensor *rig_bias(conv_rig *rig, int64_t channels, hl_elem elem);
/* Zero-filled values and gradient; `trained` decides whether a gradient is wanted. */
hl_param *rig_param(conv_rig *rig, const char *name, bool trained, int ndim, const int64_t *shape);
/* NULL operands are kept as such; trailing ones are cut off. An output that is there twice is given once. */
hl_step *rig_step(conv_rig *rig, hl_step_kind kind, const hl_conv_attr *conv, hl_tensor *in0, hl_tensor *in1,
                  hl_tensor *in2, hl_tensor *in3, hl_tensor *out0, hl_tensor *out1, hl_tensor *out2);
/* Can the backend run all steps? */
bool rig_supports(const conv_rig *rig);
/* Prepares (FOLD steps last), gives memory and binds. All memory is filled with NaN afterwards. */
void rig_build(conv_rig *rig);
void rig_run(conv_rig *rig, hl_step *step);
/* No step has written outside its tensors and scratch. */
void rig_expect_intact(const conv_rig *rig);

void rig_set(const hl_tensor *tensor, const double *values);
void rig_get(const hl_tensor *tensor, double *values);
/* What a value becomes when stored as `elem`. */
double rig_round(hl_elem elem, double value);

/* Zeros; freed by the caller. */
double *rig_array(int64_t count);
/* Integers in [-most, most]. */
void rig_fill_integers(double *values, int64_t count, int most, uint32_t stream);
/* Uniform in [-1, 1), rounded to `elem`. */
void rig_fill_uniform(double *values, int64_t count, hl_elem elem, uint32_t stream);

#endif
