#include <stdlib.h>

#include "fuzz/fuzz.h"

void fuzz_touch(const hl_tensor_map *map)
{
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *tensor = hl_tensor_map_at(map, i);
        if (hl_tensor_map_find(map, tensor->name) != tensor)
            abort();
        size_t count = hl_named_tensor_count(tensor);
        float *values = malloc(count * sizeof *values + 1);
        if (values != NULL)
            hl_named_tensor_to_f32(tensor, values);
        free(values);
    }
}
