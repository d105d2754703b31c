#include "train/evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_BATCH = 64, DEFAULT_WORKERS = 2 };

hl_status hl_evaluation_loader(const hl_model *model, const hl_dataset *data, hl_split split,
                               const int32_t *labels, int64_t batch_size, int workers, bool skip_bad_images,
                               hl_loader_rows rows, const hl_log *log, hl_loader **loader)
{
    const hl_loader_options options = {
        .split = split,
        .transform = hl_session_transform(model, HL_AUGMENT_NONE),
        .labels = labels,
        .batch_size = batch_size,
        .workers = workers > 0 ? workers : DEFAULT_WORKERS,
        .bad_images = skip_bad_images ? HL_BAD_IMAGES_SKIP : HL_BAD_IMAGES_FAIL,
        .rows = rows,
        .log = log,
    };
    return hl_loader_create(data, &options, loader);
}

static hl_status not_finite(hl_program *program)
{
    char name[160];
    HL_TRY(hl_program_find_nonfinite(program, name, sizeof name));
    return hl_fail(HL_E_NONFINITE, name[0] != '\0' ? name : "loss",
                   "the weights have diverged or do not fit the preprocessing",
                   "evaluation met a value that is not finite");
}

/* Runs one batch; results go to host arrays of at least `batch` rows. A short batch is filled up with what
 * the program's inputs held before, whose results are left alone. */
static hl_status run_batch(hl_session *s, hl_program *program, const hl_batch *batch, float *logits,
                           float *losses)
{
    const hl_model *model = s->model;
    HL_TRY(hl_session_feed(s, program, batch, hl_model_image_bytes(model), NULL));
    HL_TRY(hl_program_forward(program));
    HL_TRY(s->backend->ops->finish(s->backend));
    size_t n = (size_t)batch->count;
    HL_TRY(s->backend->ops->download(s->backend, logits, hl_program_logits(program),
                                     n * (size_t)model->classes * sizeof *logits));
    HL_TRY(s->backend->ops->download(s->backend, losses, hl_program_losses(program), n * sizeof *losses));
    for (size_t i = 0; i < n; i++)
        if (!isfinite(losses[i]))
            return not_finite(program);
    return HL_OK;
}

hl_status hl_evaluation_run(hl_session *s, hl_loader *loader, int64_t batch_size, hl_number_type type,
                            hl_meter *meter, bool (*stop)(void *user), void *user, bool *stopped)
{
    hl_program *program;
    float *results;
    hl_batch batch;
    int64_t classes = s->model->classes;
    *stopped = false;
    hl_meter_reset(meter);
    HL_TRY(hl_session_program(s, batch_size, false, type, &program));
    HL_TRY(hl_alloc_array((size_t)batch_size, (size_t)(classes + 1) * sizeof *results, "logits",
                          (void **)&results));
    float *losses = results + batch_size * classes;
    hl_status status = hl_loader_start_epoch(loader, 0, 0);
    while (status == HL_OK && (status = hl_loader_next(loader, &batch)) == HL_OK && batch.number >= 0) {
        status = run_batch(s, program, &batch, results, losses);
        if (status == HL_OK)
            status = hl_meter_add(meter, results, losses, batch.labels, batch.count);
        hl_loader_release(loader, &batch);
        if (stop != NULL && stop(user)) {
            *stopped = true;
            break;
        }
    }
    free(results);
    return status;
}

typedef struct named_class {
    const char *name;
    int32_t number;
} named_class;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named_class *)a)->name, ((const named_class *)b)->name);
}

/* labels[c]: the model's number of class c of the data, which has its name; `sorted` is scratch. */
static hl_status match_names(const hl_model *model, const hl_dataset *data, named_class *sorted,
                             int32_t *labels)
{
    size_t classes = (size_t)model->classes;
    for (size_t i = 0; i < classes; i++)
        sorted[i] = (named_class){model->class_names[i], (int32_t)i};
    qsort(sorted, classes, sizeof *sorted, by_name);
    for (int32_t c = 0; c < hl_dataset_class_count(data); c++) {
        const named_class wanted = {hl_dataset_class_name(data, c), c};
        const named_class *found = bsearch(&wanted, sorted, classes, sizeof *sorted, by_name);
        if (found == NULL)
            return hl_fail(HL_E_ARG, hl_dataset_name(data), "give the class the name that it had in training",
                           "class \"%.64s\" is none of the %zu that the model knows (\"%.64s\", ...)",
                           wanted.name, classes, model->class_names[0]);
        labels[c] = found->number;
    }
    return HL_OK;
}

/* A class of the data is the model's of the same name; a model without names has as many classes, in the same
 * order: *labels is NULL. Free it otherwise. */
static hl_status match_classes(const hl_model *model, const hl_dataset *data, int32_t **labels)
{
    int32_t count = hl_dataset_class_count(data);
    named_class *sorted = NULL;
    *labels = NULL;
    if (model->class_names == NULL && count != model->classes)
        return hl_fail(HL_E_ARG, hl_dataset_name(data), "use the data set the model was trained for",
                       "it has %d classes where the model has %lld", (int)count, (long long)model->classes);
    if (model->class_names == NULL)
        return HL_OK;
    hl_status status = hl_alloc_array((size_t)count, sizeof **labels, "labels", (void **)labels);
    if (status == HL_OK)
        status = hl_alloc_array((size_t)model->classes, sizeof *sorted, "labels", (void **)&sorted);
    if (status == HL_OK)
        status = match_names(model, data, sorted, *labels);
    free(sorted);
    return status;
}

hl_status hl_evaluate(hl_model *model, const hl_dataset *data, hl_split split, int64_t batch_size,
                      int workers, const hl_compute *compute, hl_metrics *metrics, int64_t *confusion)
{
    hl_session *session = NULL;
    hl_loader *loader = NULL;
    hl_meter *meter = NULL;
    int32_t *labels = NULL;
    bool stopped;
    *metrics = (hl_metrics){0};
    int64_t count = hl_dataset_count(data, split);
    batch_size = batch_size > 0 ? batch_size : DEFAULT_BATCH;
    batch_size = batch_size < count || count == 0 ? batch_size : count;
    hl_status status = match_classes(model, data, &labels);
    if (status == HL_OK)
        status = hl_evaluation_loader(model, data, split, labels, batch_size, workers, false,
                                      (hl_loader_rows){0}, compute != NULL ? compute->log : NULL, &loader);
    if (status == HL_OK)
        status = hl_meter_create(model->classes, &meter);
    if (status == HL_OK)
        status = hl_session_borrow(model, compute, &session);
    hl_number_type type;
    if (status == HL_OK)
        status = hl_model_number_type(model, compute, false, &type);
    if (status == HL_OK)
        status = hl_evaluation_run(session, loader, batch_size, type, meter, NULL, NULL, &stopped);
    if (status == HL_OK)
        status = hl_meter_read(meter, metrics);
    if (status == HL_OK && confusion != NULL)
        memcpy(confusion, meter->confusion, (size_t)(model->classes * model->classes) * sizeof *confusion);
    hl_meter_destroy(meter);
    hl_loader_destroy(loader);
    free(labels);
    return status;
}
