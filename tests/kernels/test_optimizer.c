/* The optimizer kernels against the CPU backend's optimizer, which is tested against torch.optim. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/step_harness.h"

enum { SIZE = 3 * HL_OPTIMIZE_BLOCK, SEGMENTS = 3, STEPS = 4 };

/* Ragged lengths; a gap that nobody owns; one longer than a block. */
static hl_segment segments[SEGMENTS] = {{0, 1, 1.0f, 0.0f, 0.0f, 0.0f, true},
                                        {16, 1037, 0.1f, 0.05f, 0.01f, 0.0f, false},
                                        {2048, SIZE - 2048 - 5, 2.0f, 0.01f, 0.0f, 0.1f, true}};

typedef struct arrays {
    float value[SIZE], grad[SIZE], moment1[SIZE], moment2[SIZE], start[SIZE];
} arrays;

static void fill_gradients(float *grad, uint32_t step)
{
    hl_rng rng = hl_rng_make(5, HL_STREAM_TEST, step, 0);
    for (int i = 0; i < SIZE; i++) /* away from 0, where Adam's direction hangs on rounding */
        grad[i] = (i % 2 ? 1.0f : -1.0f) * (0.25f + hl_rng_uniform(&rng));
}

/* One step of the CPU backend on `a`. */
static void cpu_step(const hl_optimize_attr *attr, arrays *a, hl_train_record *record, uint64_t step)
{
    step_harness h;
    harness_open(&h);
    hl_step *s = harness_step(&h, HL_STEP_OPTIMIZE, 0, NULL, 0, NULL);
    s->optimize = *attr;
    s->optimize.value = a->value;
    s->optimize.grad = a->grad;
    s->optimize.moment1 = a->moment1;
    s->optimize.moment2 = a->moment2;
    s->optimize.start = a->start;
    s->record = record;
    harness_build(&h);
    h.run.step = step;
    h.run.lr = 0.01f;
    harness_run(&h, s);
    harness_close(&h);
}

typedef struct device {
    kernel_rig rig;
    hl_optimize_args args;
    hl_run_state *run;
    hl_train_record *record;
} device;

static void device_open(device *d, const hl_optimize_attr *attr, const arrays *a,
                        const hl_train_record *record)
{
    hl_optimize_block blocks[16];
    int64_t count = hl_optimize_blocks(segments, SEGMENTS, NULL);
    cr_assert(count <= 16);
    cr_assert_eq(hl_optimize_blocks(segments, SEGMENTS, blocks), count);
    *d = (device){.args = {.kind = attr->kind,
                           .momentum = attr->momentum,
                           .nesterov = attr->nesterov,
                           .beta1 = attr->beta1,
                           .beta2 = attr->beta2,
                           .eps = attr->eps,
                           .trust = attr->trust,
                           .clip_norm = attr->clip_norm,
                           .scaling = attr->scaling,
                           .segment_count = SEGMENTS,
                           .block_count = count}};
    size_t scratch = hl_optimize_scratch(count, SEGMENTS);
    d->args.value = kernel_bytes(&d->rig, a->value, sizeof a->value);
    d->args.grad = kernel_bytes(&d->rig, a->grad, sizeof a->grad);
    d->args.moment1 = kernel_bytes(&d->rig, a->moment1, sizeof a->moment1);
    d->args.moment2 = kernel_bytes(&d->rig, a->moment2, sizeof a->moment2);
    d->args.start = kernel_bytes(&d->rig, a->start, sizeof a->start);
    d->args.segments = kernel_bytes(&d->rig, segments, sizeof segments);
    d->args.blocks = kernel_bytes(&d->rig, blocks, (size_t)count * sizeof *blocks);
    d->args.scratch = kernel_output(&d->rig, (int64_t)(scratch / sizeof(float)), HL_ELEM_F32);
    d->run = kernel_bytes(&d->rig, &(hl_run_state){.lr = 0.01f}, sizeof *d->run);
    d->record = kernel_bytes(&d->rig, record, sizeof *record);
}

static void expect_arrays(const char *name, const float *got, const float *want, double operations)
{
    for (int i = 0; i < SIZE; i++)
        expect_close(name, HL_ELEM_F32, (double[]){(double)got[i]}, (double[]){(double)want[i]}, 1, 2.0,
                     operations);
}

static void expect_agreement(const char *name, hl_optimize_attr attr)
{
    if (!kernel_takes_case(13))
        return;
    arrays *a = calloc(1, sizeof *a);
    hl_train_record record = {.loss_scale = attr.scaling ? 4.0 : 1.0};
    device d;
    attr.segments = segments;
    attr.segment_count = SEGMENTS;
    hl_rng rng = hl_rng_make(1, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < SIZE; i++)
        a->start[i] = a->value[i] = 2.0f * hl_rng_uniform(&rng) - 1.0f;
    device_open(&d, &attr, a, &record);
    for (uint32_t s = 0; s < STEPS; s++) {
        fill_gradients(a->grad, s);
        if (attr.scaling && s == 1)
            a->grad[100] = INFINITY;
        memcpy(d.args.grad, a->grad, sizeof a->grad);
        record.pending = d.record->pending = 2;
        record.pending_loss = d.record->pending_loss = 3.0;
        d.run->step = s;
        KERNEL_RUN(&d.rig, hl_launch_optimize(&d.args, d.run, d.record, NULL));
        cpu_step(&attr, a, &record, s);
        /* Values up to 2; a few roundings a step on both sides. */
        expect_arrays(name, d.args.value, a->value, 24.0 * (s + 1));
        cr_assert_float_eq(d.record->step_loss, record.step_loss, 1e-9 * fabs(record.step_loss));
        cr_assert(d.record->updates == record.updates && d.record->skipped == record.skipped &&
                      d.record->bad_step == record.bad_step && d.record->good_steps == record.good_steps &&
                      d.record->loss_scale == record.loss_scale && d.record->pending == 0,
                  "%s, step %u", name, s);
        cr_assert(attr.clip_norm == 0.0f || !record.update ||
                  fabs(d.record->grad_norm / record.grad_norm - 1.0) < 1e-12);
    }
    cr_assert(!attr.scaling || (record.skipped == 1 && record.updates == STEPS - 1));
    free(a);
    kernel_rig_clear(&d.rig);
}

Test(optimizer_kernel, every_kind_agrees_with_the_cpu_backend)
{
    const hl_optimize_attr adam = {.kind = HL_OPTIMIZER_ADAM, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-2f};
    hl_optimize_attr adamw = adam, scaled = adam, clipped = adam;
    adamw.kind = HL_OPTIMIZER_ADAMW;
    scaled.scaling = true;
    clipped.clip_norm = 0.5f;
    expect_agreement("sgd", (hl_optimize_attr){.kind = HL_OPTIMIZER_SGD});
    expect_agreement("momentum", (hl_optimize_attr){.kind = HL_OPTIMIZER_SGD, .momentum = 0.9f});
    expect_agreement(
        "nesterov",
        (hl_optimize_attr){.kind = HL_OPTIMIZER_SGD, .momentum = 0.9f, .nesterov = true, .clip_norm = 3.0f});
    expect_agreement("adam", adam);
    expect_agreement("adamw", adamw);
    expect_agreement("clipped", clipped);
    expect_agreement("scaled", scaled);
    expect_agreement("lars", (hl_optimize_attr){.kind = HL_OPTIMIZER_LARS, .momentum = 0.9f, .trust = 0.02f});
}

Test(optimizer_kernel, what_is_not_finite_stops_all_updates)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    arrays *a = calloc(1, sizeof *a);
    for (int b = 0; b < 4 && kernel_takes_case(13); b++) {
        const hl_optimize_attr sgd = {.kind = HL_OPTIMIZER_SGD};
        hl_train_record record = {.loss_scale = 1.0, .pending = 1, .pending_loss = b == 3 ? NAN : 1.0};
        device d;
        for (int i = 0; i < SIZE; i++)
            a->value[i] = a->grad[i] = 1.0f;
        if (b < 3)
            a->grad[SIZE - 6] = bad[b]; /* the last that a segment owns */
        device_open(&d, &sgd, a, &record);
        d.run->step = 8;
        KERNEL_RUN(&d.rig, hl_launch_optimize(&d.args, d.run, d.record, NULL));
        cr_assert_eq(d.record->bad_step, 9, "%d", b);
        cr_assert_eq(d.record->updates, 0);
        cr_assert_eq(memcmp(d.args.value, a->value, sizeof a->value), 0);
        kernel_rig_clear(&d.rig);
    }
    free(a);
}
