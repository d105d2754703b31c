/* A training run in progress. */
#ifndef HL_TRAIN_TRAINER_H
#define HL_TRAIN_TRAINER_H

#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/features.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/train_options.h"

typedef struct hl_trainer {
    hl_model *model;
    const hl_dataset *data;
    hl_train_options options; /* resolved */
    hl_number_type type;
    hl_session session;
    hl_optimizer_state *optimizer;
    hl_run_folder *folder;
    hl_loader *train, *val;
    hl_features *features[HL_SPLIT_COUNT]; /* of train and val both or neither; NULL: epochs run on images */
    double heard;                          /* how far making them was when the log last said so, in seconds */
    bool features_reported;
    hl_split val_split;
    int64_t val_batch;
    hl_meter *meter;
    hl_fingerprint fingerprint;
    hl_position at;
    hl_run_state *run; /* the session's */
    int64_t batches;   /* in an epoch */
    int64_t steps_per_epoch, steps, epochs, warmup_steps;
    hl_mix *mixes;        /* of a batch, NULL where images are not mixed */
    hl_batch held;        /* fed, and not yet released */
    double label_entropy; /* loss of the best guess that does not look at the image */
    /* Within an optimizer step: */
    int64_t pending; /* batches whose gradients are summed */
    int64_t pending_images;
    bool cold; /* it includes compiling a program, or is the first */
    double step_started, images_per_second;
    /* Of this process: */
    double started, wall_before;
    int64_t steps_here;
    bool stop_asked, checkpoint_asked;
} hl_trainer;

/* The epoch that `at` stands in, to its end, to the last step of the run, or until the caller wants to stop.
 */
hl_status hl_trainer_epoch(hl_trainer *trainer);

/* linear:solver=lbfgs instead of epochs: fits the head to kept features, a row of metrics.csv for each
 * lambda. A run that is interrupted has no checkpoint and begins anew, from the features that --feature-cache
 * keeps. */
hl_status hl_trainer_fit(hl_trainer *trainer, bool *interrupted);

/* Asks the caller what to do next; notes the answer. */
void hl_trainer_poll(hl_trainer *trainer);

/* Writes last.safetensors and state.safetensors. */
hl_status hl_trainer_checkpoint(hl_trainer *trainer);

/* Tells the caller how far the run is; `val` NULL but at the end of an epoch. */
void hl_trainer_report(const hl_trainer *trainer, double loss, const hl_metrics *val);

/* Keeps what the frozen part makes of the images that epochs run on, where --augment none makes it the same
 * every time, something is saved and there is room. Puts the session behind the frontier. */
hl_status hl_trainer_keep_features(hl_trainer *trainer);
/* The same for the test split, which a run sees once: only where a folder keeps it for other runs. Without,
 * the session goes back to images. */
hl_status hl_trainer_keep_test_features(hl_trainer *trainer, hl_number_type type);
/* What loaders of this split are to read: parts 0 for images. */
hl_loader_rows hl_trainer_rows(const hl_trainer *trainer, hl_split split);
/* Says once, after an epoch, what keeping features has saved. */
void hl_trainer_report_features(hl_trainer *trainer);

#endif
