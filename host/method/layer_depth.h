/* How far from the head each parameter of a network lies, counted in blocks: for learning rates that fall
 * with the distance. */
#ifndef HL_METHOD_LAYER_DEPTH_H
#define HL_METHOD_LAYER_DEPTH_H

#include "graph/graph.h"

/* The block that a layer's name puts it in, into buf, returned: "layer1.0" of "layer1.0.conv1", "features.2"
 * of "features.2.conv.0.0", "blocks.1.0" of "blocks.1.0.se.conv_reduce". It is what the name begins with, up
 * to the last of the first parts in a row that are numbered, the layer's own part left out; where no part is
 * numbered, all but the layer's own. A member of a plain sequence ("features.8") is a block of its own. */
const char *hl_layer_block(const char *name, char *buf, size_t size);

/* depth [count], of each of `params`: 0 for the head, 1 for the last block in front of it, and so on to the
 * stem. Blocks are runs of layers, in the graph's order, with the same hl_layer_block; the norms of a plain
 * sequence belong to the layer before. */
hl_status hl_layer_depths(const hl_graph *graph, hl_param *const *params, int count, int *depth);

#endif
