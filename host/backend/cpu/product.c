#include "backend/cpu/product.h"

#include <math.h>
#include <omp.h>

#include "backend/cpu/product_kernel.h"
#include "backend/cpu/product_pack.h"

/* Rows of x whose distance is a multiple of this fall on the same places of a first-level cache. */
enum { CACHE_WAY = 4096, STAGE_SHIFT = 64 };

bool hl_product_is_native(hl_elem elem)
{
    unsigned isa = (unsigned)dnnl_get_effective_cpu_isa(), base = (unsigned)dnnl_cpu_isa_avx512_core;
    bool allowed = isa == (unsigned)dnnl_cpu_isa_all || (isa & base) == base;
    bool float32 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (elem == HL_ELEM_BF16)
        return allowed && float32 && __builtin_cpu_supports("avx512bf16");
    return allowed && float32 && elem == HL_ELEM_F32;
}

/* ---- one tile ---- */

typedef struct tile {
    hl_kernel_rows x;
    hl_kernel_ahead ahead;
    const char *panel;
    int64_t depth, column, columns; /* columns from `column` on */
    int64_t pixel;                  /* where in y and residual the tile starts, in bytes */
} tile;

HL_KERNEL_INLINE __m512 load(bool bf16, const char *row, int64_t column, __mmask16 lanes)
{
    return bf16 ? hl_kernel_load_bf16(row + column * 2, lanes)
                : _mm512_maskz_loadu_ps(lanes, row + column * 4);
}

HL_KERNEL_INLINE __m512 finish(const hl_product *p, const tile *t, bool bf16, int64_t at, int v,
                               __mmask16 lanes, __m512 sum)
{
    int64_t column = t->column + v * HL_KERNEL_LANES;
    if (p->bias != NULL)
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, p->bias + column));
    if (p->residual != NULL)
        sum = _mm512_add_ps(sum, load(bf16, (const char *)p->residual + at, column, lanes));
    if (p->before != NULL) {
        /* Comparisons in which a NaN passes gradients on, as PyTorch's. */
        __m512 before = load(bf16, (const char *)p->before + at, column, lanes);
        __mmask16 passes = _mm512_cmp_ps_mask(before, _mm512_setzero_ps(), _CMP_NLE_UQ);
        passes &= _mm512_cmp_ps_mask(before, _mm512_set1_ps(p->before_high), _CMP_NGE_UQ);
        return _mm512_maskz_mov_ps(passes, sum);
    }
    /* In this order of operands a NaN stays one. */
    sum = _mm512_max_ps(_mm512_set1_ps(p->low), sum);
    return _mm512_min_ps(_mm512_set1_ps(p->high), sum);
}

/* A whole tile of 32 bf16 columns is a cache line a row. */
HL_KERNEL_INLINE void store_line(const hl_product *p, char *to, __m512 left, __m512 right)
{
    __m512i line = (__m512i)_mm512_cvtne2ps_pbh(right, left);
    if (p->streams)
        _mm512_stream_si512((__m512i *)(void *)to, line);
    else
        _mm512_storeu_si512(to, line);
}

HL_KERNEL_INLINE void store_vector(const hl_product *p, bool bf16, char *row, int64_t column, __mmask16 lanes,
                                   __m512 value)
{
    if (bf16 && p->y_elem == HL_ELEM_BF16)
        _mm256_mask_storeu_epi16(row + column * 2, lanes, (__m256i)_mm512_cvtneps_pbh(value));
    else if (p->streams && lanes == 0xffff)
        _mm512_stream_ps((float *)(void *)(row + column * 4), value);
    else
        _mm512_mask_storeu_ps(row + column * 4, lanes, value);
}

/* What is placed as y is, so that it is there when the sums are. */
HL_KERNEL_INLINE void fetch(int rows, int vectors, bool bf16, const hl_product *p, const tile *t,
                            const void *operand)
{
    if (operand == NULL)
        return;
    const char *at = (const char *)operand + t->pixel + t->column * (bf16 ? 2 : 4);
    int lines = bf16 ? 1 : vectors;
    for (int r = 0; r < rows; r++)
        for (int line = 0; line < lines; line++)
            _mm_prefetch(at + r * p->of_y.pixel + line * 64, _MM_HINT_T0);
}

HL_KERNEL_INLINE void run_tile(int rows, int vectors, bool bf16, const hl_product *p, const tile *t)
{
    hl_kernel_sums sums;
    fetch(rows, vectors, bf16, p, t, p->residual);
    fetch(rows, vectors, bf16, p, t, p->before);
    hl_kernel_sum(rows, vectors, bf16, t->x, t->panel, t->depth, t->ahead, HL_KERNEL_FIRST_LEVEL, sums);
    __mmask16 lanes[HL_KERNEL_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
        lanes[v] = hl_kernel_lanes(t->columns - v * HL_KERNEL_LANES);
    bool line = bf16 && vectors == 2 && p->y_elem == HL_ELEM_BF16 && lanes[vectors - 1] == 0xffff;
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        int64_t at = t->pixel + r * p->of_y.pixel;
        char *row = (char *)p->y + at;
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sums[r][v] = finish(p, t, bf16, at, v, lanes[v], sums[r][v]);
        if (line) {
            store_line(p, row + t->column * 2, sums[r][0], sums[r][vectors - 1]);
            continue;
        }
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            store_vector(p, bf16, row, t->column + v * HL_KERNEL_LANES, lanes[v], sums[r][v]);
    }
}

/* 14 rows fill the registers; 7 because so many maps are 7 pixels wide; the rest is rare. */
enum { TALL = HL_KERNEL_ROWS, HALF = 7 };

#define TILE_FUNCTION(ROWS, VECTORS, TYPE, BF16)                                                             \
    HL_KERNEL_FUNCTION static void tile_##ROWS##_##VECTORS##_##TYPE(const hl_product *p, const tile *t)      \
    {                                                                                                        \
        run_tile(ROWS, VECTORS, BF16, p, t);                                                                 \
    }
#define TILE_FUNCTIONS(TYPE, BF16)                                                                           \
    TILE_FUNCTION(14, 2, TYPE, BF16)                                                                         \
    TILE_FUNCTION(14, 1, TYPE, BF16)                                                                         \
    TILE_FUNCTION(7, 2, TYPE, BF16)                                                                          \
    TILE_FUNCTION(7, 1, TYPE, BF16)                                                                          \
    TILE_FUNCTION(1, 2, TYPE, BF16)                                                                          \
    TILE_FUNCTION(1, 1, TYPE, BF16)
TILE_FUNCTIONS(f32, false)
TILE_FUNCTIONS(bf16, true)

typedef void tile_function(const hl_product *p, const tile *t);

/* [bf16][14, 7 or 1 rows][vectors - 1] */
static tile_function *const tile_functions[2][3][2] = {
    {{tile_14_1_f32, tile_14_2_f32}, {tile_7_1_f32, tile_7_2_f32}, {tile_1_1_f32, tile_1_2_f32}},
    {{tile_14_1_bf16, tile_14_2_bf16}, {tile_7_1_bf16, tile_7_2_bf16}, {tile_1_1_bf16, tile_1_2_bf16}}};

/* ---- rows of pixels ---- */

static bool is_staged(const hl_product *p)
{
    return p->of_x.pixel % CACHE_WAY == 0;
}

static size_t stage_row(const hl_product *p)
{
    return (size_t)p->x_channels * hl_elem_size(p->elem) + STAGE_SHIFT;
}

size_t hl_product_stage_bytes(const hl_product *p)
{
    return is_staged(p) ? (size_t)p->threads * TALL * stage_row(p) : 0;
}

static const char *stage_rows(const hl_product *p, const char *x, int64_t rows)
{
    size_t row = stage_row(p);
    char *stage = p->stage + (size_t)omp_get_thread_num() * TALL * row;
    for (int64_t r = 0; r < rows; r++)
        memcpy(stage + (size_t)r * row, x + r * p->of_x.pixel, row - STAGE_SHIFT);
    return stage;
}

/* All columns of `rows` pixels: 14, 7 or 1. */
static void run_rows(const hl_product *p, const char *x, const char *after, int64_t pixel, int rows)
{
    bool bf16 = p->elem == HL_ELEM_BF16;
    tile t = {.x = {.at = x, .row = p->of_x.pixel, .step = sizeof(uint32_t)},
              .panel = p->panels,
              .depth = hl_panel_steps(p->elem, p->x_channels),
              .pixel = pixel};
    if (is_staged(p)) {
        t.x.at = stage_rows(p, x, rows);
        t.x.row = (int64_t)stage_row(p);
    }
    for (; t.column < p->y_channels; t.column += HL_PANEL_COLUMNS) {
        int64_t width = hl_panel_width(p->y_channels, t.column);
        t.columns = p->y_channels - t.column;
        /* A line of 64 bytes a step is what the rows that come next have, and a little more. */
        t.ahead = t.column == 0 ? (hl_kernel_ahead){after, 64} : (hl_kernel_ahead){t.x.at, 0};
        tile_functions[bf16][rows == TALL ? 0 : rows == HALF ? 1 : 2][width / HL_KERNEL_LANES - 1](p, &t);
        t.panel += t.depth * width * (int64_t)sizeof(uint32_t);
    }
}

static void clear(const hl_product *p)
{
    enum { PIECE = 1 << 16 };
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < p->y_clear; at += PIECE)
        memset((char *)p->y + at, 0, p->y_clear - at < PIECE ? p->y_clear - at : PIECE);
}

static int64_t line_at(const hl_product_pixels *of, int64_t line)
{
    return line / of->lines * of->image + line % of->lines * of->line;
}

/* Up to TALL pixels of a line from `pixel` on. */
static void run_block(const hl_product *p, int64_t line, int64_t pixel)
{
    const char *x = (const char *)p->x + line_at(&p->of_x, line);
    int64_t y = line_at(&p->of_y, line), end = p->pixels - pixel < TALL ? p->pixels : pixel + TALL;
    while (pixel < end) {
        int rows = end - pixel >= TALL ? TALL : end - pixel >= HALF ? HALF : 1;
        const char *at = x + pixel * p->of_x.pixel;
        run_rows(p, at, at + rows * p->of_x.pixel, y + pixel * p->of_y.pixel, rows);
        pixel += rows;
    }
}

void hl_product_run(const hl_product *p)
{
    int64_t blocks = (p->pixels + TALL - 1) / TALL;
    clear(p);
#pragma omp parallel num_threads(p->threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < p->lines * blocks; i++)
            run_block(p, i / blocks, i % blocks * TALL);
        /* What was written past the cache is there before anybody is told that it is. */
        _mm_sfence();
    }
}
