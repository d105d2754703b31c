/* Running batches of any size through a model: one compiled program per batch size, made when it is first
 * needed. */
#ifndef HL_TRAIN_EXECUTOR_H
#define HL_TRAIN_EXECUTOR_H

#include "data/loader.h"
#include "train/model.h"

enum { HL_EXECUTOR_PROGRAMS = 4 };

typedef struct hl_executor {
    hl_model *model;
    hl_compile_options options; /* but for the batch size */
    struct {
        int64_t batch;
        hl_program *program;
        bool stale; /* parameters have changed since it last ran */
    } programs[HL_EXECUTOR_PROGRAMS];
    int count;
    float *logits, *losses; /* of the last batch, on the host; room for `capacity` samples */
    int64_t capacity;
} hl_executor;

/* The model must be placed; `options` says everything but the batch size. */
void hl_executor_init(hl_executor *executor, hl_model *model, const hl_compile_options *options);
void hl_executor_clear(hl_executor *executor);

/* Parameters have changed: effective weights are made anew before the next batch. */
void hl_executor_changed(hl_executor *executor);

/* Uploads a batch and runs the forward pass; labels NULL: zeros. *program is the one that ran. Results are in
 * executor->logits and ->losses after hl_executor_fetch. */
hl_status hl_executor_forward(hl_executor *executor, const hl_batch *batch, hl_program **program);
hl_status hl_executor_fetch(hl_executor *executor, hl_program *program, int64_t count);

#endif
