/* Layers that methods put into a network. Their parameters are HL_PARAM_ADAPTER, trained, zero at the start.
 */
#ifndef HL_METHOD_INSERT_H
#define HL_METHOD_INSERT_H

#include "graph/graph.h"

/* A convolution; NULL after an error. */
hl_node *hl_insert_conv(hl_graph *graph, const char *name, hl_value x, hl_conv_spec spec);
/* A norm of its own: the identity at first, on statistics of the batch in training. */
hl_node *hl_insert_norm(hl_graph *graph, const char *name, hl_value x);

/* Kaiming-normal weights, for relu, by what goes into an output. */
void hl_insert_scatter(hl_node *conv, uint64_t seed);

int64_t hl_gcd(int64_t a, int64_t b);

/* Which element of the window a 1x1 convolution of the same strides without padding takes, and that only: -1
 * where its map would be another one. */
int64_t hl_tap_beside(const hl_graph *graph, const hl_node *conv);

#endif
