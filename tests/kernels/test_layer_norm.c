#include <math.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_ops.h"

/* Rows in groups of 4 to 32 threads, with lanes that idle and without, in one turn and in several. */
static const struct {
    int64_t rows, channels;
} shapes[] = {{2, 1}, {5, 3}, {300, 8}, {65, 17}, {64, 40}, {33, 96}, {9, 520}, {3, 768}};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const float eps = 1e-6f;

typedef struct layer {
    kernel_rig rig;
    int64_t rows, channels, count;
    double *x, *dy, *scale, *shift, *out, *want;
    double amplified, operations; /* see tests/backend/test_layer_norm.c */
} layer;

static void layer_open(layer *l, hl_elem elem, int s)
{
    *l = (layer){.rows = shapes[s].rows, .channels = shapes[s].channels};
    l->count = l->rows * l->channels;
    l->x = random_doubles(l->count, -2.0, 2.0, elem, 1);
    l->dy = random_doubles(l->count, -1.0, 1.0, elem, 2);
    l->scale = random_doubles(l->channels, -1.5, 1.5, HL_ELEM_F32, 3);
    l->shift = random_doubles(l->channels, -1.0, 1.0, HL_ELEM_F32, 4);
    l->out = doubles(l->count);
    l->want = doubles(l->count);
    double least = 1.0, mean, var;
    for (int64_t r = 0; r < l->rows; r++) {
        mean = var = 0.0;
        for (int64_t c = 0; c < l->channels; c++)
            mean += l->x[r * l->channels + c] / (double)l->channels;
        for (int64_t c = 0; c < l->channels; c++)
            var += pow(l->x[r * l->channels + c] - mean, 2.0) / (double)l->channels;
        least = fmin(least, sqrt(var + (double)eps));
    }
    l->amplified = 1.0 / least;
    l->operations = 12.0 + (double)l->channels / 4.0;
}

static void layer_close(layer *l)
{
    free(l->x), free(l->dy), free(l->scale), free(l->shift), free(l->out), free(l->want);
    kernel_rig_clear(&l->rig);
}

Test(layer_norm, every_row_is_normalised_over_its_channels)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13)) {
                layer l;
                hl_elem elem = kernel_elems[e];
                layer_open(&l, elem, s);
                bool affine = s % 3 != 1;
                void *x = kernel_input(&l.rig, l.count, elem, l.x), *y = kernel_output(&l.rig, l.count, elem);
                const float *scale = affine ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.scale) : NULL,
                            *shift = affine ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.shift) : NULL;
                KERNEL_RUN(&l.rig,
                           hl_launch_layer_norm(x, scale, shift, eps, y, l.rows, l.channels, elem, NULL));
                kernel_get(y, l.count, elem, l.out);
                ref_layer_norm(l.x, l.rows, l.channels, affine ? l.scale : NULL, affine ? l.shift : NULL,
                               (double)eps, l.want);
                expect_close("y", elem, l.out, l.want, l.count, 3.0 * l.amplified, l.operations);
                layer_close(&l);
            }
}

/* wanted: bits for dx, dscale and dshift. */
static void expect_gradients(hl_elem elem, int s, int wanted, bool keep)
{
    layer l;
    layer_open(&l, elem, s);
    const hl_run_state run = {.grad_keep = keep ? 1.0f : 0.0f};
    double *dscale = doubles(l.channels), *dshift = doubles(l.channels), *got = doubles(l.channels);
    void *x = kernel_input(&l.rig, l.count, elem, l.x), *dy = kernel_input(&l.rig, l.count, elem, l.dy),
         *dx = wanted & 1 ? kernel_output(&l.rig, l.count, elem) : NULL;
    const float *scale = kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.scale);
    float *to[2] = {NULL, NULL};
    for (int i = 0; i < 2; i++)
        if (wanted & 2 << i)
            to[i] = keep ? kernel_input(&l.rig, l.channels, HL_ELEM_F32, l.shift)
                         : kernel_output(&l.rig, l.channels, HL_ELEM_F32);
    void *scratch =
        kernel_output(&l.rig, (int64_t)(hl_layer_norm_grad_scratch(l.rows, l.channels) / 4), HL_ELEM_F32);
    const hl_run_state *state = kernel_bytes(&l.rig, &run, sizeof run);
    KERNEL_RUN(&l.rig, hl_launch_layer_norm_grad(dy, x, scale, eps, dx, to[0], to[1], state, scratch, l.rows,
                                                 l.channels, elem, NULL));
    ref_layer_norm_grad(l.dy, l.x, l.rows, l.channels, l.scale, (double)eps, l.want, dscale, dshift);
    if (dx != NULL) {
        kernel_get(dx, l.count, elem, l.out);
        expect_close("dx", elem, l.out, l.want, l.count, 6.0 * l.amplified * l.amplified, l.operations);
    }
    for (int i = 0; i < 2; i++)
        if (to[i] != NULL) {
            double *want = i == 0 ? dscale : dshift;
            for (int64_t c = 0; keep && c < l.channels; c++)
                want[c] += l.shift[c];
            kernel_get(to[i], l.channels, HL_ELEM_F32, got);
            expect_close(i == 0 ? "dscale" : "dshift", HL_ELEM_F32, got, want, l.channels,
                         2.0 * (double)l.rows * l.amplified, 24.0 + l.operations);
        }
    free(dscale), free(dshift), free(got);
    layer_close(&l);
}

Test(layer_norm, gradients_of_values_and_parameters)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13))
                expect_gradients(kernel_elems[e], s, 7, s % 2 != 0);
}

Test(layer_norm, gradients_that_are_not_wanted_are_left_out)
{
    for (int wanted = 1; wanted < 7; wanted++)
        if (kernel_takes_case(13))
            expect_gradients(HL_ELEM_BF16, 4, wanted, wanted % 2 != 0);
}

Test(layer_norm, no_rows_launch_nothing)
{
    cr_assert_eq(hl_launch_layer_norm(NULL, NULL, NULL, eps, NULL, 0, 8, HL_ELEM_F32, NULL), 0);
    cr_assert_eq(hl_launch_layer_norm_grad(NULL, NULL, NULL, eps, NULL, NULL, NULL, NULL, NULL, 0, 8,
                                           HL_ELEM_F32, NULL),
                 0);
}
