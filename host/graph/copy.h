/* Copies of graphs with fewer channels. */
#ifndef HL_GRAPH_COPY_H
#define HL_GRAPH_COPY_H

#include "graph/graph.h"

/* Which channels of each value are kept, and what is added to the biases of layers with weights; both by
 * value, NULL entries: all channels, nothing. Values that go together channel by channel (a convolution and
 * the norm behind it) keep the same; so do both sides of a depthwise convolution. */
typedef struct hl_graph_part {
    bool **kept;
    double **gain; /* a layer without a bias gets one where something is added */
} hl_graph_part;

int64_t hl_graph_part_channels(const hl_graph *graph, const hl_graph_part *part, hl_value v);

/* A graph of the channels that are kept, under the same names, its own parameters in host memory. `graph` has
 * no gates. The caller destroys it. */
hl_status hl_graph_copy_part(const hl_graph *graph, const hl_graph_part *part, hl_graph **copy);
/* The same of all channels. */
hl_status hl_graph_copy(const hl_graph *graph, hl_graph **copy);

#endif
