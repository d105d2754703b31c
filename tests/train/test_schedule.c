#include <criterion/criterion.h>
#include <math.h>

#include "train/schedule.h"

Test(schedule, warm_up_rises_evenly_to_the_full_rate)
{
    for (hl_schedule kind = HL_SCHEDULE_CONSTANT; kind <= HL_SCHEDULE_COSINE; kind++) {
        for (int64_t step = 0; step < 4; step++)
            cr_assert_float_eq(hl_schedule_lr(kind, 0.5, step, 100, 4), 0.5 * (double)(step + 1) / 5.0,
                               1e-12);
        cr_assert_float_eq(hl_schedule_lr(kind, 0.5, 4, 100, 4), 0.5, 1e-12);
    }
}

Test(schedule, cosine_falls_from_the_rate_to_zero)
{
    cr_assert_float_eq(hl_schedule_lr(HL_SCHEDULE_COSINE, 2.0, 10, 110, 10), 2.0, 1e-12);
    cr_assert_float_eq(hl_schedule_lr(HL_SCHEDULE_COSINE, 2.0, 60, 110, 10), 1.0, 1e-12);
    cr_assert_float_eq(hl_schedule_lr(HL_SCHEDULE_COSINE, 2.0, 110, 110, 10), 0.0, 1e-12);
    for (int64_t step = 10; step < 109; step++)
        cr_assert_gt(hl_schedule_lr(HL_SCHEDULE_COSINE, 2.0, step, 110, 10),
                     hl_schedule_lr(HL_SCHEDULE_COSINE, 2.0, step + 1, 110, 10));
}

Test(schedule, steps_divide_by_ten_at_60_and_80_percent)
{
    static const struct {
        int64_t step;
        double lr;
    } rows[] = {{0, 1.0}, {59, 1.0}, {60, 0.1}, {79, 0.1}, {80, 0.01}, {99, 0.01}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_assert_float_eq(hl_schedule_lr(HL_SCHEDULE_STEP, 1.0, rows[i].step, 100, 0), rows[i].lr, 1e-12);
}

Test(schedule, a_run_of_one_step_has_a_finite_rate)
{
    for (hl_schedule kind = HL_SCHEDULE_CONSTANT; kind <= HL_SCHEDULE_COSINE; kind++)
        for (int64_t warmup = 0; warmup < 2; warmup++) {
            double lr = hl_schedule_lr(kind, 1.0, 0, 1, warmup);
            cr_assert(lr > 0.0 && lr <= 1.0, "%g", lr);
        }
}
