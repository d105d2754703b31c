#include "cuda/cuda_rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "method/method.h"
#include "models/registry.h"

enum { CLASSES = 10 };

hl_status cuda_side_compile(cuda_side *s, const cuda_case *c)
{
    const hl_compile_options options = {.batch = c->batch,
                                        .training = c->training,
                                        .mix = c->mix,
                                        .elem = c->elem,
                                        .projection = c->exec,
                                        .mean = {0.5f, 0.45f, 0.4f},
                                        .std = {0.2f, 0.25f, 0.3f},
                                        .smoothing = 0.1f,
                                        .run = &s->run,
                                        .record = s->record};
    return hl_program_compile(s->graph, s->backend, &options, &s->program);
}

void cuda_side_open(cuda_side *s, const cuda_case *c, bool cuda, bool deterministic)
{
    const hl_model_info *info;
    const hl_backend_options options = {.deterministic = deterministic};
    const hl_train_record start = {.loss_scale = 1.0};
    hl_method method;
    *s = (cuda_side){.run = {.seed = 3, .grad_scale = 1.0f}};
    cr_assert_eq(cuda ? hl_cuda_backend_open(0, &options, &s->backend)
                      : hl_cpu_backend_open(2, NULL, &s->backend),
                 HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_find(c->model, &info), HL_OK);
    cr_assert_eq(hl_model_build(info, c->size, CLASSES, &s->graph), HL_OK, "%s", hl_last_error());
    hl_graph_init(s->graph, 1);
    cr_assert_eq(hl_method_parse(c->method, &method), HL_OK);
    cr_assert_eq(hl_method_apply(s->graph, &method, c->norm, 0), HL_OK);
    cr_assert_eq(hl_graph_place(s->graph, s->backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(s->backend->ops->alloc(s->backend, sizeof start, "record", (void **)&s->record), HL_OK);
    cr_assert_eq(s->backend->ops->upload(s->backend, s->record, &start, sizeof start), HL_OK);
}

void cuda_side_close(cuda_side *s)
{
    hl_program_destroy(s->program);
    s->backend->ops->free(s->backend, s->record);
    hl_graph_destroy(s->graph);
    hl_backend_close(s->backend);
}

void cuda_side_step(cuda_side *s, const cuda_case *c, int step)
{
    static unsigned char *buffers[2];
    size_t pixels = (size_t)(c->batch * c->size * c->size * 3), n = (size_t)c->batch;
    unsigned char **buffer = &buffers[step % 2]; /* the other one may still be read */
    free(*buffer);
    *buffer = malloc(pixels + n + n * sizeof(int32_t) + n * sizeof(hl_mix) + 64);
    uint8_t *flips = *buffer + (pixels + 15) / 16 * 16;
    int32_t *labels = (int32_t *)(void *)(flips + (n + 15) / 16 * 16);
    hl_mix *mixes = (hl_mix *)(void *)(labels + n);
    uint32_t state = (uint32_t)step + 1;
    for (size_t i = 0; i < pixels; i++) {
        state = state * 1664525u + 1013904223u;
        (*buffer)[i] = (uint8_t)(state >> 24);
    }
    for (size_t i = 0; i < n; i++) {
        flips[i] = i % 2 != 0;
        labels[i] = (int32_t)((i + (size_t)step) % CLASSES);
        mixes[i] = (hl_mix){.partner = (int32_t)(n - 1 - i), .share = 0.75f};
    }
    const hl_feed parts[] = {{hl_program_images(s->program), *buffer, pixels},
                             {hl_program_flips(s->program), flips, n},
                             {hl_program_labels(s->program), labels, n * sizeof *labels},
                             {hl_program_mixes(s->program), mixes, n * sizeof *mixes}};
    cr_assert_eq(s->backend->ops->feed(s->backend, parts, c->mix ? 4 : 3), HL_OK, "%s", hl_last_error());
    cr_assert_eq(c->training ? hl_program_train(s->program, HL_PROGRAM_REFRESH)
                             : hl_program_forward(s->program),
                 HL_OK, "%s", hl_last_error());
    s->run.micro_step++;
}

void cuda_side_finish(cuda_side *s)
{
    cr_assert_eq(s->backend->ops->finish(s->backend), HL_OK, "%s", hl_last_error());
}

static double *read(const cuda_side *s, const float *from, int64_t count)
{
    float *values = calloc((size_t)count, sizeof *values);
    double *out = calloc((size_t)count, sizeof *out);
    cr_assert_eq(s->backend->ops->download(s->backend, values, from, (size_t)count * sizeof *values), HL_OK);
    for (int64_t i = 0; i < count; i++)
        out[i] = (double)values[i];
    free(values);
    return out;
}

static double norm_of(const double *v, int64_t count)
{
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++)
        sum += v[i] * v[i];
    return sqrt(sum);
}

double cuda_worst_gradient(const cuda_side *a, const cuda_side *b, double floor, const char **name)
{
    double worst = 0.0, largest = 0.0;
    *name = "";
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < a->graph->param_count; i++) {
            const hl_param *p = a->graph->params[i];
            if (!p->trained)
                continue;
            double *x = read(a, p->grad, p->count), *y = read(b, b->graph->params[i]->grad, p->count);
            double size = norm_of(x, p->count);
            for (int64_t k = 0; k < p->count; k++)
                y[k] -= x[k];
            double off = norm_of(y, p->count);
            cr_assert(isfinite(off), "the gradient of %s is not finite", p->name);
            largest = pass == 0 && size > largest ? size : largest;
            if (pass == 1 && size > floor * largest && off / size > worst) {
                worst = off / size;
                *name = p->name;
            }
            free(x);
            free(y);
        }
    return worst;
}

double cuda_worst_loss(const cuda_side *a, const cuda_side *b, int64_t batch)
{
    double worst = 0.0, *x = read(a, hl_program_losses(a->program), batch),
           *y = read(b, hl_program_losses(b->program), batch);
    for (int64_t i = 0; i < batch; i++) {
        cr_assert(isfinite(y[i]));
        worst = fmax(worst, fabs(x[i] - y[i]));
    }
    free(x);
    free(y);
    return worst;
}
