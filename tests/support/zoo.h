/* What torchvision and timm say of a model: a line of tests/fixtures/models/zoo.txt. */
#ifndef TESTS_SUPPORT_ZOO_H
#define TESTS_SUPPORT_ZOO_H

#include <stdint.h>

enum { ZOO_CLASSES = 17 }; /* of the state dicts */

typedef struct zoo_row {
    char name[48];
    int64_t counts[4]; /* parameters with 1000 classes, weights of convolutions, gates of all and of spatial
                          ones */
    int64_t tensors;   /* of the state dict */
    int64_t keys;      /* formula_hash of its sorted lines "KEY TYPE SHAPE", newlines between them */
    int64_t timm_keys; /* the same hash of timm's state dict; 0: timm has no such network */
    int64_t size, resize;
    char interpolation[16];
    float mean[3], std[3], top1;
    char weights_file[64];
} zoo_row;

/* By a model's name, or MODEL.TAG for other weights. The test fails where there is no line. */
void zoo_find(const char *name, zoo_row *row);
/* How many lines are MODEL.TAG. */
int zoo_tagged_rows(void);

#endif
