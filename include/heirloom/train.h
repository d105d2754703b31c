/* Training, evaluation and prediction. */
#ifndef HEIRLOOM_TRAIN_H
#define HEIRLOOM_TRAIN_H

#include <heirloom/data.h>
#include <heirloom/model.h>

#ifdef __cplusplus
extern "C" {
#endif

/* tf32: fp32 whose products are rounded to 10 bits of fraction first, on GPUs. fp16: trained with dynamic
 * loss scaling, on GPUs. */
typedef enum hl_precision {
    HL_PRECISION_DEFAULT,
    HL_PRECISION_FP32,
    HL_PRECISION_TF32,
    HL_PRECISION_BF16,
    HL_PRECISION_FP16
} hl_precision;
typedef enum hl_exec {
    HL_EXEC_AUTO,
    HL_EXEC_FOLD,
    HL_EXEC_CACHE
} hl_exec; /* how projected layers are computed */

/* Where and how to compute. */
typedef struct hl_compute {
    hl_precision
        precision; /* default: training bf16 where the device has it, else fp32; eval and predict fp32 */
    hl_exec projection;
    const char *device; /* "cpu", "cuda" or "cuda:N"; NULL: cuda where one is usable, else cpu */
    bool deterministic; /* the same bits every time; on the CPU it is always so */
    bool winograd;     /* CPU, fp32: 3x3 convolutions of stride 1 by F(4x4,3x3), which multiplies a quarter as
                          often and     rounds coarser */
    bool autotune;     /* CUDA: implementations are chosen by timing them, and remembered */
    int threads;       /* 0: all cores */
    const hl_log *log; /* NULL: silent */
} hl_compute;

/* Metrics of one pass over a split. */
typedef struct hl_metrics {
    int64_t count;
    double loss, acc1, acc5; /* shares between 0 and 1; acc5 is 1 with five classes or fewer */
    double acc_class;        /* mean over classes of the accuracy within the class */
    double auroc;            /* two classes: area under the ROC curve of class 1's score; otherwise NaN */
} hl_metrics;

typedef enum hl_optimizer { HL_SGD, HL_ADAM, HL_ADAMW, HL_LARS } hl_optimizer;
typedef enum hl_schedule { HL_SCHEDULE_CONSTANT, HL_SCHEDULE_STEP, HL_SCHEDULE_COSINE } hl_schedule;
typedef enum hl_monitor {
    HL_MONITOR_ACC1,
    HL_MONITOR_LOSS,
    HL_MONITOR_ACC_CLASS,
    HL_MONITOR_AUROC
} hl_monitor;

/* What the caller is told after every step, and after every epoch. */
typedef struct hl_progress {
    int64_t epoch, epochs; /* epoch counts from 0 */
    int64_t step, steps;   /* optimizer steps done, and in all */
    double loss;           /* of the last step, or NaN when it was not read */
    double images_per_second, seconds_left;
    const hl_metrics *val; /* after an epoch with validation; otherwise NULL */
} hl_progress;

/* What to do next, the answer of the caller's poll. */
typedef enum hl_request { HL_GO_ON, HL_CHECKPOINT, HL_STOP } hl_request;

typedef struct hl_train_options {
    const char *out; /* run folder, made if missing; must be empty unless resume */
    bool resume;
    double epochs;     /* may end within one; 0 with max_steps */
    int64_t max_steps; /* 0: no limit */
    int64_t batch_size, accumulate;
    hl_optimizer optimizer;
    double lr;            /* 0: the method's default */
    double head_lr_scale; /* times lr; 0: 1 */
    double layer_decay;   /* a block's learning rate is times this to the power of its distance from the head,
                             the   last block's 1; in (0, 1], 0: 1 */
    double momentum;      /* SGD (Nesterov), LARS */
    double weight_decay;  /* below 0: the method's default */
    double clip_grad;     /* 0: none */
    hl_schedule schedule;
    double warmup_epochs; /* below 0: a twentieth of the run */
    double label_smoothing;
    double mixup,
        cutmix; /* parameters of their beta distributions; 0: without; both: one of them, batch by batch */
    hl_augment augment;
    bool no_shuffle;
    int workers; /* decoding threads */
    uint64_t seed;
    int early_stop; /* epochs without improvement; 0: never */
    hl_monitor monitor;
    int64_t checkpoint_every; /* steps; 0: every epoch only */
    int64_t log_every;        /* steps between lines of log.jsonl; 0: 20 */
    bool skip_bad_images;
    /* Where images are the same in every epoch (HL_AUGMENT_NONE, unmixed) and no bad ones are skipped, what
     * the layers before the first trained one make of them is computed once and kept, if that takes no more
     * bytes (0: never): in memory, or with a folder in files there, which runs with the same weights, images
     * and preprocessing share. */
    int64_t feature_bytes;
    const char *feature_cache; /* a folder, made if missing, or NULL */
    hl_compute compute;
    const char *config;                                        /* text written to config.yaml, or NULL */
    void (*progress)(void *user, const hl_progress *progress); /* may be NULL */
    hl_request (*poll)(void *user);                            /* asked after every step; may be NULL */
    void *user;
} hl_train_options;

/* The defaults `heirloom train` has. */
HL_API void hl_train_defaults(hl_train_options *options);

typedef struct hl_train_result {
    bool interrupted;      /* stopped by HL_STOP; a checkpoint is written */
    int64_t epochs, steps; /* done */
    int64_t best_epoch;    /* -1 before the first */
    hl_metrics best, last; /* on val (on train where there is no val split) */
    hl_metrics test;       /* of the best epoch; count 0 where there is no test split */
    double images_per_second, wall_seconds;
    int64_t peak_memory_bytes;
} hl_train_result;

/* Trains `model`, which has a method applied, on the train split of `data`; writes the run folder (README.md
 * lists its files). Validation uses the precision of training, the test split fp32. Afterwards the model has
 * the parameters of the best epoch. A run resumed from its checkpoint gives the same numbers bit for bit as
 * one that was never stopped; one that was killed before its first checkpoint begins anew. A loss that is not
 * finite stops the run with HL_E_NONFINITE and names the first layer whose output or gradient is not finite.
 */
HL_API hl_status hl_train(hl_model *model, const hl_dataset *data, const hl_train_options *options,
                          hl_train_result *result);

/* Evaluates on one split. Where the model knows the names of its classes, those of the data are matched by
 * name, and need not all be there; else both have as many, in the same order. confusion: NULL, or
 * [classes][classes] counts by (true, predicted). */
HL_API hl_status hl_evaluate(hl_model *model, const hl_dataset *data, hl_split split, int64_t batch_size,
                             int workers, const hl_compute *compute, hl_metrics *metrics, int64_t *confusion);

/* Logits [count, classes] of image files, in their order. failed: NULL (the first unreadable image is an
 * error), or [count]: set to NULL, or to a message (free() it) for an image that could not be read; its
 * logits are then zero. */
HL_API hl_status hl_predict(hl_model *model, const char *const *paths, int64_t count, int64_t batch_size,
                            const hl_compute *compute, float *logits, char **failed);

/* Times steps on synthetic images: pixel i is the high byte of x(i), x(i) = 1664525 x(i-1) + 1013904223 mod
 * 2^32, x(-1) = 1; labels count up from 0, round and round. */
typedef struct hl_bench_options {
    int64_t batch_size, steps;
    bool infer;   /* forward only */
    bool profile; /* time every operation of the step as well */
    /* Time what remains of a step where features are kept (see hl_train_options.feature_bytes): every epoch
     * but the first. HL_E_ARG where there is nothing to keep. */
    bool features;
    hl_compute compute;
} hl_bench_options;
/* One operation of a step. */
typedef struct hl_profile_row {
    char layer[96], kind[24], pass[12]; /* e.g. "layer1.0.conv1", "conv_weight", "backward" */
    double ms;                          /* median */
    double
        floor_ms;  /* of a convolution or linear layer: run again at once with its operands at hand; else 0 */
    double gflops; /* per second, at `ms`; of convolutions and linear layers, else 0 */
} hl_profile_row;
typedef struct hl_bench_result {
    double images_per_second, ms_median, ms_p95;
    double gflops;      /* of the convolutions and linear layers, both passes, per second */
    double peak_gflops; /* what this machine reaches on a large dense 3x3 convolution, measured in the same
                           call */
    int64_t arena_bytes, persistent_bytes, scratch_bytes, peak_memory_bytes;
    double loss; /* of the first step */
    /* With `profile`: the sum of floor_ms, which no arrangement of the same convolutions falls below, and the
     * rows in the order they run; free the rows with hl_bench_clear. */
    double floor_ms;
    hl_profile_row *rows;
    int64_t row_count;
} hl_bench_result;
HL_API hl_status hl_bench(hl_model *model, const hl_bench_options *options, hl_bench_result *result);
HL_API void hl_bench_clear(hl_bench_result *result); /* of zeros: nothing to do */

#ifdef __cplusplus
}
#endif
#endif
