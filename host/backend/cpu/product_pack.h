/* Weights in panels, as products (product.h) read them.
 *
 * Columns (the outputs of the product) are cut into panels of 32, the last one of 16 if that is enough. A
 * panel holds, one behind the other, the steps of depth: one float or two bf16 for each of its columns;
 * columns beyond the last are 0. */
#ifndef HL_BACKEND_CPU_PRODUCT_PACK_H
#define HL_BACKEND_CPU_PRODUCT_PACK_H

#include "backend/cpu/cpu.h"

enum { HL_PANEL_COLUMNS = 32 };

/* Columns of a panel that starts at `column`. */
static inline int64_t hl_panel_width(int64_t columns, int64_t column)
{
    return columns - column > HL_PANEL_COLUMNS / 2 ? HL_PANEL_COLUMNS : HL_PANEL_COLUMNS / 2;
}

/* Steps of depth: of 4 bytes each. */
static inline int64_t hl_panel_steps(hl_elem elem, int64_t depth)
{
    return elem == HL_ELEM_BF16 ? (depth + 1) / 2 : depth;
}

/* Bytes of all panels. */
size_t hl_panels_bytes(hl_elem elem, int64_t depth, int64_t columns);

/* Packs of a matrix [rows][row] of weights (outputs x inputs), for a layout of panels, rows first and, if
 * there is one, first + 1, where `first` is even; `two` points to the row `first`. Distinct calls write
 * distinct memory. */
void hl_panels_pack(hl_cpu_layout_kind layout, hl_elem elem, int64_t rows, int64_t row, int64_t first,
                    const float *two, void *panels);

#endif
