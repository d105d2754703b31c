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

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *logits = step->in[0], *dlogits = step->out[1];
    int64_t classes = logits->shape.c, batch = logits->shape.n;
    double smoothing = (double)step->loss.smoothing, share = smoothing / (double)classes;
    double factor = (double)step->run->grad_scale / (double)batch;
    float *row = step->exec;
    for (int64_t n = 0; n < batch; n++) {
        int32_t label = ((const int32_t *)step->in[1]->data)[n];
        if (label < 0 || label >= classes)
            return hl_fail(HL_E_INTERNAL, step->name, NULL, "label %d is not below %lld classes", (int)label,
                           (long long)classes);
        load_row(logits, n, row);
        float top = row[0];
        for (int64_t c = 1; c < classes; c++)
            top = row[c] > top || isnan(row[c]) ? row[c] : top;
        double sum = 0.0, mean = 0.0;
        for (int64_t c = 0; c < classes; c++) {
            sum += exp((double)row[c] - (double)top);
            mean += (double)row[c];
        }
        double log_sum = (double)top + log(sum);
        mean /= (double)classes;
        /* - sum q log p with q = (1 - e) onehot + e / C */
        double loss = log_sum - (1.0 - smoothing) * (double)row[label] - smoothing * mean;
        ((float *)step->out[0]->data)[n] = (float)loss;
        if (dlogits == NULL)
            continue;
        for (int64_t c = 0; c < classes; c++) {
            double p = exp((double)row[c] - log_sum), q = share + (c == label ? 1.0 - smoothing : 0.0);
            row[c] = (float)((p - q) * factor);
        }
        store_row(dlogits, n, row);
    }
    return HL_OK;
}

const hl_cpu_op hl_cpu_loss = {.check = check, .prepare = prepare, .bind = bind, .run = run};
