/* The optimizer of a training run: one OPTIMIZE step over the placed parameters, clipping, and its state. */
#ifndef HL_TRAIN_OPTIMIZER_H
#define HL_TRAIN_OPTIMIZER_H

#include "graph/params.h"
#include "train/model.h"

typedef struct hl_optimizer_state {
    hl_backend *backend;
    const hl_placement *placement;
    hl_run_state *run;
    hl_step step;
    hl_segment *segments;
    float *moment1, *moment2; /* flat, on the backend; NULL where the optimizer has none */
    float *staging;           /* host copies of values and gradients where the backend's memory is its own */
    double clip;              /* largest gradient norm, 0: none */
    double l1;                /* of gates */
} hl_optimizer_state;

/* `run` is read at every step and must outlive it. lr scales follow the method's gate-lr and the options'
 * head_lr_scale. */
hl_status hl_optimizer_create(hl_model *model, const hl_train_options *options, double lr, hl_run_state *run,
                              hl_optimizer_state **optimizer);
void hl_optimizer_destroy(hl_optimizer_state *optimizer); /* NULL is fine */

/* One step with the gradients in place and run->lr; advances run->step. */
hl_status hl_optimizer_step(hl_optimizer_state *optimizer);

/* l1 * sum |gate| into *penalty, 0 without that penalty. */
hl_status hl_optimizer_penalty(const hl_optimizer_state *optimizer, double *penalty);

#endif
