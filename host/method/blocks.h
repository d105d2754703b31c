/* The blocks of a network: what its designers repeat (residual blocks, inception modules, dense layers), and
 * the stages they form. Methods that train or extend a network block by block ask here. */
#ifndef HL_METHOD_BLOCKS_H
#define HL_METHOD_BLOCKS_H

#include "graph/graph.h"

typedef struct hl_block {
    const char *name;   /* "layer4.2", "features.17" */
    size_t first, last; /* its nodes are graph->order[first .. last] */
    hl_value input;     /* the value that its first node reads */
    int stage;          /* from 0; blocks of one stage have maps of one size */
} hl_block;

typedef struct hl_blocks {
    hl_block *items; /* in the order they run */
    int count, stages;
    int *of; /* by value: the block that its node belongs to, or -1 */
} hl_blocks;

/* Finds them by the names of layers, in the zoo's families and in what timm, torchvision and Keras export; in
 * a network without such names by its residual additions; in one without those (VGG, AlexNet) every
 * convolution behind the first is a block. The stem and what follows the last block belong to none; layers
 * between two blocks (a transition, a downsampling convolution) to the one behind them. Memory comes from
 * `arena`. */
hl_status hl_blocks_find(const hl_graph *graph, hl_arena *arena, hl_blocks *blocks);

/* Length of the part of a layer's name that is its block's; 0: the name tells of none. */
size_t hl_block_name_length(const char *name);

#endif
