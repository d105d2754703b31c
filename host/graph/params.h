/* Placing a graph's parameters where a backend computes: trained ones in one contiguous run, so that
 * gradients, optimizer state and checkpoints are flat arrays. */
#ifndef HL_GRAPH_PARAMS_H
#define HL_GRAPH_PARAMS_H

#include "backend/backend.h"
#include "graph/graph.h"

typedef struct hl_placement {
    hl_backend *backend;
    int64_t count;      /* floats in the flat arrays, paddings included */
    float *values;      /* of the trained parameters, in the order of graph->params; on the backend */
    float *grads;       /* on the backend */
    hl_param **trained; /* which parameter starts where */
    int64_t *first;
    int trained_count;
} hl_placement;

/* Called once, after methods have marked what is trained. On a backend with host memory nothing is copied but
 * the trained values, whose `host` moves into the flat array. */
hl_status hl_graph_place(hl_graph *graph, hl_backend *backend);
/* Copies values from the backend into every parameter's `host` (nothing to do with host memory). */
hl_status hl_graph_download(hl_graph *graph);
/* Copies every parameter's `host` to the backend. */
hl_status hl_graph_upload(hl_graph *graph);
void hl_placement_destroy(hl_graph *graph);

#endif
