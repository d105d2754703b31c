/* Plain types of computing that both backends and the CUDA kernels read: windows, activations, and what
 * changes from one training step to the next. Usable from C and CUDA C++. */
#ifndef HL_BASE_COMPUTE_H
#define HL_BASE_COMPUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/shape.h"

typedef enum hl_act {
    HL_ACT_NONE,
    HL_ACT_RELU,
    HL_ACT_RELU6,
    HL_ACT_SIGMOID,
    HL_ACT_HARDSIGMOID, /* clamp(x / 6 + 1/2, 0, 1) */
    HL_ACT_SILU,        /* x sigmoid(x) */
    HL_ACT_HARDSWISH,   /* x hardsigmoid(x) */
    HL_ACT_GELU,        /* exact, by erf, as torch.nn.GELU() */
    HL_ACT_TANH
} hl_act;

/* Is the derivative a function of the output alone (so that the input need not be kept)? */
static inline bool hl_act_from_output(hl_act act)
{
    return act == HL_ACT_NONE || act == HL_ACT_RELU || act == HL_ACT_RELU6 || act == HL_ACT_SIGMOID ||
           act == HL_ACT_TANH;
}

/* Window of a convolution or pooling. Paddings may differ on the two sides. Dilation 1 = dense. */
typedef struct hl_window {
    int64_t kh, kw, sh, sw, dh, dw, top, bottom, left, right;
} hl_window;

/* How one image of a batch is mixed with another one of the same batch. Mixup: x = share x + (1 - share)
 * x[partner] (Zhang et al., arXiv 1710.09412). Cutmix: inside the box x is x[partner] and share is what is
 * left outside (Yun et al., arXiv 1905.04899). The label is mixed by the share in both. An empty box means
 * mixup; share 1 with an empty box leaves the image alone. */
typedef struct hl_mix {
    int32_t partner;
    float share;
    int32_t top, left, bottom, right; /* rows [top, bottom), columns [left, right) of the final image */
} hl_mix;

typedef enum hl_optimizer_kind {
    HL_OPTIMIZER_SGD,   /* torch.optim.SGD: momentum, Nesterov, coupled weight decay, dampening 0 */
    HL_OPTIMIZER_ADAM,  /* torch.optim.Adam: coupled weight decay */
    HL_OPTIMIZER_ADAMW, /* torch.optim.AdamW: decoupled weight decay */
    HL_OPTIMIZER_LARS /* SGD whose rate is scaled layer by layer by trust |w| / (|g| + decay |w|), You et al.,
                         arXiv 1708.03888 */
} hl_optimizer_kind;

/* A run of trained values with the same learning rate and decay: one parameter. */
typedef struct hl_segment {
    int64_t first, count; /* floats into the flat arrays; first is a multiple of 16 */
    float lr_scale;       /* times run->lr */
    float weight_decay;
    float l1;   /* adds l1 sign(1 + value) to the gradient: the penalty l1 |a| on gates a = 1 + value */
    float pull; /* adds pull (value - start) to the gradient: the penalty pull/2 |value - start|^2 */
    bool adapt; /* LARS: scaled by the trust ratio (weights; not biases and norms) */
} hl_segment;

/* What the host sets before each step; steps read it while running. */
typedef struct hl_run_state {
    uint64_t seed;
    uint64_t step;       /* optimizer steps done; the first step runs with 0 */
    uint64_t micro_step; /* forward passes done in training; tells dropout masks apart */
    float lr;
    float grad_scale; /* 1 / accumulate */
    float grad_keep;  /* 0: gradients overwrite, 1: they accumulate */
} hl_run_state;

/* What the steps themselves keep from one step to the next, in the backend's memory: the host reads it back
 * when it wants to know, never in between. Zero, with loss_scale 1, is a good start. */
typedef struct hl_train_record {
    /* TALLY adds to these; the host may set them to zero. */
    double loss_sum; /* of samples */
    int64_t seen, correct;
    /* TALLY adds the batch's mean loss; OPTIMIZE turns them into step_loss and starts afresh. */
    double pending_loss;
    int64_t pending;
    /* Set by OPTIMIZE. */
    double step_loss;   /* mean loss of the last step's batches, plus the penalties */
    int64_t updates;    /* made so far; Adam's t */
    int64_t skipped;    /* steps without an update because a scaled gradient was not finite (fp16) */
    int64_t bad_step;   /* 0, or 1 + run->step of the first step whose loss or gradient was not finite; from
                           then on no update is made, so parameters stay as they were before it */
    double loss_scale;  /* LOSS multiplies its gradient by it, OPTIMIZE divides */
    int64_t good_steps; /* updates since the last change of loss_scale */
    /* Between OPTIMIZE's own passes. */
    double grad_norm;   /* of all unscaled gradients together, before clipping */
    float grad_factor;  /* gradients are multiplied by it: clipping / loss_scale */
    float bias1, root2; /* 1 - beta1^t, sqrt(1 - beta2^t) */
    int32_t update;     /* is this step's update made? */
} hl_train_record;

/* Dynamic loss scaling, as torch.amp.GradScaler's defaults. */
#define HL_LOSS_SCALE_START   65536.0f
#define HL_LOSS_SCALE_GROWTH  2.0f
#define HL_LOSS_SCALE_BACKOFF 0.5f
#define HL_LOSS_SCALE_STEPS   2000

/* How a weight is changed as a whole, from one or two matrices F0 and F1 (hl_weight_change). */
typedef enum hl_change_kind {
    HL_CHANGE_ADD,       /* f(W) = W + scale F0; F0 has W's elements, in its order */
    HL_CHANGE_HADAMARD,  /* f(W) = W + scale F0 F1, element by element */
    HL_CHANGE_KRONECKER, /* f(W)[o,i,k] = W[o,i,k] + scale F0[o / rows, i / inputs] F1[o % rows, (i % inputs,
                            k)], with rows and inputs those of F1 */
    HL_CHANGE_GATE,      /* f(W)[o,i,k] = (1 + F0[o,i]) W[o,i,k] */
    HL_CHANGE_MASK /* f(W) = W where F0 > scale, else 0; the gradient of F0 is that of a factor (straight
                      through, Bengio et al., 2013, arXiv 1308.3432) */
} hl_change_kind;

#endif
