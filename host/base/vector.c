#include "base/vector.h"

#include "base/simd.h"

HL_CLONES double hl_dot(const double *restrict a, const double *restrict b, int64_t n)
{
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

HL_CLONES void hl_add_scaled(double factor, const double *restrict x, int64_t n, double *restrict y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += factor * x[i];
}
