/* The same network on the CPU backend and on the CUDA backend, the latter on the double of CUDA's libraries
 * (on_double.c) or on a device (on_device.c). */
#ifndef TESTS_CUDA_CUDA_RIG_H
#define TESTS_CUDA_CUDA_RIG_H

#include <heirloom/model.h>

#include "backend/cuda/cuda_backend.h"
#include "graph/params.h"
#include "graph/program.h"

bool cuda_on_device(void);
/* At the beginning of a test, and before each backend that counts. */
void cuda_begin(void);
/* Nothing is left, and nothing was complained about. */
void cuda_expect_clean(void);

typedef struct cuda_case {
    const char *model, *method;
    hl_norm_mode norm;
    int64_t size, batch;
    hl_elem elem;
    hl_projection_exec exec;
    bool training, mix;
} cuda_case;

typedef struct cuda_side {
    hl_backend *backend;
    hl_graph *graph;
    hl_program *program;
    hl_run_state run;
    hl_train_record *record;
} cuda_side;

/* cuda: the CUDA backend, else the CPU backend; `deterministic` as in hl_backend_options. */
void cuda_side_open(cuda_side *side, const cuda_case *c, bool cuda, bool deterministic);
/* Compiles (again) after the graph was placed. */
hl_status cuda_side_compile(cuda_side *side, const cuda_case *c);
void cuda_side_close(cuda_side *side);
/* Feeds the images of step `step` and runs them; returns without waiting. */
void cuda_side_step(cuda_side *side, const cuda_case *c, int step);
void cuda_side_finish(cuda_side *side);

/* |a - b| / |a| of trained gradients in f32, the worst over all parameters, and whose it is. Gradients of
 * norm below `floor` times the largest are left out: they are zero but for rounding. */
double cuda_worst_gradient(const cuda_side *a, const cuda_side *b, double floor, const char **name);
/* Largest difference of the losses of the last batch. */
double cuda_worst_loss(const cuda_side *a, const cuda_side *b, int64_t batch);

#endif
