#include "support/zoo.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void zoo_find(const char *name, zoo_row *row)
{
    FILE *file = fopen("tests/fixtures/models/zoo.txt", "r");
    char line[512];
    bool found = false;
    cr_assert_not_null(file);
    while (!found && fgets(line, sizeof line, file) != NULL)
        found = sscanf(line,
                       "%47s %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64
                       " %" SCNd64 " %" SCNd64 " %15s %f %f %f %f %f %f %f %63s",
                       row->name, &row->counts[0], &row->counts[1], &row->counts[2], &row->counts[3],
                       &row->tensors, &row->keys, &row->timm_keys, &row->size, &row->resize,
                       row->interpolation, &row->mean[0], &row->mean[1], &row->mean[2], &row->std[0],
                       &row->std[1], &row->std[2], &row->top1, row->weights_file) == 19 &&
                strcmp(row->name, name) == 0;
    fclose(file);
    cr_assert(found, "%s is not in zoo.txt: run scripts/make_model_goldens.py", name);
}

int zoo_tagged_rows(void)
{
    FILE *file = fopen("tests/fixtures/models/zoo.txt", "r");
    char line[512];
    int count = 0;
    cr_assert_not_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        count += line[0] != '#' && memchr(line, '.', strcspn(line, " ")) != NULL;
    fclose(file);
    return count;
}
