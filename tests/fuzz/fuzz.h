/* What the fuzz targets share. */
#ifndef HL_TESTS_FUZZ_H
#define HL_TESTS_FUZZ_H

#include "io/tensor_map.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Reads every byte of every tensor, so that a wrong extent is seen, and finds each by its name. */
void fuzz_touch(const hl_tensor_map *map);

#endif
