/* A program: a graph compiled for one batch size, mode, precision and backend, ready to run.
 *
 * Compilation: units are formed (fuse.h), steps emitted for the forward and backward pass (lower.h), the
 * backend prepares them, memory is planned by liveness (plan.h), addresses are bound. Running a program then
 * runs lists of steps. Several programs may be compiled from one placed graph (training, the short last
 * batch, evaluation); they share parameters. */
#ifndef HL_GRAPH_PROGRAM_H
#define HL_GRAPH_PROGRAM_H

#include "backend/backend.h"
#include "graph/graph.h"

/* How projected (gated) layers are computed. Results agree within rounding. */
typedef enum hl_projection_exec {
    HL_PROJECTION_AUTO, /* cache for depthwise layers, fold for the rest */
    HL_PROJECTION_FOLD, /* gates go into the weight before the convolution */
    HL_PROJECTION_CACHE /* frozen sub-function outputs are computed and kept, gates recombine them */
} hl_projection_exec;

/* Which side of the frontier (frontier.h) a program computes. */
typedef enum hl_portion {
    HL_PORTION_ALL,
    HL_PORTION_FIXED,   /* from the images to the frontier; never `training` */
    HL_PORTION_CHANGING /* from the frontier to the loss, and backward */
} hl_portion;

typedef struct hl_program hl_program;

typedef struct hl_compile_options {
    int64_t batch;
    bool training;  /* with a backward pass, dropout and batch statistics (where the norms' nodes say so) */
    bool raw_input; /* images are f32 [N,H,W,C], already normalised, instead of u8 with mean, std and flips */
    bool keep_all;  /* for tests: every value keeps its own memory, so that hl_program_value works after a run
                     */
    bool mix;       /* images are mixed with others of the batch: see hl_program_mixes */
    hl_portion portion;
    hl_elem elem;  /* of activations: f32, bf16 or f16; logits are always f32 */
    bool tf32;     /* f32: products may be rounded to tf32 */
    bool winograd; /* f32: Winograd's transforms may be used */
    hl_projection_exec projection;
    float mean[4], std[4];
    float smoothing;         /* of labels */
    const hl_run_state *run; /* read at every step; must outlive the program */
    hl_train_record *record; /* in the backend's memory: batches are tallied there; NULL: not */
    hl_step *update; /* the OPTIMIZE step that hl_program_train ends with: prepared, bound, and outliving the
                        program; NULL: none */
    const hl_program *beside; /* never runs at the same time: its activations' memory is used where it is
                                 large enough; NULL: none */
} hl_compile_options;

/* The graph must be placed on `backend` (hl_graph_place), and outlive the program. */
hl_status hl_program_compile(hl_graph *graph, hl_backend *backend, const hl_compile_options *options,
                             hl_program **program);
void hl_program_destroy(hl_program *program); /* NULL is fine */

/* Where the inputs go, in the backend's memory (upload with backend->ops->upload, or write directly where
 * host_memory). */
void *
hl_program_images(hl_program *program); /* u8 [N,H,W,C], or f32 with raw_input; NULL behind a frontier */
uint8_t *
hl_program_flips(hl_program *program); /* u8 [N]; 1 = mirrored left-right. Absent (NULL) with raw_input. */
int32_t *hl_program_labels(hl_program *program); /* i32 [N] */
hl_mix *hl_program_mixes(hl_program *program);   /* [N], or NULL without `mix` */

/* The values of the frontier: results of HL_PORTION_FIXED, inputs of HL_PORTION_CHANGING; as many, in the
 * same order and of the same shapes in both. */
int hl_program_feature_count(const hl_program *program);
hl_tensor *hl_program_feature(const hl_program *program, int index);

/* Recomputes effective weights; call after parameters or running statistics have changed (training steps
 * included). The first run of a program does it by itself for everything. */
hl_status hl_program_refresh(hl_program *program);
/* Input, forward pass, loss, and the gradient of the logits when training. */
hl_status hl_program_forward(hl_program *program);
/* Gradients of all trained parameters into their `grad`. Training programs only, after forward. */
hl_status hl_program_backward(hl_program *program);

/* What hl_program_train runs around the forward and backward pass. */
typedef enum hl_program_part {
    HL_PROGRAM_REFRESH = 1, /* first: effective weights */
    HL_PROGRAM_UPDATE = 2   /* last: options.update */
} hl_program_part;
/* A training step, or one of several batches of it, as one list: [refresh,] forward, backward [, update].
 * `parts` is a sum of hl_program_part. */
hl_status hl_program_train(hl_program *program, int parts);

/* Results in the backend's memory, valid until the next forward. */
const float *hl_program_logits(const hl_program *program); /* [N, classes] */
const float *hl_program_losses(const hl_program *program); /* [N] */

/* Copies the value of a layer, or with `gradient` the gradient of its value, as f32 [N,H,W,C] into host
 * memory `out` of `count` floats. Needs keep_all. HL_E_NOT_FOUND where fusion removed it. */
hl_status hl_program_value(hl_program *program, const char *layer, bool gradient, float *out, int64_t count);

/* Runs the passes one step at a time on the inputs in place and names the first layer whose output or
 * gradient is not finite: "features.3.conv (forward)"; "" when all are finite. For diagnosis after a loss
 * went wrong. */
hl_status hl_program_find_nonfinite(hl_program *program, char *name, size_t size);

/* Memory: activations and gradients (the arena), persistent tensors, scratch; bytes. */
typedef struct hl_program_memory {
    size_t arena, persistent, scratch;
} hl_program_memory;
hl_program_memory hl_program_memory_use(const hl_program *program);

/* The compiled steps in the order they run (once and for all, refresh, forward, backward, update), for
 * profiles and tests. */
int hl_program_step_count(const hl_program *program);
const hl_step *hl_program_step(const hl_program *program, int index);

/* Seconds of a step within its program, and of a convolution (forward or either gradient) run again at once,
 * the best of a few; 0 for other steps. */
typedef struct hl_step_time {
    double once, alone;
} hl_step_time;
/* Runs the program `rounds` times (and once before that), each step waited for; `times`, by
 * hl_program_step's index, are medians. What is made once and for all is not timed. The inputs must be in
 * place. */
hl_status hl_program_time(hl_program *program, int rounds, hl_step_time *times);

#endif
