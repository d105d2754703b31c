#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

static const struct {
    int64_t n, pixels, channels;
} shapes[] = {{1, 1, 1}, {2, 1, 33}, {3, 49, 8}, {2, 50, 17}, {1, 9, 64}, {2, 1031, 3}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void expect_sum(hl_elem elem, hl_elem out_elem, int64_t n, int64_t pixels, int64_t channels,
                       bool product)
{
    kernel_rig r = {0};
    int64_t count = n * pixels * channels;
    const float factor = 1.0f / (float)pixels;
    double *a = random_doubles(count, -1.0, 1.0, elem, 1), *b = random_doubles(count, -1.0, 1.0, elem, 2),
           *want = doubles(n * channels), *got = doubles(n * channels);
    for (int64_t i = 0; i < count; i++)
        want[i / (pixels * channels) * channels + i % channels] +=
            (double)factor * a[i] * (product ? b[i] : 1.0);
    void *pa = kernel_input(&r, count, elem, a), *pb = product ? kernel_input(&r, count, elem, b) : NULL,
         *out = kernel_output(&r, n * channels, out_elem);
    KERNEL_RUN(&r, hl_launch_pixel_sum(pa, pb, factor, out, elem, out_elem, n, pixels, channels, NULL));
    kernel_get(out, n * channels, out_elem, got);
    /* A mean of values up to 1: each of the sum's roundings is at most that of `pixels`, times 1 / pixels. */
    expect_close("sum over pixels", out_elem, got, want, n * channels, 1.0, (double)pixels / 8.0 + 12.0);
    free(a);
    free(b);
    free(want);
    free(got);
    kernel_rig_clear(&r);
}

Test(pixels, sums_and_sums_of_products)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13)) {
                expect_sum(kernel_elems[e], kernel_elems[e], shapes[s].n, shapes[s].pixels,
                           shapes[s].channels, false);
                expect_sum(kernel_elems[e], kernel_elems[e], shapes[s].n, shapes[s].pixels,
                           shapes[s].channels, true);
            }
}

Test(pixels, sums_of_16_bit_values_in_f32)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            expect_sum(kernel_elems[e], HL_ELEM_F32, shapes[s].n, shapes[s].pixels, shapes[s].channels,
                       false);
}

Test(pixels, a_value_is_spread_over_the_pixels)
{
    for (int e = 0; e < 3; e++)
        for (int s = 0; s < SHAPES; s++)
            if (kernel_takes_case(13)) {
                kernel_rig r = {0};
                int64_t n = shapes[s].n, pixels = shapes[s].pixels, channels = shapes[s].channels,
                        count = n * pixels * channels;
                double *a = random_doubles(n * channels, -1.0, 1.0, kernel_elems[e], 1),
                       *want = doubles(count), *got = doubles(count);
                for (int64_t i = 0; i < count; i++)
                    want[i] = 0.25 * a[i / (pixels * channels) * channels + i % channels];
                void *in = kernel_input(&r, n * channels, kernel_elems[e], a),
                     *out = kernel_output(&r, count, kernel_elems[e]);
                KERNEL_RUN(
                    &r, hl_launch_pixel_spread(in, 0.25f, out, kernel_elems[e], n, pixels, channels, NULL));
                kernel_get(out, count, kernel_elems[e], got);
                expect_close("spread", kernel_elems[e], got, want, count, 1.0, 0.0);
                free(a);
                free(want);
                free(got);
                kernel_rig_clear(&r);
            }
}
