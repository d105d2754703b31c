/* One pass over a split without training. */
#ifndef HL_TRAIN_EVALUATE_H
#define HL_TRAIN_EVALUATE_H

#include "train/metrics.h"
#include "train/session.h"

/* A loader of the split's images as evaluation prepares them; labels as in hl_loader_options. */
hl_status hl_evaluation_loader(const hl_model *model, const hl_dataset *data, hl_split split,
                               const int32_t *labels, int64_t batch_size, int workers, bool skip_bad_images,
                               hl_loader_rows rows, const hl_log *log, hl_loader **loader);

/* Resets the meter and runs all batches, which the loader makes of at most `batch` images. Between batches
 * `stop` (may be NULL) is asked whether to give up, which *stopped tells. A logit that is not finite is
 * HL_E_NONFINITE. */
hl_status hl_evaluation_run(hl_session *session, hl_loader *loader, int64_t batch, hl_number_type type,
                            hl_meter *meter, bool (*stop)(void *user), void *user, bool *stopped);

#endif
