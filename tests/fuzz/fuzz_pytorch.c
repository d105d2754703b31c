/* Any bytes as a file of torch.save, and what was read as a safetensors source. */
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "io/pytorch.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    hl_tensor_map *map;
    if (hl_pytorch_parse("fuzz", bytes, size, &map) == HL_OK)
        fuzz_touch(map);
    hl_tensor_map_destroy(map);
    return 0;
}
