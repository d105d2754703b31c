#include "data/sampler.h"

#include "base/philox.h"

void hl_sample_order(int64_t *order, int64_t count, bool shuffle, uint64_t seed, uint32_t epoch)
{
    for (int64_t i = 0; i < count; i++)
        order[i] = i;
    if (!shuffle)
        return;
    /* Fisher and Yates. */
    hl_rng rng = hl_rng_make(seed, HL_STREAM_SHUFFLE, epoch, 0);
    for (int64_t i = count - 1; i > 0; i--) {
        int64_t j = hl_rng_below(&rng, (uint32_t)(i + 1)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}
