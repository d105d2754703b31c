/* Times training steps or forward passes on synthetic images. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "train/features.h"
#include "train/optimizer.h"
#include "train/roofline.h"

enum { DEFAULT_BATCH = 16, DEFAULT_STEPS = 20, WARMUP_STEPS = 2, PROFILE_ROUNDS = 5 };

/* Multiply-accumulates of one convolution step. */
static double step_macs(const hl_step *step)
{
    const hl_tensor *spread = step->kind == HL_STEP_CONV          ? step->out[0]
                              : step->kind == HL_STEP_CONV_DATA   ? step->in[0]
                              : step->kind == HL_STEP_CONV_WEIGHT ? step->in[1]
                                                                  : NULL;
    if (spread == NULL)
        return 0.0;
    const hl_param *weight = step->conv.expr->weight;
    const hl_shape s = spread->shape;
    double pixels = (double)s.n * (double)s.h * (double)s.w;
    /* Every filter element meets every output pixel once, whether or not the inputs are summed. */
    return pixels * (double)weight->count;
}

static double program_macs(const hl_program *program)
{
    double macs = 0.0;
    for (int i = 0; i < hl_program_step_count(program); i++)
        macs += step_macs(hl_program_step(program, i));
    return macs;
}

/* A batch in memory of its own, for free_inputs. */
typedef struct inputs {
    uint8_t *images, *flips;
    int32_t *labels;
    int64_t count, image_bytes;
} inputs;

static void free_inputs(inputs *in)
{
    free(in->images);
    free(in->flips);
    free(in->labels);
    *in = (inputs){0};
}

/* Noise for pixels, labels in turn. */
static hl_status make_inputs(const hl_model *model, int64_t n, inputs *in)
{
    int64_t bytes = hl_model_image_bytes(model);
    *in = (inputs){.count = n, .image_bytes = bytes};
    HL_TRY(hl_alloc_array((size_t)n, (size_t)bytes, "images", (void **)&in->images));
    HL_TRY(hl_alloc_array((size_t)n, 1, "images", (void **)&in->flips));
    HL_TRY(hl_alloc_array((size_t)n, sizeof *in->labels, "labels", (void **)&in->labels));
    for (int64_t i = 0; i < n; i++)
        in->labels[i] = (int32_t)(i % model->classes);
    uint32_t state = 1;
    for (int64_t i = 0; i < n * bytes; i++) {
        state = state * 1664525u + 1013904223u;
        in->images[i] = (uint8_t)(state >> 24);
    }
    return HL_OK;
}

static hl_status feed(hl_session *s, hl_program *program, const inputs *in)
{
    const hl_batch batch = {.images = in->images,
                            .flips = in->flips,
                            .labels = in->labels,
                            .count = in->count,
                            .room = in->count};
    HL_TRY(hl_session_feed(s, program, &batch, in->image_bytes, NULL));
    return s->backend->ops->finish(s->backend); /* has copied what is freed later */
}

/* What the frozen part makes of the images, in their place. */
static hl_status replace_by_features(hl_session *s, hl_program *fixed, inputs *in)
{
    uint8_t *features;
    size_t size = 0, at = 0;
    HL_TRY(feed(s, fixed, in));
    HL_TRY(hl_program_forward(fixed));
    HL_TRY(s->backend->ops->finish(s->backend));
    for (int i = 0; i < hl_program_feature_count(fixed); i++)
        size += hl_program_feature(fixed, i)->bytes;
    HL_TRY(hl_alloc(size, "features", (void **)&features));
    free(in->images);
    in->images = features;
    for (int i = 0; i < hl_program_feature_count(fixed); i++) {
        const hl_tensor *t = hl_program_feature(fixed, i);
        HL_TRY(s->backend->ops->download(s->backend, features + at, t->data, t->bytes));
        at += t->bytes;
    }
    return HL_OK;
}

/* Puts the session behind the frontier. */
static hl_status keep_features(hl_session *s, int64_t batch, hl_number_type type, inputs *in)
{
    size_t row;
    hl_program *fixed;
    HL_TRY(hl_features_row_bytes(s->model, type, &row));
    if (row == 0)
        return hl_fail(HL_E_ARG, "--features",
                       "choose a method that trains late layers alone, as linear does",
                       "no layer of %s is frozen in front of the first trained one", s->model->info->name);
    HL_TRY(hl_features_program(s, batch, type, &fixed));
    hl_status status = replace_by_features(s, fixed, in);
    hl_program_destroy(fixed);
    s->features = true;
    return status;
}

static hl_status one_step(hl_session *s, hl_program *program, bool train)
{
    HL_TRY(train ? hl_session_train(s, true) : hl_program_forward(program));
    return s->backend->ops->finish(s->backend);
}

/* Of the batch that was run last. */
static hl_status mean_loss(hl_session *s, const hl_program *program, int64_t n, double *mean)
{
    float *losses;
    HL_TRY(hl_alloc_array((size_t)n, sizeof *losses, "losses", (void **)&losses));
    hl_status status =
        s->backend->ops->download(s->backend, losses, hl_program_losses(program), (size_t)n * sizeof *losses);
    *mean = 0.0;
    for (int64_t i = 0; status == HL_OK && i < n; i++)
        *mean += (double)losses[i] / (double)n;
    free(losses);
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static hl_status measure(hl_session *s, hl_program *program, bool train, const inputs *in, int64_t steps,
                         hl_bench_result *result)
{
    double *seconds, sum = 0.0, loss = 0.0;
    int64_t batch = in->count;
    HL_TRY(feed(s, program, in));
    for (int i = 0; i < WARMUP_STEPS; i++) {
        HL_TRY(one_step(s, program, train));
        if (i == 0)
            HL_TRY(mean_loss(s, program, batch, &loss));
    }
    HL_TRY(hl_alloc_array((size_t)steps, sizeof *seconds, "times", (void **)&seconds));
    hl_status status = HL_OK;
    for (int64_t i = 0; status == HL_OK && i < steps; i++) {
        double start = hl_seconds();
        status = one_step(s, program, train);
        seconds[i] = hl_seconds() - start;
        sum += seconds[i];
    }
    qsort(seconds, (size_t)steps, sizeof *seconds, by_value);
    hl_program_memory memory = hl_program_memory_use(program);
    *result = (hl_bench_result){
        .images_per_second = (double)batch * (double)steps / sum,
        .ms_median = 500.0 * (seconds[(steps - 1) / 2] + seconds[steps / 2]),
        .ms_p95 = 1000.0 * seconds[(int64_t)ceil(0.95 * (double)steps) - 1],
        .gflops = 2e-9 * program_macs(program) * (double)steps / sum,
        .arena_bytes = (int64_t)memory.arena,
        .persistent_bytes = (int64_t)memory.persistent,
        .scratch_bytes = (int64_t)memory.scratch,
        .peak_memory_bytes = hl_peak_memory(s->backend),
        .loss = loss,
    };
    free(seconds);
    return status;
}

static const char *pass_of(const hl_step *step)
{
    if (step->kind == HL_STEP_FOLD)
        return "weights";
    if (step->kind == HL_STEP_OPTIMIZE)
        return "update";
    return step->kind < HL_STEP_CONV_DATA ? "forward" : "backward";
}

static hl_status profile(hl_program *program, hl_bench_result *result)
{
    int count = hl_program_step_count(program), rounds = PROFILE_ROUNDS;
    hl_step_time *times;
    HL_TRY(hl_alloc_array((size_t)count, sizeof *times, "profile", (void **)&times));
    hl_status status = hl_alloc_array((size_t)count, sizeof *result->rows, "profile", (void **)&result->rows);
    if (status == HL_OK)
        status = hl_program_time(program, rounds, times);
    for (int i = 0; status == HL_OK && i < count; i++) {
        const hl_step *step = hl_program_step(program, i);
        if (times[i].once <= 0.0)
            continue;
        hl_profile_row *row = &result->rows[result->row_count++];
        *row = (hl_profile_row){.ms = 1e3 * times[i].once,
                                .floor_ms = 1e3 * times[i].alone,
                                .gflops = 2e-9 * step_macs(step) / times[i].once};
        snprintf(row->layer, sizeof row->layer, "%s", step->name);
        snprintf(row->kind, sizeof row->kind, "%s", hl_step_kind_name(step->kind));
        snprintf(row->pass, sizeof row->pass, "%s", pass_of(step));
        result->floor_ms += row->floor_ms;
    }
    free(times);
    return status;
}

void hl_bench_clear(hl_bench_result *result)
{
    free(result->rows);
    result->rows = NULL;
    result->row_count = 0;
}

hl_status hl_bench(hl_model *model, const hl_bench_options *options, hl_bench_result *result)
{
    int64_t batch = options->batch_size > 0 ? options->batch_size : DEFAULT_BATCH,
            steps = options->steps > 0 ? options->steps : DEFAULT_STEPS;
    *result = (hl_bench_result){0};
    if (!options->infer && !model->has_method)
        return hl_fail(HL_E_ARG, "--method", "name a method, or time --mode infer",
                       "without one nothing is trained");
    hl_train_options training;
    hl_train_defaults(&training);
    hl_session session;
    hl_program *program;
    hl_number_type type;
    hl_optimizer_state *optimizer = NULL;
    inputs in = {0};
    hl_status status = hl_session_open(&session, model, &options->compute, 0);
    if (status == HL_OK)
        status = hl_model_number_type(model, &options->compute, !options->infer, &type);
    /* A learning rate so small that the network stays what it is; the work is the same. */
    session.run.lr = 1e-12f;
    if (status == HL_OK && !options->infer)
        status = hl_optimizer_create(model, &training, 1e-12, type.elem, &session.run, &optimizer);
    if (status == HL_OK && optimizer != NULL) {
        session.record = optimizer->record;
        session.update = &optimizer->step;
    }
    if (status == HL_OK)
        status = make_inputs(model, batch, &in);
    if (status == HL_OK && options->features)
        status = keep_features(&session, batch, type, &in);
    if (status == HL_OK)
        status = hl_session_program(&session, batch, !options->infer, type, &program);
    if (status == HL_OK)
        status = measure(&session, program, !options->infer, &in, steps, result);
    if (status == HL_OK && options->profile)
        status = profile(program, result);
    if (status == HL_OK)
        status = hl_measure_peak(session.backend, type, &result->peak_gflops);
    free_inputs(&in);
    hl_session_close(&session);
    hl_optimizer_destroy(optimizer);
    return status;
}
