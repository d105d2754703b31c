#include "base/philox.h"

#include <math.h>

hl_philox hl_philox_block(const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (hl_philox){{c0, c1, c2, c3}};
}

hl_philox hl_philox_at(uint64_t seed, hl_stream stream, uint32_t sub, uint64_t index)
{
    const uint32_t counter[4] = {(uint32_t)index, (uint32_t)(index >> 32), sub, (uint32_t)stream};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    return hl_philox_block(counter, key);
}

hl_rng hl_rng_make(uint64_t seed, hl_stream stream, uint32_t sub, uint64_t first_index)
{
    return (hl_rng){.seed = seed, .index = first_index, .stream = (uint32_t)stream, .sub = sub, .used = 4};
}

uint32_t hl_rng_u32(hl_rng *rng)
{
    if (rng->used == 4) {
        rng->block = hl_philox_at(rng->seed, (hl_stream)rng->stream, rng->sub, rng->index++);
        rng->used = 0;
    }
    return rng->block.v[rng->used++];
}

float hl_rng_uniform(hl_rng *rng)
{
    return (float)(hl_rng_u32(rng) >> 8) * 0x1p-24f;
}

uint32_t hl_rng_below(hl_rng *rng, uint32_t n)
{
    /* Lemire's multiply-and-reject: the first 2^32 mod n products are refused. */
    uint64_t product = (uint64_t)hl_rng_u32(rng) * n;
    if ((uint32_t)product < n) {
        uint32_t reject_below = (0u - n) % n;
        while ((uint32_t)product < reject_below)
            product = (uint64_t)hl_rng_u32(rng) * n;
    }
    return (uint32_t)(product >> 32);
}

float hl_rng_normal(hl_rng *rng)
{
    /* 1 - u lies in (0, 1], so the logarithm is finite. */
    double u = 1.0 - (double)hl_rng_uniform(rng), angle = 6.283185307179586 * (double)hl_rng_uniform(rng);
    return (float)(sqrt(-2.0 * log(u)) * cos(angle));
}
