/* Models: a network of the zoo or of an ONNX file with its weights, and the transfer method applied to it. */
#ifndef HEIRLOOM_MODEL_H
#define HEIRLOOM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <heirloom/log.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hl_model hl_model;

/* How images become the network's input: the shorter side is resized to `resize`, a square of `size` is cut
 * from the centre, and each channel becomes (x / 255 - mean) / std. */
typedef struct hl_preprocess {
    int64_t size, resize;
    bool bicubic;
    float mean[4], std[4]; /* of `channels` channels */
    int64_t channels;      /* 1: grey, 3: RGB, 4: RGBA */
} hl_preprocess;

typedef struct hl_model_options {
    /* Of the zoo, NAME.TAG (resnet50.tv2_in1k) for the preprocessing of other published weights, which a file
     * called as it was published has by itself; or the path of an ONNX file (it ends in .onnx). */
    const char *name;
    const char *weights; /* file, or NULL: fresh weights, and for an ONNX file its own */
    const char
        *init_from;  /* run folder whose merged result is the start, instead of name and weights; or NULL */
    int64_t classes; /* 0: as many as the weights have, 1000 without weights */
    int64_t image_size; /* 0: the model's own; `resize` keeps its ratio to it unless given */
    int64_t resize;     /* 0: see above */
    int interpolation;  /* 0: the model's own, 1: bilinear, 2: bicubic */
    /* Channels of the images: 1 (grey), 3 (RGB), 4 (RGBA); 0: those of the ONNX file, else 3. Weights made
     * for RGB are adapted in the first convolution: summed for one channel; repeated, times 3/4, for four. */
    int64_t in_channels;
    const float *mean, *std; /* of every channel, red first, or NULL: the model's own; for one channel the
                                mean of its three, for alpha 0.5 */
    int64_t mean_count, std_count; /* how many they are: as many as channels (also 0), or 1: for all */
    bool bgr;          /* ONNX files of 3 channels only: the network's first input channel is blue */
    bool zero_head;    /* a fresh head starts at zero instead of normal(0, 0.01) */
    uint64_t seed;     /* of fresh weights */
    const hl_log *log; /* NULL: silent */
} hl_model_options;

/* Builds the network and loads its weights. The caller destroys it. Errors: an unknown name (the nearest ones
 * are offered), an image too small for the network, a weights file that is missing, damaged, or of another
 * model. */
HL_API hl_status hl_model_create(const hl_model_options *options, hl_model **model);
HL_API void hl_model_destroy(hl_model *model); /* NULL is fine */

/* The zoo's name, or that of the ONNX file without its folder. */
HL_API const char *hl_model_name(const hl_model *model);
HL_API int64_t hl_model_classes(const hl_model *model);
HL_API const hl_preprocess *hl_model_preprocess(const hl_model *model);
/* SHA-256 of the base weights (all parameters and statistics but the head), 64 hex digits; the same for the
 * same numbers, whatever the file's format. */
HL_API const char *hl_model_base_hash(const hl_model *model);

/* Which norm statistics are used in training and what is trained in norms. */
typedef enum hl_norm_mode {
    HL_NORM_DEFAULT, /* the method's */
    HL_NORM_FROZEN,  /* running statistics, scale and shift frozen */
    HL_NORM_AFFINE,  /* running statistics, scale and shift trained */
    HL_NORM_UPDATE,  /* batch statistics, running ones move, scale and shift frozen */
    HL_NORM_FULL     /* batch statistics, running ones move, scale and shift trained */
} hl_norm_mode;

/* Applies a method once: "NAME" or "NAME:key=value,..." (`heirloom methods` lists them). Unknown names and
 * keys are HL_E_ARG and offer the nearest ones. */
HL_API hl_status hl_model_apply_method(hl_model *model, const char *method, hl_norm_mode norm, uint64_t seed);
/* The method in full, all its options with their values: "projection:scope=all,bias=0,..."; "" before one is
 * applied. */
HL_API const char *hl_model_method(const hl_model *model);
HL_API hl_norm_mode hl_model_norm_mode(const hl_model *model);

/* Stochastic depth in training: the rate that the network's last blocks approach or reach, blocks in front of
 * them in proportion to their depth. At first it is that of the reference (0 where it has none). It leaves
 * alone what lies in front of the first trained layer. */
HL_API double hl_model_drop_path(const hl_model *model);
/* Sets it to a rate in [0, 1), before training. HL_E_ARG where the network has no stochastic depth and the
 * rate is not 0. */
HL_API hl_status hl_model_set_drop_path(hl_model *model, double rate);

/* Counts of parameters; running statistics are not parameters. */
typedef struct hl_model_counts {
    int64_t total, head;    /* gates and other additions of the method not included */
    int64_t conv;           /* weights of convolutions */
    int64_t trainable;      /* head included */
    int64_t trainable_conv; /* trained weights of convolutions, and gates */
    int64_t gates;
    int64_t macs; /* multiply-accumulates for one image */
} hl_model_counts;
HL_API void hl_model_count_params(const hl_model *model, hl_model_counts *counts);

/* One layer with parameters, in order; names are valid as long as the model. */
typedef struct hl_layer {
    const char *name;
    const char *kind; /* "conv", "linear", "norm", "scale" */
    int64_t out_h, out_w, out_c;
    int64_t params, trainable, gates, macs;
} hl_layer;
HL_API int hl_model_layer_count(const hl_model *model);
HL_API void hl_model_layer(const hl_model *model, int index, hl_layer *layer);

/* Adapter files: only what the method trained, and running statistics where they move. Loading checks the
 * base weights' hash and that every tensor fits; the model must have the same method applied. */
HL_API hl_status hl_model_load_adapter(hl_model *model, const char *path);
/* Puts another run's adapter (a run folder, or the file) in the place of the one that a model has which
 * hl_model_open_run opened without `merge`: a bank of adapters over one backbone, which is neither read nor
 * hashed again. The model becomes what that run would open as, its head and class names included, and
 * predicts the same bits as the merged run. With the same method, norms and number of classes programs that
 * were compiled go on, with new effective weights; else the graph is built anew around the base weights. The
 * run must be of the same model, base weights and preprocessing: the error says which differs, and the model
 * stays as it was. */
HL_API hl_status hl_model_swap_adapter(hl_model *model, const char *path);

/* Writes the whole network, the method merged in. A name ending in .onnx: as an ONNX graph, input "input" f32
 * [N, in_channels, size, size], normalised, output "logits" f32 [N, classes]; hl_model_preprocess and the
 * class names are in its metadata. Else as an ordinary state dict (safetensors): what torchvision or timm
 * load with strict=True. */
HL_API hl_status hl_model_export(hl_model *model, const char *path);
/* The same with the names and shapes of "torchvision" or "timm", whichever the model's own are; NULL: its
 * own. HL_E_ARG where that library has no equal network. */
HL_API hl_status hl_model_export_as(hl_model *model, const char *path, const char *library);

/* Opens the best result of a run folder: its model with its base weights, its method and its adapter. With
 * `merge` the method is multiplied into the weights and gone, as for evaluation. weights: where the base
 * weights are now (for a run from an ONNX file also: where that is), NULL: where the run found them. */
HL_API hl_status hl_model_open_run(const char *run, const char *weights, bool merge, const hl_log *log,
                                   hl_model **model);
/* Names of the classes the model was trained for; NULL when they are not known. */
HL_API const char *hl_model_class_name(const hl_model *model, int64_t index);
HL_API hl_status hl_model_set_class_names(hl_model *model, const char *const *names, int64_t count);

#ifdef __cplusplus
}
#endif
#endif
