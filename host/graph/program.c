#include "graph/program.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/f16.h"
#include "graph/params.h"
#include "graph/program_memory.h"

static const size_t list_count = 4;

static const hl_step_list *step_list(const hl_program *p, size_t index)
{
    const hl_step_list *const lists[] = {&p->code.once, &p->code.refresh, &p->code.forward,
                                         &p->code.backward};
    return lists[index];
}

static hl_status check_options(const hl_graph *graph, const hl_backend *backend,
                               const hl_compile_options *options)
{
    if (graph->placement == NULL || graph->placement->backend != backend)
        return hl_fail(HL_E_INTERNAL, "program", NULL, "the graph is not placed on this backend");
    if (options->batch < 1 || options->batch > 1 << 20)
        return hl_fail(HL_E_ARG, "--batch-size", "choose 1 to 1048576", "%lld is out of range",
                       (long long)options->batch);
    if (options->elem != HL_ELEM_F32 && options->elem != HL_ELEM_BF16 && options->elem != HL_ELEM_F16)
        return hl_fail(HL_E_INTERNAL, "program", NULL, "activations cannot have element type %d",
                       (int)options->elem);
    return HL_OK;
}

static hl_status prepare_list(hl_program *p, const hl_step_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        HL_TRY(p->backend->ops->prepare(p->backend, list->items[i]));
        if (list->items[i]->scratch_bytes > p->memory.scratch)
            p->memory.scratch = list->items[i]->scratch_bytes;
    }
    return HL_OK;
}

/* Folding goes last: its outputs have the layouts that their readers have chosen. */
static hl_status prepare_steps(hl_program *p)
{
    HL_TRY(prepare_list(p, &p->code.forward));
    HL_TRY(prepare_list(p, &p->code.backward));
    HL_TRY(prepare_list(p, &p->code.once));
    return prepare_list(p, &p->code.refresh);
}

hl_status hl_program_form(hl_program *p, hl_graph *graph)
{
    HL_TRY(hl_arena_create(&p->arena));
    p->code.arena = p->arena;
    p->code.options = &p->options;
    p->code.backend = p->backend;
    HL_TRY(hl_units_form(graph, &p->options, p->arena, &p->code.units));
    return hl_lower(&p->code);
}

static hl_status bind_steps(hl_program *p)
{
    for (size_t l = 0; l < list_count; l++) {
        const hl_step_list *list = step_list(p, l);
        for (size_t i = 0; i < list->count; i++)
            HL_TRY(p->backend->ops->bind(p->backend, list->items[i], p->space->scratch));
    }
    return HL_OK;
}

static hl_status compile(hl_program *p, hl_graph *graph)
{
    size_t *offset = NULL;
    HL_TRY(hl_program_form(p, graph));
    HL_TRY(prepare_steps(p));
    hl_status status = hl_program_plan_memory(p, &offset);
    if (status == HL_OK)
        status = hl_program_check_memory(p, graph);
    if (status == HL_OK)
        status = hl_program_place(p, offset);
    free(offset);
    return status == HL_OK ? bind_steps(p) : status;
}

hl_status hl_program_compile(hl_graph *graph, hl_backend *backend, const hl_compile_options *options,
                             hl_program **program)
{
    *program = NULL;
    HL_TRY(check_options(graph, backend, options));
    hl_program *p = calloc(1, sizeof *p);
    if (p == NULL)
        return hl_fail_nomem("program", sizeof *p);
    p->backend = backend;
    p->options = *options;
    hl_status status = compile(p, graph);
    if (status != HL_OK) {
        hl_program_destroy(p);
        return status;
    }
    *program = p;
    return HL_OK;
}

void hl_program_destroy(hl_program *p)
{
    if (p == NULL)
        return;
    const hl_backend_ops *ops = p->backend->ops;
    hl_sealed *const sealed[] = {p->once,     p->refresh,  p->forward,  p->backward,
                                 p->train[0], p->train[1], p->train[2], p->train[3]};
    for (size_t i = 0; i < sizeof sealed / sizeof *sealed; i++)
        ops->unseal(p->backend, sealed[i]);
    for (size_t l = 0; l < list_count; l++)
        for (size_t i = 0; i < step_list(p, l)->count; i++)
            ops->release(p->backend, step_list(p, l)->items[i]);
    for (size_t i = 0; i < p->code.tensor_count; i++)
        ops->release_tensor(p->backend, p->code.tensors[i]);
    hl_program_release_memory(p);
    hl_code_free(&p->code);
    hl_arena_destroy(p->arena);
    free(p);
}

void *hl_program_images(hl_program *p)
{
    return p->code.images != NULL ? p->code.images->data : NULL;
}

uint8_t *hl_program_flips(hl_program *p)
{
    return p->code.flips != NULL ? p->code.flips->data : NULL;
}

hl_mix *hl_program_mixes(hl_program *p)
{
    return p->code.mixes != NULL ? p->code.mixes->data : NULL;
}

int32_t *hl_program_labels(hl_program *p)
{
    return p->code.labels != NULL ? p->code.labels->data : NULL;
}

int hl_program_feature_count(const hl_program *p)
{
    return p->code.units.frontier.count;
}

hl_tensor *hl_program_feature(const hl_program *p, int index)
{
    return p->code.value[p->code.units.frontier.values[index]];
}

const float *hl_program_logits(const hl_program *p)
{
    return p->code.logits->data;
}

const float *hl_program_losses(const hl_program *p)
{
    return p->code.losses->data;
}

static hl_status run_list(hl_program *p, const hl_step_list *list, hl_sealed **sealed)
{
    if (*sealed == NULL)
        HL_TRY(p->backend->ops->seal(p->backend, list->items, (int)list->count, sealed));
    return p->backend->ops->run(p->backend, *sealed);
}

static hl_status fold_once(hl_program *p)
{
    if (!p->folded_once)
        HL_TRY(run_list(p, &p->code.once, &p->once));
    p->folded_once = true;
    return HL_OK;
}

hl_status hl_program_refresh(hl_program *p)
{
    HL_TRY(fold_once(p));
    return run_list(p, &p->code.refresh, &p->refresh);
}

hl_status hl_program_forward(hl_program *p)
{
    if (!p->folded_once)
        HL_TRY(hl_program_refresh(p));
    return run_list(p, &p->code.forward, &p->forward);
}

hl_status hl_program_backward(hl_program *p)
{
    return run_list(p, &p->code.backward, &p->backward);
}

static hl_status seal_train(hl_program *p, int parts)
{
    const hl_code *code = &p->code;
    size_t count = code->refresh.count + code->forward.count + code->backward.count + 1, n = 0;
    hl_step **steps;
    if (code->backward.count == 0 || ((parts & HL_PROGRAM_UPDATE) != 0 && p->options.update == NULL))
        return hl_fail(HL_E_INTERNAL, "program", NULL, "it was not compiled for training");
    HL_TRY(hl_alloc_array(count, sizeof *steps, "list of steps", (void **)&steps));
    for (size_t i = 0; (parts & HL_PROGRAM_REFRESH) != 0 && i < code->refresh.count; i++)
        steps[n++] = code->refresh.items[i];
    for (size_t i = 0; i < code->forward.count; i++)
        steps[n++] = code->forward.items[i];
    for (size_t i = 0; i < code->backward.count; i++)
        steps[n++] = code->backward.items[i];
    if ((parts & HL_PROGRAM_UPDATE) != 0)
        steps[n++] = p->options.update;
    hl_status status = p->backend->ops->seal(p->backend, steps, (int)n, &p->train[parts]);
    free(steps);
    return status;
}

hl_status hl_program_train(hl_program *p, int parts)
{
    HL_TRY(fold_once(p));
    if (p->train[parts] == NULL)
        HL_TRY(seal_train(p, parts));
    return p->backend->ops->run(p->backend, p->train[parts]);
}

/* Copies a plain f32, bf16 or f16 tensor to host floats. */
static hl_status read_floats(hl_program *p, const hl_tensor *t, float *out, int64_t count)
{
    size_t size = hl_elem_size(t->elem);
    if (t->elem == HL_ELEM_F32)
        return p->backend->ops->download(p->backend, out, t->data, (size_t)count * size);
    uint16_t *half;
    HL_TRY(hl_alloc_array((size_t)count, size, t->name, (void **)&half));
    hl_status status = p->backend->ops->download(p->backend, half, t->data, (size_t)count * size);
    for (int64_t i = 0; i < count; i++)
        out[i] = t->elem == HL_ELEM_F16 ? hl_f16_to_f32(half[i]) : hl_bf16_to_f32(half[i]);
    free(half);
    return status;
}

hl_status hl_program_value(hl_program *p, const char *layer, bool gradient, float *out, int64_t count)
{
    const hl_graph *g = p->code.units.graph;
    for (size_t v = 0; v < g->node_count; v++) {
        if (strcmp(g->nodes[v]->name, layer) != 0)
            continue;
        const hl_tensor *t = gradient ? p->code.gradient[v] : p->code.value[v];
        if (t == NULL || t->data == NULL)
            return hl_fail(HL_E_NOT_FOUND, layer, NULL, "the compiled program keeps no such %s",
                           gradient ? "gradient" : "value");
        if (hl_shape_count(t->shape) != count)
            return hl_fail(HL_E_ARG, layer, NULL, "it has %lld values, not %lld",
                           (long long)hl_shape_count(t->shape), (long long)count);
        HL_TRY(p->backend->ops->finish(p->backend));
        return read_floats(p, t, out, count);
    }
    return hl_fail(HL_E_NOT_FOUND, layer, NULL, "there is no layer of that name");
}

static hl_status all_finite(hl_program *p, const hl_tensor *t, bool *finite)
{
    *finite = true;
    bool sixteen = t != NULL && (t->elem == HL_ELEM_BF16 || t->elem == HL_ELEM_F16);
    if (t == NULL || !(t->elem == HL_ELEM_F32 || (sixteen && !t->opaque)))
        return HL_OK;
    /* An opaque layout may pad with zeros: its size in bytes counts. */
    int64_t count = (int64_t)(t->bytes / hl_elem_size(t->elem));
    float *values;
    HL_TRY(hl_alloc_array((size_t)count, sizeof *values, t->name, (void **)&values));
    hl_status status = read_floats(p, t, values, count);
    for (int64_t i = 0; status == HL_OK && i < count && *finite; i++)
        *finite = isfinite(values[i]);
    free(values);
    return status;
}

static hl_status run_alone(hl_program *p, hl_step *step)
{
    hl_sealed *list = NULL;
    HL_TRY(p->backend->ops->seal(p->backend, &step, 1, &list));
    hl_status status = p->backend->ops->run(p->backend, list);
    if (status == HL_OK)
        status = p->backend->ops->finish(p->backend);
    p->backend->ops->unseal(p->backend, list);
    return status;
}

static hl_status find_in_list(hl_program *p, const hl_step_list *list, const char *pass, char *name,
                              size_t size)
{
    for (size_t i = 0; i < list->count && name[0] == '\0'; i++) {
        hl_step *step = list->items[i];
        if (step->kind == HL_STEP_TALLY)
            continue;
        HL_TRY(run_alone(p, step));
        bool finite = true;
        for (int k = 0; k < step->out_count && finite; k++)
            HL_TRY(all_finite(p, step->out[k], &finite));
        if (!finite)
            snprintf(name, size, "%s (%s, %s)", step->name, hl_step_kind_name(step->kind), pass);
    }
    return HL_OK;
}

hl_status hl_program_find_nonfinite(hl_program *p, char *name, size_t size)
{
    name[0] = '\0';
    HL_TRY(find_in_list(p, &p->code.refresh, "weights", name, size));
    HL_TRY(find_in_list(p, &p->code.forward, "forward", name, size));
    return find_in_list(p, &p->code.backward, "backward", name, size);
}

hl_program_memory hl_program_memory_use(const hl_program *p)
{
    return p->memory;
}

int hl_program_step_count(const hl_program *p)
{
    return (int)(p->code.once.count + p->code.refresh.count + p->code.forward.count +
                 p->code.backward.count) +
           (p->options.update != NULL);
}

const hl_step *hl_program_step(const hl_program *p, int index)
{
    size_t at = (size_t)index;
    for (size_t l = 0; l < list_count; l++) {
        const hl_step_list *list = step_list(p, l);
        if (at < list->count)
            return list->items[at];
        at -= list->count;
    }
    return at == 0 ? p->options.update : NULL;
}
