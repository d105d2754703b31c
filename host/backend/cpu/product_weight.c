#include "backend/cpu/product_weight.h"

#include <omp.h>
#include <stdlib.h>

#include "backend/cpu/product.h"
#include "backend/cpu/product_kernel.h"
#include "base/memory.h"

/* dW is cut into blocks. Whoever computes one packs what it needs of dy and x in memory of its own, chunk by
 * chunk, so that threads never wait for one another; the sums are the same however the blocks are cut. */
enum {
    LANES = HL_KERNEL_LANES,
    UNIT = HL_KERNEL_VECTORS * LANES, /* columns of a tile */
    CHUNK_STEPS = 256,                /* 14 rows of them fill half of a first-level cache */
    WHOLE_STEPS = 448, /* up to here everything is one chunk, so that sums are not put down in between */
    MOST_UNITS = 16,   /* of a block: half of a second-level cache */
    LOWEST_ROWS = 8,   /* that tiles have */
    PACK_STEPS = 8,    /* of which dy's rows are read before panels take their turn: they stay in the cache */
    PANEL_ROWS = LANES /* that a packed step of dy has, of which a tile reads its own */
};

struct hl_product_weight {
    bool bf16;
    int64_t size; /* of an element in bytes */
    hl_window window;
    hl_shape x_shape, y_shape;
    int64_t pixels, steps, chunk;    /* of y; steps: pairs of them in bf16 */
    int64_t rows, tile_rows, panels; /* of tile_rows rows each */
    int64_t run;                     /* kw I: what a row of the window holds, one behind the other in x */
    int64_t of_run;      /* units that a run takes; the last one is half a unit where that is enough */
    int64_t run_columns; /* so many columns */
    int64_t units;       /* of all runs */
    int64_t block_panels, block_units; /* of a block; the last ones may be smaller */
    int64_t thread_words;              /* of packed memory */
    int threads;
    const char *x, *dy;
    float *dw;
    uint32_t *packed;
};

/* A block of dW: panels [panel, panel_end), units [unit, unit_end); and its thread's packed memory. */
typedef struct block {
    int64_t panel, panel_end, unit, unit_end;
    uint32_t *rows;    /* [panel][chunk][PANEL_ROWS] */
    uint32_t *columns; /* [unit][chunk][width of the unit] */
} block;

/* Where this is faster than what oneDNN has (docs/performance.md): strided windows, and in bf16 products of
 * many channels. Elsewhere packing costs more than the kernel gains. */
static bool is_faster(const hl_step *step)
{
    enum { FEW_CHANNELS = 32, MANY_PAIRS = 64 * 256 };
    const hl_window *w = &step->conv.window;
    const hl_tensor *x = step->in[0], *dy = step->in[1];
    bool strided = w->sh > 1 || w->sw > 1, pixelwise = w->kh == 1 && w->kw == 1,
         map = dy->shape.h * dy->shape.w > 1;
    if (pixelwise)
        return map && x->elem == HL_ELEM_BF16 && x->shape.c * dy->shape.c >= MANY_PAIRS;
    return strided && x->shape.c >= FEW_CHANNELS;
}

bool hl_product_weight_takes(const hl_step *step)
{
    const hl_tensor *x = step->in[0], *dy = step->in[1];
    return step->conv.groups == 1 && !step->conv.subfunction && step->conv.window.dw == 1 &&
           x->elem == dy->elem && hl_kernel_is_native(x->elem) && is_faster(step);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Low tiles waste fewer rows, high ones are faster: a panel costs about as much as one and a half rows more.
 */
static int64_t choose_tile_rows(int64_t rows)
{
    int64_t best = HL_KERNEL_ROWS, least = INT64_MAX;
    for (int64_t r = HL_KERNEL_ROWS; r >= LOWEST_ROWS; r--) {
        int64_t cost = ceil_div(rows, r) * (2 * r + 3);
        if (cost < least) {
            least = cost;
            best = r;
        }
    }
    return best;
}

/* Blocks that keep all threads busy and pack little: a step costs a block one instruction for each row and
 * register of columns, and about half of one a row and four a register for packing. */
static void choose_blocks(hl_product_weight *p)
{
    int64_t least = INT64_MAX;
    for (int64_t across = ceil_div(p->units, MOST_UNITS); across <= p->units; across++)
        for (int64_t down = 1; down <= p->panels && down <= p->threads; down++) {
            int64_t units = ceil_div(p->units, across), panels = ceil_div(p->panels, down);
            int64_t count = ceil_div(p->units, units) * ceil_div(p->panels, panels);
            int64_t cost =
                ceil_div(count, p->threads) * (panels * p->tile_rows * (4 * units + 1) + 16 * units);
            if (cost < least) {
                least = cost;
                p->block_units = units;
                p->block_panels = panels;
            }
        }
}

hl_status hl_product_weight_create(const hl_step *step, int threads, hl_product_weight **product,
                                   size_t *scratch_bytes)
{
    const hl_tensor *x = step->in[0], *dy = step->in[1];
    hl_product_weight *p = calloc(1, sizeof *p);
    *product = p;
    if (p == NULL)
        return hl_fail_nomem(step->name, sizeof *p);
    p->bf16 = x->elem == HL_ELEM_BF16;
    p->size = (int64_t)hl_elem_size(x->elem);
    p->window = step->conv.window;
    p->x_shape = x->shape;
    p->y_shape = dy->shape;
    p->pixels = dy->shape.n * dy->shape.h * dy->shape.w;
    p->steps = p->bf16 ? (p->pixels + 1) / 2 : p->pixels;
    p->chunk = p->steps <= WHOLE_STEPS ? p->steps : CHUNK_STEPS;
    p->rows = dy->shape.c;
    p->tile_rows = choose_tile_rows(p->rows);
    p->panels = ceil_div(p->rows, p->tile_rows);
    p->run = p->window.kw * x->shape.c;
    p->of_run = ceil_div(p->run, UNIT);
    p->run_columns = ceil_div(p->run, LANES) * LANES;
    p->units = p->window.kh * p->of_run;
    p->threads = threads;
    choose_blocks(p);
    p->thread_words = p->chunk * (p->block_panels * PANEL_ROWS + p->block_units * UNIT);
    *scratch_bytes = (size_t)(threads * p->thread_words) * sizeof(uint32_t);
    return HL_OK;
}

void hl_product_weight_destroy(hl_product_weight *p)
{
    free(p);
}

void hl_product_weight_bind(hl_product_weight *p, const hl_step *step, void *scratch)
{
    p->x = step->in[0]->data;
    p->dy = step->in[1]->data;
    p->dw = step->out[0]->data;
    p->packed = scratch;
}

/* ---- packing ---- */

/* 32 elements of one pixel, or of two side by side, as steps of 4 bytes in two registers. */
typedef struct unit_step {
    __m512i half[HL_KERNEL_VECTORS];
} unit_step;

HL_KERNEL_INLINE unit_step interleave(__m512i even, __m512i odd)
{
    /* Word 2 i of the result is word i of the even pixel, word 2 i + 1 that of the odd one. */
    const __m512i index = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39,
                                           7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    return (unit_step){
        {_mm512_permutex2var_epi16(even, index, odd),
         _mm512_permutex2var_epi16(even, _mm512_add_epi16(index, _mm512_set1_epi16(LANES)), odd)}};
}

/* Elements whose bit is 0 are not read, and are 0. */
HL_KERNEL_INLINE unit_step load_unit(bool bf16, const char *even, __mmask32 even_lanes, const char *odd,
                                     __mmask32 odd_lanes)
{
    if (bf16)
        return interleave(_mm512_maskz_loadu_epi16(even_lanes, even),
                          _mm512_maskz_loadu_epi16(odd_lanes, odd));
    return (unit_step){
        {_mm512_maskz_loadu_epi32((__mmask16)even_lanes, even),
         _mm512_maskz_loadu_epi32((__mmask16)(even_lanes >> LANES), even + LANES * sizeof(float))}};
}

static inline __mmask32 lanes_below(int64_t count)
{
    return count >= UNIT ? UINT32_MAX : count <= 0 ? 0 : (1u << count) - 1;
}

/* 16 elements of one pixel, or of two side by side, as a step; elements whose bit is 0 are not read. */
HL_KERNEL_INLINE __m512i load_step(bool bf16, const char *even, const char *odd, __mmask16 lanes,
                                   __mmask16 odd_lanes)
{
    if (!bf16)
        return _mm512_maskz_loadu_epi32(lanes, even);
    __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, even)),
            high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(odd_lanes, odd));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* dy of `steps` steps from pixel `origin` on. */
HL_KERNEL_INLINE void pack_rows(const hl_product_weight *p, bool bf16, const block *b, int64_t origin,
                                int64_t steps)
{
    int64_t pixel = p->rows * p->size;
    for (int64_t start = 0; start < steps; start += PACK_STEPS) {
        int64_t end = steps - start < PACK_STEPS ? steps : start + PACK_STEPS;
        for (int64_t panel = b->panel; panel < b->panel_end; panel++) {
            int64_t row = panel * p->tile_rows;
            uint32_t *to = b->rows + (panel - b->panel) * p->chunk * PANEL_ROWS;
            __mmask16 lanes = hl_kernel_lanes(p->rows - row);
            for (int64_t k = start; k < end; k++) {
                int64_t at = bf16 ? origin + 2 * k : origin + k;
                const char *even = p->dy + at * pixel + row * p->size;
                __mmask16 odd_lanes = at + 1 < p->pixels ? lanes : 0;
                _mm512_storeu_si512(to + k * PANEL_ROWS,
                                    load_step(bf16, even, even + pixel, lanes, odd_lanes));
            }
        }
    }
}

/* A pixel of y, counted on without dividing. */
typedef struct place {
    int64_t n, oy, ox;
} place;

static place place_of(const hl_product_weight *p, int64_t pixel)
{
    int64_t row = pixel / p->y_shape.w;
    return (place){row / p->y_shape.h, row % p->y_shape.h, pixel % p->y_shape.w};
}

static inline void advance(const hl_product_weight *p, place *at)
{
    if (++at->ox < p->y_shape.w)
        return;
    at->ox = 0;
    if (++at->oy < p->y_shape.h)
        return;
    at->oy = 0;
    at->n++;
}

/* Where row `u` of the window of one pixel lies in x, and which of its elements do: [low, high). A pixel past
 * the last has none. */
typedef struct run_of_pixel {
    const char *at;
    int64_t low, high;
} run_of_pixel;

static inline run_of_pixel find_run(const hl_product_weight *p, place at, int64_t u)
{
    const hl_window *w = &p->window;
    hl_shape x = p->x_shape;
    int64_t iy = at.oy * w->sh + u * w->dh - w->top, ix = at.ox * w->sw - w->left;
    int64_t low = ix < 0 ? -ix : 0, high = x.w - ix < w->kw ? x.w - ix : w->kw;
    if (at.n >= x.n || iy < 0 || iy >= x.h || low >= high)
        return (run_of_pixel){p->x, 0, 0};
    return (run_of_pixel){p->x + ((at.n * x.h + iy) * x.w + ix) * x.c * p->size, low * x.c, high * x.c};
}

static int64_t unit_width(const hl_product_weight *p, int64_t unit)
{
    int64_t left = p->run_columns - unit % p->of_run * UNIT;
    return left < UNIT ? left : UNIT;
}

/* Columns of all units before this one. */
static int64_t columns_before(const hl_product_weight *p, int64_t unit)
{
    return unit / p->of_run * p->run_columns + unit % p->of_run * UNIT;
}

static uint32_t *unit_at(const hl_product_weight *p, const block *b, int64_t unit)
{
    return b->columns + (columns_before(p, unit) - columns_before(p, b->unit)) * p->chunk;
}

/* Step k of the units [from, to) of a run; `skip` elements of it come before. */
HL_KERNEL_INLINE void pack_run(const hl_product_weight *p, bool bf16, uint32_t *to, int64_t skip, int64_t end,
                               int64_t k, run_of_pixel even, run_of_pixel odd)
{
    for (; skip < end; skip += UNIT) {
        __mmask32 even_lanes = lanes_below(even.high - skip) & ~lanes_below(even.low - skip),
                  odd_lanes = lanes_below(odd.high - skip) & ~lanes_below(odd.low - skip);
        unit_step unit =
            load_unit(bf16, even.at + skip * p->size, even_lanes, odd.at + skip * p->size, odd_lanes);
        bool whole = end - skip > LANES;
        uint32_t *at = to + k * (whole ? UNIT : LANES);
        _mm512_storeu_si512(at, unit.half[0]);
        if (whole)
            _mm512_storeu_si512(at + LANES, unit.half[1]);
        to += p->chunk * UNIT;
    }
}

HL_KERNEL_INLINE void pack_windows(const hl_product_weight *p, bool bf16, const block *b, int64_t origin,
                                   int64_t steps)
{
    for (int64_t unit = b->unit, next; unit < b->unit_end; unit = next) {
        int64_t u = unit / p->of_run, skip = unit % p->of_run * UNIT, end = p->run_columns;
        next = (u + 1) * p->of_run;
        if (next > b->unit_end) {
            end -= (next - b->unit_end) * UNIT - (p->of_run * UNIT - p->run_columns);
            next = b->unit_end;
        }
        uint32_t *to = unit_at(p, b, unit);
        place at = place_of(p, origin);
        for (int64_t k = 0; k < steps; k++) {
            run_of_pixel even = find_run(p, at, u), odd = even;
            advance(p, &at);
            if (bf16) {
                odd = find_run(p, at, u);
                advance(p, &at);
            }
            pack_run(p, bf16, to, skip, end, k, even, odd);
        }
    }
}

HL_KERNEL_FUNCTION static void pack_f32(const hl_product_weight *p, const block *b, int64_t origin,
                                        int64_t steps)
{
    pack_rows(p, false, b, origin, steps);
    pack_windows(p, false, b, origin, steps);
}

HL_KERNEL_FUNCTION static void pack_bf16(const hl_product_weight *p, const block *b, int64_t origin,
                                         int64_t steps)
{
    pack_rows(p, true, b, origin, steps);
    pack_windows(p, true, b, origin, steps);
}

/* ---- one tile ---- */

typedef struct tile {
    const char *rows, *columns;
    hl_kernel_ahead ahead;
    int64_t steps, valid_rows;
    float *to[2]; /* the tile's first row, by vector */
    int64_t to_row;
    __mmask16 lanes[2];
    bool first; /* chunk: there is nothing yet to be added to */
} tile;

HL_KERNEL_INLINE void run_tile(int rows, int vectors, bool bf16, const tile *t)
{
    hl_kernel_sums sums;
    if (!t->first)
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++)
                _mm_prefetch(t->to[v] + r * t->to_row, _MM_HINT_T0);
    hl_kernel_sum(rows, vectors, bf16,
                  (hl_kernel_rows){t->rows, sizeof(uint32_t), PANEL_ROWS * sizeof(uint32_t)}, t->columns,
                  t->steps, t->ahead, HL_KERNEL_SECOND_LEVEL, sums);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++) {
        if (r >= t->valid_rows)
            break;
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            float *to = t->to[v] + r * t->to_row;
            if (!t->first)
                sums[r][v] = _mm512_add_ps(sums[r][v], _mm512_maskz_loadu_ps(t->lanes[v], to));
            _mm512_mask_storeu_ps(to, t->lanes[v], sums[r][v]);
        }
    }
}

#define TILE_FUNCTION(ROWS, VECTORS, TYPE, BF16)                                                             \
    HL_KERNEL_FUNCTION static void tile_##ROWS##_##VECTORS##_##TYPE(const tile *t)                           \
    {                                                                                                        \
        run_tile(ROWS, VECTORS, BF16, t);                                                                    \
    }
#define TILE_FUNCTIONS(ROWS)                                                                                 \
    TILE_FUNCTION(ROWS, 1, f32, false)                                                                       \
    TILE_FUNCTION(ROWS, 2, f32, false)                                                                       \
    TILE_FUNCTION(ROWS, 1, bf16, true)                                                                       \
    TILE_FUNCTION(ROWS, 2, bf16, true)
#define TILE_NAMES(ROWS)                                                                                     \
    {                                                                                                        \
        {tile_##ROWS##_1_f32, tile_##ROWS##_2_f32},                                                          \
        {                                                                                                    \
            tile_##ROWS##_1_bf16, tile_##ROWS##_2_bf16                                                       \
        }                                                                                                    \
    }

TILE_FUNCTIONS(8)
TILE_FUNCTIONS(9)
TILE_FUNCTIONS(10)
TILE_FUNCTIONS(11)
TILE_FUNCTIONS(12)
TILE_FUNCTIONS(13)
TILE_FUNCTIONS(14)

/* [rows - LOWEST_ROWS][bf16][vectors - 1] */
static void (*const tile_functions[HL_KERNEL_ROWS - LOWEST_ROWS + 1][2][2])(const tile *) = {
    TILE_NAMES(8),  TILE_NAMES(9),  TILE_NAMES(10), TILE_NAMES(11),
    TILE_NAMES(12), TILE_NAMES(13), TILE_NAMES(14)};

/* What the next chunk reads of dy and of x, to be fetched while this one is multiplied. */
typedef struct next_chunk {
    const char *at[2];
    int64_t left[2]; /* bytes */
} next_chunk;

static next_chunk find_next(const hl_product_weight *p, int64_t pixel)
{
    int64_t end = pixel + p->chunk * (p->bf16 ? 2 : 1);
    end = end < p->pixels ? end : p->pixels;
    if (pixel >= end)
        return (next_chunk){{p->dy, p->x}, {0, 0}};
    place first = place_of(p, pixel), last = place_of(p, end - 1);
    int64_t low = (first.n * p->x_shape.h + first.oy * p->window.sh) * p->x_shape.w + first.ox * p->window.sw,
            high = (last.n * p->x_shape.h + last.oy * p->window.sh) * p->x_shape.w + last.ox * p->window.sw;
    return (next_chunk){{p->dy + pixel * p->rows * p->size, p->x + low * p->x_shape.c * p->size},
                        {(end - pixel) * p->rows * p->size, (high + 1 - low) * p->x_shape.c * p->size}};
}

/* The part that a tile of `steps` steps fetches. */
static hl_kernel_ahead take_next(next_chunk *next, int64_t steps)
{
    enum { LINE = 64 };
    int i = next->left[0] > 0 ? 0 : 1;
    hl_kernel_ahead ahead = {next->at[i], next->left[i] > 0 ? LINE : 0};
    next->at[i] += ahead.step * steps;
    next->left[i] -= ahead.step * steps;
    return ahead;
}

/* Rows of one panel times a unit of columns, over the steps of a chunk. */
static void multiply(const hl_product_weight *p, const block *b, int64_t panel, int64_t unit, int64_t steps,
                     hl_kernel_ahead ahead, bool first)
{
    int64_t row = panel * p->tile_rows, left = p->rows - row, row_floats = p->window.kh * p->run;
    int64_t u = unit / p->of_run, skip = unit % p->of_run * UNIT, vectors = unit_width(p, unit) / LANES;
    tile t = {.rows = (const char *)(b->rows + (panel - b->panel) * p->chunk * PANEL_ROWS),
              .columns = (const char *)unit_at(p, b, unit),
              .ahead = ahead,
              .steps = steps,
              .valid_rows = left < p->tile_rows ? left : p->tile_rows,
              .to_row = row_floats,
              .first = first};
    for (int64_t v = 0; v < vectors; v++) {
        t.to[v] = p->dw + row * row_floats + u * p->run + skip + v * LANES;
        t.lanes[v] = hl_kernel_lanes(p->run - skip - v * LANES);
    }
    tile_functions[p->tile_rows - LOWEST_ROWS][p->bf16][vectors - 1](&t);
}

static void run_block(const hl_product_weight *p, const block *b)
{
    int64_t per_step = p->bf16 ? 2 : 1;
    for (int64_t start = 0; start < p->steps; start += p->chunk) {
        int64_t steps = p->steps - start < p->chunk ? p->steps - start : p->chunk;
        next_chunk next = find_next(p, (start + p->chunk) * per_step);
        (p->bf16 ? pack_bf16 : pack_f32)(p, b, start * per_step, steps);
        for (int64_t panel = b->panel; panel < b->panel_end; panel++)
            for (int64_t unit = b->unit; unit < b->unit_end; unit++)
                multiply(p, b, panel, unit, steps, take_next(&next, steps), start == 0);
    }
}

void hl_product_weight_run(const hl_product_weight *p)
{
    int64_t across = ceil_div(p->units, p->block_units), down = ceil_div(p->panels, p->block_panels);
#pragma omp parallel for schedule(static, 1) num_threads(p->threads)
    for (int64_t i = 0; i < across * down; i++) {
        block b = {.panel = i / across * p->block_panels, .unit = i % across * p->block_units};
        b.panel_end = b.panel + p->block_panels < p->panels ? b.panel + p->block_panels : p->panels;
        b.unit_end = b.unit + p->block_units < p->units ? b.unit + p->block_units : p->units;
        b.rows = p->packed + omp_get_thread_num() * p->thread_words;
        b.columns = b.rows + p->chunk * p->block_panels * PANEL_ROWS;
        run_block(p, &b);
    }
}
