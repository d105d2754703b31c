#include <criterion/criterion.h>
#include <math.h>

#include "backend/cpu/act_math.h"
#include "support/ref_conv.h"

Test(act_math, sigmoid_errs_by_a_few_units_in_the_last_place)
{
    for (double x = -86.0; x <= 100.0; x += 0.0013) {
        double want = 1.0 / (1.0 + exp(-(double)(float)x)), got = (double)hl_sigmoidf((float)x);
        cr_assert(fabs(got - want) <= 3e-7 * want, "sigmoid(%g) is %.9g, not %.9g", x, got, want);
    }
}

Test(act_math, sigmoid_saturates_without_overflow)
{
    cr_assert(hl_sigmoidf(INFINITY) == 1.0f && hl_sigmoidf(1e30f) == 1.0f);
    cr_assert(hl_sigmoidf(-INFINITY) >= 0.0f && hl_sigmoidf(-INFINITY) < 1e-37f);
    cr_assert(hl_sigmoidf(0.0f) == 0.5f);
}

/* Relative to the result, which near zero is as small as x: 1 - 2 / (e^2x + 1) alone would have no digits
 * there. */
Test(act_math, tanh_errs_by_a_few_units_in_the_last_place)
{
    for (double x = -12.0; x <= 12.0; x += 0.0007) {
        double want = tanh((double)(float)x), got = (double)hl_tanhf((float)x);
        cr_assert(fabs(got - want) <= 3e-7 * fabs(want), "tanh(%g) is %.9g, not %.9g", x, got, want);
    }
    for (float x = 0.7f; x > 1e-30f; x *= 0.37f)
        cr_assert(fabs((double)hl_tanhf(-x) + tanh((double)x)) <= 3e-7 * tanh((double)x), "tanh(%g)",
                  (double)x);
    cr_assert(hl_tanhf(0.0f) == 0.0f && hl_tanhf(INFINITY) == 1.0f && hl_tanhf(-INFINITY) == -1.0f);
}

Test(act_math, a_nan_stays_a_nan_through_every_activation)
{
    for (int act = HL_ACT_NONE; act <= HL_ACT_TANH; act++) {
        float v[3] = {1.0f, NAN, -1.0f};
        hl_act_run((hl_act)act, v, 3);
        cr_assert(isnan(v[1]), "activation %d", act);
        cr_assert(!isnan(v[0]) && !isnan(v[2]));
    }
}

Test(act_math, activations_agree_with_their_definitions)
{
    for (int act = HL_ACT_NONE; act <= HL_ACT_TANH; act++) {
        for (int i = -2000; i <= 2000; i++) {
            float x = (float)i / 100.0f, v = x;
            hl_act_run((hl_act)act, &v, 1);
            double want = ref_conv_act((hl_act)act, (double)x);
            cr_assert(fabs((double)v - want) <= 4e-7 * (1.0 + fabs((double)x)),
                      "activation %d of %g is %.9g, not %.9g", act, (double)x, (double)v, want);
        }
    }
}
