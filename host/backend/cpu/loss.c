/* LOSS: softmax cross-entropy with label smoothing, and its gradient in the same pass. */
#include <math.h>

#include "backend/cpu/tile.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    const hl_tensor *dlogits = step->out[1];
    if ((step->in[0]->elem != HL_ELEM_F32 && step->in[0]->elem != HL_ELEM_BF16) ||
        step->in[1]->elem != HL_ELEM_I32 ||
        (dlogits != NULL && dlogits->elem != HL_ELEM_F32 && dlogits->elem != HL_ELEM_BF16))
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL,
                       "the loss takes f32 or bf16 logits and i32 labels");
    return HL_OK;
}

/* Scratch: one row of floats. */
static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    step->scratch_bytes = (size_t)step->in[0]->shape.c * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}

static void load_row(const hl_tensor *t, int64_t row, float *out)
{
    int64_t classes = t->shape.c;
    for (int64_t c = 0; c < classes; c += HL_TILE)
        hl_tile_load(t, row * classes + c, classes - c < HL_TILE ? classes - c : HL_TILE, out + c);
}

static void store_row(const hl_tensor *t, int64_t row, const float *values)
{
    int64_t classes = t->shape.c;
    for (int64_t c = 0; c < classes; c += HL_TILE)
        hl_tile_store(t, row * classes + c, classes - c < HL_TILE ? classes - c : HL_TILE, values + c);
}

static const hl_tensor *operand(const hl_step *step, int i)
{
    return i < step->in_count ? step->in[i] : NULL;
}

/* The distribution that sample n is held against. */
typedef struct target {
    int32_t label, partner; /* partner: of the image it is mixed with */
    double share;           /* of its own label */
    const float *q;         /* given outright, or NULL */
} target;

static hl_status find_target(const hl_step *step, int64_t n, target *t)
{
    const int32_t *labels = step->in[1]->data;
    const hl_tensor *mixes = operand(step, 2), *targets = operand(step, 3);
    int64_t classes = step->in[0]->shape.c;
    *t = (target){.label = labels[n], .partner = labels[n], .share = 1.0};
    if (targets != NULL)
        t->q = (const float *)targets->data + n * classes;
    if (mixes != NULL) {
        const hl_mix *mix = (const hl_mix *)mixes->data + n;
        t->partner = labels[mix->partner];
        t->share = (double)mix->share;
    }
    int32_t wrong = t->label < 0 || t->label >= classes ? t->label : t->partner;
    if (t->q == NULL && (wrong < 0 || wrong >= classes))
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "label %d is not below %lld classes", (int)wrong,
                       (long long)classes);
    return HL_OK;
}

static double probability(const target *t, int64_t c, double smoothing, double share)
{
    if (t->q != NULL)
        return (double)t->q[c];
    double hit = (c == t->label ? t->share : 0.0) + (c == t->partner ? 1.0 - t->share : 0.0);
    return share + (1.0 - smoothing) * hit;
}

/* One sample's loss, - sum q log p; `row` holds the logits, and afterwards their gradient times `factor`. */
static float sample_loss(const target *t, float *row, int64_t classes, double smoothing, double factor)
{
    float top = row[0];
    for (int64_t c = 1; c < classes; c++)
        top = row[c] > top || isnan(row[c]) ? row[c] : top;
    double sum = 0.0, loss = 0.0, mass = 0.0;
    for (int64_t c = 0; c < classes; c++)
        sum += exp((double)row[c] - (double)top);
    double log_sum = (double)top + log(sum), share = smoothing / (double)classes;
    for (int64_t c = 0; c < classes; c++) {
        double q = probability(t, c, smoothing, share);
        loss += q * (log_sum - (double)row[c]);
        mass += q;
    }
    if (t->q == NULL)
        mass = 1.0;
    for (int64_t c = 0; c < classes; c++) {
        double p = exp((double)row[c] - log_sum);
        row[c] = (float)((mass * p - probability(t, c, smoothing, share)) * factor);
    }
    return (float)loss;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *logits = step->in[0], *dlogits = step->out[1];
    int64_t classes = logits->shape.c, batch = logits->shape.n;
    double scale = step->record != NULL ? (double)step->record->loss_scale : 1.0;
    double factor = scale * (double)step->run->grad_scale / (double)batch;
    float *row = step->exec;
    for (int64_t n = 0; n < batch; n++) {
        target t;
        HL_TRY(find_target(step, n, &t));
        load_row(logits, n, row);
        ((float *)step->out[0]->data)[n] =
            sample_loss(&t, row, classes, (double)step->loss.smoothing, factor);
        if (dlogits != NULL)
            store_row(dlogits, n, row);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_loss = {.check = check, .prepare = prepare, .bind = bind, .run = run};
