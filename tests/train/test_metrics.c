#include <criterion/criterion.h>
#include <math.h>

#include "train/metrics.h"

static double area(const double *scores, const uint8_t *positive, int64_t n)
{
    double value;
    cr_assert_eq(hl_auroc(scores, positive, n, &value), HL_OK);
    return value;
}

/* The first is the example of sklearn.metrics.roc_auc_score; the others count pairs by hand. */
Test(auroc, is_the_share_of_pairs_in_order)
{
    const double a[] = {0.1, 0.4, 0.35, 0.8};
    const uint8_t a_positive[] = {0, 0, 1, 1};
    cr_assert_float_eq(area(a, a_positive, 4), 0.75, 1e-15);
    /* Ties within and across the two kinds. */
    const double b[] = {0.5, 0.5, 0.5, 0.2, 0.9, 0.2, 0.9, 0.7};
    const uint8_t b_positive[] = {1, 0, 1, 0, 1, 1, 0, 0};
    cr_assert_float_eq(area(b, b_positive, 8), 7.0 / 16.0, 1e-15);
    const double c[] = {-3.0, 1e30, -1e30, 2.0, 2.0};
    const uint8_t c_positive[] = {0, 1, 0, 1, 0};
    cr_assert_float_eq(area(c, c_positive, 5), 5.5 / 6.0, 1e-15);
}

Test(auroc, of_constant_scores_is_a_half)
{
    const double scores[] = {1.0, 1.0, 1.0};
    const uint8_t positive[] = {0, 1, 0};
    cr_assert_float_eq(area(scores, positive, 3), 0.5, 0.0);
}

Test(auroc, is_undefined_without_both_kinds)
{
    const double scores[] = {1.0, 2.0};
    const uint8_t ones[] = {1, 1}, zeros[] = {0, 0};
    cr_assert(isnan(area(scores, ones, 2)));
    cr_assert(isnan(area(scores, zeros, 2)));
    cr_assert(isnan(area(scores, zeros, 0)));
}

Test(meter, counts_by_hand)
{
    enum { N = 5, CLASSES = 7 };
    /* Places of the true class when sorted by falling logits: 0, 4, 5, 0 (a tie that comes first), 1 (a tie
     * that comes second). */
    const float logits[N][CLASSES] = {{0, 9, 1, 2, 3, 4, 5},
                                      {7, 6, 5, 4, 3, 2, 1},
                                      {7, 6, 5, 4, 3, 2, 1},
                                      {2, 8, 8, 1, 0, 0, 0},
                                      {2, 8, 8, 1, 0, 0, 0}};
    const int32_t labels[N] = {1, 4, 5, 1, 2};
    const float losses[N] = {0.5f, 1.5f, 2.0f, 0.25f, 0.75f};
    hl_meter *meter;
    hl_metrics m;
    cr_assert_eq(hl_meter_create(CLASSES, &meter), HL_OK);
    cr_assert_eq(hl_meter_add(meter, &logits[0][0], losses, labels, 2), HL_OK);
    cr_assert_eq(hl_meter_add(meter, &logits[2][0], losses + 2, labels + 2, 3), HL_OK);
    cr_assert_eq(hl_meter_read(meter, &m), HL_OK);
    cr_assert_eq(m.count, N);
    cr_assert_float_eq(m.loss, 1.0, 1e-12);
    cr_assert_float_eq(m.acc1, 2.0 / 5.0, 1e-12);
    cr_assert_float_eq(m.acc5, 4.0 / 5.0, 1e-12);
    /* Class 1: 2 of 2; classes 2, 4, 5: 0 of 1; the others do not occur. */
    cr_assert_float_eq(m.acc_class, 1.0 / 4.0, 1e-12);
    cr_assert(isnan(m.auroc));
    cr_assert_eq(meter->confusion[1 * CLASSES + 1], 2);
    cr_assert_eq(meter->confusion[4 * CLASSES + 0], 1);
    cr_assert_eq(meter->confusion[2 * CLASSES + 1], 1);
    cr_assert_eq(hl_count_correct(&logits[0][0], labels, N, CLASSES), 2);
    hl_meter_reset(meter);
    cr_assert_eq(hl_meter_read(meter, &m), HL_OK);
    cr_assert_eq(m.count, 0);
    cr_assert(isnan(m.loss) && isnan(m.acc1));
    hl_meter_destroy(meter);
}

Test(meter, two_classes_have_an_auroc_and_no_misses_among_five)
{
    const float logits[4][2] = {{1, 0}, {2, 3}, {0, 1}, {5, 4}};
    const int32_t labels[4] = {0, 1, 0, 1};
    const float losses[4] = {0};
    hl_meter *meter;
    hl_metrics m;
    cr_assert_eq(hl_meter_create(2, &meter), HL_OK);
    cr_assert_eq(hl_meter_add(meter, &logits[0][0], losses, labels, 4), HL_OK);
    cr_assert_eq(hl_meter_read(meter, &m), HL_OK);
    cr_assert_float_eq(m.acc5, 1.0, 0.0);
    /* Scores -1, 1, 1, -1: of the four pairs two are ties, one is right, one wrong. */
    cr_assert_float_eq(m.auroc, 0.5, 1e-15);
    hl_meter_destroy(meter);
}
