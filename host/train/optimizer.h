/* The optimizer of a training run: one OPTIMIZE step over the placed parameters, its moments and the training
 * record. */
#ifndef HL_TRAIN_OPTIMIZER_H
#define HL_TRAIN_OPTIMIZER_H

#include "graph/params.h"
#include "train/model.h"

typedef struct hl_optimizer_state {
    hl_backend *backend;
    const hl_placement *placement;
    hl_run_state *run;
    hl_step step; /* prepared and bound: programs may end with it (hl_compile_options.update) */
    hl_sealed *alone;
    hl_segment *segments;
    float *moment1, *moment2; /* flat, on the backend; NULL where the optimizer has none */
    float *start;             /* likewise: what l2sp pulls towards; NULL without it */
    hl_train_record *record;  /* on the backend */
    void *scratch;
} hl_optimizer_state;

/* `run` is read at every step and must outlive it. lr scales follow the method's gate-lr and the options'
 * head_lr_scale and layer_decay. Under l2sp parameters are pulled towards what they are at this call. elem:
 * of activations; f16 is trained with dynamic loss scaling. */
hl_status hl_optimizer_create(hl_model *model, const hl_train_options *options, double lr, hl_elem elem,
                              hl_run_state *run, hl_optimizer_state **optimizer);
void hl_optimizer_destroy(hl_optimizer_state *optimizer); /* NULL is fine */

/* One step with the gradients in place and run->lr; advances run->step. */
hl_status hl_optimizer_step(hl_optimizer_state *optimizer);

/* The record as it is once everything that was run is done; and the inverse, to go on from a checkpoint. */
hl_status hl_optimizer_read(const hl_optimizer_state *optimizer, hl_train_record *record);
hl_status hl_optimizer_write(hl_optimizer_state *optimizer, const hl_train_record *record);

#endif
