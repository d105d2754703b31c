#include "data/image_cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

void hl_image_cache_init(hl_image_cache *cache, int64_t count, size_t bytes_per_image, int64_t limit)
{
    size_t bytes;
    *cache = (hl_image_cache){.bytes_per_image = bytes_per_image};
    if (limit <= 0 || !hl_size_mul((size_t)count, bytes_per_image, &bytes) || bytes > (size_t)limit)
        return;
    /* Not zero-filled, so that memory is used only as images arrive. */
    cache->pixels = malloc(bytes);
    cache->known = calloc((size_t)count, 1);
    if (cache->pixels == NULL || cache->known == NULL)
        hl_image_cache_clear(cache);
}

void hl_image_cache_clear(hl_image_cache *cache)
{
    free(cache->pixels);
    free(cache->known);
    *cache = (hl_image_cache){.bytes_per_image = cache->bytes_per_image};
}

const uint8_t *hl_image_cache_get(const hl_image_cache *cache, int64_t index)
{
    if (cache->known == NULL || !cache->known[index])
        return NULL;
    return cache->pixels + (size_t)index * cache->bytes_per_image;
}

void hl_image_cache_put(hl_image_cache *cache, int64_t index, const uint8_t *pixels)
{
    if (cache->known == NULL)
        return;
    memcpy(cache->pixels + (size_t)index * cache->bytes_per_image, pixels, cache->bytes_per_image);
    cache->known[index] = 1;
}
