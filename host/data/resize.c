#include "data/resize.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Weights are rounded to this many fractional bits; 8 bits of pixel and 2 bits of overshoot make it 32. */
enum { PRECISION_BITS = 32 - 8 - 2, HALF = 1 << (PRECISION_BITS - 1) };

static void clear_axis(hl_resize_axis *axis)
{
    free(axis->start);
    free(axis->count);
    free(axis->weights);
    free(axis->exact);
}

void hl_resizer_clear(hl_resizer *resizer)
{
    clear_axis(&resizer->horizontal);
    clear_axis(&resizer->vertical);
    free(resizer->rows);
    free(resizer->sums);
    free(resizer->premultiplied);
    *resizer = (hl_resizer){0};
}

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Keys' cubic with a = -0.5; the order of operations is PIL's, so the roundings agree. */
static double bicubic(double x)
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0)
        return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* Weights for the output pixels first .. first + count - 1 of an axis that goes from in_size to out_size. */
static hl_status prepare_axis(hl_resize_axis *axis, hl_filter filter, int64_t in_size, int64_t out_size,
                              int64_t first, int64_t count)
{
    static const char what[] = "resizing an image";
    const hl_resize_key *held = &axis->key;
    if (held->in_size == in_size && held->out_size == out_size && held->first == first &&
        held->count == count && held->filter == filter)
        return HL_OK;
    axis->key = (hl_resize_key){0};
    double scale = (double)in_size / (double)out_size, filter_scale = scale < 1.0 ? 1.0 : scale;
    double support = (filter == HL_FILTER_BICUBIC ? 2.0 : 1.0) * filter_scale, inverse = 1.0 / filter_scale;
    axis->taps = (int64_t)ceil(support) * 2 + 1;
    size_t weights, n = (size_t)count;
    if (!hl_size_mul(n, (size_t)axis->taps, &weights))
        return hl_fail_nomem(what, n);
    HL_TRY(hl_grow((void **)&axis->start, &axis->start_capacity, n, sizeof *axis->start, what));
    HL_TRY(hl_grow((void **)&axis->count, &axis->count_capacity, n, sizeof *axis->count, what));
    HL_TRY(hl_grow((void **)&axis->weights, &axis->weight_capacity, weights, sizeof *axis->weights, what));
    HL_TRY(
        hl_grow((void **)&axis->exact, &axis->exact_capacity, (size_t)axis->taps, sizeof *axis->exact, what));
    for (int64_t i = 0; i < count; i++) {
        double centre = ((double)(first + i) + 0.5) * scale, sum = 0.0;
        int64_t begin = (int64_t)(centre - support + 0.5), end = (int64_t)(centre + support + 0.5);
        begin = begin < 0 ? 0 : begin;
        end = end > in_size ? in_size : end;
        for (int64_t k = 0; k < end - begin; k++) {
            double x = ((double)(k + begin) - centre + 0.5) * inverse;
            double weight = filter == HL_FILTER_BICUBIC ? bicubic(x) : bilinear(x);
            axis->exact[k] = weight;
            sum += weight;
        }
        int32_t *rounded = axis->weights + i * axis->taps;
        for (int64_t k = 0; k < end - begin; k++) {
            double weight = sum != 0.0 ? axis->exact[k] / sum : axis->exact[k];
            rounded[k] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << PRECISION_BITS));
        }
        axis->start[i] = begin;
        axis->count[i] = (int32_t)(end - begin);
    }
    axis->key = (hl_resize_key){in_size, out_size, first, count, filter};
    return HL_OK;
}

static uint8_t round_sum(int32_t sum)
{
    int32_t value = sum >> PRECISION_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* One row; inlined for a known number of channels, so that their sums stay in registers. */
static inline __attribute__((always_inline)) void resize_row(const hl_resize_axis *axis, const uint8_t *in,
                                                             int64_t first, uint8_t *out, int64_t count,
                                                             int channels)
{
    for (int64_t i = 0; i < count; i++) {
        const int32_t *weights = axis->weights + i * axis->taps;
        const uint8_t *pixel = in + channels * (axis->start[i] - first);
        int32_t sums[4] = {HALF, HALF, HALF, HALF};
        for (int32_t k = 0; k < axis->count[i]; k++, pixel += channels)
            for (int c = 0; c < channels; c++)
                sums[c] += pixel[c] * weights[k];
        for (int c = 0; c < channels; c++)
            out[channels * i + c] = round_sum(sums[c]);
    }
}

/* One output row from `count` rows that lie `stride` apart; row by row, so that the loops run over
 * neighbours. */
static void mix_rows(const uint8_t *in, size_t stride, const int32_t *weights, int32_t count, int32_t *sums,
                     uint8_t *out, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        sums[i] = HALF;
    for (int32_t k = 0; k < count; k++) {
        const uint8_t *row = in + (size_t)k * stride;
        int32_t weight = weights[k];
        for (size_t i = 0; i < bytes; i++)
            sums[i] += row[i] * weight;
    }
    for (size_t i = 0; i < bytes; i++)
        out[i] = round_sum(sums[i]);
}

/* True where Pillow (since version 13) goes down before across: the height loses more than twice as many
 * pixels as the width does. What lies between is rounded to 8 bits, so the order can be seen in the result.
 */
static bool vertical_first(hl_view source, int64_t width, int64_t height)
{
    return height < source.height && source.height - height > 2 * (source.width - width);
}

/* `first` is the input pixel that `in` begins with. */
static void resize_rows(const hl_resize_axis *axis, hl_view in, int64_t first, uint8_t *out,
                        size_t out_stride, int64_t columns)
{
    for (int64_t y = 0; y < in.height; y++) {
        const uint8_t *from = in.pixels + (size_t)y * in.stride;
        uint8_t *to = out + (size_t)y * out_stride;
        if (in.channels == 3)
            resize_row(axis, from, first, to, columns, 3);
        else if (in.channels == 1)
            resize_row(axis, from, first, to, columns, 1);
        else
            resize_row(axis, from, first, to, columns, (int)in.channels);
    }
}

static void resize_columns(const hl_resize_axis *axis, hl_view in, int64_t first, int32_t *sums, uint8_t *out,
                           size_t out_stride, int64_t rows)
{
    for (int64_t y = 0; y < rows; y++)
        mix_rows(in.pixels + (size_t)(axis->start[y] - first) * in.stride, in.stride,
                 axis->weights + y * axis->taps, axis->count[y], sums, out + (size_t)y * out_stride,
                 (size_t)(in.width * in.channels));
}

static hl_status resize_both(hl_resizer *resizer, hl_view part, int64_t left, int64_t top, bool down_first,
                             hl_rect window, uint8_t *out, size_t out_stride)
{
    static const char what[] = "resizing an image";
    hl_resize_axis *across = &resizer->horizontal, *down = &resizer->vertical;
    hl_view between = {.width = down_first ? part.width : window.width,
                       .height = down_first ? window.height : part.height,
                       .channels = part.channels};
    size_t bytes;
    between.stride = (size_t)(between.width * between.channels);
    if (!hl_size_mul(between.stride, (size_t)between.height, &bytes))
        return hl_fail_nomem(what, between.stride);
    HL_TRY(hl_grow((void **)&resizer->rows, &resizer->row_capacity, bytes, 1, what));
    between.pixels = resizer->rows;
    if (down_first) {
        resize_columns(down, part, top, resizer->sums, resizer->rows, between.stride, window.height);
        resize_rows(across, between, left, out, out_stride, window.width);
    } else {
        resize_rows(across, part, left, resizer->rows, between.stride, window.width);
        resize_columns(down, between, top, resizer->sums, out, out_stride, window.height);
    }
    return HL_OK;
}

/* Colours times alpha, with Pillow's rounding, in memory of the resizer's. */
static hl_status premultiply(hl_resizer *resizer, hl_view *part)
{
    static const char what[] = "resizing an image";
    size_t stride = (size_t)part->width * 4, bytes;
    if (!hl_size_mul(stride, (size_t)part->height, &bytes))
        return hl_fail_nomem(what, stride);
    HL_TRY(hl_grow((void **)&resizer->premultiplied, &resizer->premultiplied_capacity, bytes, 1, what));
    uint8_t *to = resizer->premultiplied;
    for (int64_t y = 0; y < part->height; y++) {
        const uint8_t *from = part->pixels + (size_t)y * part->stride;
        for (int64_t x = 0; x < part->width; x++, from += 4, to += 4) {
            for (int c = 0; c < 3; c++) {
                unsigned product = from[c] * (unsigned)from[3] + 128u;
                to[c] = (uint8_t)(((product >> 8) + product) >> 8);
            }
            to[3] = from[3];
        }
    }
    part->pixels = resizer->premultiplied;
    part->stride = stride;
    return HL_OK;
}

/* And back, in place. */
static void divide_by_alpha(uint8_t *out, size_t out_stride, hl_rect window)
{
    for (int64_t y = 0; y < window.height; y++)
        for (int64_t x = 0; x < window.width; x++) {
            uint8_t *pixel = out + (size_t)y * out_stride + (size_t)x * 4;
            unsigned alpha = pixel[3];
            for (int c = 0; c < 3 && alpha != 0 && alpha != 255; c++) {
                unsigned value = 255u * pixel[c] / alpha;
                pixel[c] = (uint8_t)(value > 255 ? 255 : value);
            }
        }
}

hl_status hl_resize(hl_resizer *resizer, hl_view source, hl_filter filter, int64_t width, int64_t height,
                    hl_rect window, uint8_t *out, size_t out_stride)
{
    hl_resize_axis *across = &resizer->horizontal, *down = &resizer->vertical;
    bool is_across = width != source.width, is_down = height != source.height;
    size_t channels = (size_t)source.channels;
    /* The part of the source that the window needs. */
    int64_t left = window.x, right = window.x + window.width, top = window.y,
            bottom = window.y + window.height;
    if (is_across) {
        HL_TRY(prepare_axis(across, filter, source.width, width, window.x, window.width));
        left = across->start[0];
        right = across->start[window.width - 1] + across->count[window.width - 1];
    }
    if (is_down) {
        HL_TRY(prepare_axis(down, filter, source.height, height, window.y, window.height));
        top = down->start[0];
        bottom = down->start[window.height - 1] + down->count[window.height - 1];
        size_t columns = (size_t)(right - left > window.width ? right - left : window.width);
        HL_TRY(hl_grow((void **)&resizer->sums, &resizer->sum_capacity, columns * channels,
                       sizeof *resizer->sums, "resizing an image"));
    }
    hl_view part = {source.pixels + (size_t)top * source.stride + (size_t)left * channels, right - left,
                    bottom - top, source.stride, source.channels};
    bool weighted = channels == 4 && (is_across || is_down);
    if (weighted)
        HL_TRY(premultiply(resizer, &part));
    if (is_across && is_down)
        HL_TRY(resize_both(resizer, part, left, top, vertical_first(source, width, height), window, out,
                           out_stride));
    else if (is_across)
        resize_rows(across, part, left, out, out_stride, window.width);
    else if (is_down)
        resize_columns(down, part, top, resizer->sums, out, out_stride, window.height);
    else
        for (int64_t y = 0; y < window.height; y++)
            memcpy(out + (size_t)y * out_stride, part.pixels + (size_t)y * part.stride,
                   (size_t)window.width * channels);
    if (weighted)
        divide_by_alpha(out, out_stride, window);
    return HL_OK;
}
