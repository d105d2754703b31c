/* Steps: the instructions a compiled network is a list of, and the only thing a backend sees.
 *
 * Compilation (host/graph) emits steps whose operands are tensors; a backend *prepares* each step (chooses an
 * implementation, says how much scratch it wants and how big operands in its own layout are), memory is
 * planned, the backend *binds* addresses, and from then on steps only run. Nothing is allocated, looked up or
 * chosen while running. */
#ifndef HL_BACKEND_STEP_H
#define HL_BACKEND_STEP_H

#include "backend/param.h"
#include "base/compute.h"
#include "base/error.h"

/* Where a tensor's memory comes from. */
typedef enum hl_place {
    HL_PLACE_ARENA,     /* shared by liveness */
    HL_PLACE_PERSISTENT /* its own, for the life of the program: packed weights, saved constants, inputs,
                           outputs */
} hl_place;

typedef struct hl_tensor {
    const char *name; /* the layer that makes it, for messages */
    hl_shape shape;
    hl_elem elem;
    hl_place place;
    bool opaque;  /* layout and size are the preparing backend's business: packed weights, weight gradients */
    void *native; /* the backend's description of an opaque layout (owned by the backend), NULL = plain
                     channels-last */
    size_t bytes; /* for opaque tensors set by the backend's prepare */
    void *data;   /* address where the backend computes; set before bind */
    struct hl_tensor *base; /* the tensor whose memory this is, in another shape; NULL: it has its own */
} hl_tensor;

typedef enum hl_step_kind {
    /* ---- weights: run when parameters have changed ---- */

    /* FOLD: W_eff and b_eff of a weight expression into the layouts that the convolutions want.
     * out: 0 packed weights for the forward pass, 1 packed for the data gradient, 2 b_eff f32 [1,1,1,O]
     * (each may be NULL). In sub-function form (conv.subfunction) the gates are left out (taken as 1) and
     * out 0 is laid out for the sub-function convolution. Prepared after the steps that read its outputs. */
    HL_STEP_FOLD,

    /* ---- forward ---- */

    /* INPUT: out 0 = (x / 255 - mean[c]) / std[c], flipped left-right where the sample's flag says so.
     * in: 0 images u8 [N,H,W,3], 1 flips u8 [N,1,1,1] or NULL, 2 mixes (hl_mix [N], elem u8 [N,1,1,24]) or
     * NULL. With input.raw: in 0 is f32 [N,H,W,C], only converted (and mixed). */
    HL_STEP_INPUT,
    /* CONV: out 0 = act(conv(in 0, packed in 1) + in 2 + in 3); in 2 b_eff f32 or NULL, in 3 residual, shaped
     * like out 0, or NULL. A linear layer is a 1x1 convolution of a [N,1,1,C] tensor. With conv.subfunction:
     * out 0 is S, [N,H',W', I * O/G] with S[.., i * O/G + o'] = s_o (W[o,i] (*) x_i), o = (i / (I/G)) O/G +
     * o'; no bias, residual or act. */
    HL_STEP_CONV,
    /* RECOMBINE: out 0 [.., o] = act(sum over i in o's group of (1 + gate[o,i]) S[.., i, o'] + b_eff[o] +
     * residual). in: 0 S, 1 b_eff f32 or NULL, 2 residual or NULL. The gate is conv.expr->gate; where it is
     * [O] a row's factor, S has the outputs' channels and there is no sum. */
    HL_STEP_RECOMBINE,
    /* NORM: out 0 = act(norm_scale (in 0 - norm_mean) / sqrt(norm_var + eps) + norm_shift + in 1), running
     * statistics; in 1 residual or NULL. Without statistics (both NULL: a layer scale) mean 0, deviation 1.
     */
    HL_STEP_NORM,
    /* NORM_BATCH: the same with the statistics of the batch (biased variance), which go to out 1 (mean) and
     * out 2 (1 / sqrt(var + eps)), f32 [1,1,1,C]; running ones are moved when `moves`:
     * running = (1 - momentum) running + momentum batch, with the unbiased variance. */
    HL_STEP_NORM_BATCH,
    /* LAYER_NORM: out 0 = norm_scale (in 0 - mean) / sqrt(var + eps) + norm_shift, with mean and biased
     * variance over the channels of each pixel. */
    HL_STEP_LAYER_NORM,
    /* ACT: out 0 = act(in 0). */
    HL_STEP_ACT,
    /* POOL: out 0 = max or average over the window of in 0; out 1 (max, training; else NULL): u8 or i32
       window index. */
    HL_STEP_POOL,
    /* GLOBAL_POOL: out 0 [N,1,1,C] = mean over h, w of in 0; f32, or of in 0's type. */
    HL_STEP_GLOBAL_POOL,
    /* GRID_POOL: out 0 [N,m,m',C] = torch's adaptive average of in 0 [N,h,w,C]: cell i of m has the mean over
       rows floor(i h / m) ... ceil((i + 1) h / m) - 1, and columns likewise; cells may overlap. */
    HL_STEP_GRID_POOL,
    /* ADD: out 0 = act(in 0 + in 1 + ...), any number of equal shapes. */
    HL_STEP_ADD,
    /* MUL: out 0 = in 0 * in 1; in 1 has the same shape or is [N,1,1,C] (squeeze-excite). */
    HL_STEP_MUL,
    /* CONCAT: out 0 = in 0, in 1, ... side by side along channels. */
    HL_STEP_CONCAT,
    /* DROPOUT: out 0 = in 0 * keep / (1 - p), keep ~ Bernoulli(1 - p) by Philox of (seed, dropout.id, step,
       element). */
    HL_STEP_DROPOUT,
    /* DROP_PATH: out 0 = in 0 * keep[n] / (1 - p) + in 1: the same with one decision for a sample, by Philox
       of (seed, dropout.id, step, sample). in 1 residual or NULL. */
    HL_STEP_DROP_PATH,
    /* LOSS: softmax cross-entropy against q = (1 - e) onehot + e / C with label smoothing e.
     * in: 0 logits f32 [N,1,1,C], 1 labels i32 [N,1,1,1], 2 mixes or NULL: q is then mixed with the
     * partner's, 3 targets f32 [N,1,1,C] or NULL: q itself, instead of the labels. out: 0 loss per sample f32
     * [N,1,1,1]; 1 d(mean loss)/d(logits) * run->grad_scale * record->loss_scale, or NULL. */
    HL_STEP_LOSS,
    /* TALLY: adds the batch's losses and hits to the record. in: 0 losses, 1 logits, 2 labels. */
    HL_STEP_TALLY,

    /* ---- backward; "dy" is the gradient of the forward step's out 0 ---- */

    /* CONV_DATA: out 0 = act'(.) (dx + in 2). in: 0 dy, 1 weights packed for the data gradient, 2 another
     * gradient of the same value or NULL, 3 what ACT_GRAD has as in 0, of the activation (conv.act) that made
     * x; NULL for HL_ACT_NONE. */
    HL_STEP_CONV_DATA,
    /* CONV_WEIGHT: out 0 dW_eff (opaque, f32). in: 0 x, 1 dy. */
    HL_STEP_CONV_WEIGHT,
    /* WEIGHT_GRAD: gradients of conv.expr's weight and gate from in 0 = dW_eff (hl_weight_expr_grad). */
    HL_STEP_WEIGHT_GRAD,
    /* BIAS_GRAD: gradients of conv.expr's bias, offset and norm_shift (hl_weight_expr_bias_grad) from the sum
     * of dy over n, h, w. in: 0 dy. */
    HL_STEP_BIAS_GRAD,
    /* RECOMBINE_GRAD: out 0 dz = act'(.) * (sum of the gradients), act = conv.act; and the gradient of
     * conv.expr's gate: dgate[o,i] = sum over n, h, w of dz[.., o] S[.., i, o']. in: 0 S, 1 y (the output of
     * the RECOMBINE step; NULL for HL_ACT_NONE), 2 ... : the gradients. act is one that hl_act_from_output
     * admits. out 0 may be NULL, or alias any of in 2 ... . */
    HL_STEP_RECOMBINE_GRAD,
    /* NORM_GRAD: running statistics. in: 0 dy, 1 x. out 0 dx or NULL. Gradients of norm.scale/shift where
       trained. */
    HL_STEP_NORM_GRAD,
    /* NORM_BATCH_GRAD: in: 0 dy, 1 x, 2 mean, 3 inverse deviation. out 0 dx or NULL; scale/shift where
       trained. */
    HL_STEP_NORM_BATCH_GRAD,
    /* LAYER_NORM_GRAD: in: 0 dy, 1 x. out 0 dx or NULL. Gradients of norm.scale/shift where trained. */
    HL_STEP_LAYER_NORM_GRAD,
    /* ACT_GRAD: out 0 = act'(.) * (sum of the gradients). in 0 is the activation's OUTPUT where
     * hl_act_from_output(act), its INPUT otherwise (NULL for HL_ACT_NONE: a plain sum); in 1 ... : the
     * gradients, all of out 0's shape. out 0 may alias any of in 1 ... . */
    HL_STEP_ACT_GRAD,
    /* POOL_GRAD: in: 0 dy, 1 index (max) or NULL. out 0 dx. */
    HL_STEP_POOL_GRAD,
    /* GLOBAL_POOL_GRAD: in 0 dy. out 0 dx. */
    HL_STEP_GLOBAL_POOL_GRAD,
    /* GRID_POOL_GRAD: in 0 dy. out 0 dx. */
    HL_STEP_GRID_POOL_GRAD,
    /* MUL_GRAD: in: 0 dy, 1 a, 2 b. out: 0 da, 1 db (summed over h, w where b is [N,1,1,C]); either may be
       NULL. */
    HL_STEP_MUL_GRAD,
    /* CONCAT_GRAD: in 0 dy. out k = its channels of input k (concat.widths[k] many), or NULL where no
       gradient is wanted. */
    HL_STEP_CONCAT_GRAD,
    /* DROPOUT_GRAD: out 0 = in 0 * the forward pass's mask. in 0 dy. */
    HL_STEP_DROPOUT_GRAD,
    /* DROP_PATH_GRAD: out 0 = in 0 * keep[n] / (1 - p), as in the forward pass. in 0 dy. */
    HL_STEP_DROP_PATH_GRAD,

    /* SPECTRAL_GRAD: out 0 = 2 eta sum over i of s_i u_i v_i^T, the gradient of the penalty eta sum s_i^2,
     * times run->grad_scale * record->loss_scale; s_i are the `smallest` smallest singular values of in 0 as
     * a matrix F, a row a sample, among the min(N, H W C) it has. The penalty itself is added to
     * record->pending_loss. record NULL: loss_scale 1. */
    HL_STEP_SPECTRAL_GRAD,

    /* ---- update ---- */

    /* OPTIMIZE: one optimizer step over optimize.segments, unless a gradient or the pending loss is not
     * finite; sets the record's fields (base/compute.h). */
    HL_STEP_OPTIMIZE,
    HL_STEP_KIND_COUNT
} hl_step_kind;

/* Fixed lower-case name of a kind, e.g. "conv_weight". */
const char *hl_step_kind_name(hl_step_kind kind);

typedef struct hl_conv_attr {
    hl_window window;
    int64_t groups;
    const hl_weight_expr *expr;
    bool subfunction; /* see HL_STEP_CONV */
    bool tf32;        /* f32 products may be rounded to tf32 */
    bool winograd;    /* f32: Winograd's transforms may be used, where the backend has them */
    hl_act act;       /* fused behind the convolution or recombination */
} hl_conv_attr;

typedef struct hl_norm_attr {
    hl_param *scale, *shift, *mean, *var; /* each may be NULL; mean and var only together */
    float eps, momentum;                  /* momentum: the share of the new batch, as torch */
    hl_act act;
} hl_norm_attr;

typedef struct hl_pool_attr {
    hl_window window;
    bool max;
    /* Average: divide by the whole window where it hangs over the edge, as far as `top` rows and `left`
     * columns on either side; what lies beyond (ceil mode) never counts. False: divide by what is inside. */
    bool count_padding;
} hl_pool_attr;

typedef struct hl_optimize_attr {
    hl_optimizer_kind kind;
    float momentum; /* SGD, LARS */
    bool nesterov;
    float beta1, beta2, eps; /* Adam, AdamW */
    float trust;             /* LARS */
    float clip_norm; /* gradients are scaled to this norm (all together) where theirs is larger; 0: never */
    bool scaling;    /* dynamic loss scaling: see hl_train_record */
    float *value, *grad, *moment1,
        *moment2;       /* flat arrays where the backend computes; moment2 for Adam, AdamW only */
    const float *start; /* flat as well: what segments with a pull are pulled towards; NULL without any */
    const hl_segment *segments;
    int segment_count;
} hl_optimize_attr;

typedef struct hl_step {
    hl_step_kind kind;
    const char *name; /* the layer, for messages and profiles */
    hl_tensor **in, **out;
    int in_count, out_count;
    union {
        hl_conv_attr conv; /* FOLD, CONV*, RECOMBINE*, WEIGHT_GRAD, BIAS_GRAD */
        hl_norm_attr norm;
        hl_pool_attr pool;
        struct {
            hl_act act;
        } act; /* ACT, ACT_GRAD, ADD */
        struct {
            float mean[4], std[4];
            bool raw;
        } input;
        struct {
            float p;
            uint32_t id;
        } dropout;
        struct {
            const int64_t *widths; /* CONCAT_GRAD: channels of each input */
        } concat;
        struct {
            float smoothing;
        } loss;
        struct {
            float eta;
            int smallest;
        } spectral;
        hl_optimize_attr optimize;
    };
    const hl_run_state *run; /* host memory */
    hl_train_record *record; /* backend memory; NULL for LOSS: loss_scale is 1 */
    size_t scratch_bytes;    /* set by prepare; scratch is shared by all steps, which run one after another */
    void *exec;              /* the backend's own, freed by its release */
} hl_step;

/* What no backend takes. CONV, CONV_DATA, CONV_WEIGHT, from x to y: windows, groups and shapes fit together.
 */
hl_status hl_step_check_conv(const hl_step *step, hl_shape x, hl_shape y);
/* POOL and its gradient, between `in` and `out`: every window is dense and has a part
 * inside the input. */
hl_status hl_step_check_pool(const hl_step *step, hl_shape in, hl_shape out);
/* Norms of every kind and their gradients: parameters and statistics have a value for each channel, and
 * batch statistics have running ones beside them. */
hl_status hl_step_check_norm(const hl_step *step);
/* SPECTRAL_GRAD: a Gram matrix that is not too large to diagonalise. */
hl_status hl_step_check_spectral(const hl_step *step);

#endif
