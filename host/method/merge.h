/* Merging: what a method adds, multiplied out into the network's own parameters. */
#ifndef HL_METHOD_MERGE_H
#define HL_METHOD_MERGE_H

#include "graph/graph.h"

/* Adds a constant [O] to what the convolution or linear layer gives: to its bias, else to the running means
 * of the norms that read it (from which it is subtracted), through concatenations and poolings; where
 * something else reads it, to a new bias. */
hl_status hl_merge_constant(hl_graph *graph, hl_node *node, const float *constant);

/* Layers that a method has inserted, into the layers beside them, where the result is exact; others stay. */
hl_status hl_merge_insertions(hl_graph *graph);

#endif
