/* When a run keeps features (features.h), and what it says about them. */
#include <math.h>

#include "base/log.h"
#include "train/trainer.h"

static const hl_log *log_of(const hl_trainer *t)
{
    return t->options.compute.log;
}

static bool images_repeat(const hl_train_options *o)
{
    return o->augment == HL_AUGMENT_NONE && o->mixup == 0.0 && o->cutmix == 0.0 && !o->skip_bad_images;
}

static const char *folder_of(const hl_train_options *o)
{
    return o->feature_cache != NULL && *o->feature_cache != '\0' ? o->feature_cache : NULL;
}

static bool listen(void *trainer, int64_t done, double seconds)
{
    hl_trainer *t = trainer;
    if (seconds - t->heard >= 10.0) {
        t->heard = seconds;
        hl_log_info(log_of(t), "features of %lld images made, %.1f images/s", (long long)done,
                    (double)done / seconds);
    }
    hl_trainer_poll(t);
    return t->stop_asked;
}

static hl_status open_features(hl_trainer *t, hl_split split, hl_number_type type,
                               bool (*progress)(void *user, int64_t done, double seconds))
{
    const hl_features_options options = {.data = t->data,
                                         .split = split,
                                         .type = type,
                                         .workers = t->options.workers,
                                         .folder = folder_of(&t->options),
                                         .progress = progress,
                                         .user = t};
    t->heard = 0.0;
    HL_TRY(hl_features_open(&t->session, &options, &t->features[split]));
    if (t->features[split] != NULL && hl_features_found(t->features[split]) != NULL)
        hl_log_info(log_of(t), "%s: features of the %s split found", hl_features_found(t->features[split]),
                    hl_split_name(split));
    return HL_OK;
}

/* How many bytes the features of so many images take; 0: nothing is saved by keeping them, or there is no
 * room.
 */
static hl_status room_for(const hl_trainer *t, int64_t images, hl_number_type type, double *bytes)
{
    size_t row;
    double limit = (double)t->options.feature_bytes;
    *bytes = 0.0;
    if (!images_repeat(&t->options) || limit <= 0.0)
        return HL_OK;
    HL_TRY(hl_features_row_bytes(t->model, type, &row));
    *bytes = (double)images * (double)row;
    if (*bytes > limit) {
        hl_log_info(log_of(t),
                    "what reaches the first trained layer is the same in every epoch, but keeping it would "
                    "take more than --feature-limit: %.2f GiB",
                    0.01 * ceil(*bytes / 0x1p30 * 100.0));
        *bytes = 0.0;
    }
    return HL_OK;
}

hl_status hl_trainer_keep_features(hl_trainer *t)
{
    bool val = t->val_split == HL_SPLIT_VAL;
    int64_t images =
        hl_dataset_count(t->data, HL_SPLIT_TRAIN) + (val ? hl_dataset_count(t->data, HL_SPLIT_VAL) : 0);
    double bytes, start = hl_seconds();
    HL_TRY(room_for(t, images, t->type, &bytes));
    if (bytes == 0.0)
        return HL_OK;
    HL_TRY(open_features(t, HL_SPLIT_TRAIN, t->type, listen));
    if (val && !t->stop_asked)
        HL_TRY(open_features(t, HL_SPLIT_VAL, t->type, listen));
    t->session.features = !t->stop_asked;
    if (t->session.features)
        hl_log_info(log_of(t),
                    "what reaches the first trained layer is kept for %lld images (%.0f MiB, in %.1f s)",
                    (long long)images, ceil(bytes / 0x1p20), hl_seconds() - start);
    return HL_OK;
}

hl_status hl_trainer_keep_test_features(hl_trainer *t, hl_number_type type)
{
    double bytes = 0.0;
    if (t->session.features && folder_of(&t->options) != NULL)
        HL_TRY(room_for(t, hl_dataset_count(t->data, HL_SPLIT_TEST), type, &bytes));
    t->session.features = bytes > 0.0;
    return bytes > 0.0 ? open_features(t, HL_SPLIT_TEST, type, NULL) : HL_OK;
}

hl_loader_rows hl_trainer_rows(const hl_trainer *t, hl_split split)
{
    return t->session.features ? hl_features_rows(t->features[split]) : (hl_loader_rows){0};
}

/* What an epoch on images would have taken is judged by the time it took to make the features. */
void hl_trainer_report_features(hl_trainer *t)
{
    if (!t->session.features || t->features_reported || t->at.timed_images == 0)
        return;
    double made = hl_features_seconds(t->features[HL_SPLIT_TRAIN]),
           rest = t->at.timed_seconds * (double)hl_dataset_count(t->data, HL_SPLIT_TRAIN) /
                  (double)t->at.timed_images;
    t->features_reported = true;
    if (made > 0.0 && rest > 0.0)
        hl_log_info(log_of(t), "kept features: an epoch of %.3g s instead of about %.3g s, %.0f times faster",
                    rest, rest + made, 1.0 + made / rest);
}
