/* Parameters: the named tensors of a network, and the weight expressions built from them. */
#ifndef HL_BACKEND_PARAM_H
#define HL_BACKEND_PARAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compute.h"

typedef enum hl_param_role {
    HL_PARAM_WEIGHT,     /* convolution [O, I/G, kh, kw] or linear [O, I] */
    HL_PARAM_BIAS,       /* [O] */
    HL_PARAM_NORM_SCALE, /* [C] */
    HL_PARAM_NORM_SHIFT, /* [C] */
    HL_PARAM_NORM_MEAN,  /* running mean [C]; a statistic: never trained, but it moves where batch statistics
                            are used */
    HL_PARAM_NORM_VAR,   /* running variance [C], unbiased; likewise */
    HL_PARAM_SCALE,      /* a factor for each channel, [C] or [C, 1, 1] */
    HL_PARAM_GATE,       /* [O, I/G]; stored as delta = gate - 1 */
    HL_PARAM_FACTOR,     /* of a weight change; a method's own, as gates are */
    HL_PARAM_MASK,       /* likewise; all that counts of it is whether it is above the threshold */
    HL_PARAM_ADAPTER     /* whatever else a method adds: of an inserted layer, or an offset */
} hl_param_role;

/* One named tensor, float32, C order. The graph owns it. */
typedef struct hl_param {
    const char *name; /* the torchvision key, e.g. "features.0.0.weight" */
    hl_param_role role;
    int ndim;
    int64_t shape[4], count;
    bool flat; /* files hold this weight [O, I, kh, kw] as the matrix [O, I kh kw]: a linear layer over a map
                */
    bool trained;
    bool moves;      /* a running statistic that training updates */
    bool head;       /* belongs to the classifier head */
    float threshold; /* MASK: inside (-1, 1) */
    float *host;     /* values in host memory */
    float *value;    /* values where the backend computes; equal to host on the CPU */
    float *grad;     /* gradient where the backend computes; NULL unless trained */
} hl_param;

static inline bool hl_param_is_statistic(const hl_param *p)
{
    return p->role == HL_PARAM_NORM_MEAN || p->role == HL_PARAM_NORM_VAR;
}

/* Does the network have it without any method? */
static inline bool hl_param_is_base(const hl_param *p)
{
    return p->role != HL_PARAM_GATE && p->role != HL_PARAM_FACTOR && p->role != HL_PARAM_MASK &&
           p->role != HL_PARAM_ADAPTER;
}

/* The shape that state dicts give it, into shape; returns its number of dimensions. */
static inline int hl_param_file_shape(const hl_param *p, int64_t shape[4])
{
    for (int i = 0; i < p->ndim; i++)
        shape[i] = p->shape[i];
    if (!p->flat)
        return p->ndim;
    shape[1] = p->count / p->shape[0];
    return 2;
}

/* Is it the weight of a convolution? */
static inline bool hl_param_is_conv(const hl_param *p)
{
    return p->role == HL_PARAM_WEIGHT && p->ndim == 4 && !p->flat;
}

typedef enum hl_weight_expr_kind {
    HL_WEIGHT_PLAIN,  /* f(W) = W */
    HL_WEIGHT_GATED,  /* f(W)[o,i,k] = (1 + gate[o,i]) W[o,i,k]: model projection, arXiv 2602.06245 */
    HL_WEIGHT_ROW,    /* f(W)[o,...] = (1 + gate[o]) W[o,...], and b likewise: output o times a factor */
    HL_WEIGHT_CHANGED /* f(W) is computed as a whole from W and a hl_weight_change (weight_change.h) */
} hl_weight_expr_kind;

/* A matrix, or one for each of `blocks`: the parameter `left` itself, or with `right` the product of the two,
 * left [blocks, rows, rank] right [blocks, rank, columns]. */
typedef struct hl_factor {
    hl_param *left, *right;
    int64_t blocks, rows, columns, rank;
} hl_factor;

/* What a method makes of W. With `magnitude` [O] every output channel of the above is brought to that length:
 * f(W)_o = magnitude_o V_o / |V_o|, with |V_o| a constant in the backward pass (DoRA, arXiv 2402.09353). */
typedef struct hl_weight_change {
    hl_change_kind kind;
    float scale;
    hl_factor factor[2];
    hl_param *magnitude;
} hl_weight_change;

/* The effective weight and bias of a convolution or linear layer, a function of parameters:
 *     W_eff[o,...] = s_o f(W)[o,...]        s_o = norm_scale_o / sqrt(norm_var_o + eps)
 *     b_eff[o]     = s_o (r_o b_o + offset_o - norm_mean_o) + norm_shift_o       r_o = 1 + gate[o] of a ROW,
 * else 1 Absent parameters are 0, absent scales 1. A folded layer scale is a norm without statistics: s =
 * norm_scale. */
typedef struct hl_weight_expr {
    hl_weight_expr_kind kind;
    hl_param *weight;               /* W */
    hl_param *bias;                 /* b, or NULL */
    hl_param *offset;               /* [O], added behind the layer, before the norm; or NULL */
    hl_param *gate;                 /* GATED [O, I/G], ROW [O] */
    const hl_weight_change *change; /* CHANGED only; its W is frozen */
    hl_param *norm_scale, *norm_shift, *norm_mean, *norm_var; /* the folded norm; all NULL without one */
    float eps;
} hl_weight_expr;

/* Elements of W for an (output, input) pair: kh kw, 1 of a linear layer. */
static inline int64_t hl_weight_expr_window(const hl_weight_expr *e)
{
    return e->weight->ndim == 4 ? e->weight->shape[2] * e->weight->shape[3] : 1;
}

/* Is a norm or a layer scale folded in? */
static inline bool hl_weight_expr_is_scaled(const hl_weight_expr *e)
{
    return e->norm_scale != NULL || e->norm_var != NULL;
}

/* Does b_eff exist? */
static inline bool hl_weight_expr_has_bias(const hl_weight_expr *e)
{
    return e->bias != NULL || e->offset != NULL || e->norm_mean != NULL || e->norm_shift != NULL;
}

/* Does training change W_eff or b_eff? W_eff? */
bool hl_weight_expr_is_dynamic(const hl_weight_expr *e);
bool hl_weight_expr_changes_weight(const hl_weight_expr *e);
/* The parameters of f beside W, into params; returns how many. */
enum { HL_EXPR_PARAMS = 6 };
int hl_weight_expr_params(const hl_weight_expr *e, hl_param *params[HL_EXPR_PARAMS]);
/* Does the gradient of W_eff lead to a trained parameter (weight, gate, factors)? */
bool hl_weight_expr_trains_weight(const hl_weight_expr *e);
/* ... that of b_eff (bias, offset, the folded norm's shift)? */
bool hl_weight_expr_trains_bias(const hl_weight_expr *e);

/* The functions below work in host memory, on `host` and (hl_weight_expr_grad) `grad`; they are the reference
 * for every backend, and what the CPU backend and merging use. All but merging are for plain and gated
 * weights alone: what is changed as a whole comes in as a plain weight. Rows are output channels [first,
 * last), a row has I/G * kh * kw elements.
 */

/* s_o for rows [first, last) into scale[0 .. last-first). */
void hl_weight_expr_scale(const hl_weight_expr *e, int64_t first, int64_t last, float *scale);
/* W_eff rows into out (row 0 of out is row `first`). */
void hl_weight_expr_fold(const hl_weight_expr *e, int64_t first, int64_t last, float *out);
/* b_eff [O] into out. */
void hl_weight_expr_bias(const hl_weight_expr *e, float *out);
/* Gradients of the trained weight and GATED gate in rows [first, last), given the gradient of those rows of
 * W_eff: grad = keep * grad + ..., with keep 0 (overwrite, whatever was there) or 1 (accumulate). The gate of
 * a ROW has its gradient from the layer's output (HL_STEP_RECOMBINE_GRAD). */
void hl_weight_expr_grad(const hl_weight_expr *e, int64_t first, int64_t last, const float *dw_eff,
                         float keep);
/* Gradients of the trained ones among bias, offset and norm_shift for row o, given that of b_eff[o]. */
void hl_weight_expr_bias_grad(const hl_weight_expr *e, int64_t o, float db_eff, float keep);
/* Merged form: f(W) for all rows, without the norm, into out [O, I/G, kh, kw]. */
void hl_weight_expr_merge(const hl_weight_expr *e, float *out);

#endif
