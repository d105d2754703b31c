/* Options of a training run, checked and completed. */
#ifndef HL_TRAIN_TRAIN_OPTIONS_H
#define HL_TRAIN_TRAIN_OPTIONS_H

#include "train/checkpoint.h"

/* Checks the options against each other, the model and the data, and fills in what depends on them: lr,
 * weight_decay, accumulate, workers, log_every, head_lr_scale, layer_decay. */
hl_status hl_train_options_resolve(const hl_model *model, const hl_dataset *data, hl_train_options *options);

/* What a resumed run must have in common with its beginning. Not in it: how long to train, when to stop, what
 * to write, threads. */
void hl_train_options_fingerprint(const hl_model *model, const hl_dataset *data, const hl_train_options *o,
                                  hl_number_type type, hl_fingerprint *fingerprint);

/* The number that decides which epoch is best; larger is better, NaN never is. */
double hl_monitored(hl_monitor monitor, const hl_metrics *metrics);

#endif
