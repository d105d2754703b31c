/* GRID_POOL and its gradient: means over the cells of a map, as torch's adaptive average pooling. */
#include <string.h>

#include "backend/cpu/tile.h"
#include "base/grid_cell.h"

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    return hl_tile_check(step);
}

static int64_t length(hl_grid_cell cell)
{
    return cell.end - cell.first;
}

/* Channels [c, c + n) of pixel (y, x) of `out`. With `grad` in is dy, whose cells are what divides it; else
 * out's own are. */
static void make_pixel(const hl_tensor *in, const hl_tensor *out, bool grad, int64_t sample, int64_t y,
                       int64_t x, int64_t c, int64_t n)
{
    float v[HL_TILE], sum[HL_TILE];
    hl_shape from = in->shape, to = out->shape;
    hl_grid_cell rows = hl_grid_cell_at(y, from.h, to.h), columns = hl_grid_cell_at(x, from.w, to.w);
    float share = 1.0f / (float)(length(rows) * length(columns));
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t i = rows.first; i < rows.end; i++)
        for (int64_t j = columns.first; j < columns.end; j++) {
            if (grad)
                share = 1.0f / (float)(length(hl_grid_cell_at(i, to.h, from.h)) *
                                       length(hl_grid_cell_at(j, to.w, from.w)));
            hl_tile_load(in, ((sample * from.h + i) * from.w + j) * from.c + c, n, v);
            hl_tile_add(v, share, n, sum);
        }
    hl_tile_store(out, ((sample * to.h + y) * to.w + x) * to.c + c, n, sum);
}

static void make_map(const hl_tensor *in, const hl_tensor *out, bool grad)
{
    hl_shape s = out->shape;
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < s.n * s.h; row++)
        for (int64_t x = 0; x < s.w; x++)
            for (int64_t c = 0; c < s.c; c += HL_TILE)
                make_pixel(in, out, grad, row / s.h, row % s.h, x, c, s.c - c < HL_TILE ? s.c - c : HL_TILE);
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    make_map(step->in[0], step->out[0], false);
    return HL_OK;
}

static hl_status grad_run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    make_map(step->in[0], step->out[0], true);
    return HL_OK;
}

const hl_cpu_op hl_cpu_grid_pool = {.check = check, .run = run};
const hl_cpu_op hl_cpu_grid_pool_grad = {.check = check, .run = grad_run};
