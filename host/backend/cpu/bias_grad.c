/* BIAS_GRAD: the sum of dy over samples and pixels, to the parameters that b_eff is made of. */
#include "backend/cpu/dnnl_util.h"
#include "backend/cpu/row_blocks.h"
#include "base/bf16.h"
#include "base/simd.h"

/* Rows are first summed in short runs, so that the rounding error grows with the number of runs and not of
 * rows. */
enum { TILE = 64, STRIP = 16, RUN = 64 };

#define COLUMN_SUMS(name, type, load)                                                                        \
    static inline __attribute__((always_inline)) void name##_tile(                                           \
        const type *restrict dy, int64_t rows, int64_t stride, float *restrict sum, int64_t width)           \
    {                                                                                                        \
        float acc[TILE] = {0};                                                                               \
        for (int64_t r = 0; r < rows; r++)                                                                   \
            for (int64_t t = 0; t < width; t++)                                                              \
                acc[t] += load(dy[r * stride + t]);                                                          \
        for (int64_t t = 0; t < width; t++)                                                                  \
            sum[t] += acc[t];                                                                                \
    }                                                                                                        \
    HL_CLONES static void name(const type *dy, int64_t rows, int64_t channels, float *sum)                   \
    {                                                                                                        \
        for (int64_t c = 0; c < channels; c++)                                                               \
            sum[c] = 0.0f;                                                                                   \
        for (int64_t run = 0; run < rows; run += RUN) {                                                      \
            int64_t count = rows - run < RUN ? rows - run : RUN, c = 0;                                      \
            const type *from = dy + run * channels;                                                          \
            for (; channels - c >= TILE; c += TILE)                                                          \
                name##_tile(from + c, count, channels, sum + c, TILE);                                       \
            for (; channels - c >= STRIP; c += STRIP)                                                        \
                name##_tile(from + c, count, channels, sum + c, STRIP);                                      \
            if (c < channels)                                                                                \
                name##_tile(from + c, count, channels, sum + c, channels - c);                               \
        }                                                                                                    \
    }

#define AS_IS(x) (x)
COLUMN_SUMS(column_sums_f32, float, AS_IS)
COLUMN_SUMS(column_sums_bf16, hl_bf16, hl_bf16_to_f32)

static hl_status check(const hl_cpu *cpu, const hl_step *step)
{
    (void)cpu;
    if (step->in_count != 1)
        return hl_fail(HL_E_INTERNAL, step->name, NULL, "a bias gradient has one operand");
    return hl_dnnl_check_elem(step, step->in[0]);
}

static hl_status prepare(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    hl_shape s = step->in[0]->shape;
    step->scratch_bytes = (size_t)(hl_row_blocks(s.n * s.h * s.w) * s.c) * sizeof(float);
    return HL_OK;
}

static hl_status bind(hl_cpu *cpu, hl_step *step, void *scratch)
{
    (void)cpu;
    step->exec = scratch;
    return HL_OK;
}

static hl_status run(hl_cpu *cpu, hl_step *step)
{
    (void)cpu;
    const hl_tensor *dy = step->in[0];
    const hl_weight_expr *e = step->conv.expr;
    float *partial = step->exec;
    int64_t channels = dy->shape.c, rows = dy->shape.n * dy->shape.h * dy->shape.w,
            blocks = hl_row_blocks(rows);
#pragma omp parallel for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
        int64_t first = hl_row_block_first(rows, blocks, b),
                count = hl_row_block_first(rows, blocks, b + 1) - first;
        if (dy->elem == HL_ELEM_BF16)
            column_sums_bf16((const hl_bf16 *)dy->data + first * channels, count, channels,
                             partial + b * channels);
        else
            column_sums_f32((const float *)dy->data + first * channels, count, channels,
                            partial + b * channels);
    }
    for (int64_t o = 0; o < channels; o++)
        hl_weight_expr_bias_grad(e, o, hl_row_blocks_sum(partial, blocks, channels, o), step->run->grad_keep);
    return HL_OK;
}

/* exec is the shared scratch: there is nothing to free. */
const hl_cpu_op hl_cpu_bias_grad = {.check = check, .prepare = prepare, .bind = bind, .run = run};
