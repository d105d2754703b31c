/* state.safetensors: all that a run needs to go on as if it had never stopped. */
#ifndef HL_TRAIN_CHECKPOINT_H
#define HL_TRAIN_CHECKPOINT_H

#include "train/optimizer.h"
#include "train/session.h"

/* Where a run stands. Counters and sums are kept exactly. */
typedef struct hl_position {
    int64_t epoch, batch; /* the next batch: number `batch` of `epoch` */
    int64_t best_epoch;   /* -1 before the first */
    int64_t stale;        /* epochs since the best one */
    int64_t epochs_done;
    int64_t timed_images;
    int64_t log_bytes, csv_bytes; /* sizes of log.jsonl and metrics.csv */
    int64_t warned;
    double timed_seconds, wall_seconds;
    hl_metrics best, last;
    hl_train_record record; /* as last read: sums over this epoch, the optimizer's counters */
} hl_position;

/* Everything that must be the same when a run is resumed, as "key=value" texts. */
typedef struct hl_fingerprint {
    struct {
        const char *key;
        char value[1024];
    } items[32];
    int count;
} hl_fingerprint;
void hl_fingerprint_add(hl_fingerprint *fingerprint, const char *key, const char *format, ...)
    HL_PRINTF(3, 4);

/* Parameters that training changes, the optimizer's moments, the run's counters. */
hl_status hl_checkpoint_save(const char *path, const hl_model *model, const hl_optimizer_state *optimizer,
                             const hl_run_state *run, const hl_position *position,
                             const hl_fingerprint *fingerprint);
/* The inverse. A damaged file, or one of a run with other options, changes nothing and is HL_E_INPUT or
 * HL_E_ARG. */
hl_status hl_checkpoint_load(const char *path, hl_model *model, hl_optimizer_state *optimizer,
                             hl_run_state *run, hl_position *position, const hl_fingerprint *fingerprint);

#endif
