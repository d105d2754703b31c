/* The order of the samples of an epoch. */
#ifndef HL_DATA_SAMPLER_H
#define HL_DATA_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Fills order[0 .. count - 1] with 0 .. count - 1, shuffled by (seed, epoch) if asked for. */
void hl_sample_order(int64_t *order, int64_t count, bool shuffle, uint64_t seed, uint32_t epoch);

#endif
