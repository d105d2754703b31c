/* LOSS, TALLY, SPECTRAL_GRAD, OPTIMIZE: the ends of a training step. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "base/memory.h"

static hl_status loss_check(const hl_cuda *cuda, const hl_step *step)
{
    (void)cuda;
    if (step->in[0]->elem != HL_ELEM_F32 || step->in[1]->elem != HL_ELEM_I32)
        return hl_fail(HL_E_UNSUPPORTED, step->name, NULL, "the loss takes f32 logits and i32 labels");
    return HL_OK;
}

static hl_status loss_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *logits = step->in[0], *dlogits = step->out[1];
    const hl_loss_args args = {.logits = logits->data,
                               .labels = step->in[1]->data,
                               .mixes = hl_data(hl_operand(step, 2)),
                               .targets = hl_data(hl_operand(step, 3)),
                               .smoothing = step->loss.smoothing,
                               .losses = step->out[0]->data,
                               .dlogits = hl_data(dlogits),
                               .n = logits->shape.n,
                               .classes = logits->shape.c};
    return HL_LAUNCHED(hl_launch_loss(&args, dlogits != NULL ? dlogits->elem : HL_ELEM_F32, cuda->run,
                                      step->record, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_loss = {.check = loss_check, .run = loss_run};

static hl_status tally_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *logits = step->in[1];
    return HL_LAUNCHED(hl_launch_tally(step->in[0]->data, logits->data, step->in[2]->data, logits->shape.n,
                                       logits->shape.c, step->record, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_tally = {.run = tally_run};

static hl_status spectral_check(const hl_cuda *cuda, const hl_step *step)
{
    HL_TRY(hl_cuda_check_floats(cuda, step));
    return hl_step_check_spectral(step);
}

static hl_status spectral_prepare(hl_cuda *cuda, hl_step *step)
{
    (void)cuda;
    step->scratch_bytes =
        hl_spectral_scratch(step->in[0]->shape.n, hl_shape_count(step->in[0]->shape) / step->in[0]->shape.n);
    return HL_OK;
}

static hl_status spectral_run(hl_cuda *cuda, hl_step *step)
{
    const hl_tensor *features = step->in[0];
    const hl_spectral_args args = {.features = features->data,
                                   .gradient = step->out[0]->data,
                                   .rows = features->shape.n,
                                   .columns = hl_shape_count(features->shape) / features->shape.n,
                                   .eta = step->spectral.eta,
                                   .smallest = step->spectral.smallest,
                                   .scratch = step->exec};
    return HL_LAUNCHED(hl_launch_spectral_grad(&args, features->elem, cuda->run, step->record, cuda->compute),
                       step);
}

const hl_cuda_op hl_cuda_spectral_grad = {
    .check = spectral_check, .prepare = spectral_prepare, .bind = hl_cuda_bind_scratch, .run = spectral_run};

typedef struct optimize_exec {
    hl_segment *segments; /* device */
    hl_optimize_block *blocks;
    hl_optimize_args args;
} optimize_exec;

static hl_status optimize_prepare(hl_cuda *cuda, hl_step *step)
{
    const hl_optimize_attr *o = &step->optimize;
    optimize_exec *exec = step->exec = calloc(1, sizeof *exec);
    if (exec == NULL)
        return hl_fail_nomem(step->name, sizeof *exec);
    int64_t count = hl_optimize_blocks(o->segments, o->segment_count, NULL);
    size_t segment_bytes = (size_t)o->segment_count * sizeof *o->segments,
           block_bytes = (size_t)count * sizeof(hl_optimize_block);
    hl_optimize_block *blocks;
    HL_TRY(hl_alloc_array((size_t)count, sizeof *blocks, step->name, (void **)&blocks));
    hl_optimize_blocks(o->segments, o->segment_count, blocks);
    hl_status status = hl_cuda_alloc(&cuda->base, segment_bytes, step->name, (void **)&exec->segments);
    if (status == HL_OK)
        status = hl_cuda_alloc(&cuda->base, block_bytes, step->name, (void **)&exec->blocks);
    if (status == HL_OK)
        status = hl_cuda_upload(&cuda->base, exec->segments, o->segments, segment_bytes);
    if (status == HL_OK)
        status = hl_cuda_upload(&cuda->base, exec->blocks, blocks, block_bytes);
    free(blocks);
    exec->args = (hl_optimize_args){.kind = o->kind,
                                    .momentum = o->momentum,
                                    .nesterov = o->nesterov,
                                    .beta1 = o->beta1,
                                    .beta2 = o->beta2,
                                    .eps = o->eps,
                                    .trust = o->trust,
                                    .clip_norm = o->clip_norm,
                                    .scaling = o->scaling,
                                    .value = o->value,
                                    .grad = o->grad,
                                    .moment1 = o->moment1,
                                    .moment2 = o->moment2,
                                    .start = o->start,
                                    .segments = exec->segments,
                                    .blocks = exec->blocks,
                                    .segment_count = o->segment_count,
                                    .block_count = count};
    step->scratch_bytes = hl_optimize_scratch(count, o->segment_count);
    return status;
}

static hl_status optimize_bind(hl_cuda *cuda, hl_step *step, void *scratch)
{
    (void)cuda;
    ((optimize_exec *)step->exec)->args.scratch = scratch;
    return HL_OK;
}

static hl_status optimize_run(hl_cuda *cuda, hl_step *step)
{
    const optimize_exec *exec = step->exec;
    return HL_LAUNCHED(hl_launch_optimize(&exec->args, cuda->run, step->record, cuda->compute), step);
}

static void optimize_release(hl_cuda *cuda, hl_step *step)
{
    optimize_exec *exec = step->exec;
    hl_cuda_free(&cuda->base, exec->segments);
    hl_cuda_free(&cuda->base, exec->blocks);
    free(exec);
}

const hl_cuda_op hl_cuda_optimize = {
    .prepare = optimize_prepare, .bind = optimize_bind, .run = optimize_run, .release = optimize_release};
