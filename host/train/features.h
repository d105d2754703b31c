/* What the frozen part of a network makes of every image (graph/frontier.h), computed once and kept in memory
 * or in a file, so that epochs run the rest alone. For images that are the same in every epoch. */
#ifndef HL_TRAIN_FEATURES_H
#define HL_TRAIN_FEATURES_H

#include "data/loader.h"
#include "train/session.h"

typedef struct hl_features hl_features;

typedef struct hl_features_options {
    const hl_dataset *data;
    hl_split split;
    hl_number_type type;
    int workers;
    /* Where files of features are looked for and left, made if missing (feature_file.h); NULL: in memory. */
    const char *folder;
    /* Hears while they are made how many images are done, and for how long it has been at it; true from it
     * stops. May be NULL. */
    bool (*progress)(void *user, int64_t done, double seconds);
    void *user;
} hl_features_options;

/* Would keeping the frontier of this model save work, and how many bytes would an image take? 0: it would
 * not. */
hl_status hl_features_row_bytes(const hl_model *model, hl_number_type type, size_t *bytes);

/* The frozen part alone, from images to the frontier; the caller destroys it. */
hl_status hl_features_program(const hl_session *session, int64_t batch, hl_number_type type,
                              hl_program **program);

/* Maps the file of features that another run has left, or runs the frozen part over the split batch by batch.
 * Stopped: HL_OK with *features NULL. An image that cannot be read is an error. */
hl_status hl_features_open(hl_session *session, const hl_features_options *options, hl_features **features);
void hl_features_close(hl_features *features); /* NULL is fine */

/* For loaders whose batches are rows of features instead of images. */
hl_loader_rows hl_features_rows(const hl_features *features);
/* That it took to make them, in this run or the one that left the file. */
double hl_features_seconds(const hl_features *features);
/* The file that they were found in; NULL: they were made here. */
const char *hl_features_found(const hl_features *features);

#endif
