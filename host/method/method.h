/* Transfer methods: what of a pretrained network is trained, and how effective weights come about. Each is
 * one file and a row of a table; it rewrites the graph before its parameters are placed. */
#ifndef HL_METHOD_METHOD_H
#define HL_METHOD_METHOD_H

#include <heirloom/model.h>

#include "graph/graph.h"

enum { HL_METHOD_MAX_OPTIONS = 8, HL_METHOD_VALUE_SIZE = 96 };

typedef enum hl_option_type {
    HL_OPTION_TEXT,
    HL_OPTION_FLAG,
    HL_OPTION_NUMBER,
    HL_OPTION_WHOLE /* a number without a fraction */
} hl_option_type;

typedef struct hl_method_option {
    const char *key;
    hl_option_type type;
    const char *value; /* default */
    const char *help;
    double least, most; /* NUMBER, WHOLE */
} hl_method_option;

typedef struct hl_method_info hl_method_info;

/* A method with values for all its options, in the order of the table. */
typedef struct hl_method {
    const hl_method_info *info;
    char values[HL_METHOD_MAX_OPTIONS][HL_METHOD_VALUE_SIZE];
} hl_method;

struct hl_method_info {
    const char *name, *summary;
    hl_norm_mode norm;                               /* default */
    double lr_adam;                                  /* default learning rate for Adam and AdamW */
    double lr_sgd;                                   /* ... and for SGD with momentum 0.9 */
    bool no_weight_decay;                            /* by default: it has a penalty of its own */
    hl_method_option options[HL_METHOD_MAX_OPTIONS]; /* ends with key NULL or at the size */
    /* Marks what is trained (the head is already) and rewrites layers; may be NULL where `change` is not. */
    hl_status (*apply)(hl_graph *graph, const hl_method *method, uint64_t seed);
    /* Rewrites one layer, then, of those that the method takes (layers.h); or NULL. */
    hl_status (*change)(hl_graph *graph, hl_node *node, const hl_method *method, uint64_t seed);
};

int hl_method_count(void);
const hl_method_info *hl_method_at(int index);

/* "NAME" or "NAME:key=value,...". Unknown names, keys and unfit values are HL_E_ARG. */
hl_status hl_method_parse(const char *text, hl_method *method);
/* The inverse, with every option: into buf, returned. */
const char *hl_method_format(const hl_method *method, char *buf, size_t size);

/* Is it the method that `text` names? Options which that leaves out have their defaults, so that what was
 * written before a method had an option still names it. */
bool hl_method_matches(const hl_method *method, const char *text);

/* Values of options; the key must be one of the method's. */
const char *hl_method_text(const hl_method *method, const char *key);
double hl_method_number(const hl_method *method, const char *key);
bool hl_method_flag(const hl_method *method, const char *key);
/* The same for an option that this method may not have. */
double hl_method_number_or(const hl_method *method, const char *key, double otherwise);
/* Has the method such an option? */
bool hl_method_has(const hl_method *method, const char *key);

/* Applies a method to a graph whose parameters are not placed yet: the head is trained, norms are set as
 * `norm` says (default: the method's), then the method does its part. */
hl_status hl_method_apply(hl_graph *graph, const hl_method *method, hl_norm_mode norm, uint64_t seed);

/* "frozen", "affine", "update", "full". */
const char *hl_norm_mode_name(hl_norm_mode mode);

/* Multiplies every weight expression out: weight <- f(weight), and takes layers that the method has inserted
 * into those beside them where that is exact; gates, factors and such layers are gone afterwards, the
 * function is the same. Layers that cannot be taken in stay, and their parameters are HL_PARAM_ADAPTER still.
 * Before placement. */
hl_status hl_method_merge(hl_graph *graph);

/* Weight decay where nothing else is asked for. */
static inline double hl_method_weight_decay(const hl_method_info *info)
{
    return info->no_weight_decay ? 0.0 : 1e-4;
}

/* Is the head fitted in one go (linear:solver=lbfgs) instead of by optimizer steps? */
bool hl_method_fits_head(const hl_method *method);

/* Marks every weight and bias as trained, and may be a method's `apply`: full, and those that add a penalty.
 */
hl_status hl_method_train_all(hl_graph *graph, const hl_method *method, uint64_t seed);

extern const hl_method_info hl_method_projection, hl_method_linear, hl_method_full, hl_method_norm,
    hl_method_partial, hl_method_bitfit, hl_method_ia3, hl_method_ssf, hl_method_lora, hl_method_dora,
    hl_method_loha, hl_method_lokr, hl_method_convlora, hl_method_conv_adapter, hl_method_residual_adapter,
    hl_method_repadapter, hl_method_piggyback, hl_method_atoms, hl_method_l2sp, hl_method_bss;

#endif
