/* Learning rate schedules, per optimizer step. */
#ifndef HL_TRAIN_SCHEDULE_H
#define HL_TRAIN_SCHEDULE_H

#include <heirloom/train.h>

/* The learning rate of step `step` (from 0) of `steps`, of which the first `warmup` rise linearly, (step + 1)
 * / (warmup + 1) of lr. constant: lr. cosine: from lr to 0 over the remaining steps, lr (1 + cos(pi t)) / 2.
 * step: lr, a tenth of it from 60 % of all steps on, a hundredth from 80 %. */
double hl_schedule_lr(hl_schedule schedule, double lr, int64_t step, int64_t steps, int64_t warmup);

#endif
