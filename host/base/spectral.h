/* What both backends' SPECTRAL_GRAD have in common, so that they rotate in the same order: the rounds of
 * cyclic Jacobi, one rotation (host/method/eigen.c has it too), which eigenvalues count. Usable from C and
 * CUDA C++. */
#ifndef HL_BASE_SPECTRAL_H
#define HL_BASE_SPECTRAL_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
#define HL_SPECTRAL_FUNCTION static __device__ __forceinline__
#else
#define HL_SPECTRAL_FUNCTION static inline
#endif

enum { HL_SPECTRAL_SWEEPS = 30, HL_SPECTRAL_LARGEST = 512 };

/* Off the diagonal so little is left, of the sum of all squares. */
#define HL_SPECTRAL_SMALL 1e-30

/* Pair `k` of a round, of players / 2 pairs that meet in each of players - 1 rounds (a round-robin
 * tournament; `players` is n or n + 1, even), with p < q < n; false where one of the two is nobody. */
HL_SPECTRAL_FUNCTION bool hl_spectral_pair(int players, int round, int k, int n, int *p, int *q)
{
    int circle = players - 1;
    int a = k == 0 ? circle : (round + k) % circle, b = k == 0 ? round : (round - k + circle) % circle;
    *p = a < b ? a : b;
    *q = a < b ? b : a;
    return *q < n;
}

/* Cosine and sine of the rotation that makes a_pq zero (Golub and Van Loan, 8.5.2). */
HL_SPECTRAL_FUNCTION void hl_spectral_rotation(double a_pp, double a_qq, double a_pq, double *c, double *s)
{
    *c = 1.0;
    *s = 0.0;
    if (a_pq == 0.0)
        return;
    double theta = (a_qq - a_pp) / (2.0 * a_pq), root = sqrt(theta * theta + 1.0);
    double t = theta >= 0.0 ? 1.0 / (theta + root) : 1.0 / (theta - root);
    *c = 1.0 / sqrt(t * t + 1.0);
    *s = t * *c;
}

/* How many of the diagonal's n values are smaller than the i-th; of equal ones the first counts as smaller.
 */
HL_SPECTRAL_FUNCTION int hl_spectral_rank(const double *matrix, int n, int i)
{
    double mine = matrix[(int64_t)i * n + i];
    int rank = 0;
    for (int j = 0; j < n; j++) {
        double other = matrix[(int64_t)j * n + j];
        rank += other < mine || (other == mine && j < i) ? 1 : 0;
    }
    return rank;
}

#endif
