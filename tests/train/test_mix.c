/* Which images are mixed, and how: distributions against their moments, boxes against the shares they leave.
 */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "train/mix.h"

enum { BATCHES = 20000, N = 5, H = 24, W = 36 };

static hl_mix draw(double mixup, double cutmix, uint64_t seed, uint32_t epoch, uint64_t batch)
{
    hl_mix mixes[N];
    hl_mix_draw(mixes, N, H, W, mixup, cutmix, seed, epoch, batch);
    return mixes[0];
}

static bool has_box(const hl_mix *mix)
{
    return mix->bottom > mix->top || mix->right > mix->left;
}

/* Beta(a, a) has mean 1/2 and variance v = 1 / (4 (2 a + 1)). The mean of B draws is off by more than five
 * times sqrt(v / B) once in two million; so is their variance beyond five times sqrt((k - 1) / B) v, where
 * the kurtosis k = 3 - 6 / (2 a + 3) is below 3. */
static void expect_beta(double a)
{
    double sum = 0.0, squares = 0.0, var = 1.0 / (4.0 * (2.0 * a + 1.0));
    for (int b = 0; b < BATCHES; b++) {
        hl_mix mix = draw(a, 0.0, 7, 0, (uint64_t)b);
        cr_assert(mix.share >= 0.0f && mix.share <= 1.0f && !has_box(&mix));
        double off = (double)mix.share - 0.5;
        sum += off;
        squares += off * off;
    }
    double mean = sum / BATCHES, spread = squares / BATCHES - mean * mean;
    cr_assert_float_eq(mean, 0.0, 5.0 * sqrt(var / BATCHES), "a = %g: mean 0.5 %+g", a, mean);
    cr_assert_float_eq(spread, var, 5.0 * sqrt(2.0 / BATCHES) * var, "a = %g: variance %g, not %g", a, spread,
                       var);
}

Test(mix, shares_of_mixup_follow_the_beta_distribution)
{
    static const double alphas[] = {0.1, 0.2, 0.8, 1.0, 4.0};
    for (int i = 0; i < 5; i++)
        expect_beta(alphas[i]);
}

Test(mix, images_are_mixed_from_both_ends_of_the_batch_with_one_share)
{
    hl_mix mixes[N];
    hl_mix_draw(mixes, N, H, W, 0.4, 0.0, 3, 1, 2);
    for (int i = 0; i < N; i++)
        cr_assert(mixes[i].partner == N - 1 - i && mixes[i].share == mixes[0].share);
    hl_mix one;
    hl_mix_draw(&one, 1, H, W, 0.4, 0.0, 3, 1, 2);
    cr_assert_eq(one.partner, 0);
}

/* The box lies in the image and what it leaves is the share, exactly. Uncut boxes have floor(H s) / 2 rows on
 * either side of the centre for a side s, so at most one row or column less than asked for, twice. */
Test(mix, boxes_of_cutmix_lie_in_the_image_and_leave_the_share)
{
    int touching = 0, empty = 0;
    for (int b = 0; b < BATCHES; b++) {
        hl_mix mix = draw(0.0, 1.0, 11, 2, (uint64_t)b);
        cr_assert(mix.top >= 0 && mix.top <= mix.bottom && mix.bottom <= H, "rows %d to %d", mix.top,
                  mix.bottom);
        cr_assert(mix.left >= 0 && mix.left <= mix.right && mix.right <= W, "columns %d to %d", mix.left,
                  mix.right);
        double area = (double)(mix.bottom - mix.top) * (mix.right - mix.left);
        cr_assert_eq(mix.share, (float)(1.0 - area / (H * W)));
        touching += mix.top == 0 || mix.left == 0 || mix.bottom == H || mix.right == W;
        empty += area == 0.0;
    }
    cr_assert(touching > BATCHES / 4 && touching < BATCHES, "%d of %d boxes touch an edge", touching,
              BATCHES);
    cr_assert_lt(empty, BATCHES / 20);
}

/* With a = 1 the area cut out is uniform before edges cut it; a box centred at random loses parts of itself,
 * so the mean of what is cut is below one half. For a side s per unit length and a centre u uniform in [0,
 * 1), E[min(1, u + s/2) - max(0, u - s/2)] = s - s^2 / 4; the area is its square, and with s^2 uniform the
 * mean is the integral of (s - s^2/4)^2 over s^2 = 1/2 - 1/5 + 1/48 = 0.3208. Whole pixels take up to 2 of 24
 * rows and of 36 columns more: 0.3208 (1 - 2/24/0.6) (1 - 2/36/0.6) = 0.25 at worst for a mean side of 0.6.
 */
Test(mix, areas_of_cutmix_are_those_of_boxes_cut_off_at_the_edges)
{
    double sum = 0.0;
    for (int b = 0; b < BATCHES; b++)
        sum += 1.0 - (double)draw(0.0, 1.0, 5, 0, (uint64_t)b).share;
    cr_assert(sum / BATCHES > 0.25 && sum / BATCHES < 0.33, "mean area %g", sum / BATCHES);
}

/* Binomial with p = 1/2: five deviations are 5 sqrt(B) / 2. */
Test(mix, where_both_are_on_each_has_half_of_the_batches)
{
    int boxes = 0;
    for (int b = 0; b < BATCHES; b++) {
        hl_mix mix = draw(8.0, 8.0, 13, 0, (uint64_t)b);
        boxes += has_box(&mix);
    }
    cr_assert(fabs(boxes - BATCHES / 2.0) <= 2.5 * sqrt(BATCHES), "%d of %d have a box", boxes, BATCHES);
}

Test(mix, draws_depend_on_seed_epoch_and_batch_alone)
{
    hl_mix a = draw(0.5, 0.0, 1, 2, 3), again = draw(0.5, 0.0, 1, 2, 3);
    cr_assert_eq(memcmp(&a, &again, sizeof a), 0);
    cr_assert_neq(a.share, draw(0.5, 0.0, 2, 2, 3).share);
    cr_assert_neq(a.share, draw(0.5, 0.0, 1, 3, 3).share);
    cr_assert_neq(a.share, draw(0.5, 0.0, 1, 2, 4).share);
}
