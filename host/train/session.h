/* Computing with a model: its programs, compiled when first asked for, and what they read while running. */
#ifndef HL_TRAIN_SESSION_H
#define HL_TRAIN_SESSION_H

#include <heirloom/train.h>

#include "data/loader.h"
#include "train/model.h"

enum { HL_SESSION_PROGRAMS = 4 };

typedef struct hl_session {
    hl_model *model;
    hl_backend *backend;
    hl_exec projection;
    hl_number_type type; /* of training programs */
    float smoothing;     /* of the labels, in training */
    bool mix;            /* training images are mixed */
    bool features;       /* batches are rows of features (features.h): programs compute what is behind them */
    /* Of the optimizer whose training programs these are; NULL without one. */
    hl_train_record *record;
    hl_step *update;
    hl_run_state run;
    /* The programs in use; the one that was not used for longest makes room. */
    struct {
        hl_program *program;
        int64_t batch;
        bool training, features;
        hl_number_type type;
        uint64_t used;
        uint64_t version; /* of the parameters that its effective weights were made from; 0: of none yet */
    } slots[HL_SESSION_PROGRAMS];
    uint64_t uses, version; /* version: of the parameters, from 1 */
    int last;               /* the slot of the last hl_session_program */
    bool first_run;         /* that program has not run yet */
} hl_session;

/* Places the model's parameters if they are not placed yet. `compute` may be NULL. */
hl_status hl_session_open(hl_session *session, hl_model *model, const hl_compute *compute, uint64_t seed);
void hl_session_close(hl_session *session); /* of zeros: nothing to do */

/* The model's own session for inference, opened when first asked for and kept with its programs as long as
 * the model, or until hl_session_drop. Gates are folded unless `compute` says otherwise: they do not change
 * while it runs, and the bits are those of the merged network. */
hl_status hl_session_borrow(hl_model *model, const hl_compute *compute, hl_session **session);
void hl_session_drop(hl_model *model); /* without one: nothing to do */

/* The program for a batch size and mode; valid until the next call. Effective weights of programs that do not
 * train are brought up to date here, of those that do when they run. */
hl_status hl_session_program(hl_session *session, int64_t batch, bool training, hl_number_type type,
                             hl_program **program);
/* One batch through the last hl_session_program, a training program, and with `update` the optimizer step. */
hl_status hl_session_train(hl_session *session, bool update);
/* Parameters or running statistics have changed. */
void hl_session_changed(hl_session *session);

/* Copies a batch, of at most the program's size, to where the program reads it; `mixes` of as many images, or
 * NULL. The memory may be reused when the next feed or finish has returned (at once where the backend has
 * host_memory). */
hl_status hl_session_feed(hl_session *session, hl_program *program, const hl_batch *batch,
                          int64_t image_bytes, const hl_mix *mixes);

/* Buffers for loaders that this session's batches come from. */
hl_loader_memory hl_session_loader_memory(hl_session *session);

/* How images of a model are prepared. */
hl_transform hl_session_transform(const hl_model *model, hl_augment augment);

/* Largest resident size of the process so far, or what was in use on the device where that has memory of its
 * own. */
int64_t hl_peak_memory(const hl_backend *backend);
/* Seconds on a clock that only goes forward. */
double hl_seconds(void);

#endif
