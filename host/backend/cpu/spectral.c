/* SPECTRAL_GRAD: the gradient of the sum of the smallest squared singular values of a batch's features.
 *
 * With G the smaller of the Gram matrices F F^T and F^T F, whose eigenvectors u are singular vectors of F:
 *     P = sum over the smallest of u u^T        dF = 2 eta P F, or 2 eta F P
 * Sums are in double: squaring singular values squares their ratio too, and what is wanted is the small end.
 */
#include <string.h>

#include "backend/cpu/tile.h"
#include "base/simd.h"
#include "base/spectral.h"
#include "base/vector.h"

/* Where things are in the scratch, in doubles: features [N, C]; Gram matrix, eigenvectors as rows and
 * projector [n, n], n the smaller of N and C; a row of the gradient. */
typedef struct workspace {
    int64_t rows, columns, n;
    double *features, *gram, *vectors, *projector, *row;
} workspace;

static workspace workspace_of(const hl_step *step, double *scratch)
{
    workspace w = {.rows = step->in[0]->shape.n,
                   .columns = hl_tensor_count(step->in[0]) / step->in[0]->shape.n};
    w.n = w.rows < w.columns ? w.rows : w.columns;
    w.features = scratch;
    w.gram = scratch != NULL ? w.features + w.rows * w.columns : NULL;
    w.vectors = scratch != NULL ? w.gram + w.n * w.n : NULL;
    w.projector = scratch != NULL ? w.vectors + w.n * w.n : NULL;
    w.row = scratch != NULL ? w.projector + w.n * w.n : NULL;
    return w;
}

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    HL_TRY(hl_tile_check(step));
    return hl_step_check_spectral(step);
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    workspace w = workspace_of(step, NULL);
    step->scratch_bytes = (size_t)((w.rows + 1) * w.columns + 3 * w.n * w.n) * sizeof(double);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}

static void load(const hl_tensor *t, double *out)
{
    int64_t count = hl_tensor_count(t);
    float tile[HL_TILE];
    for (int64_t at = 0; at < count; at += HL_TILE) {
        int64_t n = count - at < HL_TILE ? count - at : HL_TILE;
        hl_tile_load(t, at, n, tile);
        for (int64_t i = 0; i < n; i++)
            out[at + i] = (double)tile[i];
    }
}

/* F F^T where a batch has fewer samples than features, else F^T F. */
static void gram_matrix(const workspace *w)
{
    bool samples = w->rows <= w->columns;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < w->n; i++) {
        double *row = w->gram + i * w->n;
        memset(row, 0, (size_t)w->n * sizeof *row);
        for (int64_t j = 0; samples && j < w->n; j++)
            row[j] = hl_dot(w->features + i * w->columns, w->features + j * w->columns, w->columns);
        for (int64_t s = 0; !samples && s < w->rows; s++)
            hl_add_scaled(w->features[s * w->columns + i], w->features + s * w->columns, w->n, row);
    }
}

HL_CLONES static void rotate_rows(double c, double s, int64_t n, double *restrict p, double *restrict q)
{
    for (int64_t j = 0; j < n; j++) {
        double x = p[j], y = q[j];
        p[j] = c * x - s * y;
        q[j] = s * x + c * y;
    }
}

static void rotate_columns(double c, double s, int64_t n, double *matrix, int p, int q)
{
    for (int64_t i = 0; i < n; i++) {
        double *row = matrix + i * n, x = row[p], y = row[q];
        row[p] = c * x - s * y;
        row[q] = s * x + c * y;
    }
}

static double off_diagonal(const workspace *w, double *all)
{
    double off = 0.0;
    *all = 0.0;
    for (int64_t i = 0; i < w->n; i++)
        for (int64_t j = 0; j < w->n; j++) {
            double square = w->gram[i * w->n + j] * w->gram[i * w->n + j];
            *all += square;
            off += i != j ? square : 0.0;
        }
    return off;
}

/* Cyclic Jacobi: rounds of pairs of which no two share a row (hl_spectral_pair), so that the order within a
 * round does not matter. The Gram matrix becomes diagonal. */
static void diagonalise(const workspace *w)
{
    int n = (int)w->n, players = n + n % 2;
    double all;
    memset(w->vectors, 0, (size_t)(w->n * w->n) * sizeof *w->vectors);
    for (int i = 0; i < n; i++)
        w->vectors[i * w->n + i] = 1.0;
    for (int sweep = 0; sweep < HL_SPECTRAL_SWEEPS; sweep++) {
        double off = off_diagonal(w, &all);
        if (!(off > HL_SPECTRAL_SMALL * all))
            return;
        for (int round = 0; round < players - 1; round++)
            for (int k = 0; k < players / 2; k++) {
                int p, q;
                double c, s;
                if (!hl_spectral_pair(players, round, k, n, &p, &q))
                    continue;
                hl_spectral_rotation(w->gram[p * w->n + p], w->gram[q * w->n + q], w->gram[p * w->n + q], &c,
                                     &s);
                rotate_rows(c, s, w->n, w->gram + p * w->n, w->gram + q * w->n);
                rotate_columns(c, s, w->n, w->gram, p, q);
                rotate_rows(c, s, w->n, w->vectors + p * w->n, w->vectors + q * w->n);
            }
    }
}

/* The projector onto the eigenvectors of the smallest eigenvalues; returns the sum of these. */
static double project(const workspace *w, int smallest)
{
    double sum = 0.0;
    memset(w->projector, 0, (size_t)(w->n * w->n) * sizeof *w->projector);
    for (int64_t i = 0; i < w->n; i++) {
        double value = w->gram[i * w->n + i];
        const double *u = w->vectors + i * w->n;
        if (hl_spectral_rank(w->gram, (int)w->n, (int)i) >= smallest)
            continue;
        sum += value > 0.0 ? value : 0.0;
        for (int64_t r = 0; r < w->n; r++)
            hl_add_scaled(u[r], u, w->n, w->projector + r * w->n);
    }
    return sum;
}

/* One row of P F, or of F P: P is symmetric. */
static void gradient_row(const workspace *w, int64_t row, double factor, double *out)
{
    bool samples = w->rows <= w->columns;
    memset(out, 0, (size_t)w->columns * sizeof *out);
    if (samples)
        for (int64_t k = 0; k < w->n; k++)
            hl_add_scaled(factor * w->projector[row * w->n + k], w->features + k * w->columns, w->columns,
                          out);
    else
        for (int64_t k = 0; k < w->n; k++)
            hl_add_scaled(factor * w->features[row * w->columns + k], w->projector + k * w->n, w->n, out);
}

static void store_row(const hl_tensor *t, int64_t row, const double *values)
{
    float tile[HL_TILE];
    int64_t columns = hl_tensor_count(t) / t->shape.n;
    for (int64_t at = 0; at < columns; at += HL_TILE) {
        int64_t n = columns - at < HL_TILE ? columns - at : HL_TILE;
        for (int64_t i = 0; i < n; i++)
            tile[i] = (float)values[at + i];
        hl_tile_store(t, row * columns + at, n, tile);
    }
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    workspace w = workspace_of(step, step->exec);
    double eta = (double)step->spectral.eta, scale = step->record != NULL ? step->record->loss_scale : 1.0,
           factor = 2.0 * eta * scale * (double)step->run->grad_scale;
    load(step->in[0], w.features);
    gram_matrix(&w);
    diagonalise(&w);
    double sum = project(&w, step->spectral.smallest);
    for (int64_t n = 0; n < w.rows; n++) {
        gradient_row(&w, n, factor, w.row);
        store_row(step->out[0], n, w.row);
    }
    if (step->record != NULL)
        step->record->pending_loss += eta * sum;
    return HL_OK;
}

const hl_cpu_op hl_cpu_spectral_grad = {.check = check, .prepare = prepare, .bind = bind, .run = run};
