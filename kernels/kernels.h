/* C launchers of the CUDA kernels. Plain C: no CUDA type but the stream.
 *
 * Common rules.
 * - Pointers are device memory, 16-byte aligned unless said otherwise. Activations are channels-last
 *   [N, H, W, C] in `elem` (f32, bf16 or f16); everything is computed in f32. Counts may be zero.
 * - Every launcher only enqueues on `stream` and returns the launch's cudaError_t as an int (0: fine). It
 *   neither allocates nor synchronises, so that it can be captured in a CUDA graph. Nothing on the host that
 * a pointer names is read after it returns, and nothing that changes from step to step is passed by value:
 *   that is in `run` (hl_run_state) and `record` (hl_train_record), both in device memory.
 * - Results do not depend on timing: one writer an element, sums in a fixed order, no atomics on floats.
 * - `scratch` is device memory of at least the bytes that the matching _scratch function says; it may be
 *   overwritten freely. */
#ifndef HL_KERNELS_KERNELS_H
#define HL_KERNELS_KERNELS_H

#include <stddef.h>

#include "base/compute.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *hl_cuda_stream; /* cudaStream_t */

/* ---- elementwise (elementwise.cu, act.cuh) ---- */

enum { HL_KERNEL_MAX_TERMS = 8 };
typedef struct hl_terms {
    const void *term[HL_KERNEL_MAX_TERMS];
    int count; /* at least 1 */
} hl_terms;

/* out = act(term 0 + term 1 + ...), elementwise; out may be one of the terms. */
int hl_launch_add(hl_act act, hl_terms terms, void *out, hl_elem elem, int64_t count, hl_cuda_stream stream);
/* out = act'(.) (term 0 + term 1 + ...). operand: the activation's output where hl_act_from_output(act), else
 * its input; NULL for HL_ACT_NONE. out may be one of the terms. */
int hl_launch_act_grad(hl_act act, const void *operand, hl_terms terms, void *out, hl_elem elem,
                       int64_t count, hl_cuda_stream stream);
/* out = a b; b has a's shape, or with `broadcast` is [n, 1, 1, channels]. a is [n, pixels, channels]. */
int hl_launch_mul(const void *a, const void *b, bool broadcast, void *out, hl_elem elem, int64_t n,
                  int64_t pixels, int64_t channels, hl_cuda_stream stream);
/* out [n, channels] = factor * sum over pixels of a b; with b NULL of a alone. The gradient of a broadcast
 * factor (b given), and global average pooling (b NULL, factor 1 / pixels). out_elem is elem or f32. */
int hl_launch_pixel_sum(const void *a, const void *b, float factor, void *out, hl_elem elem, hl_elem out_elem,
                        int64_t n, int64_t pixels, int64_t channels, hl_cuda_stream stream);
/* out [n, pixels, channels] = factor * a [n, channels]: the gradient of global average pooling. */
int hl_launch_pixel_spread(const void *a, float factor, void *out, hl_elem elem, int64_t n, int64_t pixels,
                           int64_t channels, hl_cuda_stream stream);
/* Channels [from_first, from_first + width) of `from` [rows, from_channels] to channels [to_first, ...) of
 * `to` [rows, to_channels]: concatenation and its gradient. */
int hl_launch_copy_channels(const void *from, int64_t from_channels, int64_t from_first, void *to,
                            int64_t to_channels, int64_t to_first, int64_t width, int64_t rows, hl_elem elem,
                            hl_cuda_stream stream);
/* out = x keep / (1 - p) with the mask of backend/dropout_mask.h for (run->seed, id, run->micro_step). */
int hl_launch_dropout(const void *x, float p, uint32_t id, const hl_run_state *run, void *out, hl_elem elem,
                      int64_t count, hl_cuda_stream stream);
/* out [n, count] = x keep[sample] / (1 - p) + residual, with one decision of the same kind for each of n
 * samples; residual may be NULL; out may be x or the residual. */
int hl_launch_drop_path(const void *x, const void *residual, float p, uint32_t id, const hl_run_state *run,
                        void *out, hl_elem elem, int64_t n, int64_t count, hl_cuda_stream stream);
/* f32 <-> 16-bit copy. */
int hl_launch_convert(const void *from, hl_elem from_elem, void *to, hl_elem to_elem, int64_t count,
                      hl_cuda_stream stream);
/* *to = from, by value: what changes from step to step enters a captured graph this way. */
int hl_launch_set_run_state(hl_run_state from, hl_run_state *to, hl_cuda_stream stream);

/* ---- input and loss (input.cu, loss.cu) ---- */

typedef struct hl_input_args {
    const void *images;        /* u8 [n, h, w, channels], or f32 with raw */
    const uint8_t *flips;      /* [n], 1 = mirrored left-right; NULL: none */
    const hl_mix *mixes;       /* [n] or NULL; boxes are in the coordinates of the output, after the flip; the
                                  partner is       flipped by its own flag */
    void *out;                 /* elem [n, h, w, channels] */
    int64_t n, h, w, channels; /* up to 4 channels */
    float mean[4], std[4];     /* out = (x / 255 - mean) / std; raw: only converted */
    bool raw;
} hl_input_args;
int hl_launch_input(const hl_input_args *args, hl_elem elem, hl_cuda_stream stream);

typedef struct hl_loss_args {
    const float *logits;   /* [n, classes] */
    const int32_t *labels; /* [n] */
    const hl_mix *mixes;   /* [n] or NULL: q = share q(label) + (1 - share) q(label of the partner) */
    const float *targets;  /* [n, classes] or NULL: q itself, instead of the labels */
    float smoothing;       /* q(label) = (1 - smoothing) onehot + smoothing / classes */
    float *losses;         /* [n]: - sum q log softmax(logits) */
    void
        *dlogits; /* elem [n, classes] or NULL: (sum(q) softmax - q) run->grad_scale record->loss_scale / n */
    int64_t n, classes;
} hl_loss_args;
/* record NULL: loss scale 1. */
int hl_launch_loss(const hl_loss_args *args, hl_elem elem, const hl_run_state *run,
                   const hl_train_record *record, hl_cuda_stream stream);
/* record->loss_sum += sum of losses; seen += n; correct += samples whose largest logit (the first of equal
 * ones; none where one is NaN) is the label's; pending_loss += mean loss; pending += 1. One block, sums in
 * double in a fixed order. */
int hl_launch_tally(const float *losses, const float *logits, const int32_t *labels, int64_t n,
                    int64_t classes, hl_train_record *record, hl_cuda_stream stream);

/* ---- optimizer (optimizer.cu) ---- */

enum { HL_OPTIMIZE_BLOCK = 4096 };
/* A block of up to HL_OPTIMIZE_BLOCK values of one segment. */
typedef struct hl_optimize_block {
    int64_t first; /* floats into the flat arrays */
    int32_t count, segment;
} hl_optimize_block;

typedef struct hl_optimize_args {
    hl_optimizer_kind kind;
    float momentum;
    bool nesterov;
    float beta1, beta2, eps, trust; /* trust: LARS */
    float clip_norm;                /* gradients are scaled to this norm where theirs is larger; 0: never */
    bool scaling;                   /* dynamic loss scaling */
    float *value, *grad, *moment1, *moment2; /* flat; moment2 for Adam, AdamW only */
    const float *start;                      /* flat, what segments with a pull are pulled towards; or NULL */
    const hl_segment *segments;              /* device */
    const hl_optimize_block *blocks;         /* device, in order of segments; made by hl_optimize_blocks */
    int segment_count;
    int64_t block_count;
    void *scratch;
} hl_optimize_args;
/* Cuts segments into blocks: how many, and with `blocks` not NULL writes them (host memory). */
int64_t hl_optimize_blocks(const hl_segment *segments, int segment_count, hl_optimize_block *blocks);
size_t hl_optimize_scratch(int64_t block_count, int segment_count);
/* One step: adds the penalties' gradients (l1, pull), finds whether all gradients and record->pending_loss
 * are finite, the norm, the clipping factor and loss scale, then updates values and moments, or none of them.
 * Sets the fields of `record` as base/compute.h says. grad is left with the penalties added. */
int hl_launch_optimize(const hl_optimize_args *args, const hl_run_state *run, hl_train_record *record,
                       hl_cuda_stream stream);

/* ---- singular values of features (spectral.cu) ---- */

typedef struct hl_spectral_args {
    const void *features;  /* [rows, columns] */
    void *gradient;        /* the same */
    int64_t rows, columns; /* the smaller of the two at most HL_SPECTRAL_LARGEST */
    float eta;
    int smallest;
    void *scratch;
} hl_spectral_args;
size_t hl_spectral_scratch(int64_t rows, int64_t columns);
/* gradient = 2 eta P F run->grad_scale record->loss_scale (record NULL: 1), with P the projector onto the
 * left singular vectors of F's `smallest` smallest singular values; eta times the sum of their squares is
 * added to record->pending_loss. */
int hl_launch_spectral_grad(const hl_spectral_args *args, hl_elem elem, const hl_run_state *run,
                            hl_train_record *record, hl_cuda_stream stream);

/* ---- norms (norm.cu) ---- */

typedef struct hl_norm_args {
    const float *scale, *shift; /* [channels], each may be NULL (1, 0) */
    float *mean, *var;          /* [channels], running; NULL without statistics (0, no division) */
    float eps, momentum;
    bool moves; /* batch statistics move the running ones: momentum batch + (1 - momentum) running, the
                   variance unbiased (biased where there is one row) */
    hl_act act; /* after the sum with the residual */
    int64_t rows, channels;
} hl_norm_args;
/* y = act(scale (x - mean) / sqrt(var + eps) + shift + residual), running statistics; residual may be NULL.
 */
int hl_launch_norm(const hl_norm_args *args, const void *x, const void *residual, void *y, hl_elem elem,
                   hl_cuda_stream stream);
/* The same with the statistics of x, which go to batch_mean and inverse_deviation [channels]. */
size_t hl_norm_batch_scratch(int64_t rows, int64_t channels);
int hl_launch_norm_batch(const hl_norm_args *args, const void *x, const void *residual, void *y,
                         float *batch_mean, float *inverse_deviation, void *scratch, hl_elem elem,
                         hl_cuda_stream stream);
/* Gradients; dscale and dshift (f32 [channels], run->grad_keep) and dx may each be NULL. With batch_mean NULL
 * running statistics were used (dx = scale / sqrt(var + eps) dy), else dx is that of batch statistics. */
size_t hl_norm_grad_scratch(int64_t rows, int64_t channels);
int hl_launch_norm_grad(const hl_norm_args *args, const void *dy, const void *x, const float *batch_mean,
                        const float *inverse_deviation, void *dx, float *dscale, float *dshift,
                        const hl_run_state *run, void *scratch, hl_elem elem, hl_cuda_stream stream);

/* ---- layer norms (layer_norm.cu): over the channels of each row ---- */

/* y = scale (x - mean) / sqrt(var + eps) + shift, with mean and biased variance of the row; scale and shift
 * f32 [channels] or NULL. x, y elem [rows, channels]; y may be x. */
int hl_launch_layer_norm(const void *x, const float *scale, const float *shift, float eps, void *y,
                         int64_t rows, int64_t channels, hl_elem elem, hl_cuda_stream stream);
/* Gradients; dx, dscale and dshift (f32 [channels], run->grad_keep) may each be NULL. dx may be dy where
 * dscale and dshift are NULL. Deterministic. */
size_t hl_layer_norm_grad_scratch(int64_t rows, int64_t channels);
int hl_launch_layer_norm_grad(const void *dy, const void *x, const float *scale, float eps, void *dx,
                              float *dscale, float *dshift, const hl_run_state *run, void *scratch,
                              int64_t rows, int64_t channels, hl_elem elem, hl_cuda_stream stream);

/* ---- weights and gates (fold.cu, weight_grad.cu) ---- */

/* How packed weights and weight gradients lie. */
typedef enum hl_packing {
    HL_PACK_KRSC,     /* [O, kh, kw, I/G], what cuDNN and cuBLASLt take */
    HL_PACK_DEPTHWISE /* [kh, kw, O], I/G = 1, what depthwise.cu takes */
} hl_packing;

/* One layer's weight expression (backend/param.h): W_eff = s_o (1 + gate) r_o W, b_eff = s_o (r_o b + offset
 * - mean) + shift, with r_o = 1 + row_gate and s_o = norm_scale / sqrt(norm_var + eps); what is absent is 0,
 * an absent scale or factor 1. All arrays f32 in C order on the device; NULL where absent. gate or row_gate
 * is NULL. */
typedef struct hl_expr_args {
    const float *weight;                                                /* [O, I/G, window] */
    const float *gate;                                                  /* [O, I/G], delta = gate - 1 */
    const float *row_gate, *offset;                                     /* [O] */
    const float *bias, *norm_scale, *norm_shift, *norm_mean, *norm_var; /* [O] */
    float eps;
    int32_t outputs, inputs, window; /* O, I/G, kh kw */
} hl_expr_args;

typedef struct hl_fold_item {
    hl_expr_args expr;
    hl_packing packing;
    /* Not 0: sub-function form for so many groups: filter i (O/G) + o' of input channel i (0 <= i < I) is s_o
     * W[o, i], o = (i / (I/G)) O/G + o'; packed as [I O/G, window, 1] (KRSC) or [window, I O/G] (DEPTHWISE).
     * The gate is left out (taken as 1). */
    int32_t subfunction_groups;
    void *packed; /* or NULL */
    hl_elem packed_elem;
    void *bias; /* b_eff [O], or NULL */
    hl_elem bias_elem;
    int64_t first_block; /* set by hl_fold_blocks */
} hl_fold_item;
/* Sets first_block of each item (host memory); returns the number of blocks. */
int64_t hl_fold_blocks(hl_fold_item *items, int count);
/* Folds all items in one launch; `items` in device memory. */
int hl_launch_fold(const hl_fold_item *items, int count, int64_t blocks, hl_cuda_stream stream);

/* From the gradient dw of W_eff, in `packing` and dw_elem (f32, bf16, f16); run NULL: nothing is kept:
 *     dgate[o,i] = keep dgate[o,i] + s_o sum over the window of dw W        (dgate not NULL; [O, I/G] f32)
 *     dweight    = keep dweight + s_o (1 + gate) r_o dw                      (dweight not NULL; [O, I/G,
 * window] f32) with keep = run->grad_keep; with keep 0 the old values are not read. */
int hl_launch_weight_grad(const hl_expr_args *expr, hl_packing packing, const void *dw, hl_elem dw_elem,
                          float *dgate, float *dweight, const hl_run_state *run, hl_cuda_stream stream);
/* From sum[c], the sum over rows of dy [rows, channels]: dbias[c] = keep dbias[c] + s_c r_c sum[c], doffset
 * likewise with s_c, dshift with 1; s and r as in expr; those that are NULL are not wanted. Deterministic,
 * two stages. */
typedef struct hl_bias_grads {
    float *dbias, *doffset, *dshift; /* [channels] */
} hl_bias_grads;
size_t hl_bias_grad_scratch(int64_t rows, int64_t channels);
int hl_launch_bias_grad(const hl_expr_args *expr, const void *dy, hl_elem elem, int64_t rows,
                        int64_t channels, hl_bias_grads to, const hl_run_state *run, void *scratch,
                        hl_cuda_stream stream);

/* ---- weights that are changed as a whole (weight_change.cu) ---- */

/* A factor of backend/param.h; gradients NULL where not trained. f32 on the device. */
typedef struct hl_factor_args {
    const float *left, *right; /* right NULL: the matrix itself is left */
    float *dleft, *dright;
    int64_t blocks, rows, columns, rank;
} hl_factor_args;

/* f(W) of a hl_weight_expr of kind HL_WEIGHT_CHANGED: the formulas of hl_weight_change. */
typedef struct hl_change_args {
    int32_t kind; /* hl_change_kind */
    float scale;
    hl_factor_args factor[2];
    const float *magnitude; /* [O] or NULL */
    float *dmagnitude;
    const float *weight;             /* [O, I/G, window] */
    int64_t outputs, inputs, window; /* O, I/G, kh kw */
} hl_change_args;
/* f(W) [O, I/G, window] into value. Without magnitudes equal to hl_weight_change_value bit by bit. */
int hl_launch_change_value(const hl_change_args *args, float *value, hl_cuda_stream stream);
/* Gradients of factors and magnitudes from dv, the gradient of f(W), which is overwritten:
 * grad = keep grad + ..., keep = run->grad_keep. Deterministic. */
size_t hl_change_grad_scratch(const hl_change_args *args);
int hl_launch_change_grad(const hl_change_args *args, float *dv, const hl_run_state *run, void *scratch,
                          hl_cuda_stream stream);

/* ---- recombination of sub-function outputs (recombine.cu) ---- */

typedef struct hl_recombine_args {
    const float *gate;      /* delta [channels, inputs] */
    int64_t rows, channels; /* of y: n h w, O */
    int32_t groups, inputs; /* G, I/G; S has groups * inputs * (channels / groups) channels, S[row, i (O/G) +
                               o'] with i = g I/G + j */
    hl_act act;
} hl_recombine_args;
/* y[o] = act(sum over j of (1 + gate[o, j]) S[row, (g I/G + j) O/G + o'] + bias[o] + residual); bias and
 * residual may be NULL. */
int hl_launch_recombine(const hl_recombine_args *args, const void *s, const void *bias, hl_elem bias_elem,
                        const void *residual, void *y, hl_elem elem, hl_cuda_stream stream);
/* In one pass: dz = act'(y) (sum of the gradients), and dgate[o, j] = keep dgate + sum over rows of dz S. act
 * is one of those that hl_act_from_output admits; y NULL for HL_ACT_NONE. dz may be NULL, or be one of the
 * gradients. */
size_t hl_recombine_grad_scratch(const hl_recombine_args *args);
int hl_launch_recombine_grad(const hl_recombine_args *args, const void *s, const void *y, hl_terms gradients,
                             void *dz, float *dgate, const hl_run_state *run, void *scratch, hl_elem elem,
                             hl_cuda_stream stream);

/* ---- depthwise convolution (depthwise.cu, depthwise_weight.cu): one filter a channel ---- */

typedef struct hl_depthwise_args {
    hl_shape x, y;
    hl_window window;
} hl_depthwise_args;
/* y = act(conv(x, w) + bias + residual), w in `elem` packed as HL_PACK_DEPTHWISE; bias and residual may be
 * NULL. */
int hl_launch_depthwise(const hl_depthwise_args *args, const void *x, const void *w, const void *bias,
                        hl_elem bias_elem, const void *residual, hl_act act, void *y, hl_elem elem,
                        hl_cuda_stream stream);
/* dx = the data gradient of dy. */
int hl_launch_depthwise_data(const hl_depthwise_args *args, const void *dy, const void *w, void *dx,
                             hl_elem elem, hl_cuda_stream stream);
/* dw f32 [kh, kw, C]: overwritten. Deterministic, two stages. */
size_t hl_depthwise_weight_scratch(const hl_depthwise_args *args);
int hl_launch_depthwise_weight(const hl_depthwise_args *args, const void *x, const void *dy, float *dw,
                               void *scratch, hl_elem elem, hl_cuda_stream stream);

/* ---- pooling (pool.cu) ---- */

typedef struct hl_pool_args {
    hl_shape x, y;
    hl_window window; /* dilation 1 */
    bool max;
    bool count_padding; /* average: divide by the part of the window that lies within `top` rows and `left`
                           columns of padding on either side of the image; false: within the image */
    bool wide_index;    /* index is i32 instead of u8 */
} hl_pool_args;
/* index: of the maximum in its window (row kw + column), the first of equal ones; a NaN counts as largest,
 * and the last of several is taken; NULL for average or where no gradient is wanted. */
int hl_launch_pool(const hl_pool_args *args, const void *x, void *y, void *index, hl_elem elem,
                   hl_cuda_stream stream);
int hl_launch_pool_grad(const hl_pool_args *args, const void *dy, const void *index, void *dx, hl_elem elem,
                        hl_cuda_stream stream);

/* ---- means over the cells of a map (grid_pool.cu) ---- */

/* out [N, m, m', C] = adaptive average of in [N, h, w, C]; with `grad` the gradient [N, h, w, C], of dy = in.
 */
int hl_launch_grid_pool(const void *in, hl_shape in_shape, void *out, hl_shape out_shape, bool grad,
                        hl_elem elem, hl_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
