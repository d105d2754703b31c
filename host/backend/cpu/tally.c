/* TALLY: the batch's losses and hits, added to the training record. */
#include <math.h>

#include "backend/cpu/tile.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->record == NULL || step->in[0]->elem != HL_ELEM_F32 || step->in[1]->elem != HL_ELEM_F32 ||
        step->in[2]->elem != HL_ELEM_I32)
        return hl_fail(HL_E_INTERNAL, step->name, NULL,
                       "a tally takes a record, f32 losses and logits, and i32 labels");
    return HL_OK;
}

/* Is the label's logit the largest, the first of equal ones? Never where one is NaN. */
static bool is_hit(const float *logits, int64_t classes, int32_t label)
{
    bool hit = label >= 0 && label < classes;
    for (int64_t c = 0; c < classes && hit; c++)
        hit = c < label ? logits[c] < logits[label] : logits[c] <= logits[label];
    return hit;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const float *losses = step->in[0]->data, *logits = step->in[1]->data;
    const int32_t *labels = step->in[2]->data;
    int64_t n = step->in[1]->shape.n, classes = step->in[1]->shape.c;
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)losses[i];
        step->record->correct += is_hit(logits + i * classes, classes, labels[i]);
    }
    step->record->loss_sum += sum;
    step->record->seen += n;
    step->record->pending_loss += sum / (double)n;
    step->record->pending++;
    return HL_OK;
}

const hl_cpu_op hl_cpu_tally = {.check = check, .run = run};
