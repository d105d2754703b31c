/* State dicts of networks of the zoo, with the formula's weights. */
#ifndef TESTS_SUPPORT_STATE_DICT_H
#define TESTS_SUPPORT_STATE_DICT_H

#include "models/weights.h"

/* By name; with fresh parameters. The test fails where there is an error. */
const hl_model_info *state_find(const char *name);
hl_graph *state_build(const hl_model_info *info, int64_t classes);

/* What the network exports with the formula's weights, in a style of keys. */
hl_tensor_map *state_of(const hl_model_info *info, int64_t classes, hl_key_style style);

hl_tensor_map *state_empty(void);
void state_put(hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim, const int64_t *shape,
               const void *data);
/* A copy of `map` without the tensor `name`. */
hl_tensor_map *state_without(const hl_tensor_map *map, const char *name);

bool state_has_formula_values(const hl_param *param);
/* All parameters of the graph have. */
void state_expect_formula(const hl_graph *graph, const char *model);

/* Loading `map` into a fresh network of ZOO_CLASSES fails with a message that has all these words. */
void state_expect_refused(const char *model, const hl_tensor_map *map, const char *first, const char *second);

/* Those of the zoo whose weights it does not take long to fill; NULL for others. Of these there are smaller
 * variants, but for VGG and AlexNet: for them `narrow` is one with an eighth of the channels. */
const hl_model_info *state_small_enough(const hl_model_info *info, hl_model_info *narrow);

#endif
