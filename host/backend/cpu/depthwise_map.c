#include "backend/cpu/depthwise_map.h"

#include "backend/cpu/conv_operands.h"
#include "backend/cpu/dnnl_util.h"

/* Results side by side that a tile has, since so many maps are multiples of 7 wide; with two registers of
 * channels each and a row of the widest window they fill 30 of 32 registers. */
enum { WIDE = 7, VECTORS = 2, COLUMNS = VECTORS * HL_KERNEL_LANES, MOST_TAPS = 7 };

/* ---- which steps ---- */

static hl_status describe_weights(const hl_step *step, int64_t channels, dnnl_memory_desc_t *md)
{
    const hl_window *w = &step->conv.window;
    const dnnl_dims_t dims = {channels, 1, 1, w->kh, w->kw};
    HL_DNNL(dnnl_memory_desc_init_by_tag(md, 5, dims, dnnl_f32, dnnl_decab), step, "describe weights");
    return HL_OK;
}

static bool has_layout(const hl_step *step)
{
    const hl_tensor *weights = step->in[1];
    const dnnl_memory_desc_t *native = hl_dnnl_native(weights);
    dnnl_memory_desc_t wanted;
    if (weights->native == NULL)
        return true;
    return native != NULL && describe_weights(step, step->conv.groups, &wanted) == HL_OK &&
           dnnl_memory_desc_equal(native, &wanted);
}

bool hl_depthwise_map_takes(const hl_step *step)
{
    const hl_window *w = &step->conv.window;
    const hl_conv_operands o = hl_conv_operands_of(step);
    hl_elem elem = o.from->elem;
    bool depthwise =
        step->conv.groups > 1 && step->conv.groups == o.from->shape.c && step->conv.groups == o.to->shape.c;
    bool window = w->dh == 1 && w->dw == 1 && w->sw <= 2 && w->kh <= MOST_TAPS &&
                  (w->kw == 3 || w->kw == 5 || w->kw == 7);
    bool types = o.weights->elem == elem && o.to->elem == elem;
    bool behind = step->kind == HL_STEP_CONV_DATA || hl_conv_behind_takes(step, elem);
    return depthwise && window && types && behind && hl_kernel_is_native(elem) && has_layout(step);
}

hl_status hl_depthwise_map_prepare(const hl_cpu *cpu, hl_step *step, hl_depthwise_map *map)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    dnnl_memory_desc_t md;
    *map = (hl_depthwise_map){.elem = o.from->elem,
                              .gradient = step->kind == HL_STEP_CONV_DATA,
                              .from = o.from->shape,
                              .to = o.to->shape,
                              .window = step->conv.window,
                              .threads = cpu->base.threads,
                              .behind = hl_conv_behind(step, true)};
    if (o.weights->native != NULL)
        return HL_OK;
    HL_TRY(describe_weights(step, o.to->shape.c, &md));
    return hl_dnnl_set_native(step, o.weights, &md);
}

void hl_depthwise_map_bind(const hl_step *step, bool behind, hl_depthwise_map *map)
{
    const hl_conv_operands o = hl_conv_operands_of(step);
    map->x = o.from->data;
    map->weights = o.weights->data;
    hl_conv_behind_bind(step, behind, &map->behind);
}

/* ---- one row of results ---- */

/* Results of a row that meet the same taps of the window: all of them, or where a data gradient goes back
 * through a stride, every second one. Result i is column to + i * to_step; tap j of it reads column
 * from + i * from_step + j and has weight tap + j * tap_step of the window's row. */
typedef struct line {
    int taps, from_step;
    int64_t count, to, to_step, from, tap, tap_step;
} line;

static line line_of(const hl_depthwise_map *m, int64_t phase)
{
    const hl_window *w = &m->window;
    if (!m->gradient)
        return (line){.taps = (int)w->kw,
                      .from_step = (int)w->sw,
                      .count = m->to.w,
                      .to_step = 1,
                      .from = -w->left,
                      .tap_step = 1};
    /* dx[x] = sum over the kx with (x + left - kx) divisible by the stride, of dy at the quotient. */
    int64_t first = (phase + w->left) % w->sw, taps = (w->kw - first + w->sw - 1) / w->sw;
    return (line){.taps = (int)taps,
                  .from_step = 1,
                  .count = (m->to.w - phase + w->sw - 1) / w->sw,
                  .to = phase,
                  .to_step = w->sw,
                  .from = (phase + w->left - first) / w->sw - (taps - 1),
                  .tap = first + w->sw * (taps - 1),
                  .tap_step = -w->sw};
}

/* A row of `from` that a row of results reads, and the window's row that it meets. */
typedef struct source {
    const char *row;
    const float *weights;
} source;

static int sources_of(const hl_depthwise_map *m, int64_t n, int64_t y, source *sources)
{
    const hl_window *w = &m->window;
    int64_t row = m->from.w * m->from.c * (int64_t)hl_elem_size(m->elem);
    int count = 0;
    for (int64_t ky = 0; ky < w->kh; ky++) {
        int64_t at = m->gradient ? y + w->top - ky : y * w->sh - w->top + ky;
        if (m->gradient && (at < 0 || at % w->sh != 0))
            continue;
        at = m->gradient ? at / w->sh : at;
        if (at < 0 || at >= m->from.h)
            continue;
        sources[count++] =
            (source){(const char *)m->x + (n * m->from.h + at) * row, m->weights + ky * w->kw * m->from.c};
    }
    return count;
}

typedef struct row {
    source sources[MOST_TAPS];
    int count;
    int64_t at; /* of its first pixel in the result, in bytes */
} row;

/* Results [first, first + outs) of a line, of 16 or 32 channels from c on. */
HL_KERNEL_INLINE void run_channels(int outs, int taps, int step, bool bf16, int vectors,
                                   const hl_depthwise_map *m, const row *r, const line *l, int64_t first,
                                   int64_t c, const __mmask16 *lanes)
{
    int64_t channels = m->to.c, pixel = channels * (bf16 ? 2 : 4), apart = l->to_step * pixel;
    int64_t at = r->at + l->to * pixel + first * apart, from = l->from + first * step;
    __m512 sums[WIDE][VECTORS];
    /* For the tile after this one, since memory answers too late for this one. */
    hl_kernel_fetch(outs, vectors, bf16, m->behind.residual, at + outs * apart, apart, c);
    hl_kernel_fetch(outs, vectors, bf16, m->behind.before, at + outs * apart, apart, c);
    /* Of the rows read, the one that comes last in the image is new. */
    if (r->count > 0)
        hl_kernel_fetch(outs * step, vectors, bf16, r->sources[m->gradient ? 0 : r->count - 1].row,
                        (from + outs * step + taps - step) * pixel, pixel, c);
#pragma GCC unroll 7
    for (int o = 0; o < outs; o++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sums[o][v] = _mm512_setzero_ps();
    for (int s = 0; s < r->count; s++) {
        __m512 w[MOST_TAPS][VECTORS];
#pragma GCC unroll 7
        for (int j = 0; j < taps; j++)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                w[j][v] = _mm512_maskz_loadu_ps(lanes[v], r->sources[s].weights +
                                                              (l->tap + j * l->tap_step) * channels + c +
                                                              v * HL_KERNEL_LANES);
#pragma GCC unroll 19
        for (int i = 0; i < (outs - 1) * step + taps; i++) {
            if (from + i < 0 || from + i >= m->from.w)
                continue;
            const char *x = r->sources[s].row + (from + i) * pixel;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) {
                __m512 value = hl_kernel_load(bf16, x, c + v * HL_KERNEL_LANES, lanes[v]);
#pragma GCC unroll 7
                for (int j = 0; j < taps; j++) {
                    int o = (i - j) / step;
                    if (i >= j && (i - j) % step == 0 && o < outs)
                        sums[o][v] = _mm512_fmadd_ps(value, w[j][v], sums[o][v]);
                }
            }
        }
    }
#pragma GCC unroll 7
    for (int o = 0; o < outs; o++)
        hl_kernel_put(&m->behind, vectors, bf16, at + o * apart, c, lanes, sums[o]);
}

/* All channels. */
HL_KERNEL_INLINE void run_tile(int outs, int taps, int step, bool bf16, const hl_depthwise_map *m,
                               const row *r, const line *l, int64_t first)
{
    static const __mmask16 all[VECTORS] = {0xffff, 0xffff};
    int64_t channels = m->to.c, c = 0;
    for (; channels - c >= COLUMNS; c += COLUMNS)
        run_channels(outs, taps, step, bf16, VECTORS, m, r, l, first, c, all);
    for (; c < channels; c += HL_KERNEL_LANES) {
        const __mmask16 lanes = hl_kernel_lanes(channels - c);
        run_channels(outs, taps, step, bf16, 1, m, r, l, first, c, &lanes);
    }
}

typedef void tile_function(const hl_depthwise_map *m, const row *r, const line *l, int64_t first);

#define TILE_FUNCTION(OUTS, TAPS, STEP, TYPE, BF16)                                                          \
    HL_KERNEL_FUNCTION static void tile_##OUTS##_##TAPS##_##STEP##_##TYPE(                                   \
        const hl_depthwise_map *m, const row *r, const line *l, int64_t first)                               \
    {                                                                                                        \
        run_tile(OUTS, TAPS, STEP, BF16, m, r, l, first);                                                    \
    }
#define TILE_FUNCTIONS(TAPS, STEP)                                                                           \
    TILE_FUNCTION(1, TAPS, STEP, f32, false)                                                                 \
    TILE_FUNCTION(7, TAPS, STEP, f32, false)                                                                 \
    TILE_FUNCTION(1, TAPS, STEP, bf16, true)                                                                 \
    TILE_FUNCTION(7, TAPS, STEP, bf16, true)
#define TILE_NAMES(TAPS, STEP)                                                                               \
    {                                                                                                        \
        {tile_1_##TAPS##_##STEP##_f32, tile_7_##TAPS##_##STEP##_f32},                                        \
        {                                                                                                    \
            tile_1_##TAPS##_##STEP##_bf16, tile_7_##TAPS##_##STEP##_bf16                                     \
        }                                                                                                    \
    }

TILE_FUNCTIONS(1, 1)
TILE_FUNCTIONS(2, 1)
TILE_FUNCTIONS(3, 1)
TILE_FUNCTIONS(4, 1)
TILE_FUNCTIONS(5, 1)
TILE_FUNCTIONS(7, 1)
TILE_FUNCTIONS(3, 2)
TILE_FUNCTIONS(5, 2)
TILE_FUNCTIONS(7, 2)

/* [taps][bf16][1 or 7 wide], one and two columns apart */
static tile_function *const by_one[MOST_TAPS + 1][2][2] = {
    [1] = TILE_NAMES(1, 1), [2] = TILE_NAMES(2, 1), [3] = TILE_NAMES(3, 1),
    [4] = TILE_NAMES(4, 1), [5] = TILE_NAMES(5, 1), [7] = TILE_NAMES(7, 1)};
static tile_function *const by_two[MOST_TAPS + 1][2][2] = {
    [3] = TILE_NAMES(3, 2), [5] = TILE_NAMES(5, 2), [7] = TILE_NAMES(7, 2)};

static void run_line(const hl_depthwise_map *m, const row *r, const line *l)
{
    tile_function *const *tiles = (l->from_step == 1 ? by_one : by_two)[l->taps][m->elem == HL_ELEM_BF16];
    int64_t at = 0;
    for (; l->count - at >= WIDE; at += WIDE)
        tiles[1](m, r, l, at);
    /* The last wide tile may do results again. */
    if (at < l->count && l->count >= WIDE)
        tiles[1](m, r, l, l->count - WIDE);
    else
        for (; at < l->count; at++)
            tiles[0](m, r, l, at);
}

void hl_depthwise_map_run(const hl_depthwise_map *m)
{
    int64_t row_bytes = m->to.w * m->to.c * (int64_t)hl_elem_size(m->elem);
    int64_t phases = m->gradient ? m->window.sw : 1;
    line lines[2];
    for (int64_t i = 0; i < phases; i++)
        lines[i] = line_of(m, i);
#pragma omp parallel num_threads(m->threads)
    {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < m->to.n * m->to.h; i++) {
            row r = {.at = i * row_bytes};
            r.count = sources_of(m, i / m->to.h, i % m->to.h, r.sources);
            for (int64_t k = 0; k < phases; k++)
                run_line(m, &r, &lines[k]);
        }
        /* What was written past the cache is there before anybody is told that it is. */
        _mm_sfence();
    }
}
