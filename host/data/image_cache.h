/* Transformed images kept from the first epoch on. */
#ifndef HL_DATA_IMAGE_CACHE_H
#define HL_DATA_IMAGE_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* All zeros: a cache that holds nothing. Different entries may be used by different threads at once. */
typedef struct hl_image_cache {
    uint8_t *pixels; /* [count, bytes_per_image] */
    uint8_t *known;  /* [count] */
    size_t bytes_per_image;
} hl_image_cache;

/* Takes memory for `count` images where that is at most `limit` bytes; otherwise, or where memory is short,
 * the cache stays empty. */
void hl_image_cache_init(hl_image_cache *cache, int64_t count, size_t bytes_per_image, int64_t limit);
void hl_image_cache_clear(hl_image_cache *cache);

/* NULL where the image is not in the cache. */
const uint8_t *hl_image_cache_get(const hl_image_cache *cache, int64_t index);
void hl_image_cache_put(hl_image_cache *cache, int64_t index, const uint8_t *pixels);

#endif
