/* The files of a run folder but for tensors: config.yaml, log.jsonl, metrics.csv, summary.json, curves.png.
 */
#ifndef HL_TRAIN_RUN_FOLDER_H
#define HL_TRAIN_RUN_FOLDER_H

#include "train/model.h"

typedef struct hl_run_folder hl_run_folder;

/* Makes the folder; an existing one must be empty unless `resume`. *checkpoint: there is a state.safetensors
 * to go on from; a run that ended before its first one begins anew. */
hl_status hl_run_folder_open(const char *path, bool resume, const char *config, bool *checkpoint,
                             hl_run_folder **folder);
void hl_run_folder_close(hl_run_folder *folder); /* NULL is fine */

/* PATH/name; valid until the next call. */
const char *hl_run_folder_file(hl_run_folder *folder, const char *name);

/* What was logged after the checkpoint that is resumed from goes: lines of log.jsonl beyond `log_bytes`, of
 * metrics.csv beyond `csv_bytes`. */
hl_status hl_run_folder_rewind(hl_run_folder *folder, int64_t log_bytes, int64_t csv_bytes);
/* Syncs both and gives their sizes, for a checkpoint. */
hl_status hl_run_folder_position(hl_run_folder *folder, int64_t *log_bytes, int64_t *csv_bytes);

hl_status hl_run_folder_log_step(hl_run_folder *folder, int64_t epoch, int64_t step, double loss, double lr,
                                 double images_per_second);
typedef struct hl_epoch_record {
    int64_t epoch, step;
    double lr, train_loss, train_acc1, images_per_second;
    hl_metrics val;
    bool best;
} hl_epoch_record;
hl_status hl_run_folder_log_epoch(hl_run_folder *folder, const hl_epoch_record *record);

/* summary.json: what was run and what came out. */
hl_status hl_run_folder_summary(hl_run_folder *folder, const hl_model *model, const hl_dataset *data,
                                const hl_train_options *options, hl_number_type type,
                                const hl_train_result *result);

/* curves.png by gnuplot from metrics.csv; without gnuplot a note in the log and nothing else. */
void hl_run_folder_curves(hl_run_folder *folder, const hl_log *log);

#endif
