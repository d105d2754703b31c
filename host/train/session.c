#include "train/session.h"

#include <sys/resource.h>
#include <time.h>

hl_status hl_session_open(hl_session *s, hl_model *model, const hl_compute *compute, uint64_t seed)
{
    *s = (hl_session){.model = model,
                      .projection = compute != NULL ? compute->projection : HL_EXEC_AUTO,
                      .run = {.seed = seed, .grad_scale = 1.0f, .clip = 1.0f}};
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

void hl_session_changed(hl_session *s)
{
    s->version++;
}

static hl_status compile(hl_session *s, int64_t batch, bool training, hl_elem elem, hl_program **program)
{
    hl_compile_options options;
    hl_model_compile_options(s->model, s->projection, &options);
    options.batch = batch;
    options.training = training;
    options.elem = elem;
    options.smoothing = training ? s->smoothing : 0.0f;
    options.run = &s->run;
    return hl_program_compile(s->model->graph, s->backend, &options, program);
}

hl_status hl_session_program(hl_session *s, int64_t batch, bool training, hl_elem elem, hl_program **program)
{
    int slot = 0;
    bool found = false;
    for (int i = 0; i < HL_SESSION_PROGRAMS && !found; i++) {
        found = s->slots[i].program != NULL && s->slots[i].batch == batch &&
                s->slots[i].training == training && s->slots[i].elem == elem;
        if (found || s->slots[i].used < s->slots[slot].used)
            slot = i;
    }
    s->compiled = !found;
    if (!found) {
        hl_program_destroy(s->slots[slot].program);
        s->slots[slot].program = NULL;
        s->slots[slot].used = 0;
        HL_TRY(compile(s, batch, training, elem, &s->slots[slot].program));
        s->slots[slot].batch = batch;
        s->slots[slot].training = training;
        s->slots[slot].elem = elem;
    }
    if (!found || s->slots[slot].version != s->version)
        HL_TRY(hl_program_refresh(s->slots[slot].program));
    s->slots[slot].version = s->version;
    s->slots[slot].used = ++s->uses;
    *program = s->slots[slot].program;
    return HL_OK;
}

hl_status hl_session_feed(hl_session *s, hl_program *program, const hl_batch *batch, int64_t image_bytes)
{
    const hl_backend_ops *ops = s->backend->ops;
    size_t n = (size_t)batch->count;
    HL_TRY(ops->upload(s->backend, hl_program_images(program), batch->images, n * (size_t)image_bytes));
    HL_TRY(ops->upload(s->backend, hl_program_flips(program), batch->flips, n));
    return ops->upload(s->backend, hl_program_labels(program), batch->labels, n * sizeof(int32_t));
}

hl_transform hl_session_transform(const hl_model *model, hl_augment augment)
{
    const hl_preprocess *p = &model->preprocess;
    return (hl_transform){.resize = p->resize,
                          .crop = p->size,
                          .filter = p->bicubic ? HL_FILTER_BICUBIC : HL_FILTER_BILINEAR,
                          .augment = augment};
}

const char *hl_precision_name(hl_elem elem)
{
    return elem == HL_ELEM_BF16 ? "bf16" : elem == HL_ELEM_F16 ? "fp16" : "fp32";
}

int64_t hl_peak_memory(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

double hl_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
