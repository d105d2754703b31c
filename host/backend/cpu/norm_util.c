#include "backend/cpu/norm_util.h"

#include <string.h>

#include "backend/cpu/act_math.h"
#include "backend/cpu/pairs.h"
#include "base/bf16.h"
#include "base/simd.h"

enum { COEFFICIENTS = 4, RUN = 512, BITS_OF_SIX = 0x40c00000 };

size_t hl_norm_scratch_bytes(const hl_columns *c)
{
    return hl_columns_sums_bytes(c) + (size_t)(2 * COEFFICIENTS * c->width) * sizeof(float);
}

double *hl_norm_sums_memory(const hl_columns *c, void *scratch)
{
    (void)c;
    return scratch;
}

hl_norm_coefficients hl_norm_coefficients_at(const hl_columns *c, void *scratch)
{
    float *at = (float *)(void *)((char *)scratch + hl_columns_sums_bytes(c));
    return (hl_norm_coefficients){at, at + c->width, at + 2 * c->width, at + 3 * c->width};
}

hl_norm_coefficients hl_norm_lanes_at(const hl_columns *c, void *scratch)
{
    float *at = hl_norm_coefficients_at(c, scratch).mean + COEFFICIENTS * c->width;
    return (hl_norm_coefficients){at, at + c->width, at + 2 * c->width, at + 3 * c->width};
}

void hl_norm_spread(const hl_columns *c, const hl_norm_coefficients *channels,
                    const hl_norm_coefficients *lanes)
{
    hl_columns_spread(c, channels->mean, lanes->mean);
    hl_columns_spread(c, channels->gain, lanes->gain);
    hl_columns_spread(c, channels->slope, lanes->slope);
    hl_columns_spread(c, channels->shift, lanes->shift);
}

/* What loops over rows work on. */
typedef struct operands {
    const void *a, *b; /* forward: x and the residual; backward: dy and x; b may be NULL */
    void *out;
    int64_t width; /* of a row, in elements */
    hl_norm_coefficients k;
    hl_act act;
} operands;

/* x - mean is taken first: with the mean moved into the shift, large means would cancel. */
static inline __attribute__((always_inline)) float forward(const hl_norm_coefficients *k, int64_t lane,
                                                           float x)
{
    return (x - k->mean[lane]) * k->gain[lane] + k->shift[lane];
}

static inline __attribute__((always_inline)) float backward(const hl_norm_coefficients *k, int64_t lane,
                                                            float dy, float x)
{
    return dy * k->gain[lane] + ((x - k->mean[lane]) * k->slope[lane] + k->shift[lane]);
}

/* The activations that networks of the zoo have behind norms, in registers. */
static inline __attribute__((always_inline)) float finish(hl_act act, float v)
{
    if (act == HL_ACT_RELU || act == HL_ACT_RELU6)
        v = v < 0.0f ? 0.0f : v;
    return act == HL_ACT_RELU6 && v > 6.0f ? 6.0f : v;
}

/* n elements of one row of f32, from its start. */
static inline __attribute__((always_inline)) void forward_f32(const operands *o, int64_t at, int64_t n,
                                                              bool residual, hl_act act)
{
    const float *x = (const float *)o->a + at, *r = residual ? (const float *)o->b + at : NULL;
    float *y = (float *)o->out + at;
    const hl_norm_coefficients k = o->k;
#pragma omp simd
    for (int64_t t = 0; t < n; t++) {
        float v = forward(&k, t, x[t]);
        y[t] = finish(act, residual ? v + r[t] : v);
    }
}

/* The same of bf16, in pairs. */
static inline __attribute__((always_inline)) void forward_bf16(const operands *o, int64_t at, int64_t n,
                                                               bool residual, hl_act act)
{
    const hl_pair *x = hl_pairs_at(o->a, at), *r = residual ? hl_pairs_at(o->b, at) : NULL;
    hl_pair *y = (hl_pair *)hl_pairs_at(o->out, at);
    const hl_norm_coefficients k = o->k;
    const int64_t half = o->width / 2;
#pragma omp simd
    for (int64_t t = 0; t < n / 2; t++) {
        float v = forward(&k, t, hl_pair_first(x[t])), w = forward(&k, half + t, hl_pair_second(x[t]));
        v = residual ? v + hl_pair_first(r[t]) : v;
        w = residual ? w + hl_pair_second(r[t]) : w;
        y[t] = hl_pair_clamped(v, w, act == HL_ACT_NONE ? INT32_MIN : 0,
                               act == HL_ACT_RELU6 ? BITS_OF_SIX : INT32_MAX);
    }
    if (n % 2 != 0) {
        float v = forward(&k, n / 2, hl_bf16_to_f32(((const hl_bf16 *)o->a)[at + n - 1]));
        v = residual ? v + hl_bf16_to_f32(((const hl_bf16 *)o->b)[at + n - 1]) : v;
        ((hl_bf16 *)o->out)[at + n - 1] = hl_bf16_from_f32(finish(act, v));
    }
}

static inline __attribute__((always_inline)) void forward_rows(const operands *o, int64_t at, int64_t end,
                                                               bool pairs, bool residual, hl_act act)
{
    for (; at < end; at += o->width) {
        int64_t n = end - at < o->width ? end - at : o->width;
        if (pairs)
            forward_bf16(o, at, n, residual, act);
        else
            forward_f32(o, at, n, residual, act);
    }
}

/* n elements of a row, from an even column on: those of f32, or of bf16 the first of all pairs in v[0 ..) and
 * the second in v[RUN / 2 ..). */
static inline __attribute__((always_inline)) void gather(const void *values, int64_t at, int64_t n,
                                                         bool pairs, float *restrict v)
{
    if (!pairs) {
        memcpy(v, (const float *)values + at, (size_t)n * sizeof *v);
        return;
    }
    const hl_pair *from = hl_pairs_at(values, at);
    for (int64_t t = 0; t < n / 2; t++) {
        v[t] = hl_pair_first(from[t]);
        v[RUN / 2 + t] = hl_pair_second(from[t]);
    }
    if (n % 2 != 0)
        v[n / 2] = hl_bf16_to_f32(((const hl_bf16 *)values)[at + n - 1]);
}

static inline __attribute__((always_inline)) void scatter(const float *v, int64_t at, int64_t n, bool pairs,
                                                          void *values)
{
    if (!pairs) {
        memcpy((float *)values + at, v, (size_t)n * sizeof *v);
        return;
    }
    hl_pair *to = (hl_pair *)hl_pairs_at(values, at);
    for (int64_t t = 0; t < n / 2; t++)
        to[t] = hl_pair_of(v[t], v[RUN / 2 + t]);
    if (n % 2 != 0)
        ((hl_bf16 *)values)[at + n - 1] = hl_bf16_from_f32(v[n / 2]);
}

static inline __attribute__((always_inline)) void affine(const hl_norm_coefficients *k, int64_t lane,
                                                         int64_t n, const float *residual, hl_act act,
                                                         float *restrict v)
{
    for (int64_t t = 0; t < n; t++)
        v[t] = forward(k, lane + t, v[t]);
    if (residual != NULL)
        for (int64_t t = 0; t < n; t++)
            v[t] += residual[t];
    hl_act_run(act, v, n);
}

/* Any activation, over short runs in a buffer. */
static inline __attribute__((always_inline)) void forward_any(const operands *o, int64_t at, int64_t end,
                                                              bool pairs)
{
    float v[RUN], r[RUN];
    const float *residual = o->b != NULL ? r : NULL;
    for (int64_t row = at; row < end; row += o->width)
        for (int64_t c = 0; c < o->width && row + c < end; c += RUN) {
            int64_t n = o->width - c < RUN ? o->width - c : RUN;
            n = end - (row + c) < n ? end - (row + c) : n;
            gather(o->a, row + c, n, pairs, v);
            if (residual != NULL)
                gather(o->b, row + c, n, pairs, r);
            if (pairs) {
                affine(&o->k, c / 2, (n + 1) / 2, residual, o->act, v);
                affine(&o->k, (o->width + c) / 2, n / 2, residual != NULL ? r + RUN / 2 : NULL, o->act,
                       v + RUN / 2);
            } else {
                affine(&o->k, c, n, residual, o->act, v);
            }
            scatter(v, row + c, n, pairs, o->out);
        }
}

static inline __attribute__((always_inline)) void forward_select(const operands *o, int64_t at, int64_t end,
                                                                 bool pairs)
{
    if (o->act == HL_ACT_NONE && o->b == NULL)
        forward_rows(o, at, end, pairs, false, HL_ACT_NONE);
    else if (o->act == HL_ACT_RELU && o->b == NULL)
        forward_rows(o, at, end, pairs, false, HL_ACT_RELU);
    else if (o->act == HL_ACT_RELU6 && o->b == NULL)
        forward_rows(o, at, end, pairs, false, HL_ACT_RELU6);
    else if (o->act == HL_ACT_NONE)
        forward_rows(o, at, end, pairs, true, HL_ACT_NONE);
    else if (o->act == HL_ACT_RELU)
        forward_rows(o, at, end, pairs, true, HL_ACT_RELU);
    else
        forward_any(o, at, end, pairs);
}

/* Elements [at, end), from the start of a row on; the last row may be cut short. */
HL_CLONES static void forward_range_f32(const operands *o, int64_t at, int64_t end)
{
    forward_select(o, at, end, false);
}

HL_CLONES static void forward_range_bf16(const operands *o, int64_t at, int64_t end)
{
    forward_select(o, at, end, true);
}

void hl_norm_apply(const hl_step *step, const hl_columns *c, const hl_norm_coefficients *k)
{
    const operands o = {.a = step->in[0]->data,
                        .b = step->in_count > 1 && step->in[1] != NULL ? step->in[1]->data : NULL,
                        .out = step->out[0]->data,
                        .width = c->width,
                        .k = *k,
                        .act = step->norm.act};
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < c->count; at += c->chunk) {
        int64_t end = c->count - at < c->chunk ? c->count : at + c->chunk;
        if (c->pairs)
            forward_range_bf16(&o, at, end);
        else
            forward_range_f32(&o, at, end);
    }
}

static inline __attribute__((always_inline)) void backward_f32(const operands *o, int64_t at, int64_t n,
                                                               bool with_x)
{
    const float *dy = (const float *)o->a + at, *x = with_x ? (const float *)o->b + at : NULL;
    float *dx = (float *)o->out + at;
    const hl_norm_coefficients k = o->k;
#pragma omp simd
    for (int64_t t = 0; t < n; t++)
        dx[t] = with_x ? backward(&k, t, dy[t], x[t]) : dy[t] * k.gain[t];
}

static inline __attribute__((always_inline)) void backward_bf16(const operands *o, int64_t at, int64_t n,
                                                                bool with_x)
{
    const hl_pair *dy = hl_pairs_at(o->a, at), *x = with_x ? hl_pairs_at(o->b, at) : NULL;
    hl_pair *dx = (hl_pair *)hl_pairs_at(o->out, at);
    const hl_norm_coefficients k = o->k;
    const int64_t half = o->width / 2;
#pragma omp simd
    for (int64_t t = 0; t < n / 2; t++) {
        float g = hl_pair_first(dy[t]), h = hl_pair_second(dy[t]);
        g = with_x ? backward(&k, t, g, hl_pair_first(x[t])) : g * k.gain[t];
        h = with_x ? backward(&k, half + t, h, hl_pair_second(x[t])) : h * k.gain[half + t];
        dx[t] = hl_pair_of(g, h);
    }
    if (n % 2 != 0) {
        float g = hl_bf16_to_f32(((const hl_bf16 *)o->a)[at + n - 1]);
        g = with_x ? backward(&k, n / 2, g, hl_bf16_to_f32(((const hl_bf16 *)o->b)[at + n - 1]))
                   : g * k.gain[n / 2];
        ((hl_bf16 *)o->out)[at + n - 1] = hl_bf16_from_f32(g);
    }
}

static inline __attribute__((always_inline)) void backward_rows(const operands *o, int64_t at, int64_t end,
                                                                bool pairs, bool with_x)
{
    for (; at < end; at += o->width) {
        int64_t n = end - at < o->width ? end - at : o->width;
        if (pairs)
            backward_bf16(o, at, n, with_x);
        else
            backward_f32(o, at, n, with_x);
    }
}

HL_CLONES static void backward_range_f32(const operands *o, int64_t at, int64_t end)
{
    if (o->b != NULL)
        backward_rows(o, at, end, false, true);
    else
        backward_rows(o, at, end, false, false);
}

HL_CLONES static void backward_range_bf16(const operands *o, int64_t at, int64_t end)
{
    if (o->b != NULL)
        backward_rows(o, at, end, true, true);
    else
        backward_rows(o, at, end, true, false);
}

void hl_norm_apply_grad(const hl_tensor *dy, const hl_tensor *x, const hl_tensor *dx, const hl_columns *c,
                        const hl_norm_coefficients *k)
{
    const operands o = {
        .a = dy->data, .b = x != NULL ? x->data : NULL, .out = dx->data, .width = c->width, .k = *k};
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < c->count; at += c->chunk) {
        int64_t end = c->count - at < c->chunk ? c->count : at + c->chunk;
        if (c->pairs)
            backward_range_bf16(&o, at, end);
        else
            backward_range_f32(&o, at, end);
    }
}

static bool is_trained(const hl_param *p)
{
    return p != NULL && p->trained;
}

bool hl_norm_trains(const hl_norm_attr *norm)
{
    return is_trained(norm->scale) || is_trained(norm->shift);
}

void hl_norm_param_grads(const hl_step *step, const hl_columns *c, const double *sum, const double *dot,
                         const float *inverse_deviation)
{
    const hl_norm_attr *norm = &step->norm;
    bool keep = step->run->grad_keep != 0.0f;
    for (int64_t i = 0; i < c->channels; i++) {
        if (is_trained(norm->scale))
            norm->scale->grad[i] =
                (keep ? norm->scale->grad[i] : 0.0f) + (float)(dot[i] * (double)inverse_deviation[i]);
        if (is_trained(norm->shift))
            norm->shift->grad[i] = (keep ? norm->shift->grad[i] : 0.0f) + (float)sum[i];
    }
}

hl_status hl_norm_check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    HL_TRY(hl_step_check_norm(step));
    HL_TRY(hl_tile_check(step));
    const hl_tensor *const others[] = {step->in_count > 1 ? step->in[1] : NULL, step->out[0]};
    for (int i = 0; i < 2; i++)
        if (others[i] != NULL && others[i]->elem != step->in[0]->elem)
            return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "the CPU normalises values of one type");
    return HL_OK;
}

hl_status hl_norm_prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    hl_columns c = hl_columns_of(step->in[0]);
    step->scratch_bytes = hl_norm_scratch_bytes(&c);
    return HL_OK;
}

hl_status hl_norm_bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}
