#include "graph/program_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/plan.h"

hl_status hl_program_plan_memory(hl_program *p, size_t **offset)
{
    hl_code *code = &p->code;
    size_t steps = code->forward.count + code->backward.count;
    hl_step **timeline = NULL;
    *offset = NULL;
    for (size_t i = 0; i < code->tensor_count; i++)
        p->memory.persistent += code->tensors[i]->place == HL_PLACE_PERSISTENT ? code->tensors[i]->bytes : 0;
    hl_status status = hl_alloc_array(steps, sizeof *timeline, "memory plan", (void **)&timeline);
    if (status == HL_OK)
        status = hl_alloc_array(code->tensor_count, sizeof **offset, "memory plan", (void **)offset);
    if (status == HL_OK) {
        memcpy(timeline, code->forward.items, code->forward.count * sizeof *timeline);
        if (code->backward.count > 0)
            memcpy(timeline + code->forward.count, code->backward.items,
                   code->backward.count * sizeof *timeline);
        status = hl_plan_arena(timeline, steps, code->tensors, code->tensor_count, *offset, &p->memory.arena);
    }
    free(timeline);
    return status;
}

/* Programs beside it whose space is large enough lend it. */
static bool can_share(const hl_program *p)
{
    const hl_program *beside = p->options.beside;
    return beside != NULL && beside->space != NULL && beside->backend == p->backend &&
           beside->space->activation_bytes >= p->memory.arena &&
           beside->space->scratch_bytes >= p->memory.scratch;
}

static size_t wanted(const hl_program *p)
{
    return p->memory.persistent + (can_share(p) ? 0 : p->memory.arena + p->memory.scratch);
}

/* What the program would take at another batch size: layouts that steps have chosen (of weights) and scratch
 * are taken from this one. */
static hl_status wanted_at(const hl_program *p, hl_graph *graph, int64_t batch, size_t *bytes)
{
    hl_program *other = calloc(1, sizeof *other);
    size_t *offset = NULL;
    if (other == NULL)
        return hl_fail_nomem("program", sizeof *other);
    other->backend = p->backend;
    other->options = p->options;
    other->options.batch = batch;
    hl_status status = hl_program_form(other, graph);
    for (size_t i = 0; status == HL_OK && i < other->code.tensor_count && i < p->code.tensor_count; i++)
        if (other->code.tensors[i]->opaque)
            other->code.tensors[i]->bytes = p->code.tensors[i]->bytes;
    if (status == HL_OK)
        status = hl_program_plan_memory(other, &offset);
    other->memory.scratch = p->memory.scratch;
    *bytes = wanted(other);
    free(offset);
    hl_program_destroy(other);
    return status;
}

/* The largest batch size that fits into `available` bytes; 0 where none does. */
static hl_status batch_that_fits(const hl_program *p, hl_graph *graph, size_t available, int64_t *batch)
{
    int64_t too_large = p->options.batch;
    for (*batch = 0; too_large - *batch > 1;) {
        int64_t middle = *batch + (too_large - *batch) / 2;
        size_t bytes = 0;
        HL_TRY(wanted_at(p, graph, middle, &bytes));
        *(bytes <= available ? batch : &too_large) = middle;
    }
    return HL_OK;
}

/* A device's allocator rounds up, inputs are staged, and other programs have packed weights of their own: a
 * tenth is left to them. */
hl_status hl_program_check_memory(hl_program *p, hl_graph *graph)
{
    size_t available = 0, peak;
    int64_t fits;
    char hint[96];
    if (p->backend->ops->memory == NULL)
        return HL_OK;
    p->backend->ops->memory(p->backend, &available, &peak);
    size_t usable = available - available / 10;
    if (available == 0 || wanted(p) <= usable)
        return HL_OK;
    HL_TRY(batch_that_fits(p, graph, usable, &fits));
    snprintf(hint, sizeof hint, "--batch-size %lld would fit", (long long)fits);
    return hl_fail(HL_E_NOMEM, p->backend->device,
                   fits > 0 ? hint : "use a smaller --image-size, --precision bf16 or another device",
                   "%.2f GiB are wanted for batches of %lld, where %.2f GiB are left",
                   (double)wanted(p) / 0x1p30, (long long)p->options.batch, (double)available / 0x1p30);
}

static hl_status take_space(hl_program *p)
{
    const hl_backend_ops *ops = p->backend->ops;
    if (can_share(p)) {
        p->space = p->options.beside->space;
        p->space->users++;
        return HL_OK;
    }
    hl_program_space *s = p->space = calloc(1, sizeof *s);
    if (s == NULL)
        return hl_fail_nomem("program", sizeof *s);
    *s = (hl_program_space){
        .users = 1, .activation_bytes = p->memory.arena, .scratch_bytes = p->memory.scratch};
    HL_TRY(ops->alloc(p->backend, s->activation_bytes, "activations", &s->activations));
    return ops->alloc(p->backend, s->scratch_bytes, "scratch", &s->scratch);
}

hl_status hl_program_place(hl_program *p, const size_t *offset)
{
    hl_code *code = &p->code;
    const hl_backend_ops *ops = p->backend->ops;
    for (size_t i = 0; i < code->tensor_count; i++) {
        hl_tensor *t = code->tensors[i];
        if (t->place == HL_PLACE_PERSISTENT)
            HL_TRY(ops->alloc(p->backend, t->bytes, t->name, &t->data));
    }
    HL_TRY(take_space(p));
    for (size_t i = 0; i < code->tensor_count; i++)
        if (code->tensors[i]->place == HL_PLACE_ARENA && offset[i] != SIZE_MAX)
            code->tensors[i]->data = (char *)p->space->activations + offset[i];
    for (size_t i = 0; i < code->tensor_count; i++)
        if (code->tensors[i]->base != NULL)
            code->tensors[i]->data = code->tensors[i]->base->data;
    return HL_OK;
}

void hl_program_release_memory(hl_program *p)
{
    const hl_backend_ops *ops = p->backend->ops;
    for (size_t i = 0; i < p->code.tensor_count; i++)
        if (p->code.tensors[i]->place == HL_PLACE_PERSISTENT)
            ops->free(p->backend, p->code.tensors[i]->data);
    if (p->space == NULL || --p->space->users > 0)
        return;
    ops->free(p->backend, p->space->activations);
    ops->free(p->backend, p->space->scratch);
    free(p->space);
}
