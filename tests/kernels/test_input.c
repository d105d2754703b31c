#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

enum { N = 3, H = 5, W = 7, MOST = 4 * N * H * W };
static const double mean[4] = {0.485, 0.456, 0.406, 0.5}, deviation[4] = {0.229, 0.224, 0.225, 0.5};

static double value(const double *bytes, const double *flips, int64_t channels, int64_t n, int64_t y,
                    int64_t x, int64_t c)
{
    int64_t from = flips[n] != 0.0 ? W - 1 - x : x;
    return (bytes[((n * H + y) * W + from) * channels + c] / 255.0 - (double)(float)mean[c]) /
           (double)(float)deviation[c];
}

/* mode 0: no mixing, 1: mixup, 2: cutmix. */
static void expect_input(hl_elem elem, int mode, int64_t channels)
{
    kernel_rig r = {0};
    int64_t count = N * H * W * channels;
    double bytes[MOST], want[MOST], got[MOST];
    static const double flips[N] = {0.0, 1.0, 1.0};
    hl_mix mixes[N];
    for (int64_t i = 0; i < count; i++)
        bytes[i] = (double)((i * 37) % 256);
    for (int n = 0; n < N; n++) {
        mixes[n] = (hl_mix){.partner = N - 1 - n, .share = mode == 0 ? 1.0f : 0.7f};
        if (mode == 2) {
            mixes[n].top = 1;
            mixes[n].bottom = 3;
            mixes[n].left = 2 + n;
            mixes[n].right = 7;
        }
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t c = i % channels, x = i / channels % W, y = i / channels / W % H, n = i / channels / W / H;
        double own = value(bytes, flips, channels, n, y, x, c),
               other = value(bytes, flips, channels, N - 1 - n, y, x, c);
        bool inside = y >= mixes[n].top && y < mixes[n].bottom && x >= mixes[n].left && x < mixes[n].right;
        double share = (double)mixes[n].share;
        want[i] = mode == 0 ? own : mode == 1 ? share * own + (1.0 - share) * other : inside ? other : own;
    }
    hl_input_args args = {.images = kernel_input(&r, count, HL_ELEM_U8, bytes),
                          .flips = kernel_input(&r, N, HL_ELEM_U8, flips),
                          .mixes = mode > 0 ? kernel_bytes(&r, mixes, sizeof mixes) : NULL,
                          .out = kernel_output(&r, count, elem),
                          .n = N,
                          .h = H,
                          .w = W,
                          .channels = channels};
    for (int64_t c = 0; c < channels; c++) {
        args.mean[c] = (float)mean[c];
        args.std[c] = (float)deviation[c];
    }
    KERNEL_RUN(&r, hl_launch_input(&args, elem, NULL));
    kernel_get(args.out, count, elem, got);
    /* Normalised values up to 3, five roundings. */
    expect_close("input", elem, got, want, count, 3.0, 8.0);
    kernel_rig_clear(&r);
}

Test(input, bytes_are_normalised_mirrored_and_mixed)
{
    for (int e = 0; e < 3; e++)
        for (int mode = 0; mode < 3; mode++)
            for (int channels = 1; channels <= 4; channels++)
                if (channels != 2)
                    expect_input(kernel_elems[e], mode, channels);
}

Test(input, floats_are_only_converted)
{
    kernel_rig r = {0};
    enum { FLOATS = 2 * 3 * 4 * 5 };
    double *x = random_doubles(FLOATS, -9.0, 9.0, HL_ELEM_F32, 1), got[FLOATS], want[FLOATS];
    for (int i = 0; i < FLOATS; i++)
        want[i] = stored(HL_ELEM_BF16, x[i]);
    hl_input_args args = {.images = kernel_input(&r, FLOATS, HL_ELEM_F32, x),
                          .out = kernel_output(&r, FLOATS, HL_ELEM_BF16),
                          .n = 2,
                          .h = 3,
                          .w = 4,
                          .channels = 5,
                          .raw = true};
    KERNEL_RUN(&r, hl_launch_input(&args, HL_ELEM_BF16, NULL));
    kernel_get(args.out, FLOATS, HL_ELEM_BF16, got);
    expect_same("floats", got, want, FLOATS);
    free(x);
    kernel_rig_clear(&r);
}
