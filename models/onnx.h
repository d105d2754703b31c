/* Networks in ONNX files as models of ours: a graph with the file's weights in it, and the row that the zoo
 * would have for it. */
#ifndef HL_MODELS_ONNX_H
#define HL_MODELS_ONNX_H

#include <heirloom/log.h>

#include "models/registry.h"

typedef struct hl_onnx_net hl_onnx_net;

/* Is this the name of a file of ONNX, by its ending? */
bool hl_onnx_is_name(const char *name);

/* Reads a file and finds its image input and its classifier: the Gemm, MatMul or 1x1 Conv that the output
 * comes from. Errors name the file and the node at fault. */
hl_status hl_onnx_net_open(const char *path, const hl_log *log, hl_onnx_net **net);
/* The same of a network over features: its input is [N, I], a map of one pixel to us, or [N, C, H, W] of any
 * extents, all given but N. `build` then takes no image size. */
hl_status hl_onnx_net_open_features(const char *path, const hl_log *log, hl_onnx_net **net);
void hl_onnx_net_destroy(hl_onnx_net *net); /* NULL is fine */

/* Valid as long as the net: the file's name without its folder (in plain ASCII), the size and channels of its
 * input, the preprocessing in its metadata (what hl_onnx_export wrote) or else ImageNet's. `build` is NULL.
 * head is known once a graph was built. */
const hl_model_info *hl_onnx_net_info(const hl_onnx_net *net);
/* The names of its classes as hl_onnx_export wrote them, a JSON list; or NULL. */
const char *hl_onnx_net_class_names(const hl_onnx_net *net);
/* Does the file leave the image size open? Then info's is a mere guess. */
bool hl_onnx_net_any_size(const hl_onnx_net *net);

typedef struct hl_onnx_build {
    int64_t image_size, classes; /* classes 0: the file's */
    bool bgr;                    /* the file's first channel is blue */
    bool head_fresh;             /* set: the classifier has another number of classes, and no values */
    int layers;                  /* set: with weights */
} hl_onnx_build;

/* A graph whose parameters are the file's; classes is set to what it has. What of ONNX it cannot express is
 * HL_E_UNSUPPORTED and names the node. */
hl_status hl_onnx_net_build(hl_onnx_net *net, hl_onnx_build *build, hl_graph **graph);

/* The preprocessing that is written beside the network; a reader of ONNX has no other way to know it. */
typedef struct hl_onnx_meta {
    int64_t image_size, resize;
    bool bicubic;
    const float *mean, *std; /* of every channel; NULL: of the five nothing is written, or the image size
                                alone where it is open */
    bool open_size;          /* height and width are left open, and "logits" is a map: [N, classes, h, w] */
    const char *const *classes; /* names, or NULL */
    int64_t class_count;
} hl_onnx_meta;

/* Writes a graph, gates multiplied in, norms kept: input "input" [N, C, H, W], output "logits" [N, classes],
 * opset 17. */
hl_status hl_onnx_export(const hl_graph *graph, const hl_onnx_meta *meta, const char *path);

#endif
