#include "train/mix.h"

#include <math.h>

#include "base/philox.h"

/* Gamma(a, 1), a > 0. Marsaglia and Tsang, "A simple method for generating gamma variables", 2000; their note
 * for a < 1 makes it from Gamma(a + 1). */
static double draw_gamma(hl_rng *rng, double a)
{
    double boost = 1.0;
    if (a < 1.0) {
        boost = pow(1.0 - (double)hl_rng_uniform(rng), 1.0 / a);
        a += 1.0;
    }
    double d = a - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (;;) {
        double x = (double)hl_rng_normal(rng), v = 1.0 + c * x;
        if (v <= 0.0)
            continue;
        v = v * v * v;
        if (log(1.0 - (double)hl_rng_uniform(rng)) < 0.5 * x * x + d - d * v + d * log(v))
            return boost * d * v;
    }
}

static double draw_beta(hl_rng *rng, double a)
{
    double x = draw_gamma(rng, a), y = draw_gamma(rng, a);
    return x + y > 0.0 ? x / (x + y) : 0.5;
}

static int32_t clamped(double at, int64_t most)
{
    return (int32_t)(at < 0.0 ? 0.0 : at > (double)most ? (double)most : at);
}

/* A box of about 1 - share of the image, and the share that it leaves. */
static void draw_box(hl_rng *rng, int64_t h, int64_t w, hl_mix *mix)
{
    double side = sqrt(1.0 - (double)mix->share);
    double tall = floor((double)h * side), wide = floor((double)w * side);
    double y = (double)hl_rng_below(rng, (uint32_t)h), x = (double)hl_rng_below(rng, (uint32_t)w);
    mix->top = clamped(y - floor(tall / 2.0), h);
    mix->bottom = clamped(y + floor(tall / 2.0), h);
    mix->left = clamped(x - floor(wide / 2.0), w);
    mix->right = clamped(x + floor(wide / 2.0), w);
    double area = (double)(mix->bottom - mix->top) * (double)(mix->right - mix->left);
    mix->share = (float)(1.0 - area / ((double)h * (double)w));
}

void hl_mix_draw(hl_mix *mixes, int64_t n, int64_t h, int64_t w, double mixup, double cutmix, uint64_t seed,
                 uint32_t epoch, uint64_t batch)
{
    hl_rng rng = hl_rng_make(seed, HL_STREAM_MIX, epoch, batch << 20);
    bool box = cutmix > 0.0 && (mixup <= 0.0 || hl_rng_uniform(&rng) < 0.5f);
    hl_mix mix = {.share = (float)draw_beta(&rng, box ? cutmix : mixup)};
    if (box)
        draw_box(&rng, h, w, &mix);
    for (int64_t i = 0; i < n; i++) {
        mixes[i] = mix;
        mixes[i].partner = (int32_t)(n - 1 - i);
    }
}
