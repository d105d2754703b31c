/* What is behind hl_model. */
#ifndef HL_TRAIN_MODEL_H
#define HL_TRAIN_MODEL_H

#include <heirloom/train.h>

#include "backend/backend.h"
#include "graph/program.h"
#include "io/sha256.h"
#include "method/method.h"
#include "models/onnx.h"
#include "models/registry.h"

struct hl_model {
    const hl_model_info *info;
    hl_onnx_net *onnx; /* whose the info is, where the network is one from a file; or NULL */
    char *file;        /* that file, as a path that stays valid */
    bool bgr;          /* the file's first input channel is blue; the graph's is red in any case */
    hl_graph *graph;
    hl_preprocess preprocess;
    int64_t classes;
    char **class_names; /* [classes], or NULL */
    char *weights;      /* file of the base weights, as a path that stays valid; NULL: fresh from `seed` */
    char *init_from;    /* run folder whose merged result is the base; NULL: none */
    uint64_t seed;
    hl_log log;
    char base_hash[HL_SHA256_HEX];
    bool has_method;
    hl_method method;
    char method_text[1024];
    hl_norm_mode norm;            /* resolved: never HL_NORM_DEFAULT once a method is applied */
    hl_backend *backend;          /* once computing has begun; the graph is placed on it */
    struct hl_session *inference; /* with the programs of hl_predict and hl_evaluate; NULL: none yet */
    hl_tensor_map *base;          /* the base's values of what the adapter replaced (swap.c); or NULL */
};

/* Bytes of a prepared image, u8 [size, size, channels]. */
static inline int64_t hl_model_image_bytes(const hl_model *model)
{
    const hl_preprocess *p = &model->preprocess;
    return p->size * p->size * p->channels;
}

/* Opens the backend and places the parameters, the first time; later calls must not ask for another number of
 * threads. */
hl_status hl_model_place(hl_model *model, const hl_compute *compute);

/* What numbers are computed with: the element type of activations, and whether products may be rounded to
 * tf32 or computed by Winograd's transforms. */
typedef struct hl_number_type {
    hl_elem elem;
    bool tf32, winograd;
} hl_number_type;
/* Of compute->precision (`compute` may be NULL); `training` decides what the default is. HL_E_UNSUPPORTED
 * where the device has it not. */
hl_status hl_model_number_type(const hl_model *model, const hl_compute *compute, bool training,
                               hl_number_type *type);
/* "fp32", "tf32", "bf16", "fp16", "fp32 winograd" */
const char *hl_number_type_name(hl_number_type type);

/* Fills in what programs of this model have in common. */
void hl_model_compile_options(const hl_model *model, hl_exec projection, hl_number_type type,
                              hl_compile_options *options);

/* Is this a tensor of the adapter: trained, or a statistic that moves? */
static inline bool hl_param_is_adapted(const hl_param *p)
{
    return p->trained || p->moves;
}

/* Sets base_hash from all parameters and statistics but the head and what a method adds. */
hl_status hl_model_hash_base(hl_model *model);

/* Multiplies the method into the weights, before anything is placed; the base is what comes out. */
hl_status hl_model_merge(hl_model *model);

/* Everything the method trained and where it came from, written whole or not at all. */
hl_status hl_model_save_adapter(hl_model *model, const char *path);

/* Before an adapter is loaded into `graph`, whose values are the base's: keeps those that it will replace. */
hl_status hl_model_keep_base(hl_model *model, const hl_graph *graph);
/* Copies an adapter's tensors into the graph they fit, all or none. path: for errors. */
hl_status hl_adapter_fill(hl_graph *graph, const char *path, const hl_tensor_map *map);
/* Parameters have new values: what was compiled has to take them. */
void hl_model_changed(hl_model *model);
void hl_model_clear_class_names(hl_model *model);

/* Sets the class names from a JSON list of as many texts as there are classes; NULL: none. path: for errors.
 */
hl_status hl_model_read_class_names(hl_model *model, const char *path, const char *text);

/* What an adapter file says about its run; strings belong to the map it came from. */
typedef struct hl_adapter_info {
    const char *model, *method, *weights, *init_from, *base_hash, *class_names;
    hl_norm_mode norm;
    int64_t classes;
    bool bgr;
    uint64_t seed;
    hl_preprocess preprocess;
} hl_adapter_info;
hl_status hl_adapter_describe(const char *path, const hl_tensor_map *map, hl_adapter_info *info);

#endif
