#include "data/transform.h"

#include <math.h>
#include <string.h>

#include "base/philox.h"

#define RATIO_MIN (3.0 / 4.0)
#define RATIO_MAX (4.0 / 3.0)

/* Blocks of random numbers set aside for each sample, far more than ten attempts at a crop can use. */
enum { BLOCKS_PER_SAMPLE = 256, CROP_ATTEMPTS = 10 };
enum { MAX_SIDE = 16384 };

hl_status hl_transform_check(hl_transform *transform)
{
    if (transform->crop < 1 || transform->crop > MAX_SIDE)
        return hl_fail(HL_E_ARG, "image size", NULL, "%lld is not between 1 and %d",
                       (long long)transform->crop, MAX_SIDE);
    if (transform->resize < 1 || transform->resize > MAX_SIDE)
        return hl_fail(HL_E_ARG, "resize", NULL, "%lld is not between 1 and %d", (long long)transform->resize,
                       MAX_SIDE);
    if (transform->channels == 0)
        transform->channels = 3;
    if (transform->channels != 1 && transform->channels != 3 && transform->channels != 4)
        return hl_fail(HL_E_ARG, "image channels", "choose 1, 3 or 4", "%lld is not one of them",
                       (long long)transform->channels);
    if (transform->scale_min == 0 && transform->scale_max == 0) {
        transform->scale_min = 0.35;
        transform->scale_max = 1.0;
    }
    if (!(transform->scale_min > 0 && transform->scale_min <= transform->scale_max &&
          transform->scale_max <= 1))
        return hl_fail(HL_E_ARG, "random crop scale", "give 0 < min <= max <= 1",
                       "%g to %g is not a range of areas", transform->scale_min, transform->scale_max);
    if (transform->flip_probability == 0)
        transform->flip_probability = 0.5;
    if (!(transform->flip_probability > 0 && transform->flip_probability <= 1))
        return hl_fail(HL_E_ARG, "flip probability", NULL, "%g is not between 0 and 1",
                       transform->flip_probability);
    return HL_OK;
}

bool hl_transform_is_fixed(const hl_transform *transform)
{
    return transform->augment != HL_AUGMENT_STANDARD;
}

/* The first number decides the flip, so that it is the same with and without a random crop. */
static hl_rng sample_rng(uint64_t seed, uint32_t epoch, int64_t index)
{
    return hl_rng_make(seed, HL_STREAM_AUGMENT, epoch, (uint64_t)index * BLOCKS_PER_SAMPLE);
}

bool hl_transform_flips(const hl_transform *transform, uint64_t seed, uint32_t epoch, int64_t index)
{
    hl_rng rng = sample_rng(seed, epoch, index);
    return transform->augment != HL_AUGMENT_NONE &&
           (double)hl_rng_uniform(&rng) < transform->flip_probability;
}

static double between(hl_rng *rng, double low, double high)
{
    return low + (high - low) * (double)hl_rng_uniform(rng);
}

/* nearbyint rounds halves to even, as Python's round does. */
static int64_t round_even(double x)
{
    return (int64_t)nearbyint(x);
}

hl_rect hl_transform_random_crop(const hl_transform *transform, int64_t width, int64_t height, uint64_t seed,
                                 uint32_t epoch, int64_t index)
{
    hl_rng rng = sample_rng(seed, epoch, index);
    hl_rng_u32(&rng); /* the flip's */
    double area = (double)width * (double)height;
    for (int attempt = 0; attempt < CROP_ATTEMPTS; attempt++) {
        double target = area * between(&rng, transform->scale_min, transform->scale_max);
        double ratio = exp(between(&rng, log(RATIO_MIN), log(RATIO_MAX)));
        int64_t w = round_even(sqrt(target * ratio)), h = round_even(sqrt(target / ratio));
        if (w > 0 && w <= width && h > 0 && h <= height) {
            int64_t y = hl_rng_below(&rng, (uint32_t)(height - h + 1));
            int64_t x = hl_rng_below(&rng, (uint32_t)(width - w + 1));
            return (hl_rect){x, y, w, h};
        }
    }
    /* The image is too long for the ratios: its middle, as near to the whole as they allow. */
    int64_t w = width, h = height;
    double ratio = (double)width / (double)height;
    if (ratio < RATIO_MIN)
        h = round_even((double)w / RATIO_MIN);
    else if (ratio > RATIO_MAX)
        w = round_even((double)h * RATIO_MAX);
    return (hl_rect){(width - w) / 2, (height - h) / 2, w, h};
}

/* Where `crop` pixels of the middle of `size` come from and go to: padded at both ends where there are fewer.
 */
static void centre(int64_t size, int64_t crop, int64_t *from, int64_t *to, int64_t *count)
{
    *from = size > crop ? round_even((double)(size - crop) / 2.0) : 0;
    *to = size < crop ? (crop - size) / 2 : 0;
    *count = size < crop ? size : crop;
}

static hl_status resize_and_centre(const hl_transform *transform, hl_resizer *resizer, hl_view view,
                                   uint8_t *out)
{
    int64_t width = transform->resize, height = transform->resize, x, y;
    if (view.width <= view.height)
        height = transform->resize * view.height / view.width;
    else
        width = transform->resize * view.width / view.height;
    hl_rect window;
    centre(width, transform->crop, &window.x, &x, &window.width);
    centre(height, transform->crop, &window.y, &y, &window.height);
    size_t stride = (size_t)(transform->crop * view.channels);
    if (window.width < transform->crop || window.height < transform->crop)
        memset(out, 0, stride * (size_t)transform->crop);
    return hl_resize(resizer, view, transform->filter, width, height, window,
                     out + (size_t)y * stride + (size_t)(x * view.channels), stride);
}

hl_status hl_transform_apply(const hl_transform *transform, hl_resizer *resizer, const hl_image *image,
                             uint64_t seed, uint32_t epoch, int64_t index, uint8_t *out, uint8_t *flip)
{
    int64_t channels = hl_image_channels(image);
    hl_view view = {image->pixels, image->width, image->height, (size_t)(image->width * channels), channels};
    *flip = hl_transform_flips(transform, seed, epoch, index);
    if (transform->augment != HL_AUGMENT_STANDARD)
        return resize_and_centre(transform, resizer, view, out);
    hl_rect crop = hl_transform_random_crop(transform, image->width, image->height, seed, epoch, index);
    view.pixels += (size_t)crop.y * view.stride + (size_t)(crop.x * channels);
    view.width = crop.width;
    view.height = crop.height;
    int64_t side = transform->crop;
    return hl_resize(resizer, view, transform->filter, side, side, (hl_rect){0, 0, side, side}, out,
                     (size_t)(side * channels));
}
