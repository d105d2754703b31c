/* Feedforward networks as convolutional ones: what linear layers and pointwise activations compute, computed
 * by convolutions with the same numbers. */
#ifndef HEIRLOOM_EMBED_H
#define HEIRLOOM_EMBED_H

#include <heirloom/train.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hl_embedding hl_embedding;

typedef struct hl_embed_options {
    /* What a state dict does not say (NULL: relu; the file's order); not for ONNX files. An activation for
     * all places between layers, or a list with commas; names of the layers with commas. */
    const char *act, *layers;
    /* The features are a patch of so many rows and columns, its channels outermost as torch's flatten has
     * them: the first layer becomes a convolution with that window. 0: windows are 1x1. */
    int64_t kernel_h, kernel_w;
    const hl_log *log; /* NULL: silent */
} hl_embed_options;

/* Reads a feedforward network, a state dict (.safetensors, .pth) or an .onnx file. The caller destroys it.
 * options may be NULL. Errors name the layer that is neither linear nor pointwise, or does not follow the one
 * before. */
HL_API hl_status hl_embed_open(const char *path, const hl_embed_options *options, hl_embedding **embedding);
HL_API void hl_embed_destroy(hl_embedding *embedding); /* NULL is fine */

typedef struct hl_embed_counts {
    int layers;       /* linear layers, each a convolution now */
    int64_t params;   /* the same before and after */
    int64_t inputs;   /* features; channels of the image times the window's area */
    int64_t channels; /* of the image that the convolutions take */
    int64_t kernel_h, kernel_w;
    int64_t outputs;
} hl_embed_counts;
HL_API void hl_embed_count(const hl_embedding *embedding, hl_embed_counts *counts);

/* Writes the convolutions. .onnx: input "input" f32 [N, C, 1, 1], output "logits" [N, outputs]; with a window
 * larger than one pixel [N, C, H, W], any H and W from the window's size on, and [N, outputs, H - kh + 1, W -
 * kw + 1], a result for every place of the window. Else a safetensors file: NAME.weight [O, I, kh, kw] and
 * NAME.bias [O], for Conv2d modules of those names; the order and the activations are in its metadata,
 * "layers", as JSON. */
HL_API hl_status hl_embed_write(const hl_embedding *embedding, const char *path);

typedef struct hl_embed_check {
    /* Largest difference over all outputs, and the same as a share of the largest output. */
    double output, output_share;
    /* Over the gradients of all parameters (of the cross-entropy of random labels), each as a share of the
     * largest in its parameter. */
    double gradient, gradient_share;
    char worst[96];          /* the parameter with that gradient */
    double tolerance;        /* of both shares */
    int64_t samples, places; /* that outputs were compared at */
    bool equal;              /* within the tolerance */
} hl_embed_check;
/* Runs the feedforward network as one, linear layers over vectors, and the convolutions, on random inputs in
 * fp32: one window for outputs and gradients, and where the window has more than one pixel also a larger
 * image, whose places are compared with the feedforward network on every patch. tolerance 0: 16 x 2^-24 x the
 * sum of sqrt(inputs) over the layers, for that is how rounding errors of sums in another order grow. A
 * failure to compute is an error; a difference is none. compute may be NULL. */
HL_API hl_status hl_embed_verify(const hl_embedding *embedding, const hl_compute *compute, double tolerance,
                                 uint64_t seed, hl_embed_check *check);

#ifdef __cplusplus
}
#endif
#endif
