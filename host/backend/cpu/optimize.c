/* OPTIMIZE: SGD, Adam and AdamW as torch.optim computes them, and LARS, over the flat arrays; in front of
 * them the penalties, the check that all gradients are finite, and clipping. */
#include <math.h>
#include <string.h>

#include "backend/cpu/tile.h"
#include "base/simd.h"

/* What one segment's update needs, computed once. */
typedef struct rates {
    float lr, decay, factor;
    float momentum, keep_momentum; /* SGD: the buffer is keep_momentum * buffer + gradient; 0 at the first
                                      update, as torch starts it */
    bool nesterov;
    float beta1, beta2, eps;
    float step_size, root_correction; /* Adam: lr / (1 - beta1^t), sqrt(1 - beta2^t) */
} rates;

HL_CLONES static void sgd(const rates *k, float *restrict value, const float *restrict grad,
                          float *restrict buffer, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float g = grad[i] * k->factor + k->decay * value[i];
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
        float g = grad[i] * k->factor + coupled * v;
        float m = first[i] + (1.0f - k->beta1) * (g - first[i]);
        float s = k->beta2 * second[i] + (1.0f - k->beta2) * g * g;
        first[i] = m;
        second[i] = s;
        value[i] = v - k->step_size * (m / (sqrtf(s) / k->root_correction + k->eps));
    }
}

static double sum_squares(const float *v, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i] * (double)v[i];
    return sum;
}

/* LARS scales a layer's rate by trust |w| / (|g| + decay |w|); layers without weights or gradients keep
 * theirs. */
static float adaptation(const hl_optimize_attr *o, const hl_segment *segment, float factor)
{
    if (o->kind != HL_OPTIMIZER_LARS || !segment->adapt)
        return 1.0f;
    double w = sqrt(sum_squares(o->value + segment->first, segment->count)),
           g = (double)factor * sqrt(sum_squares(o->grad + segment->first, segment->count));
    if (w == 0.0 || g == 0.0)
        return 1.0f;
    return (float)((double)o->trust * w / (g + (double)segment->weight_decay * w));
}

static rates rates_of(const hl_step *step, const hl_segment *segment)
{
    const hl_optimize_attr *o = &step->optimize;
    const hl_train_record *record = step->record;
    double lr = (double)step->run->lr * (double)segment->lr_scale;
    float adapt = adaptation(o, segment, record->grad_factor);
    return (rates){.lr = (float)lr,
                   .decay = segment->weight_decay * adapt,
                   .factor = record->grad_factor * adapt,
                   .momentum = o->momentum,
                   .keep_momentum = record->updates == 0 ? 0.0f : o->momentum,
                   .nesterov = o->nesterov,
                   .beta1 = o->beta1,
                   .beta2 = o->beta2,
                   .eps = o->eps,
                   .step_size = (float)(lr / (double)record->bias1),
                   .root_correction = record->root2};
}

static void update(const hl_step *step, const rates *k, int64_t at, int64_t n)
{
    const hl_optimize_attr *o = &step->optimize;
    if (o->kind == HL_OPTIMIZER_SGD || o->kind == HL_OPTIMIZER_LARS)
        sgd(k, o->value + at, o->grad + at, o->moment1 + at, n);
    else
        adam(k, o->kind == HL_OPTIMIZER_ADAMW, o->value + at, o->grad + at, o->moment1 + at, o->moment2 + at,
             n);
}

static void update_segment(const hl_step *step, const hl_segment *segment)
{
    enum { CHUNK = 16384 };
    rates k = rates_of(step, segment);
#pragma omp parallel for schedule(static) if (segment->count > CHUNK)
    for (int64_t at = 0; at < segment->count; at += CHUNK)
        update(step, &k, segment->first + at, segment->count - at < CHUNK ? segment->count - at : CHUNK);
}

/* Looks at exponents only. */
HL_CLONES static uint32_t count_bad(const float *values, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bad += (bits & 0x7f800000u) == 0x7f800000u;
    }
    return bad;
}

static bool all_finite(const float *values, int64_t n)
{
    enum { CHUNK = 65536 };
    uint32_t bad = 0;
#pragma omp parallel for schedule(static) reduction(+ : bad) if (n > CHUNK)
    for (int64_t at = 0; at < n; at += CHUNK)
        bad += count_bad(values + at, n - at < CHUNK ? n - at : CHUNK) != 0;
    return bad == 0;
}

/* The gradient of l1 |1 + v| is added (times the loss scale, which the gradients carry too), its value
 * returned. */
static double penalty(const hl_optimize_attr *o, const hl_segment *segment, double loss_scale)
{
    double sum = 0.0;
    const float slope = (float)((double)segment->l1 * loss_scale);
    for (int64_t i = segment->first; i < segment->first + segment->count; i++) {
        float a = 1.0f + o->value[i];
        o->grad[i] += slope * (float)((a > 0.0f) - (a < 0.0f));
        sum += fabs((double)a);
    }
    return (double)segment->l1 * sum;
}

HL_CLONES static double pull_chunk(float slope, const float *restrict value, const float *restrict start,
                                   float *restrict grad, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        float moved = value[i] - start[i];
        grad[i] += slope * moved;
        sum += (double)moved * (double)moved;
    }
    return sum;
}

/* The same for pull/2 |v - start|^2. */
static double pull_back(const hl_optimize_attr *o, const hl_segment *segment, double loss_scale)
{
    enum { CHUNK = 16384 };
    double sum = 0.0;
    const float slope = (float)((double)segment->pull * loss_scale);
    for (int64_t at = segment->first, end = at + segment->count; at < end; at += CHUNK)
        sum += pull_chunk(slope, o->value + at, o->start + at, o->grad + at,
                          end - at < CHUNK ? end - at : CHUNK);
    return 0.5 * (double)segment->pull * sum;
}

/* What is summed over all segments before the update. */
typedef struct survey {
    double penalty, squares;
    bool finite;
} survey;

static survey survey_gradients(const hl_step *step)
{
    const hl_optimize_attr *o = &step->optimize;
    survey all = {.finite = true};
    for (int s = 0; s < o->segment_count; s++) {
        const hl_segment *segment = &o->segments[s];
        if (segment->l1 > 0.0f)
            all.penalty += penalty(o, segment, step->record->loss_scale);
        if (segment->pull > 0.0f)
            all.penalty += pull_back(o, segment, step->record->loss_scale);
        all.finite = all.finite && all_finite(o->grad + segment->first, segment->count);
        if (o->clip_norm > 0.0f)
            all.squares += sum_squares(o->grad + segment->first, segment->count);
    }
    return all;
}

/* torch.nn.utils.clip_grad_norm_: all gradients together, scaled to clip_norm when their norm is larger. */
static void set_factor(hl_train_record *r, const hl_optimize_attr *o, double squares)
{
    r->grad_norm = sqrt(squares) / r->loss_scale;
    double factor = o->clip_norm > 0.0f ? (double)o->clip_norm / (r->grad_norm + 1e-6) : 1.0;
    r->grad_factor = (float)((factor < 1.0 ? factor : 1.0) / r->loss_scale);
}

static void rescale(hl_train_record *r, bool finite)
{
    r->good_steps = finite ? r->good_steps + 1 : 0;
    if (!finite) {
        r->loss_scale *= HL_LOSS_SCALE_BACKOFF;
        r->skipped++;
    } else if (r->good_steps == HL_LOSS_SCALE_STEPS) {
        r->loss_scale *= HL_LOSS_SCALE_GROWTH;
        r->good_steps = 0;
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_optimize_attr *o = &step->optimize;
    hl_train_record *r = step->record;
    survey all = survey_gradients(step);
    bool loss_finite = isfinite(r->pending_loss);
    r->step_loss = (r->pending > 0 ? r->pending_loss / (double)r->pending : 0.0) + all.penalty;
    r->pending_loss = 0.0;
    r->pending = 0;
    /* A scaled gradient may overflow; that costs one step, until the scale is so small that it is not the
     * cause. */
    bool overflow = o->scaling && loss_finite && !all.finite && r->loss_scale > 1.0f;
    if (r->bad_step == 0 && !overflow && !(all.finite && loss_finite))
        r->bad_step = (int64_t)step->run->step + 1;
    r->update = r->bad_step == 0 && !overflow;
    if (r->update) {
        double t = (double)r->updates + 1.0;
        set_factor(r, o, all.squares);
        r->bias1 = (float)(1.0 - pow((double)o->beta1, t));
        r->root2 = (float)sqrt(1.0 - pow((double)o->beta2, t));
        for (int s = 0; s < o->segment_count; s++)
            update_segment(step, &o->segments[s]);
        r->updates++;
    }
    if (o->scaling && r->bad_step == 0)
        rescale(r, !overflow);
    return HL_OK;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return step->record != NULL ? HL_OK : hl_fail(HL_E_INTERNAL, step->name, NULL, "it has no record");
}

const hl_cpu_op hl_cpu_optimize = {.check = check, .run = run};
