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
    float smoothing; /* of the labels, in training */
    hl_run_state run;
    /* The programs in use; the one that was not used for longest makes room. */
    struct {
        hl_program *program;
        int64_t batch;
        bool training;
        hl_elem elem;
        uint64_t used, version;
    } slots[HL_SESSION_PROGRAMS];
    uint64_t uses, version; /* version: of the parameters */
    bool compiled;          /* the last hl_session_program made a new program */
} hl_session;

/* Places the model's parameters if they are not placed yet. `compute` may be NULL. */
hl_status hl_session_open(hl_session *session, hl_model *model, const hl_compute *compute, uint64_t seed);
void hl_session_close(hl_session *session); /* of zeros: nothing to do */

/* The program for a batch size and mode, with effective weights that fit the parameters; valid until the next
 * call. */
hl_status hl_session_program(hl_session *session, int64_t batch, bool training, hl_elem elem,
                             hl_program **program);
/* Parameters or running statistics have changed. */
void hl_session_changed(hl_session *session);

/* Copies a batch, of at most the program's size, to where the program reads it. */
hl_status hl_session_feed(hl_session *session, hl_program *program, const hl_batch *batch,
                          int64_t image_bytes);

/* How images of a model are prepared. */
hl_transform hl_session_transform(const hl_model *model, hl_augment augment);

/* "bf16", "fp32". */
const char *hl_precision_name(hl_elem elem);

/* Largest resident size of the process so far. */
int64_t hl_peak_memory(void);
/* Seconds on a clock that only goes forward. */
double hl_seconds(void);

#endif
