/* The text of a CSV manifest to its reader; whatever it accepts must stay in the folder. */
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"

static void check_path(const char *path)
{
    if (strncmp(path, "dir/", 4) != 0 || path[4] == '/' || path[4] == '\0')
        __builtin_trap();
    for (const char *part = path; part != NULL; part = strchr(part, '/')) {
        part += *part == '/';
        if (strcmp(part, "..") == 0 || strncmp(part, "../", 3) == 0)
            __builtin_trap();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    hl_dataset *dataset;
    char *text = malloc(size + 1);
    if (text == NULL || hl_dataset_create(&dataset) != HL_OK)
        abort();
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (hl_csv_manifest_parse(dataset, text, size, "dir/list.csv", NULL) == HL_OK)
        for (int s = 0; s < HL_SPLIT_COUNT; s++)
            for (size_t i = 0; i < dataset->splits[s].count; i++) {
                check_path(dataset->splits[s].items[i].path);
                if ((size_t)dataset->splits[s].items[i].label >= dataset->class_count)
                    __builtin_trap();
            }
    hl_dataset_destroy(dataset);
    free(text);
    return 0;
}
