#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

static float lr_scale(const hl_model *m, const hl_train_options *o, const hl_param *p, double lr)
{
    double gate_lr = hl_method_number_or(&m->method, "gate-lr", 0.0);
    if (p->role == HL_PARAM_GATE && gate_lr > 0.0)
        return (float)(gate_lr / lr);
    return p->head && o->head_lr_scale > 0.0 ? (float)o->head_lr_scale : 1.0f;
}

static hl_status make_segments(hl_optimizer_state *s, const hl_model *m, const hl_train_options *o, double lr)
{
    const hl_placement *placed = s->placement;
    HL_TRY(hl_alloc_array((size_t)placed->trained_count, sizeof *s->segments, "optimizer",
                          (void **)&s->segments));
    for (int t = 0; t < placed->trained_count; t++)
        s->segments[t] = (hl_segment){.first = placed->first[t],
                                      .count = placed->trained[t]->count,
                                      .lr_scale = lr_scale(m, o, placed->trained[t], lr),
                                      .weight_decay = (float)o->weight_decay};
    return HL_OK;
}

static hl_status alloc_moments(hl_optimizer_state *s, const hl_train_options *o)
{
    size_t bytes = (size_t)s->placement->count * sizeof(float);
    HL_TRY(s->backend->ops->alloc(s->backend, bytes, "optimizer state", (void **)&s->moment1));
    if (!s->backend->host_memory && (s->clip > 0.0 || s->l1 > 0.0))
        HL_TRY(hl_alloc(2 * bytes, "gradients", (void **)&s->staging));
    return o->optimizer == HL_SGD
               ? HL_OK
               : s->backend->ops->alloc(s->backend, bytes, "optimizer state", (void **)&s->moment2);
}

static hl_status prepare(hl_optimizer_state *s, const hl_train_options *o)
{
    static const hl_optimizer_kind kinds[] = {HL_OPTIMIZER_SGD, HL_OPTIMIZER_ADAM, HL_OPTIMIZER_ADAMW};
    s->step = (hl_step){.kind = HL_STEP_OPTIMIZE, .name = "optimizer", .run = s->run};
    s->step.optimize = (hl_optimize_attr){.kind = kinds[o->optimizer],
                                          .momentum = (float)o->momentum,
                                          .nesterov = o->momentum > 0.0,
                                          .beta1 = 0.9f,
                                          .beta2 = 0.999f,
                                          .eps = 1e-8f,
                                          .value = s->placement->values,
                                          .grad = s->placement->grads,
                                          .moment1 = s->moment1,
                                          .moment2 = s->moment2,
                                          .segments = s->segments,
                                          .segment_count = s->placement->trained_count};
    HL_TRY(s->backend->ops->prepare(s->backend, &s->step));
    return s->backend->ops->bind(s->backend, &s->step, NULL);
}

hl_status hl_optimizer_create(hl_model *m, const hl_train_options *o, double lr, hl_run_state *run,
                              hl_optimizer_state **optimizer)
{
    *optimizer = NULL;
    hl_optimizer_state *s = calloc(1, sizeof *s);
    if (s == NULL)
        return hl_fail_nomem("optimizer", sizeof *s);
    s->backend = m->backend;
    s->placement = m->graph->placement;
    s->run = run;
    s->clip = o->clip_grad;
    s->l1 = hl_method_number_or(&m->method, "l1", 0.0);
    hl_status status = make_segments(s, m, o, lr);
    if (status == HL_OK)
        status = alloc_moments(s, o);
    if (status == HL_OK)
        status = prepare(s, o);
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
    s->backend->ops->release(s->backend, &s->step);
    s->backend->ops->free(s->backend, s->moment1);
    s->backend->ops->free(s->backend, s->moment2);
    free(s->segments);
    free(s->staging);
    free(s);
}

/* The flat arrays in host memory; copies of them where the backend's memory is its own. */
static hl_status host_arrays(const hl_optimizer_state *s, const float **values, float **grads)
{
    size_t bytes = (size_t)s->placement->count * sizeof(float);
    HL_TRY(s->backend->ops->finish(s->backend));
    *values = s->placement->values;
    *grads = s->placement->grads;
    if (s->staging == NULL)
        return HL_OK;
    HL_TRY(s->backend->ops->download(s->backend, s->staging, *values, bytes));
    *values = s->staging;
    HL_TRY(s->backend->ops->download(s->backend, s->staging + s->placement->count, *grads, bytes));
    *grads = s->staging + s->placement->count;
    return HL_OK;
}

/* The l1 penalty's gradient on the gates a = 1 + delta: l1 sign(a). */
static void add_penalty(const hl_optimizer_state *s, const float *values, float *grads)
{
    for (int t = 0; t < s->placement->trained_count; t++) {
        const hl_param *p = s->placement->trained[t];
        int64_t first = s->placement->first[t];
        for (int64_t i = first; p->role == HL_PARAM_GATE && i < first + p->count; i++) {
            float a = 1.0f + values[i];
            grads[i] += (float)s->l1 * (float)((a > 0.0f) - (a < 0.0f));
        }
    }
}

hl_status hl_optimizer_penalty(const hl_optimizer_state *s, double *penalty)
{
    const float *values;
    float *grads;
    *penalty = 0.0;
    if (s->l1 <= 0.0)
        return HL_OK;
    HL_TRY(host_arrays(s, &values, &grads));
    double sum = 0.0;
    for (int t = 0; t < s->placement->trained_count; t++) {
        const hl_param *p = s->placement->trained[t];
        int64_t first = s->placement->first[t];
        for (int64_t i = first; p->role == HL_PARAM_GATE && i < first + p->count; i++)
            sum += fabs(1.0 + (double)values[i]);
    }
    *penalty = s->l1 * sum;
    return HL_OK;
}

/* As torch.nn.utils.clip_grad_norm_: all gradients together, scaled to norm `clip` when theirs is larger.
 * What lies between parameters is zero. */
static float clip_factor(const hl_optimizer_state *s, const float *grads)
{
    double squares = 0.0;
    for (int64_t i = 0; i < s->placement->count; i++)
        squares += (double)grads[i] * (double)grads[i];
    double factor = s->clip / (sqrt(squares) + 1e-6);
    return factor < 1.0 ? (float)factor : 1.0f;
}

hl_status hl_optimizer_step(hl_optimizer_state *s)
{
    const float *values;
    float *grads;
    s->run->clip = 1.0f;
    if (s->l1 > 0.0 || s->clip > 0.0) {
        HL_TRY(host_arrays(s, &values, &grads));
        if (s->l1 > 0.0)
            add_penalty(s, values, grads);
        if (s->l1 > 0.0 && s->staging != NULL)
            HL_TRY(s->backend->ops->upload(s->backend, s->placement->grads, grads,
                                           (size_t)s->placement->count * sizeof(float)));
        if (s->clip > 0.0)
            s->run->clip = clip_factor(s, grads);
    }
    hl_step *step = &s->step;
    HL_TRY(s->backend->ops->run(s->backend, &step, 1));
    s->run->step++;
    return HL_OK;
}
