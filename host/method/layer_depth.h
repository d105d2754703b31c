/* How far from the head each parameter of a network lies, counted in blocks: for learning rates that fall
 * with the distance. */
#ifndef HL_METHOD_LAYER_DEPTH_H
#define HL_METHOD_LAYER_DEPTH_H

#include "graph/graph.h"

/* depth [count], of each of `params`: 0 for the head, then what lies between the last block and the head
 * where something does, the blocks (blocks.h), and the stem: each is one farther. */
hl_status hl_layer_depths(const hl_graph *graph, hl_param *const *params, int count, int *depth);

#endif
