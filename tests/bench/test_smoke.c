/* What a training step consists of, counted instead of timed: operations, bytes that they read and write,
 * memory. A fusion that is lost, a pass over memory that is new or a gradient that nobody needs shows here on
 * any machine, however fast. Where a change makes less of something, its new counts go into the table. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/optimizer.h"
#include "train/session.h"

enum { BATCH = 2 };

typedef struct counts {
    int refresh, forward, backward;
    double traffic,
        arena; /* MiB; traffic is of plain tensors: packed ones have another size on every processor */
    int slow;  /* operations for which the library has no fast implementation */
} counts;

typedef struct smoke_case {
    const char *model, *method;
    hl_norm_mode norm;
    hl_precision precision;
    counts want;
} smoke_case;

static const smoke_case cases[] = {
#include "bench/smoke_counts.h"
};

static void count_warning(void *user, hl_log_level level, const char *line)
{
    (void)line;
    *(int *)user += level == HL_LOG_WARNING;
}

static void count_step(const hl_step *step, counts *c)
{
    if (step->kind == HL_STEP_FOLD)
        c->refresh++;
    else if (step->kind < HL_STEP_CONV_DATA)
        c->forward++;
    else if (step->kind != HL_STEP_OPTIMIZE)
        c->backward++;
    for (int i = 0; i < step->in_count; i++)
        if (step->in[i] != NULL && !step->in[i]->opaque)
            c->traffic += (double)step->in[i]->bytes / 0x1p20;
    for (int i = 0; i < step->out_count; i++)
        if (step->out[i] != NULL && !step->out[i]->opaque)
            c->traffic += (double)step->out[i]->bytes / 0x1p20;
}

/* A processor without bf16 computes it slowly or not at all. */
static bool has_bf16(void)
{
    hl_backend *backend;
    cr_assert_eq(hl_cpu_backend_open(1, NULL, &backend), HL_OK);
    bool has = backend->ops->is_native(backend, HL_ELEM_BF16);
    hl_backend_close(backend);
    return has;
}

static counts measure(const smoke_case *s)
{
    counts c = {0};
    const hl_log log = {.write = count_warning, .user = &c.slow};
    const hl_model_options options = {.name = s->model, .classes = 10, .seed = 1};
    const hl_compute compute = {.device = "cpu", .precision = s->precision, .threads = 1, .log = &log};
    hl_model *model;
    hl_session session;
    hl_program *program;
    hl_number_type type;
    hl_optimizer_state *optimizer;
    hl_train_options training;
    hl_train_defaults(&training);
    cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_apply_method(model, s->method, s->norm, 1), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_session_open(&session, model, &compute, 1), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_number_type(model, &compute, true, &type), HL_OK);
    cr_assert_eq(hl_optimizer_create(model, &training, 1e-3, type.elem, &session.run, &optimizer), HL_OK);
    session.record = optimizer->record;
    session.update = &optimizer->step;
    c.slow = 0;
    cr_assert_eq(hl_session_program(&session, BATCH, true, type, &program), HL_OK, "%s", hl_last_error());
    for (int i = 0; i < hl_program_step_count(program); i++)
        count_step(hl_program_step(program, i), &c);
    c.arena = (double)hl_program_memory_use(program).arena / 0x1p20;
    hl_session_close(&session);
    hl_optimizer_destroy(optimizer);
    hl_model_destroy(model);
    return c;
}

/* Gradients of weights lie in the arena in the library's layout, which pads thin layers by what the
 * processor's vectors hold: half a percent of the arena at most. */
static bool same(const counts *a, const counts *b)
{
    return a->refresh == b->refresh && a->forward == b->forward && a->backward == b->backward &&
           a->slow == b->slow && fabs(a->traffic - b->traffic) <= 0.01 &&
           fabs(a->arena - b->arena) <= 0.005 * b->arena;
}

Test(smoke, a_training_step_does_no_more_than_it_did)
{
    int differ = 0;
    bool bf16 = has_bf16();
    if (!bf16)
        fprintf(stderr, "SKIPPED: this processor has no bf16\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const smoke_case *s = &cases[i];
        if (s->precision == HL_PRECISION_BF16 && !bf16)
            continue;
#ifdef __SANITIZE_ADDRESS__
        if (strncmp(s->model, "resnet", 6) == 0)
            continue; /* the code is the same, and slow */
#endif
        counts got = measure(s);
        if (same(&got, &s->want))
            continue;
        fprintf(stderr, "%s %s: {%d, %d, %d, %.2f, %.2f, %d}, not {%d, %d, %d, %.2f, %.2f, %d}\n", s->model,
                s->method, got.refresh, got.forward, got.backward, got.traffic, got.arena, got.slow,
                s->want.refresh, s->want.forward, s->want.backward, s->want.traffic, s->want.arena,
                s->want.slow);
        differ++;
    }
    cr_assert_eq(differ, 0, "%d cases differ from the table", differ);
}
