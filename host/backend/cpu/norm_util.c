#include "backend/cpu/norm_util.h"

#include "backend/cpu/act_math.h"
#include "backend/cpu/row_blocks.h"
#include "backend/cpu/simd.h"

/* A tile is some whole rows, or, for very wide tensors, part of one. */
typedef struct tile_range {
    int64_t at, count, channel; /* first element, how many, channel of the first */
} tile_range;

/* Tiles of rows [first, last) in order; start with *row = first and *channel = 0. */
static bool next_tile(int64_t channels, int64_t last, int64_t *row, int64_t *channel, tile_range *tile)
{
    if (*row >= last)
        return false;
    tile->at = *row * channels + *channel;
    tile->channel = *channel;
    if (channels > HL_TILE) {
        int64_t left = channels - *channel;
        tile->count = left < HL_TILE ? left : HL_TILE;
        *channel += tile->count;
        if (*channel == channels) {
            *channel = 0;
            *row += 1;
        }
        return true;
    }
    int64_t rows = hl_tile_rows(channels), left = last - *row;
    rows = rows < left ? rows : left;
    tile->count = rows * channels;
    *row += rows;
    return true;
}

HL_CLONES static void affine_tile(float *restrict v, const float *restrict residual, const float *restrict a,
                                  const float *restrict b, int64_t count, int64_t width, hl_act act)
{
    for (int64_t i = 0; i < count; i += width) {
        float *row = v + i;
        for (int64_t c = 0; c < width; c++)
            row[c] = a[c] * row[c] + b[c];
    }
    if (residual != NULL)
        for (int64_t i = 0; i < count; i++)
            v[i] += residual[i];
    hl_act_run(act, v, count);
}

HL_CLONES static void combine_tile(float *restrict u, const float *restrict v, const float *restrict p,
                                   const float *restrict q, const float *restrict k, int64_t count,
                                   int64_t width)
{
    for (int64_t i = 0; i < count; i += width) {
        float *row = u + i;
        const float *other = v + i;
        for (int64_t c = 0; c < width; c++)
            row[c] = p[c] * row[c] + q[c] * other[c] + k[c];
    }
}

HL_CLONES static void scale_tile(float *restrict u, const float *restrict p, const float *restrict k,
                                 int64_t count, int64_t width)
{
    for (int64_t i = 0; i < count; i += width)
        for (int64_t c = 0; c < width; c++)
            u[i + c] = p[c] * u[i + c] + k[c];
}

HL_CLONES static void sums_tile(const float *restrict u, const float *restrict v, const float *restrict shift,
                                int64_t count, int64_t width, float *restrict first, float *restrict second)
{
    for (int64_t c = 0; c < width; c++)
        first[c] = second[c] = 0.0f;
    for (int64_t i = 0; i < count; i += width)
        for (int64_t c = 0; c < width; c++) {
            first[c] += u[i + c];
            second[c] += u[i + c] * (v[i + c] - shift[c]);
        }
}

/* Rows [first, last) of equal chunks, about a tile's worth of work each. */
static int64_t chunk_rows(int64_t channels)
{
    return hl_tile_rows(channels) * 4;
}

void hl_norm_affine(const hl_tensor *x, const hl_tensor *residual, const hl_tensor *y, const float *a,
                    const float *b, hl_act act)
{
    int64_t channels = x->shape.c, rows = hl_tensor_rows(x), chunk = chunk_rows(channels);
    int64_t width = channels < HL_TILE ? channels : HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < rows; first += chunk) {
        float v[HL_TILE], r[HL_TILE];
        int64_t last = rows - first < chunk ? rows : first + chunk, row = first, channel = 0;
        for (tile_range t; next_tile(channels, last, &row, &channel, &t);) {
            hl_tile_load(x, t.at, t.count, v);
            if (residual != NULL)
                hl_tile_load(residual, t.at, t.count, r);
            affine_tile(v, residual != NULL ? r : NULL, a + t.channel, b + t.channel, t.count,
                        width < t.count ? width : t.count, act);
            hl_tile_store(y, t.at, t.count, v);
        }
    }
}

void hl_norm_combine(const hl_tensor *u, const hl_tensor *v, const hl_tensor *out, const float *p,
                     const float *q, const float *k)
{
    int64_t channels = u->shape.c, rows = hl_tensor_rows(u), chunk = chunk_rows(channels);
    int64_t width = channels < HL_TILE ? channels : HL_TILE;
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < rows; first += chunk) {
        float a[HL_TILE], b[HL_TILE];
        int64_t last = rows - first < chunk ? rows : first + chunk, row = first, channel = 0;
        for (tile_range t; next_tile(channels, last, &row, &channel, &t);) {
            int64_t w = width < t.count ? width : t.count;
            hl_tile_load(u, t.at, t.count, a);
            if (v != NULL) {
                hl_tile_load(v, t.at, t.count, b);
                combine_tile(a, b, p + t.channel, q + t.channel, k + t.channel, t.count, w);
            } else {
                scale_tile(a, p + t.channel, k + t.channel, t.count, w);
            }
            hl_tile_store(out, t.at, t.count, a);
        }
    }
}

size_t hl_norm_sums_bytes(const hl_tensor *u)
{
    return (size_t)(hl_row_blocks(hl_tensor_rows(u)) * u->shape.c) * 2 * sizeof(double);
}

static void block_sums(const hl_tensor *u, const hl_tensor *v, const float *shift, int64_t first,
                       int64_t last, double *sums)
{
    float a[HL_TILE], b[HL_TILE], one[HL_TILE], two[HL_TILE];
    int64_t channels = u->shape.c, row = first, channel = 0, width = channels < HL_TILE ? channels : HL_TILE;
    for (int64_t c = 0; c < 2 * channels; c++)
        sums[c] = 0.0;
    for (tile_range t; next_tile(channels, last, &row, &channel, &t);) {
        int64_t w = width < t.count ? width : t.count;
        hl_tile_load(u, t.at, t.count, a);
        if (v != u)
            hl_tile_load(v, t.at, t.count, b);
        sums_tile(a, v != u ? b : a, shift + t.channel, t.count, w, one, two);
        for (int64_t c = 0; c < w; c++) {
            sums[2 * (t.channel + c)] += (double)one[c];
            sums[2 * (t.channel + c) + 1] += (double)two[c];
        }
    }
}

void hl_norm_sums(const hl_tensor *u, const hl_tensor *v, const float *shift, double *sums)
{
    int64_t rows = hl_tensor_rows(u), blocks = hl_row_blocks(rows);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++)
        block_sums(u, v, shift, hl_row_block_first(rows, blocks, b), hl_row_block_first(rows, blocks, b + 1),
                   sums + b * u->shape.c * 2);
}

void hl_norm_total(const double *sums, int64_t rows, int64_t channels, int64_t c, double total[2])
{
    int64_t blocks = hl_row_blocks(rows);
    total[0] = total[1] = 0.0;
    for (int64_t b = 0; b < blocks; b++) {
        total[0] += sums[(b * channels + c) * 2];
        total[1] += sums[(b * channels + c) * 2 + 1];
    }
}

void hl_norm_param_grads(const hl_step *step, int64_t c, double sum_dy, double sum_dy_normalised)
{
    const hl_norm_attr *norm = &step->norm;
    bool keep = step->run->grad_keep != 0.0f;
    if (norm->scale != NULL && norm->scale->trained)
        norm->scale->grad[c] = (keep ? norm->scale->grad[c] : 0.0f) + (float)sum_dy_normalised;
    if (norm->shift != NULL && norm->shift->trained)
        norm->shift->grad[c] = (keep ? norm->shift->grad[c] : 0.0f) + (float)sum_dy;
}

hl_status hl_norm_check(const hl_step *step, const hl_tensor *x)
{
    HL_TRY(hl_tile_check(step));
    if (step->norm.mean == NULL || step->norm.var == NULL || step->norm.mean->count != x->shape.c ||
        step->norm.var->count != x->shape.c)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a norm's statistics do not fit %lld channels",
                       (long long)x->shape.c);
    return HL_OK;
}
