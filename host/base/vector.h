/* Sums over vectors of doubles, for what single precision is too short for. */
#ifndef HL_BASE_VECTOR_H
#define HL_BASE_VECTOR_H

#include <stdint.h>

double hl_dot(const double *a, const double *b, int64_t n);
/* y += factor x; they do not overlap. */
void hl_add_scaled(double factor, const double *x, int64_t n, double *y);

#endif
