#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/step_harness.h"

enum { SIZE = 20011, STEPS = 5 };

/* Flat arrays with a guard element at either end. */
typedef struct rig {
    step_harness h;
    hl_step *step;
    hl_train_record record;
    float value[SIZE + 2], grad[SIZE + 2], moment1[SIZE + 2], moment2[SIZE + 2];
} rig;

static rig *rig_make(hl_optimize_attr attr)
{
    rig *r = calloc(1, sizeof *r);
    cr_assert_not_null(r);
    harness_open(&r->h);
    r->step = harness_step(&r->h, HL_STEP_OPTIMIZE, 0, NULL, 0, NULL);
    attr.value = r->value + 1;
    attr.grad = r->grad + 1;
    attr.moment1 = r->moment1 + 1;
    attr.moment2 = attr.kind == HL_OPTIMIZER_SGD || attr.kind == HL_OPTIMIZER_LARS ? NULL : r->moment2 + 1;
    r->step->optimize = attr;
    r->record.loss_scale = 1.0;
    r->step->record = &r->record;
    harness_build(&r->h);
    return r;
}

static void rig_drop(rig *r)
{
    harness_close(&r->h);
    free(r);
}

static void one_step(rig *r, uint64_t step)
{
    r->h.run.step = step;
    harness_run(&r->h, r->step);
}

typedef struct golden_case {
    const char *name;
    hl_optimize_attr attr;
    float lr, decay;
    const float *want;
    float pull;
} golden_case;

static const golden_case goldens[] = {
    {"sgd", {.kind = HL_OPTIMIZER_SGD}, 0.1f, 0.0f, golden_optim_sgd, 0.0f},
    {"sgd momentum",
     {.kind = HL_OPTIMIZER_SGD, .momentum = 0.9f},
     0.1f,
     0.05f,
     golden_optim_sgd_momentum,
     0.0f},
    {"sgd nesterov",
     {.kind = HL_OPTIMIZER_SGD, .momentum = 0.9f, .nesterov = true},
     0.1f,
     0.05f,
     golden_optim_sgd_nesterov,
     0.0f},
    {"adam",
     {.kind = HL_OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-2f},
     0.01f,
     0.05f,
     golden_optim_adam,
     0.0f},
    {"adamw",
     {.kind = HL_OPTIMIZER_ADAMW, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-2f},
     0.01f,
     0.05f,
     golden_optim_adamw,
     0.0f},
    {"adamw, pulled",
     {.kind = HL_OPTIMIZER_ADAMW, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-2f, .start = golden_optim_start},
     0.01f,
     0.05f,
     golden_optim_pull,
     3.0f},
};

Test(optimize, five_steps_agree_with_torch_optim)
{
    for (size_t k = 0; k < sizeof goldens / sizeof *goldens; k++) {
        const golden_case *g = &goldens[k];
        hl_segment segment = {
            .first = 0, .count = 4, .lr_scale = 1.0f, .weight_decay = g->decay, .pull = g->pull};
        hl_optimize_attr attr = g->attr;
        attr.segments = &segment;
        attr.segment_count = 1;
        rig *r = rig_make(attr);
        r->h.run.lr = g->lr;
        memcpy(r->value + 1, golden_optim_start, sizeof golden_optim_start);
        for (int s = 0; s < STEPS; s++) {
            double got[4], want[4];
            memcpy(r->grad + 1, golden_optim_grads + 4 * s, 4 * sizeof(float));
            one_step(r, (uint64_t)s);
            for (int i = 0; i < 4; i++) {
                got[i] = (double)r->value[1 + i];
                want[i] = (double)g->want[4 * s + i];
            }
            /* Values up to 4; per step a few roundings on both sides, and of lr and the betas to float. */
            expect_close(g->name, HL_ELEM_F32, got, want, 4, 4.0, 8.0 * (s + 1));
        }
        rig_drop(r);
    }
}

/* The same formulas in double, one element at a time. */
typedef struct state {
    double value, moment1, moment2;
} state;

static void reference(const hl_optimize_attr *o, double lr, double decay, double g, double t, state *s)
{
    if (o->kind == HL_OPTIMIZER_ADAMW)
        s->value *= 1.0 - lr * decay;
    else
        g += decay * s->value;
    if (o->kind == HL_OPTIMIZER_SGD) {
        s->moment1 = (double)o->momentum * s->moment1 + g;
        s->value -= lr * (o->nesterov ? g + (double)o->momentum * s->moment1 : s->moment1);
        return;
    }
    double b1 = (double)o->beta1, b2 = (double)o->beta2;
    s->moment1 = b1 * s->moment1 + (1.0 - b1) * g;
    s->moment2 = b2 * s->moment2 + (1.0 - b2) * g * g;
    s->value -=
        lr * (s->moment1 / (1.0 - pow(b1, t))) / (sqrt(s->moment2 / (1.0 - pow(b2, t))) + (double)o->eps);
}

static void expect_segments(const golden_case *g)
{
    /* Ragged lengths, a gap that nobody owns, one longer than a thread's chunk. */
    static const hl_segment segments[] = {
        {.first = 0, .count = 1, .lr_scale = 1.0f},
        {.first = 1, .count = 37, .lr_scale = 0.1f, .weight_decay = 0.05f},
        {.first = 100, .count = SIZE - 100, .lr_scale = 2.0f, .weight_decay = 0.01f}};
    hl_optimize_attr attr = g->attr;
    attr.segments = segments;
    attr.segment_count = 3;
    rig *r = rig_make(attr);
    r->h.run.lr = g->lr;
    r->record.loss_scale = 2.0; /* gradients are halved */
    state *want = calloc(SIZE, sizeof *want);
    hl_rng rng = hl_rng_make(1, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < SIZE; i++) {
        want[i].value = 2.0 * (double)hl_rng_uniform(&rng) - 1.0;
        r->value[1 + i] = (float)want[i].value;
    }
    r->value[0] = r->value[SIZE + 1] = 7.0f;
    for (int s = 0; s < 3; s++) {
        for (int i = 0; i < SIZE; i++) /* away from 0, where Adam's direction hangs on rounding */
            r->grad[1 + i] = (i % 2 ? 1.0f : -1.0f) * (0.25f + hl_rng_uniform(&rng));
        one_step(r, (uint64_t)s);
        for (int k = 0; k < 3; k++)
            for (int64_t i = segments[k].first; i < segments[k].first + segments[k].count; i++)
                reference(&attr, (double)g->lr * (double)segments[k].lr_scale,
                          (double)segments[k].weight_decay, 0.5 * (double)r->grad[1 + i], s + 1.0, &want[i]);
    }
    for (int i = 0; i < SIZE; i++) {
        double got = (double)r->value[1 + i];
        /* Values up to 2; 3 steps of a few roundings. */
        expect_close(g->name, HL_ELEM_F32, &got, &want[i].value, 1, 2.0, 24.0);
    }
    cr_assert(r->value[0] == 7.0f && r->value[SIZE + 1] == 7.0f);
    free(want);
    rig_drop(r);
}

Test(optimize, segments_have_their_own_rates_and_gradients_are_unscaled)
{
    for (size_t k = 0; k < sizeof goldens / sizeof *goldens; k++)
        expect_segments(&goldens[k]);
}

Test(optimize, a_rate_of_zero_changes_nothing)
{
    for (size_t k = 0; k < sizeof goldens / sizeof *goldens; k++) {
        hl_segment segment = {.first = 0, .count = 3, .lr_scale = 1.0f, .weight_decay = 0.1f};
        hl_optimize_attr attr = goldens[k].attr;
        attr.segments = &segment;
        attr.segment_count = 1;
        rig *r = rig_make(attr);
        r->h.run.lr = 0.0f;
        for (int i = 1; i <= 3; i++)
            r->value[i] = r->grad[i] = 0.1f * (float)i;
        one_step(r, 0);
        for (int i = 1; i <= 3; i++)
            cr_assert(r->value[i] == 0.1f * (float)i, "%s", goldens[k].name);
        rig_drop(r);
    }
}

/* One segment of three values 1, 2, 2 with gradients 3, 0, 4: norms 3 and 5. */
static rig *small_rig(hl_optimize_attr attr, hl_segment *segment)
{
    static const float values[] = {1.0f, 2.0f, 2.0f}, grads[] = {3.0f, 0.0f, 4.0f};
    attr.segments = segment;
    attr.segment_count = 1;
    rig *r = rig_make(attr);
    r->h.run.lr = 0.1f;
    memcpy(r->value + 1, values, sizeof values);
    memcpy(r->grad + 1, grads, sizeof grads);
    return r;
}

static void expect_values(const rig *r, double a, double b, double c)
{
    const double want[] = {a, b, c}, got[] = {(double)r->value[1], (double)r->value[2], (double)r->value[3]};
    expect_close("values", HL_ELEM_F32, got, want, 3, 4.0, 16.0);
}

Test(optimize, long_gradients_are_scaled_to_the_norm_asked_for)
{
    hl_segment segment = {.count = 3, .lr_scale = 1.0f};
    rig *r = small_rig((hl_optimize_attr){.kind = HL_OPTIMIZER_SGD, .clip_norm = 1.0f}, &segment);
    one_step(r, 0);
    cr_assert_float_eq(r->record.grad_norm, 5.0, 1e-12);
    expect_values(r, 1.0 - 0.1 * 3.0 / 5.0, 2.0, 2.0 - 0.1 * 4.0 / 5.0);
    rig_drop(r);
}

Test(optimize, lars_scales_a_layers_rate_by_its_norms)
{
    hl_segment segment = {.count = 3, .lr_scale = 1.0f, .weight_decay = 0.5f, .adapt = true};
    rig *r = small_rig((hl_optimize_attr){.kind = HL_OPTIMIZER_LARS, .trust = 0.01f}, &segment);
    one_step(r, 0);
    double local = 0.1 * 0.01 * 3.0 / (5.0 + 0.5 * 3.0);
    expect_values(r, 1.0 - local * (3.0 + 0.5), 2.0 - local * 1.0, 2.0 - local * (4.0 + 1.0));
    rig_drop(r);
    segment.adapt = false;
    r = small_rig((hl_optimize_attr){.kind = HL_OPTIMIZER_LARS, .trust = 0.01f}, &segment);
    one_step(r, 0);
    expect_values(r, 1.0 - 0.1 * 3.5, 2.0 - 0.1, 2.0 - 0.1 * 5.0);
    rig_drop(r);
}

Test(optimize, from_the_first_gradient_that_is_not_finite_nothing_is_updated)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < sizeof goldens / sizeof *goldens; k++)
        for (int b = 0; b < 3; b++) {
            hl_segment segment = {.count = 3, .lr_scale = 1.0f, .weight_decay = 0.1f};
            rig *r = small_rig(goldens[k].attr, &segment);
            r->grad[2] = bad[b];
            one_step(r, 6);
            expect_values(r, 1.0, 2.0, 2.0);
            cr_assert_eq(r->record.bad_step, 7);
            r->grad[2] = 0.0f;
            one_step(r, 7);
            expect_values(r, 1.0, 2.0, 2.0);
            cr_assert(r->record.bad_step == 7 && r->record.updates == 0, "%s", goldens[k].name);
            rig_drop(r);
        }
}

Test(optimize, a_loss_that_is_not_finite_stops_updates_too)
{
    hl_segment segment = {.count = 3, .lr_scale = 1.0f};
    rig *r = small_rig((hl_optimize_attr){.kind = HL_OPTIMIZER_SGD}, &segment);
    r->record.pending = 1;
    r->record.pending_loss = NAN;
    one_step(r, 0);
    expect_values(r, 1.0, 2.0, 2.0);
    cr_assert(r->record.bad_step == 1 && isnan(r->record.step_loss) && r->record.pending == 0);
    rig_drop(r);
}

Test(optimize, an_overflow_of_scaled_gradients_halves_the_scale_and_costs_one_step)
{
    hl_segment segment = {.count = 3, .lr_scale = 1.0f};
    rig *r = small_rig(
        (hl_optimize_attr){
            .kind = HL_OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .scaling = true},
        &segment);
    r->record.loss_scale = 8.0;
    r->record.good_steps = 5;
    r->grad[1] = INFINITY;
    one_step(r, 0);
    expect_values(r, 1.0, 2.0, 2.0);
    cr_assert(r->record.loss_scale == 4.0 && r->record.skipped == 1 && r->record.good_steps == 0);
    cr_assert(r->record.updates == 0 && r->record.bad_step == 0);
    r->grad[1] = 3.0f;
    one_step(r, 1);
    /* Adam's first update, whatever the step's number: each value moves by the rate. */
    expect_values(r, 1.0 - 0.1, 2.0, 2.0 - 0.1);
    r->record.good_steps = HL_LOSS_SCALE_STEPS - 1;
    one_step(r, 2);
    cr_assert(r->record.loss_scale == 8.0 && r->record.good_steps == 0 && r->record.updates == 2);
    /* At scale 1 an infinite gradient is no overflow of scaling. */
    r->record.loss_scale = 1.0;
    r->grad[1] = INFINITY;
    one_step(r, 3);
    cr_assert(r->record.bad_step == 4 && r->record.skipped == 1);
    rig_drop(r);
}
