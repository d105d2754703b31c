/* The frontier between what training leaves alone and what it changes. Behind the images lies a part of a
 * network that is the same in every epoch: no trained parameter, no statistics of the batch, no dropout. The
 * values that the rest reads of it are the frontier; kept for each image, they replace the whole part. */
#ifndef HL_GRAPH_FRONTIER_H
#define HL_GRAPH_FRONTIER_H

#include "graph/graph.h"

typedef struct hl_frontier {
    bool *fixed;      /* by value: depends on the images and on frozen parameters alone */
    hl_value *values; /* that are fixed and read by what is not, in the order they are made */
    int count;
    int64_t elements; /* of all of them, for one image */
    int layers;       /* fixed convolutions and linear layers: 0: nothing is saved by keeping the frontier */
} hl_frontier;

/* By the graph's nodes and which parameters are trained now, so that it is the same for programs that train
 * and programs that evaluate. Memory comes from `arena`. */
hl_status hl_frontier_find(const hl_graph *graph, hl_arena *arena, hl_frontier *frontier);

#endif
