#include <math.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_ops.h"

static const struct {
    int64_t rows, channels;
} shapes[] = {{2, 1}, {5, 3}, {300, 8}, {1031, 17}, {64, 40}, {4000, 16}, {9, 520}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

typedef struct layer {
    kernel_rig rig;
    int64_t rows, channels, count;
    double *x, *dy, *scale, *shift, *mean, *var, *out, *want;
    hl_norm_args args;
} layer;

static void layer_open(layer *l, hl_elem elem, int s, hl_act act, double centre)
{
    *l = (layer){.rows = shapes[s].rows, .channels = shapes[s].channels};
    l->count = l->rows * l->channels;
    l->x = random_doubles(l->count, centre - 1.0, centre + 1.0, elem, 1);
    l->dy = random_doubles(l->count, -1.0, 1.0, elem, 2);
    l->scale = random_doubles(l->channels, 0.5, 2.0, HL_ELEM_F32, 3);
    l->shift = random_doubles(l->channels, -1.0, 1.0, HL_ELEM_F32, 4);
    l->mean = random_doubles(l->channels, centre - 0.5, centre + 0.5, HL_ELEM_F32, 5);
    l->var = random_doubles(l->channels, 0.5, 2.0, HL_ELEM_F32, 6);
    l->out = doubles(l->count);
    l->want = doubles(l->count);
    l->args = (hl_norm_args){.scale = kernel_input(&l->rig, l->channels, HL_ELEM_F32, l->scale),
                             .shift = kernel_input(&l->rig, l->channels, HL_ELEM_F32, l->shift),
                             .mean = kernel_input(&l->rig, l->channels, HL_ELEM_F32, l->mean),
                             .var = kernel_input(&l->rig, l->channels, HL_ELEM_F32, l->var),
                             .eps = 1e-3f,
                             .momentum = 0.1f,
                             .act = act,
                             .rows = l->rows,
                             .channels = l->channels};
}

static void layer_close(layer *l)
{
    double *const arrays[] = {l->x, l->dy, l->scale, l->shift, l->mean, l->var, l->out, l->want};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        free(arrays[i]);
    kernel_rig_clear(&l->rig);
}

Test(norm, running_statistics_with_residual_and_activation)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13)) {
                layer l;
                layer_open(&l, kernel_elems[e], s, s % 2 ? HL_ACT_RELU : HL_ACT_SILU, 0.0);
                void *x = kernel_input(&l.rig, l.count, kernel_elems[e], l.x),
                     *residual = s % 3 ? kernel_input(&l.rig, l.count, kernel_elems[e], l.dy) : NULL,
                     *y = kernel_output(&l.rig, l.count, kernel_elems[e]);
                KERNEL_RUN(&l.rig, hl_launch_norm(&l.args, x, residual, y, kernel_elems[e], NULL));
                kernel_get(y, l.count, kernel_elems[e], l.out);
                ref_norm(l.x, l.rows, l.channels, l.scale, l.shift, l.mean, l.var, (double)l.args.eps,
                         l.want);
                for (int64_t i = 0; i < l.count; i++)
                    l.want[i] = ref_act(l.args.act, l.want[i] + (residual != NULL ? l.dy[i] : 0.0));
                /* Values up to 2 (1.5 / sqrt(.5)) + 2. */
                expect_close("norm", kernel_elems[e], l.out, l.want, l.count, 8.0, 24.0);
                layer_close(&l);
            }
}

Test(norm, without_statistics_channels_are_scaled)
{
    for (int e = 0; e < 3; e++)
        for (int s = 1; s < 5; s++)
            if (kernel_takes_case(13)) {
                layer l;
                layer_open(&l, kernel_elems[e], s, HL_ACT_NONE, 0.0);
                l.args.shift = NULL;
                l.args.mean = l.args.var = NULL;
                double *dscale = doubles(l.channels), *got = doubles(l.channels);
                const hl_run_state run = {.grad_keep = 0.0f};
                void *x = kernel_input(&l.rig, l.count, kernel_elems[e], l.x),
                     *dy = kernel_input(&l.rig, l.count, kernel_elems[e], l.dy),
                     *y = kernel_output(&l.rig, l.count, kernel_elems[e]),
                     *dx = kernel_output(&l.rig, l.count, kernel_elems[e]);
                float *to_scale = kernel_output(&l.rig, l.channels, HL_ELEM_F32);
                void *scratch = kernel_output(&l.rig, (int64_t)(hl_norm_grad_scratch(l.rows, l.channels) / 4),
                                              HL_ELEM_F32);
                const hl_run_state *state = kernel_bytes(&l.rig, &run, sizeof run);
                KERNEL_RUN(&l.rig, hl_launch_norm(&l.args, x, dy, y, kernel_elems[e], NULL));
                KERNEL_RUN(&l.rig, hl_launch_norm_grad(&l.args, dy, x, NULL, NULL, dx, to_scale, NULL, state,
                                                       scratch, kernel_elems[e], NULL));
                for (int64_t i = 0; i < l.count; i++)
                    l.want[i] = l.x[i] * l.scale[i % l.channels] + l.dy[i];
                kernel_get(y, l.count, kernel_elems[e], l.out);
                expect_close("y", kernel_elems[e], l.out, l.want, l.count, 3.0, 2.0);
                for (int64_t i = 0; i < l.count; i++) {
                    l.want[i] = l.dy[i] * l.scale[i % l.channels];
                    dscale[i % l.channels] += l.dy[i] * l.x[i];
                }
                kernel_get(dx, l.count, kernel_elems[e], l.out);
                expect_close("dx", kernel_elems[e], l.out, l.want, l.count, 2.0, 2.0);
                kernel_get(to_scale, l.channels, HL_ELEM_F32, got);
                expect_close("dscale", HL_ELEM_F32, got, dscale, l.channels, (double)l.rows, 24.0);
                free(dscale);
                free(got);
                layer_close(&l);
            }
}

/* centre: of the values, whose deviation is about 0.6; a large one would cancel everything in a naive
 * variance. */
static void expect_batch(hl_elem elem, int s, double centre)
{
    layer l;
    layer_open(&l, elem, s, HL_ACT_NONE, centre);
    l.args.moves = true;
    double *mean = doubles(l.channels), *var = doubles(l.channels), *got = doubles(l.channels),
           *want = doubles(l.channels);
    void *x = kernel_input(&l.rig, l.count, elem, l.x), *y = kernel_output(&l.rig, l.count, elem);
    float *batch_mean = kernel_output(&l.rig, l.channels, HL_ELEM_F32),
          *inverse = kernel_output(&l.rig, l.channels, HL_ELEM_F32);
    void *scratch =
        kernel_output(&l.rig, (int64_t)(hl_norm_batch_scratch(l.rows, l.channels) / 4), HL_ELEM_F32);
    KERNEL_RUN(&l.rig, hl_launch_norm_batch(&l.args, x, NULL, y, batch_mean, inverse, scratch, elem, NULL));
    ref_norm_statistics(l.x, l.rows, l.channels, mean, var);
    kernel_get(batch_mean, l.channels, HL_ELEM_F32, got);
    expect_close("mean", HL_ELEM_F32, got, mean, l.channels, fabs(centre) + 1.0, 40.0);
    for (int64_t c = 0; c < l.channels; c++)
        want[c] = 1.0 / sqrt(var[c] + (double)l.args.eps);
    kernel_get(inverse, l.channels, HL_ELEM_F32, got);
    /* The chunk's mean is off by some roundings of the centre, which enter the variance squared. */
    double slack = 1.0 + centre * centre * 1e-4;
    expect_close("inverse deviation", HL_ELEM_F32, got, want, l.channels, 32.0, 60.0 * slack);
    for (int64_t c = 0; c < l.channels; c++) {
        double unbiased = var[c] * (double)l.rows / ((double)l.rows - 1.0);
        want[c] = 0.9 * l.var[c] + 0.1 * unbiased;
        mean[c] = 0.9 * l.mean[c] + 0.1 * mean[c];
    }
    kernel_get(l.args.var, l.channels, HL_ELEM_F32, got);
    expect_close("running variance", HL_ELEM_F32, got, want, l.channels, 4.0, 60.0 * slack);
    kernel_get(l.args.mean, l.channels, HL_ELEM_F32, got);
    expect_close("running mean", HL_ELEM_F32, got, mean, l.channels, fabs(centre) + 1.0, 40.0);
    kernel_get(y, l.count, elem, l.out);
    ref_norm_statistics(l.x, l.rows, l.channels, mean, var);
    ref_norm(l.x, l.rows, l.channels, l.scale, l.shift, mean, var, (double)l.args.eps, l.want);
    expect_close("norm", elem, l.out, l.want, l.count, 32.0 * (fabs(centre) + 1.0), 60.0);
    free(mean);
    free(var);
    free(got);
    free(want);
    layer_close(&l);
}

Test(norm, batch_statistics_and_moving_running_ones)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13))
                expect_batch(kernel_elems[e], s, 0.0);
}

Test(norm, a_large_mean_does_not_cancel_the_variance)
{
    for (int s = 2; s < SHAPES; s++)
        if (kernel_takes_case(13))
            expect_batch(HL_ELEM_F32, s, 100.0);
}

static void expect_gradients(hl_elem elem, int s, bool batch, bool keep)
{
    layer l;
    layer_open(&l, elem, s, HL_ACT_NONE, 0.0);
    const hl_run_state run = {.grad_keep = keep ? 1.0f : 0.0f};
    double *mean = doubles(l.channels), *var = doubles(l.channels), *inverse = doubles(l.channels),
           *dscale = doubles(l.channels), *dshift = doubles(l.channels), *got = doubles(l.channels);
    for (int64_t c = 0; c < l.channels; c++) {
        mean[c] = l.mean[c];
        var[c] = l.var[c];
    }
    if (batch)
        ref_norm_statistics(l.x, l.rows, l.channels, mean, var);
    for (int64_t c = 0; c < l.channels; c++)
        inverse[c] = 1.0 / sqrt(var[c] + (double)l.args.eps);
    if (batch) {
        ref_norm_batch_grad(l.dy, l.x, l.rows, l.channels, l.scale, (double)l.args.eps, l.want, dscale,
                            dshift);
    } else {
        for (int64_t i = 0; i < l.count; i++) {
            int64_t c = i % l.channels;
            l.want[i] = l.dy[i] * l.scale[c] * inverse[c];
            dscale[c] += l.dy[i] * (l.x[i] - mean[c]) * inverse[c];
            dshift[c] += l.dy[i];
        }
    }
    void *x = kernel_input(&l.rig, l.count, elem, l.x), *dy = kernel_input(&l.rig, l.count, elem, l.dy),
         *dx = kernel_output(&l.rig, l.count, elem);
    float *batch_mean = batch ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, mean) : NULL,
          *device_inverse = batch ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, inverse) : NULL;
    float *to_scale = keep ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.shift)
                           : kernel_output(&l.rig, l.channels, HL_ELEM_F32),
          *to_shift = keep ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.shift)
                           : kernel_output(&l.rig, l.channels, HL_ELEM_F32);
    void *scratch =
        kernel_output(&l.rig, (int64_t)(hl_norm_grad_scratch(l.rows, l.channels) / 4), HL_ELEM_F32);
    const hl_run_state *state = kernel_bytes(&l.rig, &run, sizeof run);
    KERNEL_RUN(&l.rig, hl_launch_norm_grad(&l.args, dy, x, batch_mean, device_inverse, dx, to_scale, to_shift,
                                           state, scratch, elem, NULL));
    kernel_get(dx, l.count, elem, l.out);
    /* Values up to 2 / sqrt(var); tiny batches have variances near eps. */
    double scale = batch && l.rows < 10 ? 32.0 * 32.0 : 16.0;
    expect_close("dx", elem, l.out, l.want, l.count, scale, 60.0);
    for (int64_t c = 0; keep && c < l.channels; c++) {
        dscale[c] += l.shift[c];
        dshift[c] += l.shift[c];
    }
    double sum_scale = (double)l.rows * (batch && l.rows < 10 ? 32.0 : 2.0);
    kernel_get(to_scale, l.channels, HL_ELEM_F32, got);
    expect_close("dscale", HL_ELEM_F32, got, dscale, l.channels, sum_scale, 24.0);
    kernel_get(to_shift, l.channels, HL_ELEM_F32, got);
    expect_close("dshift", HL_ELEM_F32, got, dshift, l.channels, sum_scale, 24.0);
    free(mean);
    free(var);
    free(inverse);
    free(dscale);
    free(dshift);
    free(got);
    layer_close(&l);
}

Test(norm, gradients_with_running_and_batch_statistics)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            for (int batch = 0; batch < 2; batch++)
                if (kernel_takes_case(13))
                    expect_gradients(kernel_elems[e], s, batch != 0, s % 2 != 0);
}
