/* Weights files and graphs: which tensor is which parameter. */
#ifndef HL_MODELS_WEIGHTS_H
#define HL_MODELS_WEIGHTS_H

#include <heirloom/log.h>

#include "io/tensor_map.h"
#include "models/registry.h"

/* Whose names the tensors of a file have. */
typedef enum hl_key_style {
    HL_KEYS_NATIVE,       /* the graph's own: torchvision's, or timm's where the registry says so */
    HL_KEYS_EFFICIENTNET, /* lukemelas/EfficientNet-PyTorch */
    HL_KEYS_DENSENET, /* the published files of DenseNet, older than torchvision's names: norm.1 for norm1 */
    HL_KEYS_TIMM,     /* timm's, where the graph's are torchvision's and differ (timm_keys.h) */
    HL_KEYS_COUNT
} hl_key_style;

typedef struct hl_load_report {
    hl_key_style style;
    int loaded;        /* parameters filled */
    bool head_skipped; /* the file's head is for another number of classes and was left out */
    bool adapted;      /* the file is for RGB: its first convolution was made to fit other images */
    int64_t classes;   /* of the file's head; 0 when it has none */
} hl_load_report;

/* Fills the parameters of `graph` (built from `info`) with the tensors of `map`; `file` names it in errors. A
 * key that is missing, extra or wrongly shaped is HL_E_INPUT and the error names the first one of each and
 * how many there are; num_batches_tracked is passed over. The head may be missing or have another number of
 * classes: then it is left as it is, which the report says. A first convolution for RGB fits a graph for one
 * channel by the sum over its inputs, and one for four by repeating them, times 3/4: timm's adapt_input_conv.
 * A value that is not finite is HL_E_INPUT. On failure parameters may be partly filled. report may be NULL.
 */
hl_status hl_weights_load(hl_graph *graph, const hl_model_info *info, const hl_tensor_map *map,
                          const char *file, hl_load_report *report);

/* Classes of the head in `map`, whatever its key style; 0 when there is no head. */
int64_t hl_weights_classes(const hl_model_info *info, const hl_tensor_map *map);

/* Told by a key that only files of that style have. */
hl_key_style hl_weights_style(const hl_model_info *info, const hl_tensor_map *map);

/* The file's name for a parameter of a graph built from `info`, in a style: into buf, returned. */
const char *hl_weights_key(hl_key_style style, const hl_model_info *info, const hl_graph *graph,
                           const char *name, char *buf, size_t size);
/* The file's shape for it, into shape; returns its number of dimensions. */
int hl_weights_shape(const hl_model_info *info, hl_key_style style, const hl_param *param, int64_t shape[4]);

/* The style of "torchvision" or "timm" for this model's state dict. HL_E_ARG where that library has not got
 * the network. */
hl_status hl_weights_library_style(const hl_model_info *info, const char *library, hl_key_style *style);

/* A state dict that PyTorch's load_state_dict(strict=True) takes, of a graph built from `info`: weights
 * merged (gates multiplied in), running statistics, and a num_batches_tracked of 0 for every norm. The caller
 * destroys the map. */
hl_status hl_weights_export(const hl_graph *graph, const hl_model_info *info, hl_key_style style,
                            hl_tensor_map **map);

#endif
