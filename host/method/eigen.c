#include "method/eigen.h"

#include <math.h>
#include <string.h>

#include "base/spectral.h"

/* Rotates rows and columns p and q so that a[p,q] becomes zero, and the rows of v likewise. */
static void rotate(double *a, double *v, int64_t n, int64_t p, int64_t q)
{
    double off = a[p * n + q];
    if (off == 0.0)
        return;
    double c, s;
    hl_spectral_rotation(a[p * n + p], a[q * n + q], off, &c, &s);
    for (int64_t k = 0; k < n; k++) {
        double kp = a[k * n + p], kq = a[k * n + q];
        a[k * n + p] = c * kp - s * kq;
        a[k * n + q] = s * kp + c * kq;
    }
    for (int64_t k = 0; k < n; k++) {
        double pk = a[p * n + k], qk = a[q * n + k], vp = v[p * n + k], vq = v[q * n + k];
        a[p * n + k] = c * pk - s * qk;
        a[q * n + k] = s * pk + c * qk;
        v[p * n + k] = c * vp - s * vq;
        v[q * n + k] = s * vp + c * vq;
    }
}

/* Squares off the diagonal as a share of all. */
static double off_share(const double *a, int64_t n)
{
    double off = 0.0, all = 0.0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            double square = a[i * n + j] * a[i * n + j];
            all += square;
            off += i != j ? square : 0.0;
        }
    return all > 0.0 ? off / all : 0.0;
}

static void swap_rows(double *v, int64_t n, int64_t i, int64_t j)
{
    for (int64_t k = 0; k < n; k++) {
        double x = v[i * n + k];
        v[i * n + k] = v[j * n + k];
        v[j * n + k] = x;
    }
}

static void make_positive(double *row, int64_t n)
{
    int64_t most = 0;
    for (int64_t k = 1; k < n; k++)
        if (fabs(row[k]) > fabs(row[most]))
            most = k;
    const double sign = row[most] < 0.0 ? -1.0 : 1.0;
    for (int64_t k = 0; k < n; k++)
        row[k] *= sign;
}

void hl_symmetric_eigenvectors(double *a, int64_t n, double *vectors)
{
    enum { SWEEPS = 30 };
    memset(vectors, 0, (size_t)(n * n) * sizeof *vectors);
    for (int64_t i = 0; i < n; i++)
        vectors[i * n + i] = 1.0;
    for (int sweep = 0; sweep < SWEEPS && off_share(a, n) > 1e-30; sweep++)
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++)
                rotate(a, vectors, n, p, q);
    for (int64_t i = 0; i < n; i++) {
        int64_t most = i;
        for (int64_t j = i + 1; j < n; j++)
            if (a[j * n + j] > a[most * n + most])
                most = j;
        double value = a[most * n + most];
        a[most * n + most] = a[i * n + i];
        a[i * n + i] = value;
        if (most != i)
            swap_rows(vectors, n, i, most);
        make_positive(vectors + i * n, n);
    }
}
