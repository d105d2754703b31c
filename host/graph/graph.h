/* The layer graph: what a network computes, before anything is decided about how.
 *
 * A graph is a list of nodes in topological order; each node makes one value, channels-last, whose shape is
 * known per sample (n = 1); the batch size comes in when a program is compiled from it (program.h). Builders
 * in models/ call the functions below; methods (host/method) then rewrite it.
 *
 * Errors while building are sticky: the first one is kept, later calls do nothing and return HL_NO_VALUE, and
 * hl_graph_finish reports it. Builders need no checks of their own. */
#ifndef HL_GRAPH_GRAPH_H
#define HL_GRAPH_GRAPH_H

#include "backend/step.h"
#include "base/error.h"
#include "base/memory.h"

typedef int hl_value; /* index of the node that makes it */
enum { HL_NO_VALUE = -1 };

typedef enum hl_op {
    HL_OP_INPUT,
    HL_OP_CONV,
    HL_OP_LINEAR,     /* over channels, at every position */
    HL_OP_NORM,       /* batch normalisation */
    HL_OP_LAYER_NORM, /* over the channels of each position */
    HL_OP_SCALE,      /* a factor, perhaps a shift, for each channel */
    HL_OP_ACT,
    HL_OP_POOL,
    HL_OP_GLOBAL_POOL,
    HL_OP_GRID_POOL, /* torch's adaptive average */
    HL_OP_ADD,
    HL_OP_MUL,
    HL_OP_CONCAT,
    HL_OP_HALF,       /* one half of its input's channels; the other half is the node beside it */
    HL_OP_INTERLEAVE, /* channels of two inputs in turn */
    HL_OP_DROPOUT,
    HL_OP_DROP_PATH /* stochastic depth: a sample's whole value or nothing */
} hl_op;

typedef struct hl_node {
    hl_op op;
    hl_value id;
    const char *name; /* module name as torchvision's, e.g. "features.0.0"; unique */
    hl_value *in;
    int in_count;
    hl_shape shape; /* of its value, n = 1 */
    bool head;      /* the classifier */

    /* CONV, LINEAR (a 1x1 window, groups 1) */
    hl_window window; /* also POOL */
    int64_t groups;
    hl_weight_expr expr; /* without a folded norm; that is a decision of compilation */
    /* NORM, LAYER_NORM, SCALE (its `scale`, and `shift` where it has one); also act of ACT */
    hl_norm_attr norm;
    bool batch_statistics; /* training normalises with the batch and moves the running statistics */
    hl_act act;
    /* POOL */
    bool pool_max, count_padding;
    /* HALF */
    int half; /* 0: the first, 1: the second */
    /* DROPOUT, DROP_PATH */
    float drop;
    float depth; /* DROP_PATH: drop as a share of the network's rate */
} hl_node;

typedef struct hl_graph {
    hl_arena *arena;
    hl_node **nodes; /* by id */
    size_t node_count, node_capacity;
    hl_value *order; /* topological */
    size_t order_capacity;
    size_t cursor; /* where in `order` the next node goes; node_count while building */
    hl_param **params;
    size_t param_count, param_capacity;
    hl_value input, output; /* output: the logits */
    float drop_path;        /* stochastic depth of a branch with depth 1 */
    int drop_path_branches; /* whose depth is not 0 */
    /* In training, a penalty on what the head reads: eta times the sum of the `smallest` smallest squared
     * singular values of the batch's features (SPECTRAL_GRAD). smallest 0: none. */
    struct {
        int smallest;
        float eta;
    } spectral;
    hl_status status; /* the sticky error */
    char error[512];
    /* Set by placing (params.h): trained values, gradients, contiguous. */
    struct hl_placement *placement;
} hl_graph;

hl_status hl_graph_create(hl_graph **graph);
void hl_graph_destroy(hl_graph *graph); /* NULL is fine; frees nodes and parameters */

/* Ends building: `output` are the logits. Returns the sticky error, if any; checks that names are unique. */
hl_status hl_graph_finish(hl_graph *graph, hl_value output);

/* A convolution to be. Zero fields take the defaults in brackets. */
typedef struct hl_conv_spec {
    int64_t out;    /* output channels */
    int64_t kernel; /* square window [1]; or kernel_h, kernel_w */
    int64_t kernel_h, kernel_w;
    int64_t stride;   /* [1] */
    int64_t dilation; /* 1 = dense [1] */
    int64_t groups;   /* [1] */
    int64_t padding;  /* on all four sides; or padding_h above and below, padding_w at the sides; or
                         padding_same */
    int64_t padding_h, padding_w;
    bool padding_same; /* TensorFlow's SAME: output = ceil(input / stride), the odd pixel on the bottom and
                          right */
    const hl_window *window; /* all of the above but out and groups, for windows, strides and paddings that
                                differ by side; or NULL */
    bool bias;
} hl_conv_spec;

hl_value hl_graph_input(hl_graph *graph, int64_t h, int64_t w, int64_t c);
hl_value hl_graph_conv(hl_graph *graph, const char *name, hl_value x, hl_conv_spec spec);
/* Fully connected over channels of each position, with bias. */
hl_value hl_graph_linear(hl_graph *graph, const char *name, hl_value x, int64_t out, bool bias);
/* The same over all of a map, flattened as PyTorch does: channels, rows, columns. It is computed as a
 * convolution whose window is the map; its weight is a matrix in files (hl_param.flat). */
hl_value hl_graph_flat_linear(hl_graph *graph, const char *name, hl_value x, int64_t out, bool bias);
/* The classifier: a linear layer whose parameters are the head; or a 1x1 convolution. */
hl_value hl_graph_head(hl_graph *graph, const char *name, hl_value x, int64_t classes);
hl_value hl_graph_head_conv(hl_graph *graph, const char *name, hl_value x, int64_t classes);
/* Batch norm with scale, shift and running statistics; momentum is the share of the new batch. */
hl_value hl_graph_norm(hl_graph *graph, const char *name, hl_value x, float eps, float momentum);
/* Layer norm over channels, with scale and shift. */
hl_value hl_graph_layer_norm(hl_graph *graph, const char *name, hl_value x, float eps);
/* x times one factor a channel; `name` is that of the parameter, whose shape is [C, 1, 1]. */
hl_value hl_graph_scale(hl_graph *graph, const char *name, hl_value x);
/* The same with a shift: scale x + shift, parameters NAME.scale and NAME.shift [C], the identity at first.
 * For methods: they are HL_PARAM_ADAPTER. */
hl_value hl_graph_affine(hl_graph *graph, const char *name, hl_value x);
hl_value hl_graph_act(hl_graph *graph, const char *name, hl_value x, hl_act act);
typedef struct hl_pool_spec {
    bool max;
    int64_t kernel, stride, padding;
    bool padding_same, ceil_mode, count_padding;
    const hl_window *window; /* instead of kernel, stride, padding and how they are rounded; or NULL */
} hl_pool_spec;
hl_value hl_graph_pool(hl_graph *graph, const char *name, hl_value x, hl_pool_spec spec);
hl_value hl_graph_global_pool(hl_graph *graph, const char *name, hl_value x);
/* torch's adaptive average pooling to size x size: of a map of that size x itself, of one that divides into
 * equal cells an ordinary average. */
hl_value hl_graph_grid_pool(hl_graph *graph, const char *name, hl_value x, int64_t size);
hl_value hl_graph_add(hl_graph *graph, const char *name, hl_value a, hl_value b);
/* b has a's shape or is [1, 1, c]. */
hl_value hl_graph_mul(hl_graph *graph, const char *name, hl_value a, hl_value b);
hl_value hl_graph_concat(hl_graph *graph, const char *name, const hl_value *values, int count);
/* The first and the second half of x's channels, NAME.0 and NAME.1. Both have to be read. */
void hl_graph_halves(hl_graph *graph, const char *name, hl_value x, hl_value halves[2]);
/* Channels a0, b0, a1, b1, ...: torch's concatenation of the two and a channel shuffle in two groups. */
hl_value hl_graph_interleave(hl_graph *graph, const char *name, hl_value a, hl_value b);
hl_value hl_graph_dropout(hl_graph *graph, const char *name, hl_value x, float p);
/* Stochastic depth (Huang et al., 2016, arXiv 1603.09382) of a residual branch: with probability rate * depth
 * a sample's x is dropped whole, else divided by one less that. depth, from 0 to 1: how far down the network.
 * All branches of a network have one rate. */
hl_value hl_graph_drop_path(hl_graph *graph, const char *name, hl_value x, float rate, float depth);
/* Gives all branches another rate in [0, 1). */
void hl_graph_set_drop_path(hl_graph *graph, float rate);

/* Formats a name into the graph's memory: hl_graph_name(g, "features.%d.conv", i). */
const char *hl_graph_name(hl_graph *graph, const char *format, ...) HL_PRINTF(2, 3);

/* A new parameter, zero-filled. `name` is copied. NULL after an error. */
hl_param *hl_graph_add_param(hl_graph *graph, const char *name, hl_param_role role, int ndim,
                             const int64_t *shape);
/* Takes a parameter that no node uses any more out of the graph and frees its values. NULL is fine. Before
 * placement. */
void hl_graph_remove_param(hl_graph *graph, hl_param *param);
hl_param *hl_graph_find_param(const hl_graph *graph, const char *name);

/* For methods that insert layers: nodes built from here on are placed right after `value` in the order ... */
void hl_graph_insert_after(hl_graph *graph, hl_value value);
/* ... and then every node outside [first_new, node_count) that read `old` reads `replacement`. Also ends
 * insertion. */
void hl_graph_redirect(hl_graph *graph, hl_value old, hl_value replacement, hl_value first_new);

/* Takes a node out: what read it reads its first input. Its parameters stay. Values made later are
 * renumbered. */
void hl_graph_remove_node(hl_graph *graph, hl_value value);

/* The node of a value. */
static inline hl_node *hl_graph_node(const hl_graph *graph, hl_value value)
{
    return graph->nodes[value];
}

static inline bool hl_node_has_weight(const hl_node *node)
{
    return node->op == HL_OP_CONV || node->op == HL_OP_LINEAR;
}

/* Is it a layer with parameters: a convolution, a linear layer, a norm, a scale? */
static inline bool hl_node_has_parameters(const hl_node *node)
{
    return hl_node_has_weight(node) || node->norm.scale != NULL;
}

/* Fresh weights, as torchvision starts: convolutions normal with deviation sqrt(2 / (kh kw O)), linear layers
 * normal(0, 0.01), biases 0, norms the identity, layer scales 1e-6. */
void hl_graph_init(hl_graph *graph, uint64_t seed);
/* The same for the head alone; at zero if asked for. */
void hl_graph_init_head(hl_graph *graph, uint64_t seed, bool zero);

#endif
