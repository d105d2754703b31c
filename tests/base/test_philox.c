#include <criterion/criterion.h>

#include "base/philox.h"

/* Known answers published with the reference implementation of Random123 (philox4x32, 10 rounds). */
static const struct {
    uint32_t counter[4], key[2], expected[4];
} known[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

Test(philox, gives_the_published_known_answers)
{
    for (size_t k = 0; k < sizeof known / sizeof *known; k++) {
        hl_philox got = hl_philox_block(known[k].counter, known[k].key);
        for (int i = 0; i < 4; i++)
            cr_assert_eq(got.v[i], known[k].expected[i], "vector %zu word %d: %08x", k, i, got.v[i]);
    }
}

Test(philox, streams_and_items_do_not_overlap)
{
    hl_philox a = hl_philox_at(7, HL_STREAM_SHUFFLE, 0, 0), b = hl_philox_at(7, HL_STREAM_AUGMENT, 0, 0);
    hl_philox c = hl_philox_at(7, HL_STREAM_SHUFFLE, 1, 0), d = hl_philox_at(8, HL_STREAM_SHUFFLE, 0, 0);
    cr_assert(a.v[0] != b.v[0] && a.v[0] != c.v[0] && a.v[0] != d.v[0]);
}

Test(philox, bounded_draws_cover_their_range_evenly)
{
    enum { N = 7, DRAWS = 70000 };
    int counts[N] = {0};
    hl_rng rng = hl_rng_make(1, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < DRAWS; i++)
        counts[hl_rng_below(&rng, N)]++;
    /* Binomial: mean 10000, standard deviation 92.6; five of them. */
    for (int i = 0; i < N; i++)
        cr_assert(counts[i] > 9537 && counts[i] < 10463, "bin %d: %d", i, counts[i]);
}

Test(philox, normal_draws_have_mean_zero_and_variance_one)
{
    enum { DRAWS = 100000 };
    double sum = 0, squares = 0;
    hl_rng rng = hl_rng_make(2, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < DRAWS; i++) {
        double x = (double)hl_rng_normal(&rng);
        sum += x;
        squares += x * x;
    }
    /* Five standard errors: 1/sqrt(n) for the mean, sqrt(2/n) for the variance. */
    cr_assert(sum / DRAWS < 0.0159 && sum / DRAWS > -0.0159);
    cr_assert(squares / DRAWS < 1.0224 && squares / DRAWS > 0.9776);
}
