#include "support/numeric.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "base/bf16.h"
#include "base/f16.h"
#include "base/philox.h"

double unit_roundoff(hl_elem elem)
{
    return elem == HL_ELEM_BF16 ? 0x1p-8 : elem == HL_ELEM_F16 ? 0x1p-11 : 0x1p-24;
}

double stored(hl_elem elem, double value)
{
    return elem == HL_ELEM_BF16  ? (double)hl_bf16_to_f32(hl_bf16_from_f32((float)value))
           : elem == HL_ELEM_F16 ? (double)hl_f16_to_f32(hl_f16_from_f32((float)value))
                                 : (double)(float)value;
}

double *doubles(int64_t count)
{
    double *values = calloc((size_t)count, sizeof *values);
    cr_assert_not_null(values);
    return values;
}

double *random_doubles(int64_t count, double low, double high, hl_elem elem, uint32_t stream)
{
    double *values = doubles(count);
    hl_rng rng = hl_rng_make(3, HL_STREAM_TEST, stream, 0);
    for (int64_t i = 0; i < count; i++)
        values[i] = stored(elem, low + (high - low) * (double)hl_rng_uniform(&rng));
    return values;
}

void expect_close(const char *what, hl_elem elem, const double *got, const double *want, int64_t count,
                  double scale, double operations)
{
    for (int64_t i = 0; i < count; i++) {
        cr_assert(isfinite(got[i]), "%s[%lld] is %g, expected %g", what, (long long)i, got[i], want[i]);
        double tolerance = 1.001 * unit_roundoff(elem) * fabs(want[i]) + operations * 0x1p-24 * scale;
        cr_assert(fabs(got[i] - want[i]) <= tolerance, "%s[%lld] is %.9g, expected %.9g within %g", what,
                  (long long)i, got[i], want[i], tolerance);
    }
}

void expect_same(const char *what, const double *got, const double *want, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        cr_assert(got[i] == want[i] || (isnan(got[i]) && isnan(want[i])), "%s[%lld] is %.9g, not %.9g", what,
                  (long long)i, got[i], want[i]);
}

double central_difference(double (*f)(double x, const void *context), double x, const void *context)
{
    const double h = 1e-5;
    return (f(x + h, context) - f(x - h, context)) / (2.0 * h);
}
