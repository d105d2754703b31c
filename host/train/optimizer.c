#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "method/layer_depth.h"

static double lr_scale(const hl_model *m, const hl_train_options *o, const hl_param *p, double lr)
{
    double gate_lr = hl_method_number_or(&m->method, "gate-lr", 0.0);
    if ((p->role == HL_PARAM_GATE || p->role == HL_PARAM_FACTOR) && gate_lr > 0.0)
        return gate_lr / lr;
    return p->head && o->head_lr_scale > 0.0 ? o->head_lr_scale : 1.0;
}

/* l2sp's coefficient; 0 without it. */
static double pull(const hl_model *m, const hl_param *p)
{
    return m->method.info == &hl_method_l2sp ? hl_method_number(&m->method, p->head ? "beta" : "alpha") : 0.0;
}

static hl_status fill_segments(hl_optimizer_state *s, const hl_model *m, const hl_train_options *o, double lr,
                               const int *depth)
{
    const hl_placement *placed = s->placement;
    const float l1 = (float)hl_method_number_or(&m->method, "l1", 0.0);
    const double decay = o->layer_decay > 0.0 ? o->layer_decay : 1.0,
                 weight_decay =
                     o->weight_decay >= 0.0 ? o->weight_decay : hl_method_weight_decay(m->method.info);
    HL_TRY(hl_alloc_array((size_t)placed->trained_count, sizeof *s->segments, "optimizer",
                          (void **)&s->segments));
    for (int t = 0; t < placed->trained_count; t++) {
        const hl_param *p = placed->trained[t];
        s->segments[t] = (hl_segment){.first = placed->first[t],
                                      .count = p->count,
                                      .lr_scale = (float)(lr_scale(m, o, p, lr) * pow(decay, depth[t])),
                                      .weight_decay = (float)weight_decay,
                                      .l1 = p->role == HL_PARAM_GATE ? l1 : 0.0f,
                                      .pull = (float)pull(m, p),
                                      .adapt = p->role == HL_PARAM_WEIGHT};
    }
    return HL_OK;
}

static hl_status make_segments(hl_optimizer_state *s, const hl_model *m, const hl_train_options *o, double lr)
{
    int *depth;
    HL_TRY(hl_alloc_array((size_t)s->placement->trained_count, sizeof *depth, "optimizer", (void **)&depth));
    hl_status status = hl_layer_depths(m->graph, s->placement->trained, s->placement->trained_count, depth);
    if (status == HL_OK)
        status = fill_segments(s, m, o, lr, depth);
    free(depth);
    return status;
}

/* Keeps where l2sp's parameters start: the backbone at the values of now, the head at 0. */
static hl_status keep_start(hl_optimizer_state *s, const hl_model *m)
{
    const hl_placement *placed = s->placement;
    const hl_backend_ops *ops = s->backend->ops;
    size_t bytes = (size_t)placed->count * sizeof(float);
    float *host;
    if (m->method.info != &hl_method_l2sp)
        return HL_OK;
    HL_TRY(ops->alloc(s->backend, bytes, "starting values", (void **)&s->start));
    HL_TRY(hl_alloc_array((size_t)placed->count, sizeof *host, "starting values", (void **)&host));
    hl_status status = ops->download(s->backend, host, placed->values, bytes);
    for (int t = 0; t < placed->trained_count; t++)
        if (placed->trained[t]->head)
            memset(host + placed->first[t], 0, (size_t)placed->trained[t]->count * sizeof *host);
    if (status == HL_OK)
        status = ops->upload(s->backend, s->start, host, bytes);
    free(host);
    return status;
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
                                          .start = s->start,
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
        status = keep_start(s, m);
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
    ops->free(s->backend, s->start);
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
