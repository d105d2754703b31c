/* Philox4x32-10, a counter-based random number generator: the same (key, counter) gives the same
 * numbers on every machine and thread, so nothing depends on the order of work.
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef HL_BASE_PHILOX_H
#define HL_BASE_PHILOX_H

#include <stdint.h>

/* What a stream of random numbers is used for; part of the counter, so that streams never overlap. */
typedef enum hl_stream {
    HL_STREAM_INIT,    /* weights at the start */
    HL_STREAM_SHUFFLE, /* order of samples */
    HL_STREAM_AUGMENT, /* crops, flips */
    HL_STREAM_DROPOUT,
    HL_STREAM_SPLIT, /* train/validation split */
    HL_STREAM_MIX,   /* mixup, cutmix */
    HL_STREAM_TEST
} hl_stream;

typedef struct hl_philox {
    uint32_t v[4];
} hl_philox;

/* The raw generator: ten rounds over `counter` with `key`. */
hl_philox hl_philox_block(const uint32_t counter[4], const uint32_t key[2]);

/* Block number `index` of a stream; `sub` tells apart items within it (a parameter, an epoch, a sample). */
hl_philox hl_philox_at(uint64_t seed, hl_stream stream, uint32_t sub, uint64_t index);

/* A sequential reader over one (seed, stream, sub), for code that draws a few numbers for one item. */
typedef struct hl_rng {
    uint64_t seed, index;
    uint32_t stream, sub;
    hl_philox block;
    int used; /* numbers taken of `block`, 4 when it is empty */
} hl_rng;

hl_rng hl_rng_make(uint64_t seed, hl_stream stream, uint32_t sub, uint64_t first_index);
uint32_t hl_rng_u32(hl_rng *rng);
/* Uniform in [0, 1), 24 bits. */
float hl_rng_uniform(hl_rng *rng);
/* Uniform in [0, n), n > 0, without bias. */
uint32_t hl_rng_below(hl_rng *rng, uint32_t n);
/* Standard normal (Box-Muller). */
float hl_rng_normal(hl_rng *rng);

#endif
