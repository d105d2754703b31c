#include "train/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

hl_status hl_session_open(hl_session *s, hl_model *model, const hl_compute *compute, uint64_t seed)
{
    *s = (hl_session){.model = model,
                      .projection = compute != NULL ? compute->projection : HL_EXEC_AUTO,
                      .run = {.seed = seed, .grad_scale = 1.0f},
                      .version = 1};
    HL_TRY(hl_model_place(model, compute));
    s->backend = model->backend;
    return HL_OK;
}

void hl_session_close(hl_session *s)
{
    for (int i = 0; i < HL_SESSION_PROGRAMS; i++)
        hl_program_destroy(s->slots[i].program);
    *s = (hl_session){0};
}

hl_status hl_session_borrow(hl_model *model, const hl_compute *compute, hl_session **session)
{
    hl_compute own = compute != NULL ? *compute : (hl_compute){0};
    if (own.projection == HL_EXEC_AUTO)
        own.projection = HL_EXEC_FOLD;
    if (model->inference != NULL && model->inference->projection != own.projection)
        hl_session_drop(model);
    if (model->inference == NULL) {
        hl_session *made = calloc(1, sizeof *made);
        hl_status status =
            made != NULL ? hl_session_open(made, model, &own, 0) : hl_fail_nomem("session", sizeof *made);
        if (status != HL_OK) {
            free(made);
            return status;
        }
        model->inference = made;
    }
    *session = model->inference;
    return HL_OK;
}

void hl_session_drop(hl_model *model)
{
    if (model->inference == NULL)
        return;
    hl_session_close(model->inference);
    free(model->inference);
    model->inference = NULL;
}

void hl_model_changed(hl_model *model)
{
    if (model->inference != NULL)
        hl_session_changed(model->inference);
}

void hl_session_changed(hl_session *s)
{
    s->version++;
}

/* The program that needs most: the others run in its memory. */
static const hl_program *largest(const hl_session *s)
{
    const hl_program *found = NULL;
    for (int i = 0; i < HL_SESSION_PROGRAMS; i++) {
        const hl_program *p = s->slots[i].program;
        if (p != NULL &&
            (found == NULL || hl_program_memory_use(p).arena > hl_program_memory_use(found).arena))
            found = p;
    }
    return found;
}

static hl_status compile(hl_session *s, int64_t batch, bool training, hl_number_type type,
                         hl_program **program)
{
    hl_compile_options options;
    hl_model_compile_options(s->model, s->projection, type, &options);
    options.batch = batch;
    options.training = training;
    options.run = &s->run;
    options.beside = largest(s);
    options.portion = s->features ? HL_PORTION_CHANGING : HL_PORTION_ALL;
    if (training) {
        options.smoothing = s->smoothing;
        options.mix = s->mix;
        options.record = s->record;
        options.update = s->update;
    }
    return hl_program_compile(s->model->graph, s->backend, &options, program);
}

static bool same_type(hl_number_type a, hl_number_type b)
{
    return a.elem == b.elem && a.tf32 == b.tf32 && a.winograd == b.winograd;
}

hl_status hl_session_program(hl_session *s, int64_t batch, bool training, hl_number_type type,
                             hl_program **program)
{
    int slot = 0;
    bool found = false;
    for (int i = 0; i < HL_SESSION_PROGRAMS && !found; i++) {
        found = s->slots[i].program != NULL && s->slots[i].batch == batch &&
                s->slots[i].training == training && s->slots[i].features == s->features &&
                same_type(s->slots[i].type, type);
        if (found || s->slots[i].used < s->slots[slot].used)
            slot = i;
    }
    if (!found) {
        hl_program_destroy(s->slots[slot].program);
        s->slots[slot].program = NULL;
        s->slots[slot].used = s->slots[slot].version = 0;
        HL_TRY(compile(s, batch, training, type, &s->slots[slot].program));
        s->slots[slot].batch = batch;
        s->slots[slot].training = training;
        s->slots[slot].features = s->features;
        s->slots[slot].type = type;
    }
    s->last = slot;
    s->first_run = s->slots[slot].version == 0;
    if (!training && s->slots[slot].version != s->version) {
        HL_TRY(hl_program_refresh(s->slots[slot].program));
        s->slots[slot].version = s->version;
    }
    s->slots[slot].used = ++s->uses;
    *program = s->slots[slot].program;
    return HL_OK;
}

hl_status hl_session_train(hl_session *s, bool update)
{
    bool stale = s->slots[s->last].version != s->version;
    HL_TRY(hl_program_train(s->slots[s->last].program,
                            (stale ? HL_PROGRAM_REFRESH : 0) | (update ? HL_PROGRAM_UPDATE : 0)));
    s->slots[s->last].version = s->version;
    s->run.micro_step++;
    if (update) {
        s->run.step++;
        hl_session_changed(s);
    }
    return HL_OK;
}

static int feature_parts(const hl_program *program, const hl_batch *batch, hl_feed *parts)
{
    const uint8_t *from = batch->images;
    int count = hl_program_feature_count(program);
    for (int i = 0; i < count; i++) {
        const hl_tensor *t = hl_program_feature(program, i);
        size_t row = t->bytes / (size_t)t->shape.n;
        parts[i] = (hl_feed){t->data, from, (size_t)batch->count * row};
        from += (size_t)batch->room * row;
    }
    return count;
}

hl_status hl_session_feed(hl_session *s, hl_program *program, const hl_batch *batch, int64_t image_bytes,
                          const hl_mix *mixes)
{
    size_t n = (size_t)batch->count;
    hl_feed parts[HL_FEED_PARTS];
    int count = 0;
    if (s->features) {
        count = feature_parts(program, batch, parts);
    } else {
        parts[count++] = (hl_feed){hl_program_images(program), batch->images, n * (size_t)image_bytes};
        parts[count++] = (hl_feed){hl_program_flips(program), batch->flips, n};
    }
    if (hl_program_labels(program) != NULL)
        parts[count++] = (hl_feed){hl_program_labels(program), batch->labels, n * sizeof(int32_t)};
    if (hl_program_mixes(program) != NULL)
        parts[count++] = (hl_feed){hl_program_mixes(program), mixes, n * sizeof(hl_mix)};
    return s->backend->ops->feed(s->backend, parts, count);
}

static hl_status take_buffer(void *backend, size_t bytes, void **buffer)
{
    return ((hl_backend *)backend)->ops->alloc_host(backend, bytes, buffer);
}

static void give_buffer(void *backend, void *buffer)
{
    ((hl_backend *)backend)->ops->free_host(backend, buffer);
}

hl_loader_memory hl_session_loader_memory(hl_session *s)
{
    return (hl_loader_memory){.take = take_buffer, .give = give_buffer, .user = s->backend};
}

hl_transform hl_session_transform(const hl_model *model, hl_augment augment)
{
    const hl_preprocess *p = &model->preprocess;
    return (hl_transform){.resize = p->resize,
                          .crop = p->size,
                          .filter = p->bicubic ? HL_FILTER_BICUBIC : HL_FILTER_BILINEAR,
                          .channels = p->channels,
                          .augment = augment};
}

/* Of this program alone: what getrusage says may be the peak of the program that started it, before it became
 * this one. 0 where there is no such file. */
static int64_t peak_resident(void)
{
    FILE *status = fopen("/proc/self/status", "re");
    char line[256];
    long long kib = 0;
    while (status != NULL && kib == 0 && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmHWM: %lld kB", &kib) != 1)
            kib = 0;
    if (status != NULL)
        fclose(status);
    return kib * 1024;
}

int64_t hl_peak_memory(const hl_backend *backend)
{
    struct rusage usage;
    size_t available, peak = 0;
    if (backend->ops->memory != NULL) {
        backend->ops->memory((hl_backend *)backend, &available, &peak);
        return (int64_t)peak;
    }
    int64_t resident = peak_resident();
    if (resident > 0)
        return resident;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

double hl_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
