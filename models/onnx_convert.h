/* From an ONNX graph to ours, node by node: what the files that convert have in common. */
#ifndef HL_MODELS_ONNX_CONVERT_H
#define HL_MODELS_ONNX_CONVERT_H

#include "graph/graph.h"
#include "io/onnx.h"
#include "models/onnx_view.h"

/* What has been built of a network: a node of our graph, or a concatenation that is not a node yet, since a
 * channel shuffle may follow, which is one together with it. */
typedef struct hl_onnx_source {
    hl_value node; /* HL_NO_VALUE: a concatenation of `parts` */
    hl_value *parts;
    int part_count;
    const char *name;
    hl_shape shape;
    hl_value halves[2]; /* of its channels, where they have been asked for */
    bool reversed;      /* ONNX sees its channels (of the image, blue first) in the opposite order */
    bool from_head;     /* computed from the classifier */
} hl_onnx_source;

/* What is yet to be done to a source to have the value: steps that are one layer together with what follows.
 */
typedef enum hl_onnx_form {
    HL_FORM_PLAIN,
    HL_FORM_AFFINE, /* k x + b, for every channel or by channel */
    HL_FORM_SIGMOID,
    HL_FORM_HARDSIGMOID,
    HL_FORM_RELU6_PLUS3, /* min(max(x + 3, 0), 6) */
    HL_FORM_SWISH6,      /* x times that: six times the hard swish */
    HL_FORM_ERF,         /* erf(x / sqrt 2) */
    HL_FORM_ERF_PLUS1,
    HL_FORM_NORMAL, /* half of that: the normal distribution */
    HL_FORM_GELU2,  /* x times that: twice the GELU */
    HL_FORM_PADDED  /* zeros around it */
} hl_onnx_form;

typedef enum hl_onnx_kind { HL_ONNX_UNSET, HL_ONNX_CONST, HL_ONNX_MAP } hl_onnx_kind;

typedef struct hl_onnx_value {
    hl_onnx_kind kind;
    hl_named_tensor tensor; /* CONST */
    int source;             /* MAP */
    hl_view view;
    hl_onnx_form form;
    int channel;          /* one channel of the source, counted from 1; 0: all of them */
    double k, b;          /* AFFINE */
    const float *ks, *bs; /* [c], or NULL */
    int64_t pads[4];      /* PADDED: top, left, bottom, right */
    double pad_value;
    const hl_onnx_node *maker; /* of the pending form, for its name */
} hl_onnx_value;

typedef struct hl_convert {
    const hl_onnx *onnx;
    hl_graph *graph;
    hl_arena *arena;       /* of the conversion */
    const char **names;    /* all names of values, sorted */
    hl_onnx_value *values; /* by name */
    int *uses;             /* reads of each value */
    size_t *reader;        /* the node that reads it last */
    size_t name_count;
    hl_onnx_source *sources;
    size_t source_count, source_capacity;
    hl_tensor_map *taken;    /* names of layers; a set */
    hl_tensor_map *counters; /* how often a name was wanted again */
    bool *done;              /* nodes that another one has taken in */
    size_t at;               /* the node that is being converted */
    size_t head;
    const char *head_name;
    int64_t batch;   /* that the file was made for; 1 where it is symbolic */
    int64_t classes; /* wanted; old_classes: the file's */
    int64_t old_classes;
    size_t fold_bytes; /* that folding constants may still take */
} hl_convert;

/* The value of a name; every name in the graph has one. */
hl_onnx_value *hl_convert_value(hl_convert *x, const char *name);
hl_onnx_value *hl_convert_in(hl_convert *x, const hl_onnx_node *n, int i);
/* Does the node have that input? */
bool hl_convert_has(const hl_onnx_node *n, int i);

/* "FILE: node 'NAME' (Op): why (todo)" */
hl_status hl_convert_fail(const hl_convert *x, const hl_onnx_node *n, const char *todo, const char *why, ...)
    HL_PRINTF(4, 5);

/* A new name for the layer of a node: that of its weight without ".weight", else the node's own, else one
 * made of the operator. weight may be NULL. */
const char *hl_convert_name(hl_convert *x, const hl_onnx_node *n, const char *weight);

/* A source that is this node of the graph; HL_NO_VALUE: the graph's error is returned. like: the source it
 * was computed from, or -1. */
hl_status hl_convert_source(hl_convert *x, hl_value node, int like, int *source);
/* The node of a source; emits what is pending. */
hl_status hl_convert_node(hl_convert *x, int source, hl_value *node);

/* Does what is pending on a value, which must be a map; afterwards its form is plain. */
hl_status hl_convert_plain(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v);
/* The node that holds a value seen as [n, c, h, w]. */
hl_status hl_convert_nchw(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v, hl_value *node);
/* An error unless the order of its channels is ours. */
hl_status hl_convert_in_order(const hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v);

/* Output `i` of a node is `node`, seen through `view`. `like`: the source it was computed from. */
hl_status hl_convert_set(hl_convert *x, const hl_onnx_node *n, int i, hl_value node, hl_view view, int like);

/* Attributes with their defaults. */
int64_t hl_convert_int(const hl_onnx_node *n, const char *name, int64_t fallback);
float hl_convert_float(const hl_onnx_node *n, const char *name, float fallback);
/* Whole numbers of an attribute, or of constant input `input` where there is no such attribute (-1: nowhere).
 * *count is -1 where there is neither. */
enum { HL_CONVERT_INTS = 64 };
hl_status hl_convert_ints(hl_convert *x, const hl_onnx_node *n, const char *name, int input,
                          int64_t out[HL_CONVERT_INTS], int *count);
/* Is a value the constant 0, 1, 2, ... of `count` elements, in whatever shape? */
bool hl_convert_is_range(const hl_onnx_value *v, int64_t count);
/* A single number of constant input i, or an error. */
hl_status hl_convert_number(hl_convert *x, const hl_onnx_node *n, int i, double *number);
/* All elements of a constant as float, in the arena; an error where it is none, not floating or not finite.
 */
hl_status hl_convert_floats(hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v, const float **out);

/* Where all that a node reads is constant or a shape: its value, if this is an operator that is computed
 * beforehand. *folded says. */
hl_status hl_convert_fold(hl_convert *x, const hl_onnx_node *n, bool *folded);

/* The two halves of a source's channels, two nodes. */
hl_status hl_convert_halves(hl_convert *x, const hl_onnx_node *n, int source, hl_value halves[2]);

/* The converters, by subject. *known: is it one of theirs? */
hl_status hl_convert_layers(hl_convert *x, const hl_onnx_node *n, bool *known);
hl_status hl_convert_pools(hl_convert *x, const hl_onnx_node *n, bool *known);
/* Two MatMuls that make means over the cells of a map, as we write them; n is the first. */
hl_status hl_convert_cells(hl_convert *x, const hl_onnx_node *n, bool *known);
hl_status hl_convert_math(hl_convert *x, const hl_onnx_node *n, bool *known);
hl_status hl_convert_shapes(hl_convert *x, const hl_onnx_node *n, bool *known);
hl_status hl_convert_channels(hl_convert *x, const hl_onnx_node *n, bool *known);
/* For messages: "Add, ...". */
const char *hl_convert_operators(void);

/* The window that the attributes of a Conv or pooling give it over a map, beside `pads` (top, left, bottom,
 * right) that a Pad in front of it has. ceil_mode: output extents are rounded up. */
hl_status hl_convert_window(hl_convert *x, const hl_onnx_node *n, hl_shape in, const int64_t kernel[2],
                            const int64_t *pads, bool ceil_mode, hl_window *window);

#endif
