/* Taking channels out of a network that do nothing.
 *
 * In a chain (a dense convolution, then norms, activations, dropout, pooling and depthwise convolutions, then
 * a dense convolution or linear layer, each the only reader of the one before) a channel goes where the
 * reader at the end has no weight for it, or where it is constant: no weight goes into it at the convolution
 * in front or at a depthwise one on the way. What a constant gives to the reader goes into the reader's bias;
 * that is exact where the reader, and whatever averages on the way, sees no zeros around the map in its
 * place, or where the constant is zero. */
#ifndef HL_GRAPH_SHRINK_H
#define HL_GRAPH_SHRINK_H

#include "graph/graph.h"

typedef struct hl_shrink_counts {
    int64_t removed; /* channels */
    int64_t left;    /* channels without weights going in or out that had to stay */
} hl_shrink_counts;

/* A smaller graph with the same function up to rounding, its own parameters in host memory. `graph` is merged
 * (no gates), finished, and not placed. The caller destroys the new one. */
hl_status hl_graph_shrink(const hl_graph *graph, hl_graph **smaller, hl_shrink_counts *counts);

#endif
