#include "train/schedule.h"

#include <math.h>

double hl_schedule_lr(hl_schedule schedule, double lr, int64_t step, int64_t steps, int64_t warmup)
{
    if (step < warmup)
        return lr * (double)(step + 1) / (double)(warmup + 1);
    double done = steps > warmup ? (double)(step - warmup) / (double)(steps - warmup) : 0.0;
    switch (schedule) {
    case HL_SCHEDULE_CONSTANT:
        return lr;
    case HL_SCHEDULE_COSINE:
        return lr * 0.5 * (1.0 + cos(3.14159265358979323846 * done));
    case HL_SCHEDULE_STEP:
        return 10 * step >= 8 * steps ? 0.01 * lr : 10 * step >= 6 * steps ? 0.1 * lr : lr;
    }
    return lr;
}
