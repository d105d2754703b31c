#include "backend/cpu/product_pack.h"

#include <string.h>

#include "base/bf16.h"
#include "base/simd.h"

size_t hl_panels_bytes(hl_elem elem, int64_t depth, int64_t columns)
{
    int64_t half = HL_PANEL_COLUMNS / 2;
    return (size_t)(hl_panel_steps(elem, depth) * ((columns + half - 1) / half * half)) * sizeof(uint32_t);
}

/* A panel's first step; all panels before it are whole. */
static uint32_t *panel_at(void *panels, int64_t steps, int64_t column)
{
    return (uint32_t *)panels + column / HL_PANEL_COLUMNS * HL_PANEL_COLUMNS * steps;
}

static inline uint32_t pair(float even, float odd)
{
    return (uint32_t)hl_bf16_from_f32(even) | (uint32_t)hl_bf16_from_f32(odd) << 16;
}

enum { RUN = 256 }; /* values converted at a time */

HL_CLONES static void pair_run(const float *even, const float *odd, int64_t stride, int64_t count,
                               uint32_t *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = pair(even[i * stride], odd[i * stride]);
}

/* One row of weights down a column. */
static void pack_column(hl_elem elem, int64_t rows, int64_t row, int64_t o, const float *w, void *panels)
{
    int64_t steps = hl_panel_steps(elem, row), first = o / HL_PANEL_COLUMNS * HL_PANEL_COLUMNS;
    int64_t width = hl_panel_width(rows, first);
    uint32_t *to = panel_at(panels, steps, first) + (o - first);
    uint32_t run[RUN];
    for (int64_t at = 0; at < steps; at += RUN) {
        int64_t n = steps - at < RUN ? steps - at : RUN;
        if (elem == HL_ELEM_F32) {
            memcpy(run, w + at, (size_t)n * sizeof *run);
        } else {
            int64_t whole = at + n <= row / 2 ? n : n - 1;
            pair_run(w + 2 * at, w + 2 * at + 1, 2, whole, run);
            if (whole < n)
                run[whole] = pair(w[row - 1], 0.0f);
        }
        for (int64_t k = 0; k < n; k++)
            to[(at + k) * width] = run[k];
    }
    /* Who packs the last column sees to those beyond it. */
    if (o == rows - 1)
        for (int64_t c = o - first + 1; c < width; c++)
            for (int64_t k = 0; k < steps; k++)
                to[k * width + c - (o - first)] = 0;
}

/* Rows of weights as a step of all panels. `odd` NULL: zeros. */
static void pack_step(hl_elem elem, int64_t rows, int64_t row, int64_t o, const float *even, const float *odd,
                      void *panels)
{
    static const float zeros[HL_PANEL_COLUMNS] = {0};
    int64_t steps = hl_panel_steps(elem, rows), step = elem == HL_ELEM_BF16 ? o / 2 : o;
    for (int64_t first = 0; first < row; first += HL_PANEL_COLUMNS) {
        int64_t width = hl_panel_width(row, first), n = row - first < width ? row - first : width;
        uint32_t *to = panel_at(panels, steps, first) + step * width;
        if (elem == HL_ELEM_F32)
            memcpy(to, even + first, (size_t)n * sizeof *to);
        else
            pair_run(even + first, odd != NULL ? odd + first : zeros, 1, n, to);
        memset(to + n, 0, (size_t)(width - n) * sizeof *to);
    }
}

void hl_panels_pack(hl_cpu_layout_kind layout, hl_elem elem, int64_t rows, int64_t row, int64_t first,
                    const float *two, void *panels)
{
    const float *second = first + 1 < rows ? two + row : NULL;
    if (layout == HL_LAYOUT_PANELS_FORWARD) {
        pack_column(elem, rows, row, first, two, panels);
        if (second != NULL)
            pack_column(elem, rows, row, first + 1, second, panels);
    } else if (elem == HL_ELEM_BF16) {
        pack_step(elem, rows, row, first, two, second, panels);
    } else {
        pack_step(elem, rows, row, first, two, NULL, panels);
        if (second != NULL)
            pack_step(elem, rows, row, first + 1, second, NULL, panels);
    }
}
