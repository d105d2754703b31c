/* From a decoded image to the pixels a network is given. The geometry is torchvision's on PIL images:
 *   evaluation  Resize(resize), CenterCrop(crop); zeros around an image smaller than the crop
 *   training    none: the evaluation transform; flip: that and a horizontal flip; standard:
 * RandomResizedCrop(crop) and a horizontal flip Flips are decided here but not applied: the device mirrors
 * the image when it normalises it. */
#ifndef HL_DATA_TRANSFORM_H
#define HL_DATA_TRANSFORM_H

#include <stdbool.h>
#include <stdint.h>

#include <heirloom/data.h>

#include "data/image.h"
#include "data/resize.h"

typedef struct hl_transform {
    int64_t resize; /* length of the shorter side before the crop */
    int64_t crop;   /* side of the square result */
    hl_filter filter;
    int64_t channels; /* that images are decoded to: 1 grey, 3 RGB, 4 RGBA; 0: 3 */
    hl_augment augment;
    double scale_min, scale_max; /* part of the area that a random crop covers; both 0: 0.35 and 1 */
    double flip_probability;     /* 0 with an augmentation that flips: 0.5 */
} hl_transform;

/* Fills in the defaults and checks the ranges. */
hl_status hl_transform_check(hl_transform *transform);

/* True when the pixels are the same in every epoch. */
bool hl_transform_is_fixed(const hl_transform *transform);

/* Writes [crop, crop, channels of the image] to `out` and whether the image is to be mirrored to `flip`. What
 * is random depends on (seed, epoch, index) and the image's size only. */
hl_status hl_transform_apply(const hl_transform *transform, hl_resizer *resizer, const hl_image *image,
                             uint64_t seed, uint32_t epoch, int64_t index, uint8_t *out, uint8_t *flip);

/* Whether sample `index` is mirrored in `epoch`. */
bool hl_transform_flips(const hl_transform *transform, uint64_t seed, uint32_t epoch, int64_t index);

/* The random crop of a width x height image for sample `index` in `epoch`. */
hl_rect hl_transform_random_crop(const hl_transform *transform, int64_t width, int64_t height, uint64_t seed,
                                 uint32_t epoch, int64_t index);

#endif
