/* Factors and offsets of a convolution's outputs (HL_WEIGHT_ROW), which ia3, ssf and conv-adapter are made
 * of. */
#ifndef HL_METHOD_ROW_H
#define HL_METHOD_ROW_H

#include "graph/graph.h"

/* Gives the layer a trained factor for each output, stored as NAME.SUFFIX, its difference from 1 (zero at the
 * start). NULL when memory is out. */
hl_param *hl_row_add_factor(hl_graph *graph, hl_node *node, const char *suffix);
/* A trained offset for each output, zero at the start. */
hl_param *hl_row_add_offset(hl_graph *graph, hl_node *node, const char *suffix);

/* Values normal(0, deviation), from the seed and the parameter's name. */
void hl_param_scatter(hl_param *param, float deviation, uint64_t seed);

#endif
