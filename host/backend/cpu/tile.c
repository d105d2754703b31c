#include "backend/cpu/tile.h"

#include <string.h>

#include "base/bf16.h"
#include "base/simd.h"

HL_CLONES static void widen(const hl_bf16 *restrict from, int64_t count, float *restrict to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = hl_bf16_to_f32(from[i]);
}

HL_CLONES static void narrow(const float *restrict from, int64_t count, hl_bf16 *restrict to)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = hl_bf16_from_f32(from[i]);
}

void hl_tile_load(const hl_tensor *t, int64_t at, int64_t count, float *out)
{
    if (t->elem == HL_ELEM_F32)
        memcpy(out, (const float *)t->data + at, (size_t)count * sizeof *out);
    else
        widen((const hl_bf16 *)t->data + at, count, out);
}

void hl_tile_store(const hl_tensor *t, int64_t at, int64_t count, const float *values)
{
    if (t->elem == HL_ELEM_F32)
        memcpy((float *)t->data + at, values, (size_t)count * sizeof *values);
    else
        narrow(values, count, (hl_bf16 *)t->data + at);
}

HL_CLONES void hl_tile_add(const float *restrict values, float factor, int64_t count, float *restrict sum)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] += factor * values[i];
}

static bool is_plain(const hl_tensor *t)
{
    return t == NULL || (!t->opaque && (t->elem == HL_ELEM_F32 || t->elem == HL_ELEM_BF16));
}

hl_status hl_tile_check(const hl_step *step)
{
    bool plain = true;
    for (int i = 0; i < step->in_count; i++)
        plain = plain && is_plain(step->in[i]);
    for (int i = 0; i < step->out_count; i++)
        plain = plain && is_plain(step->out[i]);
    return plain ? HL_OK
                 : hl_fail(HL_E_UNSUPPORTED, step->name, "use --precision fp32 or bf16",
                           "the CPU computes %s in f32 and bf16 only", hl_step_kind_name(step->kind));
}
