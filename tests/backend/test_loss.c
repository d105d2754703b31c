#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixtures/op_goldens.h"
#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

typedef struct rig {
    step_harness h;
    int64_t batch, classes;
    hl_tensor *logits, *labels, *losses, *dlogits;
    hl_step *step;
} rig;

static void rig_make(rig *r, int64_t batch, int64_t classes, hl_elem elem, float smoothing, bool gradient)
{
    harness_open(&r->h);
    r->batch = batch;
    r->classes = classes;
    hl_shape s = {batch, 1, 1, classes}, per_sample = {batch, 1, 1, 1};
    /* 16-bit logits are the CPU's alone. */
    r->logits = harness_tensor(&r->h, "logits", s, r->h.backend->host_memory ? elem : HL_ELEM_F32);
    r->labels = harness_tensor(&r->h, "labels", per_sample, HL_ELEM_I32);
    r->losses = harness_tensor(&r->h, "losses", per_sample, HL_ELEM_F32);
    r->dlogits = harness_tensor(&r->h, "dlogits", s, elem);
    r->step = harness_step(&r->h, HL_STEP_LOSS, 2, (hl_tensor *[]){r->logits, r->labels}, 2,
                           (hl_tensor *[]){r->losses, gradient ? r->dlogits : NULL});
    r->step->loss.smoothing = smoothing;
    harness_build(&r->h);
}

static void expect_loss(int64_t batch, int64_t classes, hl_elem elem, float smoothing)
{
    rig r;
    rig_make(&r, batch, classes, elem, smoothing, true);
    r.h.run.grad_scale = 0.25f;
    int64_t n = batch * classes;
    double *x = random_doubles(n, -6.0, 6.0, elem, 1), *labels = doubles(batch), *losses = doubles(batch),
           *want = doubles(batch), *dx = doubles(n), *want_dx = doubles(n);
    for (int64_t i = 0; i < batch; i++) {
        labels[i] = (double)(i * 7 % classes);
        want[i] =
            ref_loss(x + i * classes, classes, (int64_t)labels[i], (double)smoothing, want_dx + i * classes);
    }
    for (int64_t i = 0; i < n; i++)
        want_dx[i] *= 0.25 / (double)batch;
    harness_set(r.logits, x);
    harness_set(r.labels, labels);
    harness_run(&r.h, r.step);
    harness_get(r.losses, losses);
    harness_get(r.dlogits, dx);
    /* Differences of values up to 12 + log(classes), and of probabilities up to 1. */
    expect_close("loss", HL_ELEM_F32, losses, want, batch, 20.0, 4);
    expect_close("dlogits", elem, dx, want_dx, n, 0.25 / (double)batch, 8);
    double *const all[] = {x, labels, losses, want, dx, want_dx};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&r.h);
}

Test(loss, values_and_gradients_agree_with_the_definition)
{
    static const int64_t sizes[][2] = {{1, 1}, {1, 2}, {3, 17}, {5, 102}, {2, 2051}, {33, 10}};
    for (int k = 0; k < 6; k++)
        for (int e = 0; e < 2; e++)
            for (int smooth = 0; smooth < 2; smooth++)
                expect_loss(sizes[k][0], sizes[k][1], e ? HL_ELEM_BF16 : HL_ELEM_F32, smooth ? 0.1f : 0.0f);
}

Test(loss, gradients_agree_with_finite_differences)
{
    double x[7] = {0.5, -2.0, 3.0, 0.0, 1.0, -1.0, 2.5}, label = 4.0, want[7], dx[7];
    const double h = 1e-5;
    for (int i = 0; i < 7; i++) {
        double kept = x[i], loss[2];
        for (int side = 0; side < 2; side++) {
            x[i] = side ? kept + h : kept - h;
            loss[side] = ref_loss(x, 7, 4, (double)0.2f, NULL);
        }
        x[i] = kept;
        want[i] = (loss[1] - loss[0]) / (2.0 * h);
    }
    rig r;
    rig_make(&r, 1, 7, HL_ELEM_F32, 0.2f, true);
    harness_set(r.logits, x);
    harness_set(r.labels, &label);
    harness_run(&r.h, r.step);
    harness_get(r.dlogits, dx);
    expect_close("dlogits", HL_ELEM_F32, dx, want, 7, 1.0, 8);
    harness_close(&r.h);
}

/* - sum q log softmax(x), by the definition of q for mixed labels or as given. */
static double reference(const double *x, int64_t classes, const double *q, double *dx)
{
    double most = -INFINITY, sum = 0.0, mass = 0.0, loss = 0.0;
    for (int64_t c = 0; c < classes; c++)
        most = fmax(most, x[c]);
    for (int64_t c = 0; c < classes; c++)
        sum += exp(x[c] - most);
    for (int64_t c = 0; c < classes; c++) {
        mass += q[c];
        loss -= q[c] * (x[c] - most - log(sum));
    }
    for (int64_t c = 0; c < classes; c++)
        dx[c] = mass * exp(x[c] - most) / sum - q[c];
    return loss;
}

/* Labels mixed with those of partners, or distributions given outright (which need not sum to one). */
static void expect_targets(bool given, double smoothing)
{
    enum { BATCH = 5, CLASSES = 11, COUNT = BATCH * CLASSES };
    step_harness h;
    harness_open(&h);
    const hl_shape s = {BATCH, 1, 1, CLASSES}, each = {BATCH, 1, 1, 1};
    hl_tensor *logits = harness_tensor(&h, "logits", s, HL_ELEM_F32),
              *labels = harness_tensor(&h, "labels", each, HL_ELEM_I32),
              *mixes =
                  harness_tensor(&h, "mixes", (hl_shape){BATCH, 1, 1, (int64_t)sizeof(hl_mix)}, HL_ELEM_U8),
              *targets = harness_tensor(&h, "targets", s, HL_ELEM_F32),
              *losses = harness_tensor(&h, "losses", each, HL_ELEM_F32),
              *dlogits = harness_tensor(&h, "dlogits", s, HL_ELEM_F32);
    hl_tensor *const in[] = {logits, labels, given ? NULL : mixes, given ? targets : NULL};
    hl_step *step = harness_step(&h, HL_STEP_LOSS, 4, in, 2, (hl_tensor *[]){losses, dlogits});
    step->loss.smoothing = (float)smoothing;
    harness_build(&h);
    hl_mix list[BATCH];
    double *x = random_doubles(COUNT, -6.0, 6.0, HL_ELEM_F32, 21),
           *q = random_doubles(COUNT, 0.0, 0.2, HL_ELEM_F32, 22), label[BATCH], got[BATCH], want[BATCH],
           dx[COUNT], want_dx[COUNT];
    for (int n = 0; n < BATCH; n++) {
        label[n] = n * 7 % CLASSES;
        list[n] = (hl_mix){.partner = BATCH - 1 - n, .share = 0.25f + 0.125f * (float)n};
    }
    for (int i = 0; i < COUNT && !given; i++) {
        int n = i / CLASSES, c = i % CLASSES;
        double share = (double)list[n].share, hit = c == (int)label[n] ? share : 0.0;
        hit += c == (int)label[BATCH - 1 - n] ? 1.0 - share : 0.0;
        q[i] = (double)(float)smoothing / CLASSES + (1.0 - (double)(float)smoothing) * hit;
    }
    for (int n = 0; n < BATCH; n++)
        want[n] = reference(x + n * CLASSES, CLASSES, q + n * CLASSES, want_dx + n * CLASSES);
    for (int i = 0; i < COUNT; i++)
        want_dx[i] /= BATCH;
    harness_set(logits, x);
    harness_set(labels, label);
    harness_set_bytes(mixes, list, sizeof list);
    harness_set(targets, q);
    harness_run(&h, step);
    harness_get(losses, got);
    harness_get(dlogits, dx);
    /* Products of weights up to 1 and differences up to 12 + log(classes); probabilities up to a mass of 2.2.
     */
    expect_close("loss", HL_ELEM_F32, got, want, BATCH, 33.0, CLASSES + 4);
    expect_close("dlogits", HL_ELEM_F32, dx, want_dx, COUNT, 2.2 / BATCH, CLASSES + 8);
    free(x), free(q);
    harness_close(&h);
}

Test(loss, labels_may_be_mixed_and_distributions_given)
{
    expect_targets(false, 0.0);
    expect_targets(false, 0.1);
    expect_targets(true, 0.1); /* which smoothing does not touch */
}

/* Adds to what the record has; the first of equal scores is the one predicted, and NaN predicts nothing. */
Test(loss, losses_and_hits_are_tallied)
{
    enum { BATCH = 6, CLASSES = 4 };
    static const double scores[BATCH * CLASSES] = {0,   1, 2, 3, 3,  3,  1,  0,  3, 3, 1, 0,
                                                   NAN, 1, 2, 3, -1, -2, -1, -3, 5, 4, 3, 2},
                                       label[BATCH] = {3, 0, 1, 3, 2, 0},
                                       values[BATCH] = {0.5, 1.25, 2.0, 4.0, 8.0, 0.25};
    step_harness h;
    harness_open(&h);
    const hl_shape each = {BATCH, 1, 1, 1};
    hl_tensor *losses = harness_tensor(&h, "losses", each, HL_ELEM_F32),
              *logits = harness_tensor(&h, "logits", (hl_shape){BATCH, 1, 1, CLASSES}, HL_ELEM_F32),
              *labels = harness_tensor(&h, "labels", each, HL_ELEM_I32);
    hl_step *step = harness_step(&h, HL_STEP_TALLY, 3, (hl_tensor *[]){losses, logits, labels}, 0, NULL);
    cr_assert_eq(h.backend->ops->alloc(h.backend, sizeof *step->record, "record", (void **)&step->record),
                 HL_OK);
    harness_build(&h);
    const hl_train_record before = {
        .loss_sum = 10.0, .seen = 3, .correct = 2, .pending_loss = 1.0, .pending = 1, .loss_scale = 4.0};
    hl_train_record after;
    harness_set(losses, values);
    harness_set(logits, scores);
    harness_set(labels, label);
    cr_assert_eq(h.backend->ops->upload(h.backend, step->record, &before, sizeof before), HL_OK);
    harness_run(&h, step);
    cr_assert_eq(h.backend->ops->download(h.backend, &after, step->record, sizeof after), HL_OK);
    h.backend->ops->free(h.backend, step->record);
    /* Right: samples 0, 1 and 5. Sample 2 has the second of two equal scores, 4 the second as well, 3 a NaN.
     */
    cr_assert(after.seen == 3 + BATCH && after.correct == 2 + 3, "%lld of %lld", (long long)after.correct,
              (long long)after.seen);
    cr_assert_eq(after.loss_sum, 10.0 + 16.0);
    cr_assert(after.pending == 2 && after.pending_loss == 1.0 + 16.0 / BATCH);
    cr_assert(after.loss_scale == 4.0 && after.updates == 0);
    harness_close(&h);
}

/* The smoothing is spread over all classes, the right one included. */
Test(loss, smoothing_follows_pytorch)
{
    rig r;
    rig_make(&r, 3, 5, HL_ELEM_F32, 0.1f, true);
    double x[15], labels[3], losses[3], dx[15], want[3], want_dx[15];
    for (int i = 0; i < 15; i++) {
        x[i] = (double)golden_loss_logits[i];
        want_dx[i] = (double)golden_loss_grad[i];
    }
    for (int i = 0; i < 3; i++) {
        labels[i] = golden_loss_labels[i];
        want[i] = (double)golden_loss_values[i];
    }
    harness_set(r.logits, x);
    harness_set(r.labels, labels);
    harness_run(&r.h, r.step);
    harness_get(r.losses, losses);
    harness_get(r.dlogits, dx);
    expect_close("loss", HL_ELEM_F32, losses, want, 3, 10.0, 8);
    expect_close("dlogits", HL_ELEM_F32, dx, want_dx, 15, 1.0, 8);
    harness_close(&r.h);
}

Test(loss, huge_scores_do_not_overflow)
{
    rig r;
    rig_make(&r, 2, 3, HL_ELEM_F32, 0.0f, true);
    double x[6] = {3e38, -3e38, 0.0, 1e4, 1e4 - 1.0, -1e4}, labels[2] = {0.0, 1.0}, losses[2], dx[6];
    harness_set(r.logits, x);
    harness_set(r.labels, labels);
    harness_run(&r.h, r.step);
    harness_get(r.losses, losses);
    harness_get(r.dlogits, dx);
    cr_assert(losses[0] == 0.0);
    cr_assert_float_eq(losses[1], 1.0 + log1p(exp(-1.0)), 1e-3); /* 2^-24 of 1e4 */
    for (int i = 0; i < 6; i++)
        cr_assert(isfinite(dx[i]));
    harness_close(&r.h);
}

Test(loss, a_score_that_is_not_a_number_shows_in_the_loss)
{
    rig r;
    rig_make(&r, 2, 3, HL_ELEM_F32, 0.1f, true);
    double x[6] = {1.0, NAN, 0.0, 1.0, 2.0, 3.0}, labels[2] = {0.0, 1.0}, losses[2], dx[6];
    harness_set(r.logits, x);
    harness_set(r.labels, labels);
    harness_run(&r.h, r.step);
    harness_get(r.losses, losses);
    harness_get(r.dlogits, dx);
    cr_assert(isnan(losses[0]) && isfinite(losses[1]) && isnan(dx[0]) && isfinite(dx[3]));
    harness_close(&r.h);
}

Test(loss, values_alone_can_be_asked_for)
{
    rig r;
    rig_make(&r, 1, 2, HL_ELEM_F32, 0.0f, false);
    double x[2] = {0.0, 0.0}, label = 1.0, loss;
    harness_set(r.logits, x);
    harness_set(r.labels, &label);
    harness_run(&r.h, r.step);
    harness_get(r.losses, &loss);
    expect_close("loss", HL_ELEM_F32, &loss, (double[]){log(2.0)}, 1, 1.0, 2);
    harness_close(&r.h);
}

/* On a device, where a step cannot fail, the loss is not a number. */
Test(loss, labels_out_of_range_are_an_error_that_names_them)
{
    static const double labels[] = {-1.0, 3.0, 1e9};
    for (int k = 0; k < 3; k++) {
        rig r;
        rig_make(&r, 1, 3, HL_ELEM_F32, 0.0f, true);
        harness_set(r.logits, (double[]){0.0, 1.0, 2.0});
        harness_set(r.labels, &labels[k]);
        if (!r.h.backend->host_memory) {
            double loss;
            harness_run(&r.h, r.step);
            harness_get(r.losses, &loss);
            cr_assert(isnan(loss));
            harness_close(&r.h);
            continue;
        }
        hl_sealed *list;
        cr_assert_eq(r.h.backend->ops->seal(r.h.backend, &r.step, 1, &list), HL_OK);
        cr_assert_eq(r.h.backend->ops->run(r.h.backend, list), HL_E_INTERNAL);
        r.h.backend->ops->unseal(r.h.backend, list);
        cr_assert_not_null(strstr(hl_last_error(), "label"), "%s", hl_last_error());
        harness_close(&r.h);
    }
}
