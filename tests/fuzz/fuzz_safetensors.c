/* Any bytes as a safetensors file. */
#include "fuzz/fuzz.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    hl_tensor_map *map;
    if (hl_safetensors_parse("fuzz", bytes, size, &map) == HL_OK)
        fuzz_touch(map);
    hl_tensor_map_destroy(map);
    return 0;
}
