#include "train/optimizer.h"

#include <stdlib.h>

static float lr_scale(const hl_model *m, const hl_train_options *o, const hl_param *p, double lr)
{
    double gate_lr = hl_method_number_or(&m->method, "gate-lr", 0.0);
    if ((p->role == HL_PARAM_GATE || p->role == HL_PARAM_FACTOR) && gate_lr > 0.0)
        return (float)(gate_lr / lr);
    return p->head && o->head_lr_scale > 0.0 ? (float)o->head_lr_scale : 1.0f;
}

static hl_status make_segments(hl_optimizer_state *s, const hl_model *m, const hl_train_options *o, double lr)
{
    const hl_placement *placed = s->placement;
    const float l1 = (float)hl_method_number_or(&m->method, "l1", 0.0);
    HL_TRY(hl_alloc_array((size_t)placed->trained_count, sizeof *s->segments, "optimizer",
                          (void **)&s->segments));
    for (int t = 0; t < placed->trained_count; t++)
        s->segments[t] = (hl_segment){.first = placed->first[t],
                                      .count = placed->trained[t]->count,
                                      .lr_scale = lr_scale(m, o, placed->trained[t], lr),
                                      .weight_decay = (float)o->weight_decay,
                                      .l1 = placed->trained[t]->role == HL_PARAM_GATE ? l1 : 0.0f,
                                      .adapt = placed->trained[t]->role == HL_PARAM_WEIGHT};
    return HL_OK;
}

static hl_status alloc_state(hl_optimizer_state *s, const hl_train_options *o, bool scaling)
{
    const hl_backend_ops *ops = s->backend->ops;
    const hl_train_record start = {.loss_scale = scaling ? HL_LOSS_SCALE_START : 1.0f};
    size_t bytes = (size_t)s->placement->count * sizeof(float);
    HL_TRY(ops->alloc(s->backend, sizeof start, "training record", (void **)&s->record));
    HL_TRY(hl_optimizer_write(s, &start));
    HL_TRY(ops->alloc(s->backend, bytes, "optimizer state", (void **)&s->moment1));
    return o->optimizer == HL_SGD || o->optimizer == HL_LARS
               ? HL_OK
               : ops->alloc(s->backend, bytes, "optimizer state", (void **)&s->moment2);
}

static hl_status prepare(hl_optimizer_state *s, const hl_train_options *o, bool scaling)
{
    static const hl_optimizer_kind kinds[] = {HL_OPTIMIZER_SGD, HL_OPTIMIZER_ADAM, HL_OPTIMIZER_ADAMW,
                                              HL_OPTIMIZER_LARS};
    s->step = (hl_step){.kind = HL_STEP_OPTIMIZE, .name = "optimizer", .run = s->run, .record = s->record};
    s->step.optimize = (hl_optimize_attr){.kind = kinds[o->optimizer],
                                          .momentum = (float)o->momentum,
                                          .nesterov = o->momentum > 0.0 && o->optimizer == HL_SGD,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.999f,
                                          .eps = 1e-8f,
                                          .trust = 1e-3f,
                                          .clip_norm = (float)o->clip_grad,
                                          .scaling = scaling,
                                          .value = s->placement->values,
                                          .grad = s->placement->grads,
                                          .moment1 = s->moment1,
                                          .moment2 = s->moment2,
                                          .segments = s->segments,
                                          .segment_count = s->placement->trained_count};
    HL_TRY(s->backend->ops->prepare(s->backend, &s->step));
    HL_TRY(s->backend->ops->alloc(s->backend, s->step.scratch_bytes, "optimizer scratch", &s->scratch));
    return s->backend->ops->bind(s->backend, &s->step, s->scratch);
}

hl_status hl_optimizer_create(hl_model *m, const hl_train_options *o, double lr, hl_elem elem,
                              hl_run_state *run, hl_optimizer_state **optimizer)
{
    *optimizer = NULL;
    hl_optimizer_state *s = calloc(1, sizeof *s);
    if (s == NULL)
        return hl_fail_nomem("optimizer", sizeof *s);
    s->backend = m->backend;
    s->placement = m->graph->placement;
    s->run = run;
    hl_status status = make_segments(s, m, o, lr);
    if (status == HL_OK)
        status = alloc_state(s, o, elem == HL_ELEM_F16);
    if (status == HL_OK)
        status = prepare(s, o, elem == HL_ELEM_F16);
    if (status != HL_OK) {
        hl_optimizer_destroy(s);
        return status;
    }
    *optimizer = s;
    return HL_OK;
}

void hl_optimizer_destroy(hl_optimizer_state *s)
{
    if (s == NULL)
        return;
    const hl_backend_ops *ops = s->backend->ops;
    ops->unseal(s->backend, s->alone);
    ops->release(s->backend, &s->step);
    ops->free(s->backend, s->moment1);
    ops->free(s->backend, s->moment2);
    ops->free(s->backend, s->record);
    ops->free(s->backend, s->scratch);
    free(s->segments);
    free(s);
}

hl_status hl_optimizer_read(const hl_optimizer_state *s, hl_train_record *record)
{
    HL_TRY(s->backend->ops->finish(s->backend));
    return s->backend->ops->download(s->backend, record, s->record, sizeof *record);
}

hl_status hl_optimizer_write(hl_optimizer_state *s, const hl_train_record *record)
{
    return s->backend->ops->upload(s->backend, s->record, record, sizeof *record);
}

hl_status hl_optimizer_step(hl_optimizer_state *s)
{
    hl_step *step = &s->step;
    if (s->alone == NULL)
        HL_TRY(s->backend->ops->seal(s->backend, &step, 1, &s->alone));
    HL_TRY(s->backend->ops->run(s->backend, s->alone));
    s->run->step++;
    return HL_OK;
}
