/* OPTIMIZE: SGD, Adam and AdamW as torch.optim computes them, in one pass over the flat arrays. */
#include <math.h>

#include "backend/cpu/simd.h"
#include "backend/cpu/tile.h"

/* What one segment's update needs, computed once. */
typedef struct rates {
    float lr, decay, clip;
    float momentum, keep_momentum; /* SGD: the buffer is keep_momentum * buffer + gradient; 0 at the first
                                      step, as torch starts it */
    bool nesterov;
    float beta1, beta2, eps;
    float step_size, root_correction; /* Adam: lr / (1 - beta1^t), sqrt(1 - beta2^t) */
} rates;

HL_CLONES static void sgd(const rates *k, float *restrict value, const float *restrict grad,
                          float *restrict buffer, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * k->clip + k->decay * value[i];
        if (k->momentum != 0.0f) {
            float b = k->keep_momentum * buffer[i] + g;
            buffer[i] = b;
            g = k->nesterov ? g + k->momentum * b : b;
        }
        value[i] -= k->lr * g;
    }
}

HL_CLONES static void adam(const rates *k, bool decoupled, float *restrict value, const float *restrict grad,
                           float *restrict first, float *restrict second, int64_t n)
{
    float shrink = decoupled ? 1.0f - k->lr * k->decay : 1.0f, coupled = decoupled ? 0.0f : k->decay;
    for (int64_t i = 0; i < n; i++) {
        float v = value[i] * shrink;
        float g = grad[i] * k->clip + coupled * v;
        float m = first[i] + (1.0f - k->beta1) * (g - first[i]);
        float s = k->beta2 * second[i] + (1.0f - k->beta2) * g * g;
        first[i] = m;
        second[i] = s;
        value[i] = v - k->step_size * (m / (sqrtf(s) / k->root_correction + k->eps));
    }
}

static rates rates_of(const hl_step *step, const hl_segment *segment)
{
    const hl_optimize_attr *o = &step->optimize;
    double t = (double)step->run->step + 1.0;
    double lr = (double)step->run->lr * (double)segment->lr_scale;
    return (rates){.lr = (float)lr,
                   .decay = segment->weight_decay,
                   .clip = step->run->clip,
                   .momentum = o->momentum,
                   .keep_momentum = step->run->step == 0 ? 0.0f : o->momentum,
                   .nesterov = o->nesterov,
                   .beta1 = o->beta1,
                   .beta2 = o->beta2,
                   .eps = o->eps,
                   .step_size = (float)(lr / (1.0 - pow((double)o->beta1, t))),
                   .root_correction = (float)sqrt(1.0 - pow((double)o->beta2, t))};
}

static void update(const hl_step *step, const rates *k, int64_t at, int64_t n)
{
    const hl_optimize_attr *o = &step->optimize;
    if (o->kind == HL_OPTIMIZER_SGD)
        sgd(k, o->value + at, o->grad + at, o->moment1 + at, n);
    else
        adam(k, o->kind == HL_OPTIMIZER_ADAMW, o->value + at, o->grad + at, o->moment1 + at, o->moment2 + at,
             n);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    enum { CHUNK = 16384 };
    for (int s = 0; s < step->optimize.segment_count; s++) {
        const hl_segment *segment = &step->optimize.segments[s];
        rates k = rates_of(step, segment);
#pragma omp parallel for schedule(static) if (segment->count > CHUNK)
        for (int64_t at = 0; at < segment->count; at += CHUNK)
            update(step, &k, segment->first + at, segment->count - at < CHUNK ? segment->count - at : CHUNK);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_optimize = {.run = run};
