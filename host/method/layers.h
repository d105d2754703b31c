/* Which layers a method that changes weights takes: the convolutions of the backbone, fewer or more by its
 * options. The head is never among them. */
#ifndef HL_METHOD_LAYERS_H
#define HL_METHOD_LAYERS_H

#include "method/method.h"

/* Options that such a method has in its table. */
#define HL_OPTION_SCOPE                                                                                      \
    {                                                                                                        \
        "scope", HL_OPTION_TEXT, "all",                                                                      \
            "which convolutions: all, spatial (kernels larger than 1x1), dense (all but depthwise), a "      \
            "pattern of layer names, or several of these joined by +",                                       \
            0, 0                                                                                             \
    }
#define HL_OPTION_LINEAR                                                                                     \
    {                                                                                                        \
        "linear", HL_OPTION_FLAG, "0", "the linear layers of the backbone as well", 0, 0                     \
    }
#define HL_OPTION_SPATIAL                                                                                    \
    {                                                                                                        \
        "spatial", HL_OPTION_FLAG, "0", "only kernels larger than 1x1, the one on the images left out", 0, 0 \
    }

/* Has the method's `change` rewrite every layer that the method's options scope, linear and spatial choose
 * (those it has; a pattern chooses among linear layers too, where linear=1). HL_E_ARG where that is none. */
hl_status hl_change_layers(hl_graph *graph, const hl_method *method, uint64_t seed);

/* Is it a convolution with a kernel larger than 1x1? */
bool hl_is_spatial(const hl_node *node);
/* ... of the backbone, and not its first convolution? */
bool hl_is_inner_spatial(const hl_graph *graph, const hl_node *node);

/* A layer's weight as `groups` matrices of rows x columns: an output channel is a row. */
typedef struct hl_weight_matrix {
    int64_t groups, rows, columns;
    int64_t inputs, window; /* columns = inputs window; all of a linear layer's columns are inputs */
} hl_weight_matrix;
hl_weight_matrix hl_weight_as_matrix(const hl_node *node);

#endif
