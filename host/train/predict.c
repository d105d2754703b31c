/* Logits of image files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/session.h"

enum { DEFAULT_BATCH = 32 };

typedef struct predictor {
    hl_session *session; /* the model's */
    hl_program *program;
    hl_transform transform;
    hl_image image;
    hl_resizer resizer;
    uint8_t *pixels, *flips; /* of a batch */
    int32_t *labels;
    int64_t batch_size, image_bytes;
} predictor;

static hl_status start(predictor *p, hl_model *model, int64_t batch_size, const hl_compute *compute)
{
    p->transform = hl_session_transform(model, HL_AUGMENT_NONE);
    p->image_bytes = hl_model_image_bytes(model);
    p->image.channels = model->preprocess.channels;
    p->batch_size = batch_size;
    HL_TRY(hl_transform_check(&p->transform));
    HL_TRY(hl_alloc_array((size_t)batch_size, (size_t)p->image_bytes, "images", (void **)&p->pixels));
    HL_TRY(hl_alloc_array((size_t)batch_size, 1, "images", (void **)&p->flips));
    HL_TRY(hl_alloc_array((size_t)batch_size, sizeof *p->labels, "images", (void **)&p->labels));
    HL_TRY(hl_session_borrow(model, compute, &p->session));
    hl_number_type type;
    HL_TRY(hl_model_number_type(model, compute, false, &type));
    return hl_session_program(p->session, batch_size, false, type, &p->program);
}

static void stop(predictor *p)
{
    hl_image_clear(&p->image);
    hl_resizer_clear(&p->resizer);
    free(p->pixels);
    free(p->flips);
    free(p->labels);
}

static hl_status read_image(predictor *p, const char *path, int64_t place)
{
    HL_TRY(hl_image_decode_file(&p->image, path));
    return hl_transform_apply(&p->transform, &p->resizer, &p->image, 0, 0, 0,
                              p->pixels + place * p->image_bytes, &p->flips[place]);
}

static bool is_bad_file(hl_status status)
{
    return status == HL_E_INPUT || status == HL_E_NOT_FOUND || status == HL_E_UNSUPPORTED ||
           status == HL_E_IO;
}

/* Images [first, first + n) of the list. */
static hl_status run_batch(predictor *p, const char *const *paths, int64_t first, int64_t n, float *logits,
                           char **failed)
{
    int64_t classes = p->session->model->classes;
    for (int64_t i = 0; i < n; i++) {
        hl_status status = read_image(p, paths[first + i], i);
        if (status != HL_OK && (failed == NULL || !is_bad_file(status)))
            return status;
        if (status == HL_OK)
            continue;
        memset(p->pixels + i * p->image_bytes, 0, (size_t)p->image_bytes);
        failed[first + i] = strdup(hl_last_error());
        if (failed[first + i] == NULL)
            return hl_fail_nomem("message", strlen(hl_last_error()));
    }
    const hl_batch batch = {.images = p->pixels, .flips = p->flips, .labels = p->labels, .count = n};
    HL_TRY(hl_session_feed(p->session, p->program, &batch, p->image_bytes, NULL));
    HL_TRY(hl_program_forward(p->program));
    HL_TRY(p->session->backend->ops->finish(p->session->backend));
    float *out = logits + first * classes;
    HL_TRY(p->session->backend->ops->download(p->session->backend, out, hl_program_logits(p->program),
                                              (size_t)(n * classes) * sizeof *out));
    for (int64_t i = 0; i < n; i++) {
        if (failed != NULL && failed[first + i] != NULL)
            memset(out + i * classes, 0, (size_t)classes * sizeof *out);
        for (int64_t c = 0; c < classes; c++)
            if (!isfinite(out[i * classes + c]))
                return hl_fail(HL_E_NONFINITE, paths[first + i], "the weights have diverged",
                               "logit %lld is not finite", (long long)c);
    }
    return HL_OK;
}

hl_status hl_predict(hl_model *model, const char *const *paths, int64_t count, int64_t batch_size,
                     const hl_compute *compute, float *logits, char **failed)
{
    for (int64_t i = 0; failed != NULL && i < count; i++)
        failed[i] = NULL;
    if (count < 1)
        return hl_fail(HL_E_ARG, "predict", "name at least one image", "there is no image");
    batch_size = batch_size > 0 ? batch_size : DEFAULT_BATCH;
    batch_size = batch_size < count ? batch_size : count;
    predictor p = {0};
    hl_status status = start(&p, model, batch_size, compute);
    for (int64_t first = 0; status == HL_OK && first < count; first += batch_size)
        status = run_batch(&p, paths, first, count - first < batch_size ? count - first : batch_size, logits,
                           failed);
    stop(&p);
    for (int64_t i = 0; status != HL_OK && failed != NULL && i < count; i++) {
        free(failed[i]);
        failed[i] = NULL;
    }
    return status;
}
