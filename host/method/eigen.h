/* Eigenvectors of a symmetric matrix. */
#ifndef HL_METHOD_EIGEN_H
#define HL_METHOD_EIGEN_H

#include <stdint.h>

/* Of a [n, n], which is overwritten, into `vectors` [n, n]: row i is the eigenvector of the i-th largest
 * eigenvalue, of length 1, its first entry of the largest magnitude positive. By Jacobi's rotations, in an
 * order that depends on n alone: the same numbers give the same vectors. */
void hl_symmetric_eigenvectors(double *a, int64_t n, double *vectors);

#endif
