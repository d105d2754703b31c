#include "support/step_harness.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "support/device.h"

enum { GUARD = 256, GUARD_BYTE = 0xA5, POISON_BYTE = 0xFF };

void harness_open(step_harness *h)
{
    memset(h, 0, sizeof *h);
    h->backend = test_backend(2);
    h->run = (hl_run_state){.seed = 1, .grad_scale = 1.0f};
}

void harness_close(step_harness *h)
{
    for (int i = 0; i < h->step_count; i++)
        h->backend->ops->release(h->backend, &h->steps[i]);
    for (int i = 0; i < h->tensor_count; i++)
        h->backend->ops->free(h->backend, h->memory[i]);
    for (int i = 0; i < h->param_count; i++) {
        h->backend->ops->free(h->backend, h->params[i].value);
        h->backend->ops->free(h->backend, h->params[i].grad);
    }
    h->backend->ops->free(h->backend, h->scratch);
    hl_backend_close(h->backend);
}

hl_tensor *harness_tensor(step_harness *h, const char *name, hl_shape shape, hl_elem elem)
{
    cr_assert(h->tensor_count < HARNESS_TENSORS);
    hl_tensor *t = &h->tensors[h->tensor_count++];
    *t = (hl_tensor){.name = name, .shape = shape, .elem = elem, .place = HL_PLACE_PERSISTENT};
    t->bytes = (size_t)hl_shape_count(shape) * hl_elem_size(elem);
    return t;
}

static void *take(step_harness *h, size_t bytes)
{
    void *memory = NULL;
    cr_assert_eq(h->backend->ops->alloc(h->backend, bytes, "test", &memory), HL_OK, "%s", hl_last_error());
    cr_assert_eq(h->backend->ops->finish(h->backend), HL_OK);
    return memory;
}

static float *floats(step_harness *h, int64_t count, int fill)
{
    float *memory = take(h, (size_t)count * sizeof(float));
    memset(memory, fill, (size_t)count * sizeof(float));
    return memory;
}

hl_param *harness_param(step_harness *h, hl_param_role role, int64_t count, bool trained,
                        const double *values)
{
    cr_assert(h->param_count < HARNESS_PARAMS);
    hl_param *p = &h->params[h->param_count++];
    *p = (hl_param){
        .name = "param", .role = role, .ndim = 1, .shape = {count}, .count = count, .trained = trained};
    p->value = p->host = floats(h, count, 0);
    for (int64_t i = 0; values != NULL && i < count; i++)
        p->value[i] = (float)values[i];
    p->grad = trained ? floats(h, count, POISON_BYTE) : NULL;
    return p;
}

hl_step *harness_step(step_harness *h, hl_step_kind kind, int in_count, hl_tensor *const *in, int out_count,
                      hl_tensor *const *out)
{
    cr_assert(h->step_count < HARNESS_STEPS && in_count + out_count <= HARNESS_OPERANDS);
    hl_tensor **operands = h->operands[h->step_count];
    hl_step *step = &h->steps[h->step_count++];
    for (int i = 0; i < in_count; i++)
        operands[i] = in[i];
    for (int i = 0; i < out_count; i++)
        operands[in_count + i] = out[i];
    *step = (hl_step){.kind = kind,
                      .name = "layer",
                      .in = operands,
                      .out = operands + in_count,
                      .in_count = in_count,
                      .out_count = out_count,
                      .run = &h->run};
    return step;
}

static unsigned char *guarded(step_harness *h, size_t bytes)
{
    unsigned char *at = take(h, bytes + 2 * GUARD);
    memset(at, GUARD_BYTE, GUARD);
    memset(at + GUARD, POISON_BYTE, bytes);
    memset(at + GUARD + bytes, GUARD_BYTE, GUARD);
    return at;
}

static void expect_guards(const unsigned char *memory, size_t bytes, const char *what)
{
    for (size_t i = 0; i < GUARD; i++) {
        cr_assert_eq(memory[i], GUARD_BYTE, "%s: a byte before it was written", what);
        cr_assert_eq(memory[GUARD + bytes + i], GUARD_BYTE, "%s: byte %zu behind it was written", what, i);
    }
}

hl_status harness_prepare(step_harness *h, hl_step *step)
{
    return h->backend->ops->prepare(h->backend, step);
}

void harness_build(step_harness *h)
{
    for (int i = 0; i < h->step_count; i++) {
        cr_assert_eq(harness_prepare(h, &h->steps[i]), HL_OK, "%s", hl_last_error());
        if (h->steps[i].scratch_bytes > h->scratch_bytes)
            h->scratch_bytes = h->steps[i].scratch_bytes;
    }
    h->scratch = guarded(h, h->scratch_bytes);
    for (int i = 0; i < h->tensor_count; i++) {
        h->memory[i] = guarded(h, h->tensors[i].bytes);
        h->tensors[i].data = h->memory[i] + GUARD;
    }
    for (int i = 0; i < h->step_count; i++)
        cr_assert_eq(h->backend->ops->bind(h->backend, &h->steps[i], h->scratch + GUARD), HL_OK, "%s",
                     hl_last_error());
}

void harness_run(step_harness *h, hl_step *step)
{
    hl_sealed *list;
    cr_assert_eq(h->backend->ops->seal(h->backend, &step, 1, &list), HL_OK, "%s", hl_last_error());
    cr_assert_eq(h->backend->ops->run(h->backend, list), HL_OK, "%s", hl_last_error());
    h->backend->ops->unseal(h->backend, list);
    cr_assert_eq(h->backend->ops->finish(h->backend), HL_OK);
    expect_guards(h->scratch, h->scratch_bytes, "scratch");
    for (int i = 0; i < h->tensor_count; i++)
        expect_guards(h->memory[i], h->tensors[i].bytes, h->tensors[i].name);
}

void harness_set(const hl_tensor *t, const double *values)
{
    for (int64_t i = 0; i < hl_shape_count(t->shape); i++)
        switch (t->elem) {
        case HL_ELEM_BF16:
            ((hl_bf16 *)t->data)[i] = hl_bf16_from_f32((float)values[i]);
            break;
        case HL_ELEM_U8:
            ((uint8_t *)t->data)[i] = (uint8_t)values[i];
            break;
        case HL_ELEM_I32:
            ((int32_t *)t->data)[i] = (int32_t)values[i];
            break;
        default:
            ((float *)t->data)[i] = (float)values[i];
        }
}

void harness_get(const hl_tensor *t, double *values)
{
    for (int64_t i = 0; i < hl_shape_count(t->shape); i++)
        switch (t->elem) {
        case HL_ELEM_BF16:
            values[i] = (double)hl_bf16_to_f32(((const hl_bf16 *)t->data)[i]);
            break;
        case HL_ELEM_U8:
            values[i] = ((const uint8_t *)t->data)[i];
            break;
        case HL_ELEM_I32:
            values[i] = ((const int32_t *)t->data)[i];
            break;
        default:
            values[i] = (double)((const float *)t->data)[i];
        }
}

void harness_set_bytes(const hl_tensor *t, const void *from, size_t bytes)
{
    cr_assert_eq(bytes, t->bytes);
    memcpy(t->data, from, bytes);
}

void harness_poison(const hl_tensor *t)
{
    memset(t->data, POISON_BYTE, t->bytes);
}
