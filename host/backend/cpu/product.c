#include "backend/cpu/product.h"

#include <omp.h>

#include "backend/cpu/kernel_behind.h"
#include "backend/cpu/product_kernel.h"
#include "backend/cpu/product_pack.h"

/* Rows of x whose distance is a multiple of this fall on the same places of a first-level cache. */
enum { CACHE_WAY = 4096, STAGE_SHIFT = 64 };

/* ---- one tile ---- */

typedef struct tile {
    hl_kernel_rows x;
    hl_kernel_ahead ahead;
    const char *panel;
    int64_t depth, column, columns; /* columns from `column` on */
    int64_t pixel;                  /* where in y and residual the tile starts, in bytes */
} tile;

HL_KERNEL_INLINE void run_tile(int rows, int vectors, bool bf16, const hl_product *p, const tile *t)
{
    hl_kernel_sums sums;
    hl_kernel_fetch(rows, vectors, bf16, p->behind.residual, t->pixel, p->of_y.pixel, t->column);
    hl_kernel_fetch(rows, vectors, bf16, p->behind.before, t->pixel, p->of_y.pixel, t->column);
    hl_kernel_sum(rows, vectors, bf16, t->x, t->panel, t->depth, t->ahead, HL_KERNEL_FIRST_LEVEL, sums);
    __mmask16 lanes[HL_KERNEL_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
        lanes[v] = hl_kernel_lanes(t->columns - v * HL_KERNEL_LANES);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
        hl_kernel_put(&p->behind, vectors, bf16, t->pixel + r * p->of_y.pixel, t->column, lanes, sums[r]);
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
        memset((char *)p->behind.y + at, 0, p->y_clear - at < PIECE ? p->y_clear - at : PIECE);
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
