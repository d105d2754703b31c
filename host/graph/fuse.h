/* Units: groups of nodes that become one fused operation, and the passes that form them. */
#ifndef HL_GRAPH_FUSE_H
#define HL_GRAPH_FUSE_H

#include "graph/frontier.h"
#include "graph/graph.h"
#include "graph/program.h"

typedef struct hl_unit {
    const hl_node *node; /* names it and holds its attributes */
    hl_weight_expr expr; /* CONV, LINEAR: the node's, with the folded norm if there is one */
    hl_act act;          /* fused behind it */
    hl_value *in;
    int in_count;
    hl_value residual; /* added before the activation, or HL_NO_VALUE */
    hl_value out;      /* the value it makes: that of the last node fused into it */
    bool cache;        /* CONV: gates recombine kept sub-function outputs; or rows' factors the kept output */
    bool removed;      /* fused into another one */
} hl_unit;

typedef struct hl_units {
    hl_unit *items; /* in the order they run; removed ones are skipped */
    int count;
    int *maker;           /* by value: index of the unit that makes it, -1 when fused away */
    int *uses;            /* by value: how many units read it; the output counts as read */
    bool *needs_grad;     /* by value: a trained parameter lies at or before it */
    hl_frontier frontier; /* where only a portion of the graph is compiled */
    hl_value output; /* the logits; differs from the graph's where a dropout in front of it was removed */
    const hl_graph *graph;
} hl_units;

/* Forms units of `graph` for the given options, by these passes in this order:
 *   0. what the portion leaves out is removed, and the frontier kept from being fused across;
 *   1. dropout is removed where it does nothing (not training, or p = 0), stochastic depth also where nothing
 *      in or in front of its branch is trained;
 *   2. nodes the output does not depend on are removed;
 *   3. norms on running statistics whose scale is not trained here are folded into the convolution before (a
 * trained shift is part of its bias), or into both whose sum they follow; layer scales likewise;
 *   4. additions become the residual of the convolution, norm or stochastic depth before them;
 *   5. activations are fused behind convolutions, norms and additions; those whose derivative needs their
 * input stay apart where a gradient will pass;
 *   6. gated convolutions are given their way of computing (fold or cache), and those whose rows have trained
 * factors theirs (cache: the factors' gradient is that of the output).
 * Memory comes from `arena`. */
hl_status hl_units_form(const hl_graph *graph, const hl_compile_options *options, hl_arena *arena,
                        hl_units *units);

/* Does training change something in this unit (weight, bias, gate, norm scale or shift)? */
bool hl_unit_is_trained(const hl_unit *unit);

#endif
