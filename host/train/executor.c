#include "train/executor.h"

#include <stdlib.h>

void hl_executor_init(hl_executor *x, hl_model *model, const hl_compile_options *options)
{
    *x = (hl_executor){.model = model, .options = *options};
}

void hl_executor_clear(hl_executor *x)
{
    for (int i = 0; i < x->count; i++)
        hl_program_destroy(x->programs[i].program);
    free(x->logits);
    free(x->losses);
    *x = (hl_executor){0};
}

void hl_executor_changed(hl_executor *x)
{
    for (int i = 0; i < x->count; i++)
        x->programs[i].stale = true;
}

/* Sizes occur in this order: the full batch, the last one of an epoch, and where bad images are skipped,
 * others; the latter take turns in the last place. */
static hl_status program_for(hl_executor *x, int64_t batch, int *index)
{
    for (int i = 0; i < x->count; i++)
        if (x->programs[i].batch == batch) {
            *index = i;
            return HL_OK;
        }
    if (x->count == HL_EXECUTOR_PROGRAMS)
        hl_program_destroy(x->programs[--x->count].program);
    hl_compile_options options = x->options;
    options.batch = batch;
    hl_program *program;
    HL_TRY(hl_program_compile(x->model->graph, x->model->backend, &options, &program));
    *index = x->count++;
    x->programs[*index].batch = batch;
    x->programs[*index].program = program;
    x->programs[*index].stale = true;
    return HL_OK;
}

static hl_status upload(hl_executor *x, const hl_batch *batch, hl_program *program)
{
    hl_backend *be = x->model->backend;
    const hl_backend_ops *ops = be->ops;
    size_t size = (size_t)x->model->preprocess.size, n = (size_t)batch->count;
    HL_TRY(ops->upload(be, hl_program_images(program), batch->images, n * size * size * 3));
    HL_TRY(ops->upload(be, hl_program_flips(program), batch->flips, n));
    if (batch->labels != NULL)
        HL_TRY(ops->upload(be, hl_program_labels(program), batch->labels, n * sizeof *batch->labels));
    return HL_OK;
}

hl_status hl_executor_forward(hl_executor *x, const hl_batch *batch, hl_program **program)
{
    int i;
    HL_TRY(program_for(x, batch->count, &i));
    *program = x->programs[i].program;
    HL_TRY(upload(x, batch, *program));
    if (x->programs[i].stale) {
        HL_TRY(hl_program_refresh(*program));
        x->programs[i].stale = false;
    }
    return hl_program_forward(*program);
}

hl_status hl_executor_fetch(hl_executor *x, hl_program *program, int64_t count)
{
    hl_backend *be = x->model->backend;
    size_t classes = (size_t)x->model->classes;
    if (count > x->capacity) {
        free(x->logits);
        free(x->losses);
        x->logits = x->losses = NULL;
        x->capacity = 0;
        HL_TRY(hl_alloc_array((size_t)count * classes, sizeof *x->logits, "logits", (void **)&x->logits));
        HL_TRY(hl_alloc_array((size_t)count, sizeof *x->losses, "losses", (void **)&x->losses));
        x->capacity = count;
    }
    HL_TRY(be->ops->finish(be));
    HL_TRY(be->ops->download(be, x->logits, hl_program_logits(program),
                             (size_t)count * classes * sizeof *x->logits));
    return be->ops->download(be, x->losses, hl_program_losses(program), (size_t)count * sizeof *x->losses);
}
