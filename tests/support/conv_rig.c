#include "support/conv_rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "support/device.h"

enum { GUARD = 256, GUARD_BYTE = 0xA5 };

void rig_open(conv_rig *rig)
{
    memset(rig, 0, sizeof *rig);
    rig->backend = test_backend(2);
    rig->run = (hl_run_state){.grad_scale = 1.0f};
}

void rig_close(conv_rig *rig)
{
    for (int i = 0; i < rig->step_count; i++)
        rig->backend->ops->release(rig->backend, &rig->steps[i]);
    for (int i = 0; i < rig->tensor_count; i++) {
        rig->backend->ops->release_tensor(rig->backend, &rig->tensors[i]);
        rig->backend->ops->free(rig->backend, rig->memory[i]);
    }
    for (int i = 0; i < rig->param_count; i++) {
        rig->backend->ops->free(rig->backend, rig->params[i].value);
        rig->backend->ops->free(rig->backend, rig->params[i].grad);
    }
    rig->backend->ops->free(rig->backend, rig->scratch);
    rig->backend->ops->close(rig->backend);
}

hl_tensor *rig_tensor(conv_rig *rig, const char *name, hl_shape shape, hl_elem elem)
{
    cr_assert(rig->tensor_count < RIG_MAX_TENSORS);
    hl_tensor *t = &rig->tensors[rig->tensor_count++];
    *t = (hl_tensor){.name = name, .shape = shape, .elem = elem, .place = HL_PLACE_PERSISTENT};
    t->bytes = (size_t)hl_shape_count(shape) * hl_elem_size(elem);
    return t;
}

hl_tensor *rig_opaque(conv_rig *rig, const char *name, hl_elem elem)
{
    hl_tensor *t = rig_tensor(rig, name, (hl_shape){0}, elem);
    t->opaque = true;
    return t;
}

hl_tensor *rig_packed_data(conv_rig *rig, hl_tensor *packed)
{
    return rig->backend->one_packing ? packed : rig_opaque(rig, "packed for the data gradient", packed->elem);
}

hl_tensor *rig_bias(conv_rig *rig, int64_t channels, hl_elem elem)
{
    return rig_tensor(rig, "b", (hl_shape){1, 1, 1, channels},
                      rig->backend->bias_as_output ? elem : HL_ELEM_F32);
}

static void *zeros(conv_rig *rig, size_t bytes)
{
    void *memory = NULL;
    cr_assert_eq(rig->backend->ops->alloc(rig->backend, bytes, "test", &memory), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(rig->backend->ops->finish(rig->backend), HL_OK);
    return memory;
}

hl_param *rig_param(conv_rig *rig, const char *name, bool trained, int ndim, const int64_t *shape)
{
    cr_assert(rig->param_count < RIG_MAX_PARAMS);
    hl_param *p = &rig->params[rig->param_count++];
    *p = (hl_param){.name = name, .ndim = ndim, .count = 1, .trained = trained};
    for (int d = 0; d < ndim; d++) {
        p->shape[d] = shape[d];
        p->count *= shape[d];
    }
    p->value = zeros(rig, (size_t)p->count * sizeof *p->value);
    p->host = p->value;
    if (trained)
        p->grad = zeros(rig, (size_t)p->count * sizeof *p->grad);
    return p;
}

hl_step *rig_step(conv_rig *rig, hl_step_kind kind, const hl_conv_attr *conv, hl_tensor *in0, hl_tensor *in1,
                  hl_tensor *in2, hl_tensor *in3, hl_tensor *out0, hl_tensor *out1, hl_tensor *out2)
{
    cr_assert(rig->step_count < RIG_MAX_STEPS);
    hl_tensor **operands = rig->operands[rig->step_count];
    hl_step *step = &rig->steps[rig->step_count++];
    hl_tensor *const all[8] = {in0, in1, in2, in3, out0, out1 == out0 ? NULL : out1, out2, NULL};
    memcpy(operands, all, sizeof all);
    *step = (hl_step){.kind = kind, .name = "layer", .in = operands, .out = operands + 4, .run = &rig->run};
    for (int i = 0; i < 4; i++)
        step->in_count = operands[i] != NULL ? i + 1 : step->in_count;
    for (int i = 0; i < 3; i++)
        step->out_count = operands[4 + i] != NULL ? i + 1 : step->out_count;
    step->conv = *conv;
    return step;
}

bool rig_computes(hl_elem elem)
{
    conv_rig rig;
    rig_open(&rig);
    const hl_shape shape = {1, 1, 1, 16};
    hl_conv_attr conv = {.window = {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, .groups = 1};
    hl_step *step = rig_step(&rig, HL_STEP_CONV, &conv, rig_tensor(&rig, "x", shape, elem),
                             rig_opaque(&rig, "packed", elem), NULL, NULL, rig_tensor(&rig, "y", shape, elem),
                             NULL, NULL);
    bool computes = rig.backend->ops->supports(rig.backend, step);
    rig_close(&rig);
    return computes;
}

static unsigned char *guarded(conv_rig *rig, size_t bytes)
{
    void *memory = zeros(rig, bytes + 2 * GUARD);
    memset(memory, GUARD_BYTE, bytes + 2 * GUARD);
    return memory;
}

bool rig_supports(const conv_rig *rig)
{
    for (int i = 0; i < rig->step_count; i++)
        if (!rig->backend->ops->supports(rig->backend, &rig->steps[i]))
            return false;
    return true;
}

static void prepare(conv_rig *rig, bool folds)
{
    for (int i = 0; i < rig->step_count; i++) {
        hl_step *step = &rig->steps[i];
        if ((step->kind == HL_STEP_FOLD) != folds)
            continue;
        cr_assert_eq(rig->backend->ops->prepare(rig->backend, step), HL_OK, "%s", hl_last_error());
        if (step->scratch_bytes > rig->scratch_bytes)
            rig->scratch_bytes = step->scratch_bytes;
    }
}

void rig_build(conv_rig *rig)
{
    prepare(rig, false);
    prepare(rig, true);
    rig->scratch = guarded(rig, rig->scratch_bytes);
    for (int i = 0; i < rig->tensor_count; i++) {
        rig->memory[i] = guarded(rig, rig->tensors[i].bytes);
        rig->tensors[i].data = rig->memory[i] + GUARD;
    }
    for (int i = 0; i < rig->step_count; i++)
        cr_assert_eq(rig->backend->ops->bind(rig->backend, &rig->steps[i], rig->scratch + GUARD), HL_OK, "%s",
                     hl_last_error());
    /* All bits set is a NaN in every floating type. */
    memset(rig->scratch + GUARD, 0xFF, rig->scratch_bytes);
    for (int i = 0; i < rig->tensor_count; i++)
        memset(rig->tensors[i].data, 0xFF, rig->tensors[i].bytes);
}

void rig_run(conv_rig *rig, hl_step *step)
{
    hl_sealed *list;
    cr_assert_eq(rig->backend->ops->seal(rig->backend, &step, 1, &list), HL_OK, "%s", hl_last_error());
    cr_assert_eq(rig->backend->ops->run(rig->backend, list), HL_OK, "%s", hl_last_error());
    rig->backend->ops->unseal(rig->backend, list);
    cr_assert_eq(rig->backend->ops->finish(rig->backend), HL_OK);
}

static void expect_guards(const unsigned char *memory, size_t bytes, const char *what)
{
    for (size_t i = 0; i < GUARD; i++) {
        cr_assert_eq(memory[i], GUARD_BYTE, "%s: a byte before it was written", what);
        cr_assert_eq(memory[GUARD + bytes + i], GUARD_BYTE, "%s: byte %zu behind it was written", what, i);
    }
}

void rig_expect_intact(const conv_rig *rig)
{
    expect_guards(rig->scratch, rig->scratch_bytes, "scratch");
    for (int i = 0; i < rig->tensor_count; i++)
        expect_guards(rig->memory[i], rig->tensors[i].bytes, rig->tensors[i].name);
}

double rig_round(hl_elem elem, double value)
{
    return elem == HL_ELEM_BF16 ? (double)hl_bf16_to_f32(hl_bf16_from_f32((float)value))
                                : (double)(float)value;
}

void rig_set(const hl_tensor *tensor, const double *values)
{
    for (int64_t i = 0; i < hl_shape_count(tensor->shape); i++) {
        if (tensor->elem == HL_ELEM_BF16)
            ((hl_bf16 *)tensor->data)[i] = hl_bf16_from_f32((float)values[i]);
        else
            ((float *)tensor->data)[i] = (float)values[i];
    }
}

void rig_get(const hl_tensor *tensor, double *values)
{
    for (int64_t i = 0; i < hl_shape_count(tensor->shape); i++)
        values[i] = tensor->elem == HL_ELEM_BF16 ? (double)hl_bf16_to_f32(((hl_bf16 *)tensor->data)[i])
                                                 : (double)((float *)tensor->data)[i];
}

double *rig_array(int64_t count)
{
    double *values = calloc((size_t)count, sizeof *values);
    cr_assert_not_null(values);
    return values;
}

void rig_fill_integers(double *values, int64_t count, int most, uint32_t stream)
{
    hl_rng rng = hl_rng_make(1, HL_STREAM_TEST, stream, 0);
    for (int64_t i = 0; i < count; i++)
        values[i] = (double)hl_rng_below(&rng, (uint32_t)(2 * most + 1)) - most;
}

void rig_fill_uniform(double *values, int64_t count, hl_elem elem, uint32_t stream)
{
    hl_rng rng = hl_rng_make(2, HL_STREAM_TEST, stream, 0);
    for (int64_t i = 0; i < count; i++)
        values[i] = rig_round(elem, 2.0 * (double)hl_rng_uniform(&rng) - 1.0);
}
