/* Feedforward networks as graphs: linear layers and pointwise activations, over vectors of features. */
#ifndef HL_MODELS_FEEDFORWARD_H
#define HL_MODELS_FEEDFORWARD_H

#include <heirloom/log.h>

#include "graph/graph.h"

/* What a state dict does not say; not for ONNX files, which do. */
typedef struct hl_feedforward_spec {
    /* An activation ("relu", "gelu", "silu", "tanh", ...) between all layers, or as many, separated by
     * commas, as there are layers or one fewer: behind each. NULL: "relu". */
    const char *act;
    const char *layers; /* names of the layers in the order they run, separated by commas; NULL: the file's
                           order, or by the numbers in names where the format sorts them */
} hl_feedforward_spec;

/* "relu" of HL_ACT_RELU. */
const char *hl_act_name(hl_act act);

/* Reads a state dict (.safetensors, .pth: a weight [O, I] and perhaps a bias [O] for each layer) or an ONNX
 * file (Gemm, MatMul, pointwise functions, sums; input [N, I] or [N, C, H, W]). The graph's input has a
 * feature for each channel, [1, 1, I], or is the map that an ONNX file takes; its layers have the file's
 * names. A layer that is neither linear nor pointwise is HL_E_UNSUPPORTED, layers that do not follow each
 * other HL_E_INPUT; errors name the layer. spec may be NULL. */
hl_status hl_feedforward_read(const char *path, const hl_feedforward_spec *spec, const hl_log *log,
                              hl_graph **graph);

/* The same function as convolutions: every linear layer of `graph`, a feedforward network with values in it,
 * becomes a convolution whose weight has the same numbers. kernel_h, kernel_w: what reads the input, a vector
 * of C kernel_h kernel_w features in the order of torch's flatten (channels, rows, columns), becomes a
 * convolution with that window; 0: windows are 1x1 (or the map that an ONNX file takes). height, width: of
 * the image that the new graph takes, 0: one window; its output is then a map with a result for every place
 * of the window, stride 1. */
typedef struct hl_embed_shape {
    int64_t kernel_h, kernel_w, height, width;
} hl_embed_shape;
hl_status hl_feedforward_embed(const hl_graph *graph, hl_embed_shape shape, hl_graph **embedded);

/* The window of the first convolution of an embedded network. */
void hl_embedded_window(const hl_graph *embedded, int64_t *h, int64_t *w);

#endif
