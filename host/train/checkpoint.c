#include "train/checkpoint.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/params.h"
#include "io/safetensors.h"

static const char format_name[] = "heirloom-state", format_version[] = "2";

enum { COUNTERS = 18, SUMS = 14, KEY_SIZE = 256 };

void hl_fingerprint_add(hl_fingerprint *f, const char *key, const char *format, ...)
{
    if (f->count == (int)(sizeof f->items / sizeof *f->items))
        abort(); /* a row too many for a fixed list of them: a mistake of ours */
    va_list args;
    va_start(args, format);
    f->items[f->count].key = key;
    vsnprintf(f->items[f->count].value, sizeof f->items[0].value, format, args);
    va_end(args);
    f->count++;
}

/* The counters and sums in the order of the file. */
static void list_counters(hl_position *p, hl_run_state *run, int64_t *list[COUNTERS])
{
    int64_t *const all[COUNTERS] = {&p->epoch,
                                    &p->batch,
                                    &p->best_epoch,
                                    &p->stale,
                                    &p->epochs_done,
                                    &p->record.seen,
                                    &p->record.correct,
                                    &p->record.updates,
                                    &p->record.skipped,
                                    &p->record.good_steps,
                                    &p->timed_images,
                                    &p->log_bytes,
                                    &p->csv_bytes,
                                    &p->warned,
                                    &p->best.count,
                                    &p->last.count,
                                    (int64_t *)&run->step,
                                    (int64_t *)&run->micro_step};
    memcpy(list, all, sizeof all);
}

static void list_sums(hl_position *p, double *list[SUMS])
{
    double *const all[SUMS] = {
        &p->record.loss_sum, &p->record.loss_scale, &p->timed_seconds,  &p->wall_seconds, &p->best.loss,
        &p->best.acc1,       &p->best.acc5,         &p->best.acc_class, &p->best.auroc,   &p->last.loss,
        &p->last.acc1,       &p->last.acc5,         &p->last.acc_class, &p->last.auroc};
    memcpy(list, all, sizeof all);
}

static hl_status put_position(hl_tensor_map *map, const hl_position *position, const hl_run_state *run)
{
    hl_position p = *position;
    hl_run_state r = *run;
    int64_t *counters[COUNTERS], numbers[COUNTERS], shape;
    double *sums[SUMS], reals[SUMS];
    list_counters(&p, &r, counters);
    list_sums(&p, sums);
    for (int i = 0; i < COUNTERS; i++)
        numbers[i] = *counters[i];
    for (int i = 0; i < SUMS; i++)
        reals[i] = *sums[i];
    shape = COUNTERS;
    HL_TRY(hl_tensor_map_add(map, "run.counters", HL_DTYPE_I64, 1, &shape, numbers));
    shape = SUMS;
    return hl_tensor_map_add(map, "run.sums", HL_DTYPE_F64, 1, &shape, reals);
}

/* A flat array of the optimizer, of placement->count floats. */
static hl_status put_flat(hl_tensor_map *map, const char *name, const hl_optimizer_state *optimizer,
                          const float *values)
{
    int64_t count = optimizer->placement->count;
    if (values == NULL)
        return HL_OK;
    if (optimizer->backend->host_memory)
        return hl_tensor_map_add_ref(map, name, HL_DTYPE_F32, 1, &count, values);
    float *copy;
    HL_TRY(hl_alloc_array((size_t)count, sizeof *copy, name, (void **)&copy));
    HL_TRY(hl_tensor_map_adopt(map, copy, free));
    HL_TRY(optimizer->backend->ops->download(optimizer->backend, copy, values, (size_t)count * sizeof *copy));
    return hl_tensor_map_add_ref(map, name, HL_DTYPE_F32, 1, &count, copy);
}

static const char *param_key(const hl_param *p, char key[KEY_SIZE])
{
    snprintf(key, KEY_SIZE, "param.%s", p->name);
    return key;
}

static hl_status collect(hl_tensor_map *map, const hl_model *model, const hl_optimizer_state *optimizer,
                         const hl_run_state *run, const hl_position *position,
                         const hl_fingerprint *fingerprint)
{
    HL_TRY(hl_tensor_map_set_meta(map, "format", format_name));
    HL_TRY(hl_tensor_map_set_meta(map, "version", format_version));
    for (int i = 0; i < fingerprint->count; i++)
        HL_TRY(hl_tensor_map_set_meta(map, fingerprint->items[i].key, fingerprint->items[i].value));
    HL_TRY(put_position(map, position, run));
    HL_TRY(put_flat(map, "optimizer.moment1", optimizer, optimizer->moment1));
    HL_TRY(put_flat(map, "optimizer.moment2", optimizer, optimizer->moment2));
    for (size_t i = 0; i < model->graph->param_count; i++) {
        const hl_param *p = model->graph->params[i];
        char key[KEY_SIZE];
        if (hl_param_is_adapted(p))
            HL_TRY(hl_tensor_map_add_ref(map, param_key(p, key), HL_DTYPE_F32, p->ndim, p->shape, p->host));
    }
    return HL_OK;
}

hl_status hl_checkpoint_save(const char *path, const hl_model *model, const hl_optimizer_state *optimizer,
                             const hl_run_state *run, const hl_position *position,
                             const hl_fingerprint *fingerprint)
{
    hl_tensor_map *map;
    HL_TRY(optimizer->backend->ops->finish(optimizer->backend));
    HL_TRY(hl_graph_download(model->graph));
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = collect(map, model, optimizer, run, position, fingerprint);
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

/* A tensor of the file that must be there, with that type and shape. */
static hl_status find(const char *path, const hl_tensor_map *map, const char *name, hl_dtype dtype, int ndim,
                      const int64_t *shape, const hl_named_tensor **tensor)
{
    const hl_named_tensor *t = *tensor = hl_tensor_map_find(map, name);
    bool fits = t != NULL && t->dtype == dtype && t->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++)
        fits = t->shape[i] == shape[i];
    return fits ? HL_OK
                : hl_fail(HL_E_INPUT, path, "start the run anew in an empty folder",
                          "the checkpoint has no %s that fits this run", name);
}

static hl_status check_fingerprint(const char *path, const hl_tensor_map *map, const hl_fingerprint *f)
{
    const char *format = hl_tensor_map_meta(map, "format"), *version = hl_tensor_map_meta(map, "version");
    if (format == NULL || strcmp(format, format_name) != 0 || version == NULL ||
        strcmp(version, format_version) != 0)
        return hl_fail(HL_E_INPUT, path, "start the run anew in an empty folder",
                       "it is no checkpoint of this version of heirloom");
    for (int i = 0; i < f->count; i++) {
        const char *then = hl_tensor_map_meta(map, f->items[i].key);
        if (then == NULL || strcmp(then, f->items[i].value) != 0)
            return hl_fail(HL_E_ARG, path, "resume with the options the run was started with",
                           "the run began with %s %s, now it is %s", f->items[i].key,
                           then != NULL ? then : "(none)", f->items[i].value);
    }
    return HL_OK;
}

/* Finds every tensor and checks it; copies nothing. */
static hl_status check_tensors(const char *path, const hl_tensor_map *map, const hl_model *model,
                               const hl_optimizer_state *optimizer)
{
    const hl_named_tensor *t;
    HL_TRY(find(path, map, "run.counters", HL_DTYPE_I64, 1, (const int64_t[]){COUNTERS}, &t));
    HL_TRY(find(path, map, "run.sums", HL_DTYPE_F64, 1, (const int64_t[]){SUMS}, &t));
    const int64_t count = optimizer->placement->count;
    if (optimizer->moment1 != NULL)
        HL_TRY(find(path, map, "optimizer.moment1", HL_DTYPE_F32, 1, &count, &t));
    if (optimizer->moment2 != NULL)
        HL_TRY(find(path, map, "optimizer.moment2", HL_DTYPE_F32, 1, &count, &t));
    for (size_t i = 0; i < model->graph->param_count; i++) {
        const hl_param *p = model->graph->params[i];
        char key[KEY_SIZE];
        if (hl_param_is_adapted(p))
            HL_TRY(find(path, map, param_key(p, key), HL_DTYPE_F32, p->ndim, p->shape, &t));
    }
    return HL_OK;
}

static hl_status check_position(const char *path, const hl_position *p, const hl_run_state *run)
{
    if (p->epoch < 0 || p->batch < 0 || p->epochs_done < 0 || p->best_epoch < -1 ||
        p->best_epoch >= INT32_MAX || p->epoch >= INT32_MAX || p->log_bytes < 0 || p->csv_bytes < 0 ||
        run->step > INT64_MAX || run->micro_step > INT64_MAX)
        return hl_fail(HL_E_INPUT, path, "start the run anew in an empty folder",
                       "the checkpoint is damaged: its counters are out of range");
    return HL_OK;
}

static hl_status get_flat(const hl_tensor_map *map, const char *name, const hl_optimizer_state *optimizer,
                          float *values)
{
    if (values == NULL)
        return HL_OK;
    return optimizer->backend->ops->upload(optimizer->backend, values, hl_tensor_map_find(map, name)->data,
                                           (size_t)optimizer->placement->count * sizeof(float));
}

static hl_status restore(const char *path, const hl_tensor_map *map, hl_model *model,
                         hl_optimizer_state *optimizer, hl_run_state *run, hl_position *position,
                         const hl_fingerprint *fingerprint)
{
    HL_TRY(check_fingerprint(path, map, fingerprint));
    HL_TRY(check_tensors(path, map, model, optimizer));
    hl_position p = {0};
    hl_run_state r = *run;
    int64_t *counters[COUNTERS];
    double *sums[SUMS];
    const int64_t *numbers = hl_tensor_map_find(map, "run.counters")->data;
    const double *reals = hl_tensor_map_find(map, "run.sums")->data;
    list_counters(&p, &r, counters);
    list_sums(&p, sums);
    for (int i = 0; i < COUNTERS; i++)
        *counters[i] = numbers[i];
    for (int i = 0; i < SUMS; i++)
        *sums[i] = reals[i];
    HL_TRY(check_position(path, &p, &r));
    HL_TRY(get_flat(map, "optimizer.moment1", optimizer, optimizer->moment1));
    HL_TRY(get_flat(map, "optimizer.moment2", optimizer, optimizer->moment2));
    for (size_t i = 0; i < model->graph->param_count; i++) {
        hl_param *param = model->graph->params[i];
        char key[KEY_SIZE];
        if (hl_param_is_adapted(param))
            memcpy(param->host, hl_tensor_map_find(map, param_key(param, key))->data,
                   (size_t)param->count * sizeof(float));
    }
    *position = p;
    *run = r;
    return hl_graph_upload(model->graph);
}

hl_status hl_checkpoint_load(const char *path, hl_model *model, hl_optimizer_state *optimizer,
                             hl_run_state *run, hl_position *position, const hl_fingerprint *fingerprint)
{
    hl_tensor_map *map;
    HL_TRY(hl_safetensors_read(path, &map));
    hl_status status = restore(path, map, model, optimizer, run, position, fingerprint);
    hl_tensor_map_destroy(map);
    return status;
}
