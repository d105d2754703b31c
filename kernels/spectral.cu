/* The gradient of the sum of the smallest squared singular values of a batch's features (batch spectral
 * shrinkage).
 *
 * features, gradient elem [rows, columns]; n = min(rows, columns). In double, in the scratch: the smaller
 * Gram matrix [n, n], its eigenvectors as rows [n, n], the projector onto those of the smallest eigenvalues
 * [n, n]. Passes: gram (a block an element); jacobi (one block: rounds of rotations of which no two share a
 * row, in the order of base/spectral.h, until what is off the diagonal is rounding); gradient (a thread an
 * element). */
#include "kernels/elem.cuh"
#include "kernels/kernels.h"
#include "kernels/reduce.cuh"

#include "base/spectral.h"

typedef struct workspace {
    double *gram, *vectors, *projector;
    int n;
    bool samples; /* the Gram matrix is that of samples: F F^T */
} workspace;

static workspace workspace_of(const hl_spectral_args *args)
{
    workspace w;
    w.samples = args->rows <= args->columns;
    w.n = (int)(w.samples ? args->rows : args->columns);
    w.gram = (double *)args->scratch;
    w.vectors = w.gram + (int64_t)w.n * w.n;
    w.projector = w.vectors + (int64_t)w.n * w.n;
    return w;
}

extern "C" size_t hl_spectral_scratch(int64_t rows, int64_t columns)
{
    size_t n = (size_t)(rows < columns ? rows : columns);
    return 3 * n * n * sizeof(double);
}

template <typename T> static __device__ __forceinline__ double feature(const hl_spectral_args &a, int64_t at)
{
    return (double)hl_to_float(((const T *)a.features)[at]);
}

template <typename T> static __global__ void gram(hl_spectral_args a, workspace w)
{
    __shared__ double shared[32];
    const int64_t i = blockIdx.x / (unsigned)w.n, j = blockIdx.x % (unsigned)w.n;
    const int64_t length = w.samples ? a.columns : a.rows, step = w.samples ? 1 : a.columns,
                  first_i = w.samples ? i * a.columns : i, first_j = w.samples ? j * a.columns : j;
    double sum = 0.0;
    for (int64_t k = threadIdx.x; k < length; k += blockDim.x)
        sum += feature<T>(a, first_i + k * step) * feature<T>(a, first_j + k * step);
    sum = hl_block_sum(sum, shared);
    if (threadIdx.x == 0)
        w.gram[blockIdx.x] = sum;
}

/* Is there still something off the diagonal? The same answer for all threads. */
static __device__ bool goes_on(const workspace &w, double *shared)
{
    double off = 0.0, all = 0.0;
    for (int i = (int)threadIdx.x; i < w.n * w.n; i += (int)blockDim.x) {
        double square = w.gram[i] * w.gram[i];
        all += square;
        off += i / w.n != i % w.n ? square : 0.0;
    }
    off = hl_block_sum(off, shared);
    all = hl_block_sum(all, shared);
    return off > HL_SPECTRAL_SMALL * all;
}

typedef struct rotations {
    int p[HL_SPECTRAL_LARGEST / 2], q[HL_SPECTRAL_LARGEST / 2]; /* q n or more: none */
    double c[HL_SPECTRAL_LARGEST / 2], s[HL_SPECTRAL_LARGEST / 2];
} rotations;

static __device__ void find_rotations(const workspace &w, int players, int round, rotations *r)
{
    for (int k = (int)threadIdx.x; k < players / 2; k += (int)blockDim.x) {
        int p, q;
        double c = 1.0, s = 0.0;
        if (hl_spectral_pair(players, round, k, w.n, &p, &q))
            hl_spectral_rotation(w.gram[p * w.n + p], w.gram[q * w.n + q], w.gram[p * w.n + q], &c, &s);
        r->p[k] = p;
        r->q[k] = q;
        r->c[k] = c;
        r->s[k] = s;
    }
}

static __device__ __forceinline__ void rotate(double *x, double *y, double c, double s)
{
    double a = *x, b = *y;
    *x = c * a - s * b;
    *y = s * a + c * b;
}

static __device__ void rotate_rows(const workspace &w, int pairs, const rotations &r)
{
    for (int i = (int)threadIdx.x; i < pairs * w.n; i += (int)blockDim.x) {
        int k = i / w.n, j = i % w.n;
        if (r.q[k] >= w.n)
            continue;
        rotate(&w.gram[r.p[k] * w.n + j], &w.gram[r.q[k] * w.n + j], r.c[k], r.s[k]);
        rotate(&w.vectors[r.p[k] * w.n + j], &w.vectors[r.q[k] * w.n + j], r.c[k], r.s[k]);
    }
}

static __device__ void rotate_columns(const workspace &w, int pairs, const rotations &r)
{
    for (int i = (int)threadIdx.x; i < pairs * w.n; i += (int)blockDim.x) {
        int k = i % pairs, row = i / pairs;
        if (r.q[k] < w.n)
            rotate(&w.gram[row * w.n + r.p[k]], &w.gram[row * w.n + r.q[k]], r.c[k], r.s[k]);
    }
}

/* The projector, and the sum of the eigenvalues it belongs to. */
static __device__ double project(const workspace &w, int smallest, double *shared)
{
    double sum = 0.0;
    for (int i = (int)threadIdx.x; i < w.n * w.n; i += (int)blockDim.x)
        w.projector[i] = 0.0;
    for (int v = 0; v < w.n; v++) {
        double value = w.gram[v * w.n + v];
        if (hl_spectral_rank(w.gram, w.n, v) >= smallest)
            continue; /* for all threads or none */
        sum += threadIdx.x == 0 && value > 0.0 ? value : 0.0;
        for (int i = (int)threadIdx.x; i < w.n * w.n; i += (int)blockDim.x)
            w.projector[i] += w.vectors[v * w.n + i / w.n] * w.vectors[v * w.n + i % w.n];
    }
    return hl_block_sum(sum, shared);
}

static __global__ void jacobi(hl_spectral_args a, workspace w, hl_train_record *record)
{
    __shared__ double shared[32];
    __shared__ rotations r;
    const int players = w.n + w.n % 2, pairs = players / 2;
    for (int i = (int)threadIdx.x; i < w.n * w.n; i += (int)blockDim.x)
        w.vectors[i] = i / w.n == i % w.n ? 1.0 : 0.0;
    __syncthreads();
    for (int sweep = 0; sweep < HL_SPECTRAL_SWEEPS && goes_on(w, shared); sweep++)
        for (int round = 0; round < players - 1; round++) {
            find_rotations(w, players, round, &r);
            __syncthreads();
            rotate_rows(w, pairs, r);
            __syncthreads();
            rotate_columns(w, pairs, r);
            __syncthreads();
        }
    __syncthreads();
    double sum = project(w, a.smallest, shared);
    if (threadIdx.x == 0 && record != NULL)
        record->pending_loss += (double)a.eta * sum;
}

template <typename T>
static __global__ void gradient(hl_spectral_args a, workspace w, const hl_run_state *run,
                                const hl_train_record *record)
{
    const double scale = record != NULL ? record->loss_scale : 1.0,
                 factor = 2.0 * (double)a.eta * scale * (double)run->grad_scale;
    for (int64_t at = hl_thread_first(); at < a.rows * a.columns; at += hl_thread_stride()) {
        int64_t row = at / a.columns, column = at % a.columns;
        double sum = 0.0;
        for (int k = 0; k < w.n; k++)
            sum += w.samples ? w.projector[row * w.n + k] * feature<T>(a, k * a.columns + column)
                             : feature<T>(a, row * a.columns + k) * w.projector[(int64_t)k * w.n + column];
        ((T *)a.gradient)[at] = hl_from_float<T>((float)(factor * sum));
    }
}

extern "C" int hl_launch_spectral_grad(const hl_spectral_args *args, hl_elem elem, const hl_run_state *run,
                                       hl_train_record *record, hl_cuda_stream stream)
{
    workspace w = workspace_of(args);
    if (w.n > HL_SPECTRAL_LARGEST)
        return (int)cudaErrorInvalidValue;
    if (w.n < 1)
        return (int)cudaGetLastError();
    HL_DISPATCH_ELEM(elem, T, HL_LAUNCH((gram<T>), (unsigned)(w.n * w.n), HL_THREADS, 0, stream, *args, w));
    HL_LAUNCH(jacobi, 1, HL_THREADS, 0, stream, *args, w, record);
    HL_DISPATCH_ELEM(elem, T,
                     HL_LAUNCH((gradient<T>), hl_blocks(args->rows * args->columns), HL_THREADS, 0, stream,
                               *args, w, run, record));
    return (int)cudaGetLastError();
}
