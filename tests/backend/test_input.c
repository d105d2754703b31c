#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/numeric.h"
#include "support/step_harness.h"

static const float mean[4] = {0.485f, 0.456f, 0.406f, 0.1f}, deviation[4] = {0.229f, 0.224f, 0.225f, 0.5f};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

static void expect_normalised(hl_shape s, hl_elem elem)
{
    step_harness h;
    harness_open(&h);
    int64_t n = hl_shape_count(s);
    hl_tensor *x = harness_tensor(&h, "images", s, HL_ELEM_U8);
    hl_tensor *flips = harness_tensor(&h, "flips", (hl_shape){s.n, 1, 1, 1}, HL_ELEM_U8);
    hl_tensor *y = harness_tensor(&h, "y", s, elem);
    hl_step *step = harness_step(&h, HL_STEP_INPUT, 2, (hl_tensor *[]){x, flips}, 1, &y);
    memcpy(step->input.mean, mean, sizeof mean);
    memcpy(step->input.std, deviation, sizeof deviation);
    harness_build(&h);
    double *bytes = doubles(n), *flipped = doubles(s.n), *got = doubles(n), *want = doubles(n);
    for (int64_t i = 0; i < n; i++)
        bytes[i] = (double)((i * 37 + i / 5) % 256);
    for (int64_t i = 0; i < s.n; i++)
        flipped[i] = (double)(i % 2);
    for (int64_t i = 0; i < n; i++) {
        int64_t c = i % s.c, column = i / s.c % s.w, row = i / (s.c * s.w), sample = row / s.h;
        int64_t from = flipped[sample] != 0.0 ? (row * s.w + s.w - 1 - column) * s.c + c : i;
        want[i] = (bytes[from] / 255.0 - (double)mean[c]) / (double)deviation[c];
    }
    harness_set(x, bytes);
    harness_set(flips, flipped);
    harness_run(&h, step);
    harness_get(y, got);
    /* Three roundings in float of values up to 1 / 0.22. */
    expect_close("y", elem, got, want, n, 4.6, 3);
    free(bytes), free(flipped), free(got), free(want);
    harness_close(&h);
}

Test(input, bytes_are_normalised_and_mirrored_where_the_flag_says)
{
    static const hl_shape shapes[] = {
        {1, 1, 1, 3}, {3, 4, 5, 3}, {2, 2, 1, 1}, {4, 3, 700, 3}, {2, 2, 517, 4}};
    for (int k = 0; k < 5; k++)
        for (int e = 0; e < 2; e++)
            expect_normalised(shapes[k], elems[e]);
}

/* Images of a batch blended or pasted together: by the share, or inside the box of mix n. A partner is
 * mirrored by its own flag. */
static void expect_mixed(hl_elem elem, bool box, int64_t channels)
{
    enum { COUNT = 3 };
    const hl_shape s = {COUNT, 5, 7, channels};
    step_harness h;
    harness_open(&h);
    int64_t n = hl_shape_count(s), image = n / COUNT;
    hl_tensor *x = harness_tensor(&h, "images", s, HL_ELEM_U8);
    hl_tensor *flips = harness_tensor(&h, "flips", (hl_shape){COUNT, 1, 1, 1}, HL_ELEM_U8);
    hl_tensor *mixes =
        harness_tensor(&h, "mixes", (hl_shape){COUNT, 1, 1, (int64_t)sizeof(hl_mix)}, HL_ELEM_U8);
    hl_tensor *y = harness_tensor(&h, "y", s, elem);
    hl_step *step = harness_step(&h, HL_STEP_INPUT, 3, (hl_tensor *[]){x, flips, mixes}, 1, &y);
    memcpy(step->input.mean, mean, sizeof mean);
    memcpy(step->input.std, deviation, sizeof deviation);
    harness_build(&h);
    hl_mix list[COUNT];
    double *bytes = random_doubles(n, 0.0, 256.0, HL_ELEM_F32, 3), *plain = doubles(n), *got = doubles(n),
           *want = doubles(n), flipped[COUNT] = {1.0, 0.0, 0.0};
    for (int64_t i = 0; i < n; i++)
        bytes[i] = floor(bytes[i]);
    for (int i = 0; i < COUNT; i++)
        list[i] = box ? (hl_mix){.partner = COUNT - 1 - i,
                                 .share = 0.5f,
                                 .top = i,
                                 .bottom = 4,
                                 .left = 2,
                                 .right = 7}
                      : (hl_mix){.partner = COUNT - 1 - i, .share = 0.7f};
    for (int64_t i = 0; i < n; i++) {
        int64_t c = i % s.c, column = i / s.c % s.w, row = i / (s.c * s.w), sample = row / s.h;
        int64_t from = flipped[sample] != 0.0 ? (row * s.w + s.w - 1 - column) * s.c + c : i;
        plain[i] = (bytes[from] / 255.0 - (double)mean[c]) / (double)deviation[c];
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t column = i / s.c % s.w, row = i / (s.c * s.w) % s.h, sample = i / image;
        const hl_mix *m = &list[sample];
        double own = plain[i], other = plain[m->partner * image + i % image], share = (double)m->share;
        bool inside = row >= m->top && row < m->bottom && column >= m->left && column < m->right;
        want[i] = !box ? share * own + (1.0 - share) * other : inside ? other : own;
    }
    harness_set(x, bytes);
    harness_set(flips, flipped);
    harness_set_bytes(mixes, list, sizeof list);
    harness_run(&h, step);
    harness_get(y, got);
    /* Three roundings each of two values up to 1 / 0.22, and three more of their blend. */
    expect_close("y", elem, got, want, n, 4.6, 9);
    free(bytes), free(plain), free(got), free(want);
    harness_close(&h);
}

Test(input, images_are_blended_and_pasted_into_each_other)
{
    for (int e = 0; e < 2; e++)
        for (int box = 0; box < 2; box++)
            for (int64_t channels = 1; channels <= 4; channels += channels == 1 ? 2 : 1)
                expect_mixed(elems[e], box != 0, channels);
}

Test(input, raw_floats_are_only_converted)
{
    for (int e = 0; e < 2; e++) {
        step_harness h;
        harness_open(&h);
        hl_shape s = {2, 9, 17, 8};
        int64_t n = hl_shape_count(s);
        hl_tensor *x = harness_tensor(&h, "x", s, HL_ELEM_F32), *y = harness_tensor(&h, "y", s, elems[e]);
        hl_step *step = harness_step(&h, HL_STEP_INPUT, 2, (hl_tensor *[]){x, NULL}, 1, &y);
        step->input.raw = true;
        harness_build(&h);
        double *values = random_doubles(n, -3.0, 3.0, HL_ELEM_F32, 1), *got = doubles(n);
        harness_set(x, values);
        harness_run(&h, step);
        harness_get(y, got);
        for (int64_t i = 0; i < n; i++)
            values[i] = stored(elems[e], values[i]);
        expect_same("y", got, values, n);
        free(values), free(got);
        harness_close(&h);
    }
}

Test(input, images_of_many_channels_are_refused)
{
    step_harness h;
    harness_open(&h);
    hl_shape s = {1, 2, 2, 5};
    hl_tensor *x = harness_tensor(&h, "x", s, HL_ELEM_U8), *y = harness_tensor(&h, "y", s, HL_ELEM_F32);
    hl_step *step = harness_step(&h, HL_STEP_INPUT, 2, (hl_tensor *[]){x, x}, 1, &y);
    cr_assert_eq(harness_prepare(&h, step), HL_E_UNSUPPORTED);
    harness_close(&h);
}
