/* Comparing computed values with references in double. */
#ifndef TESTS_SUPPORT_NUMERIC_H
#define TESTS_SUPPORT_NUMERIC_H

#include <stdint.h>

#include "base/shape.h"

/* Half a unit in the last place, relative: 2^-24 (f32), 2^-8 (bf16), 2^-11 (f16). */
double unit_roundoff(hl_elem elem);
/* What a value becomes when stored as `elem`. */
double stored(hl_elem elem, double value);

/* Zeros; the caller frees them. */
double *doubles(int64_t count);
/* Uniform in [low, high), stored as `elem`; `stream` picks the numbers. */
double *random_doubles(int64_t count, double low, double high, hl_elem elem, uint32_t stream);

/* Every got[i] is finite and within
 *     unit_roundoff(elem) |want[i]|  +  operations 2^-24 scale
 * of want[i]: one rounding to the stored type, and so many roundings in float arithmetic of values up to
 * `scale`. For a sum of m terms up to t in magnitude: scale = m t, operations = m at worst. */
void expect_close(const char *what, hl_elem elem, const double *got, const double *want, int64_t count,
                  double scale, double operations);
/* Bit-equal values; NaN equals NaN. */
void expect_same(const char *what, const double *got, const double *want, int64_t count);

/* Derivative of f at x by central differences, in double: f'(x) within about 1e-9 of |f|'s scale. */
double central_difference(double (*f)(double x, const void *context), double x, const void *context);

#endif
