#include "backend/cpu/norm_util.h"

#include "backend/cpu/act_math.h"
#include "base/simd.h"

enum { COEFFICIENTS = 4 };

size_t hl_norm_scratch_bytes(const hl_columns *c)
{
    return hl_columns_sums_bytes(c) + (size_t)(COEFFICIENTS * c->width) * sizeof(float);
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

void hl_norm_repeat(const hl_columns *c, const hl_norm_coefficients *k)
{
    hl_columns_repeat(c, k->mean);
    hl_columns_repeat(c, k->gain);
    hl_columns_repeat(c, k->slope);
    hl_columns_repeat(c, k->shift);
}

/* x - mean is taken first: with the mean moved into the shift, large means would cancel. */
HL_CLONES static void forward_tile(float *restrict v, int64_t count, int64_t width,
                                   const float *restrict mean, const float *restrict gain,
                                   const float *restrict shift)
{
    for (int64_t at = 0; at < count; at += width) {
        int64_t n = count - at < width ? count - at : width;
        for (int64_t t = 0; t < n; t++)
            v[at + t] = (v[at + t] - mean[t]) * gain[t] + shift[t];
    }
}

HL_CLONES static void finish_tile(float *restrict v, int64_t count, const float *restrict residual,
                                  hl_act act)
{
    if (residual != NULL)
        for (int64_t i = 0; i < count; i++)
            v[i] += residual[i];
    hl_act_run(act, v, count);
}

static void forward_chunk(const hl_step *step, const hl_columns *c, const hl_norm_coefficients *k,
                          const hl_tensor *residual, int64_t first, int64_t end)
{
    float v[HL_TILE], r[HL_TILE];
    int64_t width = c->width < HL_TILE ? c->width : HL_TILE;
    for (int64_t at = first, n, offset; at < end; at += n) {
        n = hl_columns_tile(c, at, end, &offset);
        hl_tile_load(step->in[0], at, n, v);
        if (residual != NULL)
            hl_tile_load(residual, at, n, r);
        forward_tile(v, n, width, k->mean + offset, k->gain + offset, k->shift + offset);
        if (residual != NULL || step->norm.act != HL_ACT_NONE)
            finish_tile(v, n, residual != NULL ? r : NULL, step->norm.act);
        hl_tile_store(step->out[0], at, n, v);
    }
}

void hl_norm_apply(const hl_step *step, const hl_columns *c, const hl_norm_coefficients *k)
{
    const hl_tensor *residual = step->in_count > 1 ? step->in[1] : NULL;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < c->count; first += c->chunk)
        forward_chunk(step, c, k, residual, first, c->count - first < c->chunk ? c->count : first + c->chunk);
}

HL_CLONES static void scale_tile(float *restrict g, int64_t count, int64_t width, const float *restrict gain)
{
    for (int64_t at = 0; at < count; at += width) {
        int64_t n = count - at < width ? count - at : width;
        for (int64_t t = 0; t < n; t++)
            g[at + t] *= gain[t];
    }
}

HL_CLONES static void backward_tile(float *restrict g, const float *restrict x, int64_t count, int64_t width,
                                    const float *restrict mean, const float *restrict gain,
                                    const float *restrict slope, const float *restrict shift)
{
    for (int64_t at = 0; at < count; at += width) {
        int64_t n = count - at < width ? count - at : width;
        for (int64_t t = 0; t < n; t++)
            g[at + t] = g[at + t] * gain[t] + ((x[at + t] - mean[t]) * slope[t] + shift[t]);
    }
}

static void backward_chunk(const hl_tensor *dy, const hl_tensor *x, const hl_tensor *dx, const hl_columns *c,
                           const hl_norm_coefficients *k, int64_t first, int64_t end)
{
    float g[HL_TILE], v[HL_TILE];
    int64_t width = c->width < HL_TILE ? c->width : HL_TILE;
    for (int64_t at = first, n, offset; at < end; at += n) {
        n = hl_columns_tile(c, at, end, &offset);
        hl_tile_load(dy, at, n, g);
        if (x != NULL) {
            hl_tile_load(x, at, n, v);
            backward_tile(g, v, n, width, k->mean + offset, k->gain + offset, k->slope + offset,
                          k->shift + offset);
        } else {
            scale_tile(g, n, width, k->gain + offset);
        }
        hl_tile_store(dx, at, n, g);
    }
}

void hl_norm_apply_grad(const hl_tensor *dy, const hl_tensor *x, const hl_tensor *dx, const hl_columns *c,
                        const hl_norm_coefficients *k)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < c->count; first += c->chunk)
        backward_chunk(dy, x, dx, c, k, first, c->count - first < c->chunk ? c->count : first + c->chunk);
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
    return hl_tile_check(step);
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
