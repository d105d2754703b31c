/* Resizing with antialias, equal to PIL's Image.resize bit for bit (Pillow's 8-bit fixed-point arithmetic).
 * As there, colours of four channels (RGBA) are weighted by their alpha. */
#ifndef HL_DATA_RESIZE_H
#define HL_DATA_RESIZE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum hl_filter { HL_FILTER_BILINEAR, HL_FILTER_BICUBIC } hl_filter;

/* Pixels somewhere in a larger image; rows begin `stride` bytes apart. */
typedef struct hl_view {
    const uint8_t *pixels;
    int64_t width, height;
    size_t stride;
    int64_t channels; /* bytes of a pixel: 1, 3, or 4: then the last is alpha */
} hl_view;

/* A rectangle in pixels. */
typedef struct hl_rect {
    int64_t x, y, width, height;
} hl_rect;

/* What the weights along an axis depend on. */
typedef struct hl_resize_key {
    int64_t in_size, out_size, first, count;
    hl_filter filter;
} hl_resize_key;

/* The weights along one axis: output pixel i is the sum over k < count[i] of weights[i * taps + k] *
 * input[start[i] + k]. */
typedef struct hl_resize_axis {
    int64_t *start;
    int32_t *count, *weights;
    double *exact;
    size_t start_capacity, count_capacity, weight_capacity, exact_capacity;
    int64_t taps;
    hl_resize_key key; /* of the weights held: images of one size follow each other */
} hl_resize_axis;

/* Buffers used again from call to call; all zeros at the start. */
typedef struct hl_resizer {
    hl_resize_axis horizontal, vertical;
    uint8_t *rows;          /* the part needed, resized along one axis */
    int32_t *sums;          /* one output row before rounding */
    uint8_t *premultiplied; /* the part needed of an RGBA image, colours times alpha */
    size_t row_capacity, sum_capacity, premultiplied_capacity;
} hl_resizer;

void hl_resizer_clear(hl_resizer *resizer);

/* Resizes `source` to width x height and writes the part `window` of the result to `out`, whose rows begin
 * `out_stride` bytes apart. Only what the window needs is computed. Pixels outside `source` do not enter, so
 * a view of a crop gives what PIL gives for the cropped image. Sizes and window must be valid and positive.
 */
hl_status hl_resize(hl_resizer *resizer, hl_view source, hl_filter filter, int64_t width, int64_t height,
                    hl_rect window, uint8_t *out, size_t out_stride);

#endif
