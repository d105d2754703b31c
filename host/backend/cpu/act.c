/* ACT and ADD; and ACT_GRAD: the sum of the gradients that arrive, times the activation's derivative. */
#include "backend/cpu/act_grad.h"
#include "backend/cpu/act_math.h"
#include "backend/cpu/tile.h"
#include "base/bf16.h"
#include "base/simd.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

HL_CLONES static void act_tile(hl_act act, float *v, int64_t count)
{
    hl_act_run(act, v, count);
}

HL_CLONES static void add_tile(const float *restrict v, float *restrict sum, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        sum[i] += v[i];
}

/* out = act(in 0 + in 1 + ...); ACT has one operand. */
static hl_status sum_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *y = step->out[0];
    int64_t count = hl_tensor_count(y);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE) {
        float sum[HL_TILE], v[HL_TILE];
        int64_t n = count - at < HL_TILE ? count - at : HL_TILE;
        hl_tile_load(step->in[0], at, n, sum);
        for (int i = 1; i < step->in_count; i++) {
            hl_tile_load(step->in[i], at, n, v);
            add_tile(v, sum, n);
        }
        act_tile(step->act.act, sum, n);
        hl_tile_store(y, at, n, sum);
    }
    return HL_OK;
}

/* g *= act'(.), where v is the activation's output for those with hl_act_from_output and its input for the
 * rest. At the kinks the derivatives are PyTorch's (docs/numerics.md). A NaN in v gives a NaN or passes g on,
 * as there. */
HL_CLONES static void act_grad_tile(hl_act act, const float *restrict v, float *restrict g, int64_t count)
{
    switch (act) {
    case HL_ACT_NONE:
        break;
    case HL_ACT_RELU:
        for (int64_t i = 0; i < count; i++)
            g[i] = v[i] <= 0.0f ? 0.0f : g[i];
        break;
    case HL_ACT_RELU6:
        for (int64_t i = 0; i < count; i++)
            g[i] = (v[i] <= 0.0f) | (v[i] >= 6.0f) ? 0.0f : g[i];
        break;
    case HL_ACT_SIGMOID:
        for (int64_t i = 0; i < count; i++)
            g[i] *= v[i] * (1.0f - v[i]);
        break;
    case HL_ACT_HARDSIGMOID:
        for (int64_t i = 0; i < count; i++)
            g[i] = (v[i] <= -3.0f) | (v[i] >= 3.0f) ? 0.0f : g[i] / 6.0f;
        break;
    case HL_ACT_SILU:
        for (int64_t i = 0; i < count; i++) {
            float s = hl_sigmoidf(v[i]);
            g[i] *= s * (1.0f + v[i] * (1.0f - s));
        }
        break;
    case HL_ACT_HARDSWISH:
        for (int64_t i = 0; i < count; i++) {
            float inside = v[i] <= -3.0f ? 0.0f : g[i] * (v[i] / 3.0f + 0.5f);
            g[i] = v[i] >= 3.0f ? g[i] : inside;
        }
        break;
    case HL_ACT_GELU:
        for (int64_t i = 0; i < count; i++) {
            float density, below = hl_normalf(v[i], &density);
            g[i] *= below + v[i] * density;
        }
        break;
    case HL_ACT_TANH:
        for (int64_t i = 0; i < count; i++)
            g[i] *= 1.0f - v[i] * v[i];
        break;
    }
}

/* ReLU and ReLU6 pass a gradient on or do not, so the operand need not be widened from bf16. Bit patterns
 * compare as the numbers they stand for among positive ones; `top` is where passing ends. NaN passes, as
 * above.
 */
static inline bool stops(int16_t v, int16_t top)
{
    bool is_number = (v & 0x7fff) <= 0x7f80;
    return ((v <= 0) | (v >= top)) & is_number;
}

HL_CLONES static void mask_bf16(int16_t top, const int16_t *v, const hl_bf16 *g, hl_bf16 *out, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        out[i] = stops(v[i], top) ? 0 : g[i];
}

HL_CLONES static void mask_sum_bf16(int16_t top, const int16_t *v, const hl_bf16 *g, const hl_bf16 *h,
                                    hl_bf16 *out, int64_t count)
{
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        hl_bf16 sum = hl_bf16_from_f32(hl_bf16_to_f32(g[i]) + hl_bf16_to_f32(h[i]));
        out[i] = stops(v[i], top) ? 0 : sum;
    }
}

/* The same of f32, without the way through tiles; h may be NULL. */
HL_CLONES static void mask_f32(float top, const float *v, const float *g, const float *h, float *out,
                               int64_t count)
{
    if (h == NULL)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            out[i] = (v[i] <= 0.0f) | (v[i] >= top) ? 0.0f : g[i];
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            out[i] = (v[i] <= 0.0f) | (v[i] >= top) ? 0.0f : g[i] + h[i];
}

/* The derivative of a ReLU or ReLU6 on one or two gradients, all of one type; false: not such a case. */
static bool mask_range(hl_act act, const hl_tensor *operand, hl_tensor *const *gradients, int gradient_count,
                       const hl_tensor *out, int64_t first, int64_t last)
{
    bool all = (act == HL_ACT_RELU || act == HL_ACT_RELU6) && gradient_count <= 2 && operand != NULL &&
               operand->elem == out->elem;
    for (int i = 0; i < gradient_count; i++)
        all = all && gradients[i]->elem == out->elem;
    if (!all)
        return false;
    const hl_tensor *second = gradient_count == 2 ? gradients[1] : NULL;
    if (out->elem == HL_ELEM_F32) {
        /* A ReLU passes gradients on without end: nothing is at least NaN. */
        mask_f32(act == HL_ACT_RELU6 ? 6.0f : NAN, (const float *)operand->data + first,
                 (const float *)gradients[0]->data + first,
                 second != NULL ? (const float *)second->data + first : NULL, (float *)out->data + first,
                 last - first);
        return true;
    }
    const int16_t bits_of_six = 0x40c0, top = act == HL_ACT_RELU6 ? bits_of_six : INT16_MAX;
    const int16_t *v = (const int16_t *)operand->data + first;
    const hl_bf16 *g = (const hl_bf16 *)gradients[0]->data + first;
    hl_bf16 *to = (hl_bf16 *)out->data + first;
    if (second == NULL)
        mask_bf16(top, v, g, to, last - first);
    else
        mask_sum_bf16(top, v, g, (const hl_bf16 *)second->data + first, to, last - first);
    return true;
}

void hl_act_grad_range(hl_act act, const hl_tensor *operand, hl_tensor *const *gradients, int gradient_count,
                       const hl_tensor *out, int64_t first, int64_t last)
{
    if (mask_range(act, operand, gradients, gradient_count, out, first, last))
        return;
    for (int64_t at = first; at < last; at += HL_TILE) {
        float g[HL_TILE], v[HL_TILE];
        int64_t n = last - at < HL_TILE ? last - at : HL_TILE;
        hl_tile_load(gradients[0], at, n, g);
        for (int i = 1; i < gradient_count; i++) {
            hl_tile_load(gradients[i], at, n, v);
            add_tile(v, g, n);
        }
        if (operand != NULL) {
            hl_tile_load(operand, at, n, v);
            act_grad_tile(act, v, g, n);
        }
        hl_tile_store(out, at, n, g);
    }
}

void hl_act_grad_all(hl_act act, const hl_tensor *operand, hl_tensor *const *gradients, int gradient_count,
                     const hl_tensor *out)
{
    int64_t count = hl_tensor_count(out);
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < count; at += HL_TILE)
        hl_act_grad_range(act, operand, gradients, gradient_count, out, at,
                          count - at < HL_TILE ? count : at + HL_TILE);
}

static hl_status act_grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    hl_act_grad_all(step->act.act, step->in[0], step->in + 1, step->in_count - 1, step->out[0]);
    return HL_OK;
}

const hl_cpu_op hl_cpu_act = {.check = check, .run = sum_run};
const hl_cpu_op hl_cpu_add = {.check = check, .run = sum_run};
const hl_cpu_op hl_cpu_act_grad = {.check = check, .run = act_grad_run};
