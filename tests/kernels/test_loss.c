#include <math.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

typedef enum source { LABELS, MIXES, TARGETS } source;

/* q(c) of sample n. */
static double probability(source from, const int32_t *labels, const hl_mix *mixes, const double *targets,
                          double smoothing, int64_t n, int64_t c, int64_t classes)
{
    if (from == TARGETS)
        return (double)(float)targets[n * classes + c];
    double share = from == MIXES ? (double)mixes[n].share : 1.0;
    double hit = c == labels[n] ? share : 0.0;
    if (from == MIXES && c == labels[mixes[n].partner])
        hit += 1.0 - share;
    return smoothing / (double)classes + (1.0 - smoothing) * hit;
}

static void expect_loss(hl_elem elem, int64_t n, int64_t classes, source from, float smoothing)
{
    kernel_rig r = {0};
    const hl_run_state run = {.grad_scale = 0.5f};
    const hl_train_record record = {.loss_scale = 64.0};
    double *x = random_doubles(n * classes, -20.0, 20.0, HL_ELEM_F32, 1),
           *q = random_doubles(n * classes, 0.0, 1.0, HL_ELEM_F32, 2), *loss = doubles(n),
           *got_loss = doubles(n), *grad = doubles(n * classes), *got = doubles(n * classes);
    int32_t *labels = calloc((size_t)n, sizeof *labels);
    hl_mix *mixes = calloc((size_t)n, sizeof *mixes);
    for (int64_t i = 0; i < n; i++) {
        labels[i] = (int32_t)((i * 5 + 1) % classes);
        mixes[i] = (hl_mix){.partner = (int32_t)(n - 1 - i), .share = 0.3f};
    }
    for (int64_t i = 0; i < n; i++) {
        double top = x[i * classes], sum = 0.0, mass = 0.0;
        for (int64_t c = 0; c < classes; c++)
            top = fmax(top, x[i * classes + c]);
        for (int64_t c = 0; c < classes; c++)
            sum += exp(x[i * classes + c] - top);
        for (int64_t c = 0; c < classes; c++) {
            double p = probability(from, labels, mixes, q, (double)smoothing, i, c, classes);
            loss[i] += p * (top + log(sum) - x[i * classes + c]);
            mass += p;
        }
        for (int64_t c = 0; c < classes; c++)
            grad[i * classes + c] = (mass * exp(x[i * classes + c] - top) / sum -
                                     probability(from, labels, mixes, q, (double)smoothing, i, c, classes)) *
                                    0.5 * 64.0 / (double)n;
    }
    hl_loss_args args = {.logits = kernel_input(&r, n * classes, HL_ELEM_F32, x),
                         .labels = kernel_bytes(&r, labels, (size_t)n * sizeof *labels),
                         .mixes = from == MIXES ? kernel_bytes(&r, mixes, (size_t)n * sizeof *mixes) : NULL,
                         .targets = from == TARGETS ? kernel_input(&r, n * classes, HL_ELEM_F32, q) : NULL,
                         .smoothing = smoothing,
                         .losses = kernel_output(&r, n, HL_ELEM_F32),
                         .dlogits = kernel_output(&r, n * classes, elem),
                         .n = n,
                         .classes = classes};
    const hl_run_state *run_copy = kernel_bytes(&r, &run, sizeof run);
    const hl_train_record *record_copy = kernel_bytes(&r, &record, sizeof record);
    KERNEL_RUN(&r, hl_launch_loss(&args, elem, run_copy, record_copy, NULL));
    kernel_get(args.losses, n, HL_ELEM_F32, got_loss);
    kernel_get(args.dlogits, n * classes, elem, got);
    double mass = from == TARGETS ? (double)classes : 1.0;
    /* Terms q (log sum - x) of values up to 50, summed in 256 strands and a tree. */
    expect_close("loss", HL_ELEM_F32, got_loss, loss, n, 50.0 * mass, (double)classes / 32.0 + 24.0);
    /* Probabilities: a float exponential of up to -50 is off by some 50 roundings of its argument. */
    expect_close("gradient", elem, got, grad, n * classes, mass * 32.0 / (double)n,
                 80.0 + (double)classes / 32.0);
    free(x);
    free(q);
    free(loss);
    free(got_loss);
    free(grad);
    free(got);
    free(labels);
    free(mixes);
    kernel_rig_clear(&r);
}

Test(loss, labels_mixed_labels_and_targets)
{
    static const int64_t classes[] = {1, 2, 10, 33, 130, 1000};
    for (int e = 0; e < 3; e++)
        for (int c = 0; c < 6; c++)
            for (int from = 0; from < 3; from++)
                expect_loss(kernel_elems[e], 1 + c, classes[c], (source)from, from == 1 ? 0.0f : 0.1f);
}

static double loss_of_two(double first, double label)
{
    kernel_rig r = {0};
    const double x[2] = {first, 1.0};
    const hl_run_state run = {.grad_scale = 1.0f};
    double got;
    hl_loss_args args = {.logits = kernel_input(&r, 2, HL_ELEM_F32, x),
                         .labels = kernel_input(&r, 1, HL_ELEM_I32, &label),
                         .losses = kernel_output(&r, 1, HL_ELEM_F32),
                         .n = 1,
                         .classes = 2};
    const hl_run_state *copy = kernel_bytes(&r, &run, sizeof run);
    KERNEL_RUN(&r, hl_launch_loss(&args, HL_ELEM_F32, copy, NULL, NULL));
    kernel_get(args.losses, 1, HL_ELEM_F32, &got);
    kernel_rig_clear(&r);
    return got;
}

Test(loss, what_cannot_be_judged_has_no_loss)
{
    cr_assert(isfinite(loss_of_two(0.0, 1.0)));
    cr_assert(isnan(loss_of_two(NAN, 1.0)));
    cr_assert(isnan(loss_of_two(0.0, -1.0)));
    cr_assert(isnan(loss_of_two(0.0, 2.0)));
}

Test(loss, the_tally_adds_losses_and_hits)
{
    enum { N = 300, CLASSES = 5 };
    kernel_rig r = {0};
    const hl_train_record start = {
        .loss_sum = 2.5, .seen = 10, .correct = 3, .pending_loss = 1.0, .pending = 1};
    double *x = random_doubles(N * CLASSES, -3.0, 3.0, HL_ELEM_F32, 1),
           *losses = random_doubles(N, 0.0, 4.0, HL_ELEM_F32, 2);
    int32_t labels[N];
    int64_t hits = 0;
    double sum = 0.0;
    for (int i = 0; i < N; i++) {
        double *row = x + i * CLASSES;
        labels[i] = i % CLASSES;
        if (i == 7)
            row[3] = NAN;
        if (i == 8)
            for (int c = 0; c < CLASSES; c++)
                row[c] = 1.0; /* the first of equal ones counts, and the label is the fourth */
        bool hit = i != 7;
        for (int c = 0; c < CLASSES; c++)
            hit = hit && (c < labels[i] ? row[c] < row[labels[i]] : row[c] <= row[labels[i]]);
        hits += hit;
        sum += losses[i];
    }
    const float *pl = kernel_input(&r, N, HL_ELEM_F32, losses),
                *px = kernel_input(&r, N * CLASSES, HL_ELEM_F32, x);
    const int32_t *labels_copy = kernel_bytes(&r, labels, sizeof labels);
    hl_train_record *record = kernel_bytes(&r, &start, sizeof start);
    KERNEL_RUN(&r, hl_launch_tally(pl, px, labels_copy, N, CLASSES, record, NULL));
    cr_assert_eq(record->correct, 3 + hits);
    cr_assert_eq(record->seen, 10 + N);
    cr_assert_eq(record->pending, 2);
    cr_assert_float_eq(record->loss_sum, 2.5 + sum, 1e-10);
    cr_assert_float_eq(record->pending_loss, 1.0 + sum / N, 1e-12);
    free(x);
    free(losses);
    kernel_rig_clear(&r);
}
