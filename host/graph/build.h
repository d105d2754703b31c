/* What graph.c lends to layers.c: nodes, their parameters, and the sticky error of building. */
#ifndef HL_GRAPH_BUILD_H
#define HL_GRAPH_BUILD_H

#include "graph/graph.h"

enum { HL_MAX_EXTENT = 1 << 24 }; /* of any dimension: products of three fit in 64 bits with room to spare */

/* Keeps the first error of building; returns HL_NO_VALUE. */
hl_value hl_graph_stick(hl_graph *graph, hl_status status);
/* Appends a node at the cursor with inputs and name filled in; NULL after an error. */
hl_node *hl_graph_add_node(hl_graph *graph, hl_op op, const char *name, const hl_value *in, int in_count);
/* A parameter NODE.SUFFIX of the node, the head's where the node is; NULL after an error. */
hl_param *hl_graph_layer_param(hl_graph *graph, const hl_node *node, const char *suffix, hl_param_role role,
                               int ndim, const int64_t *shape);

#endif
