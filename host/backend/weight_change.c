#include "backend/weight_change.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/simd.h"

/* Rows are worked through in strips, which fit in the first cache, products in tiles, which fit in registers.
 * Where a row and the rank are at most NARROW (atoms of 3x3 kernels), many rows are taken at once. */
enum { STRIP = 256, TILE = 64, GRAD_STRIP = 32, NARROW = 16, NARROW_ROWS = 512 };
typedef float narrow __attribute__((vector_size(NARROW * sizeof(float)))); /* a row, zeros behind it */

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

HL_CLONES static void add_scaled(float factor, const float *restrict x, float *restrict y, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        y[j] += factor * x[j];
}

/* out[j] = sum over r of left[r] right[r, j]; rows of right are `stride` apart. */
HL_CLONES static void product(const float *restrict left, const float *restrict right, int64_t rank,
                              int64_t stride, int64_t n, float *restrict out)
{
    for (int64_t first = 0; first < n; first += TILE) {
        float sum[TILE] = {0};
        int64_t width = n - first < TILE ? n - first : TILE;
        if (width == TILE)
            for (int64_t r = 0; r < rank; r++)
                for (int64_t j = 0; j < TILE; j++)
                    sum[j] += left[r] * right[r * stride + first + j];
        else
            for (int64_t r = 0; r < rank; r++)
                for (int64_t j = 0; j < width; j++)
                    sum[j] += left[r] * right[r * stride + first + j];
        memcpy(out + first, sum, (size_t)width * sizeof *sum);
    }
}

/* out = the factor's elements [first, first + n) of one of its rows, counted over all blocks. */
static void factor_strip(const hl_factor *f, int64_t row, int64_t first, int64_t n, float *restrict out)
{
    if (f->right == NULL) {
        memcpy(out, f->left->host + row * f->columns + first, (size_t)n * sizeof *out);
        return;
    }
    const float *left = f->left->host + row * f->rank;
    const float *right = f->right->host + row / f->rows * f->rank * f->columns + first;
    product(left, right, f->rank, f->columns, n, out);
}

static bool is_narrow(const hl_factor *f)
{
    return f->right != NULL && f->blocks == 1 && f->columns <= NARROW && f->rank <= NARROW;
}

/* ---- f(W) ---- */

/* W is seen as the rows of factor 0. */
static void add_strip(const hl_weight_change *c, const float *w, int64_t row, int64_t first, int64_t n,
                      float *restrict out)
{
    float second[STRIP];
    factor_strip(&c->factor[0], row, first, n, out);
    if (c->kind == HL_CHANGE_HADAMARD) {
        factor_strip(&c->factor[1], row, first, n, second);
        for (int64_t j = 0; j < n; j++)
            out[j] *= second[j];
    }
    const float *from = w + row * c->factor[0].columns + first;
    for (int64_t j = 0; j < n; j++)
        out[j] = from[j] + c->scale * out[j];
}

/* The same for rows [begin, end) of a narrow factor. */
HL_CLONES static void add_narrow(const hl_weight_change *c, const float *restrict w, int64_t begin,
                                 int64_t end, float *restrict out)
{
    const hl_factor *f = &c->factor[0];
    const float *restrict left = f->left->host;
    const int64_t rank = f->rank, columns = f->columns;
    narrow right[NARROW] = {{0}};
    for (int64_t r = 0; r < rank; r++)
        memcpy(&right[r], f->right->host + r * columns, (size_t)columns * sizeof(float));
    for (int64_t row = begin; row < end; row++) {
        narrow sum = {0};
        for (int64_t r = 0; r < rank; r++)
            sum += left[row * rank + r] * right[r];
        for (int64_t j = 0; j < columns; j++)
            out[row * columns + j] = w[row * columns + j] + c->scale * sum[j];
    }
}

static void gate_strip(const hl_weight_expr *e, const float *w, int64_t row, int64_t first, int64_t n,
                       float *out)
{
    float gate[STRIP];
    int64_t window = hl_weight_expr_window(e), inputs = e->weight->shape[1];
    factor_strip(&e->change->factor[0], row, first, n, gate);
    const float *from = w + (row * inputs + first) * window;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < window; k++)
            out[i * window + k] = (1.0f + gate[i]) * from[i * window + k];
}

/* The strip is one of a row of factor 1, once for each column of factor 0. */
static void kronecker_row(const hl_weight_change *c, const float *w, int64_t row, float *out)
{
    const hl_factor *outer = &c->factor[0], *inner = &c->factor[1];
    float second[STRIP];
    for (int64_t first = 0; first < inner->columns; first += STRIP) {
        int64_t n = least(STRIP, inner->columns - first);
        factor_strip(inner, row % inner->rows, first, n, second);
        for (int64_t i = 0; i < outer->columns; i++) {
            float factor;
            factor_strip(outer, row / inner->rows, i, 1, &factor);
            int64_t at = (row * outer->columns + i) * inner->columns + first;
            for (int64_t j = 0; j < n; j++)
                out[at + j] = w[at + j] + c->scale * (factor * second[j]);
        }
    }
}

/* Rows that f(W) is computed by; all but those of ADD and HADAMARD are output channels. */
static int64_t value_rows(const hl_weight_expr *e)
{
    const hl_factor *f = &e->change->factor[0];
    return e->change->kind == HL_CHANGE_ADD || e->change->kind == HL_CHANGE_HADAMARD ? f->blocks * f->rows
                                                                                     : e->weight->shape[0];
}

static void value_row(const hl_weight_expr *e, int64_t row, float *out)
{
    const hl_weight_change *c = e->change;
    const float *w = e->weight->host;
    int64_t length = e->weight->count / value_rows(e), window = hl_weight_expr_window(e);
    switch (c->kind) {
    case HL_CHANGE_ADD:
    case HL_CHANGE_HADAMARD:
        for (int64_t first = 0; first < length; first += STRIP)
            add_strip(c, w, row, first, least(STRIP, length - first), out + row * length + first);
        break;
    case HL_CHANGE_KRONECKER:
        kronecker_row(c, w, row, out);
        break;
    case HL_CHANGE_GATE:
        for (int64_t first = 0; first < length / window; first += STRIP)
            gate_strip(e, w, row, first, least(STRIP, length / window - first),
                       out + row * length + first * window);
        break;
    case HL_CHANGE_MASK:
        for (int64_t j = row * length; j < (row + 1) * length; j++)
            out[j] = c->factor[0].left->host[j] > c->scale ? w[j] : 0.0f;
        break;
    }
}

/* f(W) but for the magnitude. */
static void unscaled_value(const hl_weight_expr *e, float *value)
{
    const hl_weight_change *c = e->change;
    int64_t rows = value_rows(e);
    if (c->kind == HL_CHANGE_ADD && is_narrow(&c->factor[0])) {
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < rows; row += NARROW_ROWS)
            add_narrow(c, e->weight->host, row, least(row + NARROW_ROWS, rows), value);
        return;
    }
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        value_row(e, row, value);
}

HL_CLONES static float dot(const float *restrict a, const float *restrict b, int64_t n)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++)
        sum += a[j] * b[j];
    return sum;
}

HL_CLONES static void scale_all(float factor, float *x, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        x[j] *= factor;
}

static float norm_of(const float *row, int64_t length)
{
    return sqrtf(dot(row, row, length));
}

/* a / norm, 1 where they are equal; 0 where all of the row is 0: it stays so. */
static float over_norm(float a, float norm)
{
    return norm > 0.0f ? a / norm : 0.0f;
}

hl_status hl_weight_change_norms(const hl_weight_expr *e, float *norms)
{
    int64_t outputs = e->weight->shape[0], length = e->weight->count / outputs;
    float *v;
    HL_TRY(hl_alloc_array((size_t)e->weight->count, sizeof *v, e->weight->name, (void **)&v));
    unscaled_value(e, v);
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < outputs; o++)
        norms[o] = norm_of(v + o * length, length);
    free(v);
    return HL_OK;
}

void hl_weight_change_value(const hl_weight_expr *e, float *value)
{
    unscaled_value(e, value);
    if (e->change->magnitude == NULL)
        return;
    int64_t outputs = e->weight->shape[0], length = e->weight->count / outputs;
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        float *row = value + o * length;
        scale_all(over_norm(e->change->magnitude->host[o], norm_of(row, length)), row, length);
    }
}

/* ---- gradients ---- */

/* What a factor's gradient is multiplied with. */
static float coefficient(const hl_weight_change *c)
{
    return c->kind == HL_CHANGE_GATE || c->kind == HL_CHANGE_MASK ? 1.0f : c->scale;
}

static bool is_trained(const hl_factor *f)
{
    return f->left != NULL && (f->left->trained || (f->right != NULL && f->right->trained));
}

static size_t partial_floats(const hl_factor *f)
{
    bool wanted = f->right != NULL && f->right->trained && hl_factor_chunks(f) > 1;
    return wanted ? (size_t)(hl_factor_chunks(f) * f->right->count) : 0;
}

size_t hl_weight_change_scratch(const hl_weight_expr *e)
{
    const hl_weight_change *c = e->change;
    size_t floats = c->magnitude != NULL ? (size_t)e->weight->count : 0, partial = 0;
    for (int i = 0; i < 2; i++) {
        if (!is_trained(&c->factor[i]))
            continue;
        floats += c->kind == HL_CHANGE_ADD ? 0 : (size_t)hl_factor_count(&c->factor[i]);
        size_t wanted = partial_floats(&c->factor[i]);
        partial = wanted > partial ? wanted : partial;
    }
    return floats + partial;
}

/* dv <- dv magnitude / |V|, and the magnitude's own gradient, dv V / |V|. V goes to scratch. */
static void magnitude_grad(const hl_weight_expr *e, float *dv, float keep, float *v)
{
    const hl_param *magnitude = e->change->magnitude;
    int64_t outputs = e->weight->shape[0], length = e->weight->count / outputs;
    unscaled_value(e, v);
#pragma omp parallel for schedule(static)
    for (int64_t o = 0; o < outputs; o++) {
        const float *row = v + o * length;
        float norm = norm_of(row, length);
        if (magnitude->trained)
            magnitude->grad[o] = (keep != 0.0f ? magnitude->grad[o] : 0.0f) +
                                 over_norm(dot(dv + o * length, row, length), norm);
        scale_all(over_norm(magnitude->host[o], norm), dv + o * length, length);
    }
}

/* The gradient of a factor's matrices, but for the coefficient, from that of f(W). */
static void hadamard_grad(const hl_factor *other, const float *dv, float *df)
{
    int64_t rows = other->blocks * other->rows, length = other->columns;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++)
        for (int64_t first = 0; first < length; first += STRIP) {
            int64_t n = least(STRIP, length - first), at = row * length + first;
            factor_strip(other, row, first, n, df + at);
            for (int64_t j = 0; j < n; j++)
                df[at + j] *= dv[at + j];
        }
}

static void gate_grad(const hl_weight_expr *e, const float *dv, float *df)
{
    int64_t window = hl_weight_expr_window(e), pairs = e->weight->count / window;
    const float *w = e->weight->host;
#pragma omp parallel for schedule(static)
    for (int64_t pair = 0; pair < pairs; pair++) {
        float sum = 0.0f;
        for (int64_t k = pair * window; k < (pair + 1) * window; k++)
            sum += dv[k] * w[k];
        df[pair] = sum;
    }
}

static void mask_grad(const hl_weight_expr *e, const float *dv, float *df)
{
    const float *w = e->weight->host;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < e->weight->count; k++)
        df[k] = dv[k] * w[k];
}

static void kronecker_outer_grad(const hl_weight_change *c, const float *dv, float *df)
{
    const hl_factor *outer = &c->factor[0], *inner = &c->factor[1];
    int64_t length = outer->columns * inner->columns;
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < outer->rows * outer->columns; at++) {
        float strip[STRIP], sum = 0.0f;
        for (int64_t row = 0; row < inner->rows; row++)
            for (int64_t first = 0; first < inner->columns; first += STRIP) {
                int64_t n = least(STRIP, inner->columns - first);
                factor_strip(inner, row, first, n, strip);
                sum += dot(dv + (at / outer->columns * inner->rows + row) * length +
                               at % outer->columns * inner->columns + first,
                           strip, n);
            }
        df[at] = sum;
    }
}

static void kronecker_inner_grad(const hl_weight_change *c, const float *dv, float *df)
{
    const hl_factor *outer = &c->factor[0], *inner = &c->factor[1];
    int64_t length = outer->columns * inner->columns;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < inner->rows; row++) {
        float *to = df + row * inner->columns;
        memset(to, 0, (size_t)inner->columns * sizeof *to);
        for (int64_t at = 0; at < outer->rows * outer->columns; at++) {
            float factor;
            factor_strip(outer, at / outer->columns, at % outer->columns, 1, &factor);
            add_scaled(factor,
                       dv + (at / outer->columns * inner->rows + row) * length +
                           at % outer->columns * inner->columns,
                       to, inner->columns);
        }
    }
}

static void set_grad(float keep, float factor, const float *from, float *grad, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        grad[j] = (keep != 0.0f ? grad[j] : 0.0f) + factor * from[j];
}

static void left_grad(const hl_factor *f, float factor, const float *df, float keep)
{
    int64_t rows = f->blocks * f->rows;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *right = f->right->host + row / f->rows * f->rank * f->columns;
        float *grad = f->left->grad + row * f->rank;
        for (int64_t r = 0; r < f->rank; r++)
            grad[r] = (keep != 0.0f ? grad[r] : 0.0f) +
                      factor * dot(df + row * f->columns, right + r * f->columns, f->columns);
    }
}

/* sum over rows [begin, end) of left[row, r] df[row, first ...], n columns, for one r. */
HL_CLONES static void right_strip(const hl_factor *f, const float *restrict df, int64_t begin, int64_t end,
                                  int64_t r, int64_t n, float *restrict sum)
{
    float acc[GRAD_STRIP] = {0};
    const float *left = f->left->host + r;
    if (n == GRAD_STRIP)
        for (int64_t row = begin; row < end; row++)
            for (int64_t j = 0; j < GRAD_STRIP; j++)
                acc[j] += left[row * f->rank] * df[row * f->columns + j];
    else
        for (int64_t row = begin; row < end; row++)
            for (int64_t j = 0; j < n; j++)
                acc[j] += left[row * f->rank] * df[row * f->columns + j];
    memcpy(sum, acc, (size_t)n * sizeof *sum);
}

/* The same for all r and columns of a narrow factor. */
HL_CLONES static void right_narrow(const hl_factor *f, const float *restrict df, int64_t begin, int64_t end,
                                   float *restrict sum)
{
    const float *restrict left = f->left->host;
    const int64_t rank = f->rank, columns = f->columns;
    narrow acc[NARROW] = {{0}};
    for (int64_t row = begin; row < end; row++) {
        narrow d = {0};
        for (int64_t j = 0; j < columns; j++)
            d[j] = df[row * columns + j];
        for (int64_t r = 0; r < rank; r++)
            acc[r] += left[row * rank + r] * d;
    }
    for (int64_t r = 0; r < rank; r++)
        memcpy(sum + r * columns, &acc[r], (size_t)columns * sizeof *sum);
}

static void right_grad(const hl_factor *f, float factor, const float *df, float keep, float *partial)
{
    int64_t strips = (f->columns + GRAD_STRIP - 1) / GRAD_STRIP, chunks = hl_factor_chunks(f);
#pragma omp parallel for schedule(static)
    for (int64_t task = 0; task < f->blocks * strips * chunks; task++) {
        int64_t chunk = task % chunks, first = task / chunks % strips * GRAD_STRIP,
                block = task / chunks / strips, n = least(GRAD_STRIP, f->columns - first);
        int64_t begin = block * f->rows + chunk * HL_FACTOR_CHUNK,
                end = least(begin + HL_FACTOR_CHUNK, (block + 1) * f->rows);
        if (is_narrow(f)) {
            float all[NARROW * NARROW];
            right_narrow(f, df, begin, end, all);
            if (chunks > 1)
                memcpy(partial + chunk * f->right->count, all, (size_t)f->right->count * sizeof *all);
            else
                set_grad(keep, factor, all, f->right->grad, f->right->count);
            continue;
        }
        float sum[GRAD_STRIP];
        for (int64_t r = 0; r < f->rank; r++) {
            int64_t at = (block * f->rank + r) * f->columns + first;
            right_strip(f, df + first, begin, end, r, n, sum);
            if (chunks > 1)
                memcpy(partial + chunk * f->right->count + at, sum, (size_t)n * sizeof *sum);
            else
                set_grad(keep, factor, sum, f->right->grad + at, n);
        }
    }
    for (int64_t chunk = 0; chunk < chunks && chunks > 1; chunk++)
        set_grad(chunk > 0 ? 1.0f : keep, factor, partial + chunk * f->right->count, f->right->grad,
                 f->right->count);
}

static void factor_grad(const hl_factor *f, float factor, const float *df, float keep, float *partial)
{
    if (f->right == NULL) {
        set_grad(keep, factor, df, f->left->grad, f->left->count);
        return;
    }
    if (f->left->trained)
        left_grad(f, factor, df, keep);
    if (f->right->trained)
        right_grad(f, factor, df, keep, partial);
}

void hl_weight_change_grad(const hl_weight_expr *e, float *dv, float keep, float *scratch)
{
    const hl_weight_change *c = e->change;
    if (c->magnitude != NULL) {
        magnitude_grad(e, dv, keep, scratch);
        scratch += e->weight->count;
    }
    const float *df[2] = {dv, dv};
    for (int i = 0; i < 2 && c->kind != HL_CHANGE_ADD; i++) {
        if (!is_trained(&c->factor[i]))
            continue;
        df[i] = scratch;
        if (c->kind == HL_CHANGE_HADAMARD)
            hadamard_grad(&c->factor[1 - i], dv, scratch);
        else if (c->kind == HL_CHANGE_GATE)
            gate_grad(e, dv, scratch);
        else if (c->kind == HL_CHANGE_MASK)
            mask_grad(e, dv, scratch);
        else if (i == 0)
            kronecker_outer_grad(c, dv, scratch);
        else
            kronecker_inner_grad(c, dv, scratch);
        scratch += hl_factor_count(&c->factor[i]);
    }
    for (int i = 0; i < 2; i++)
        if (is_trained(&c->factor[i]))
            factor_grad(&c->factor[i], coefficient(c), df[i], keep, scratch);
}
