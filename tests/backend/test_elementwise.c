#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "support/numeric.h"
#include "support/ref_ops.h"
#include "support/step_harness.h"

static const hl_shape shapes[] = {
    {1, 1, 1, 1}, {3, 1, 1, 17}, {2, 7, 5, 40}, {2, 3, 3, 5}, {1, 2, 2, 2051}, {2, 40, 27, 3},
};
static const hl_elem elems[] = {HL_ELEM_F32, HL_ELEM_BF16};

enum { SHAPES = sizeof shapes / sizeof *shapes };

static void expect_sum(hl_shape shape, hl_elem elem, int terms, hl_act act)
{
    step_harness h;
    harness_open(&h);
    int64_t n = hl_shape_count(shape);
    hl_tensor *in[4], *y = harness_tensor(&h, "y", shape, elem);
    double *x[4], *got = doubles(n), *want = doubles(n);
    for (int k = 0; k < terms; k++)
        in[k] = harness_tensor(&h, "x", shape, elem);
    hl_step *step = harness_step(&h, HL_STEP_ADD, terms, in, 1, &y);
    step->act.act = act;
    harness_build(&h);
    for (int k = 0; k < terms; k++) {
        x[k] = random_doubles(n, -2.0, 2.0, elem, (uint32_t)k);
        harness_set(in[k], x[k]);
        for (int64_t i = 0; i < n; i++)
            want[i] += x[k][i];
        free(x[k]);
    }
    for (int64_t i = 0; i < n; i++)
        want[i] = ref_act(act, want[i]);
    harness_run(&h, step);
    harness_get(y, got);
    /* Up to 4 terms of 2, and the roundings of an activation. */
    expect_close("y", elem, got, want, n, 8.0, 12);
    free(got), free(want);
    harness_close(&h);
}

Test(elementwise, any_number_of_tensors_is_added_and_activated)
{
    for (int s = 0; s < SHAPES; s++)
        for (int e = 0; e < 2; e++)
            for (int terms = 1; terms <= 4; terms++)
                expect_sum(shapes[s], elems[e], terms, terms % 2 ? HL_ACT_NONE : HL_ACT_RELU);
    for (int act = 0; act <= HL_ACT_TANH; act++)
        expect_sum(shapes[2], HL_ELEM_F32, 2, (hl_act)act);
}

/* Element of b that belongs to element i of a. */
static int64_t partner(hl_shape a, bool broadcast, int64_t i)
{
    return broadcast ? i / (a.h * a.w * a.c) * a.c + i % a.c : i;
}

static void expect_product(hl_shape shape, hl_elem elem, bool broadcast, bool want_da, bool want_db)
{
    step_harness h;
    harness_open(&h);
    hl_shape b_shape = broadcast ? (hl_shape){shape.n, 1, 1, shape.c} : shape;
    int64_t na = hl_shape_count(shape), nb = hl_shape_count(b_shape);
    hl_tensor *a = harness_tensor(&h, "a", shape, elem), *b = harness_tensor(&h, "b", b_shape, elem);
    hl_tensor *y = harness_tensor(&h, "y", shape, elem), *dy = harness_tensor(&h, "dy", shape, elem);
    hl_tensor *da = harness_tensor(&h, "da", shape, elem), *db = harness_tensor(&h, "db", b_shape, elem);
    hl_step *forward = harness_step(&h, HL_STEP_MUL, 2, (hl_tensor *[]){a, b}, 1, &y);
    hl_step *backward = harness_step(&h, HL_STEP_MUL_GRAD, 3, (hl_tensor *[]){dy, a, b}, 2,
                                     (hl_tensor *[]){want_da ? da : NULL, want_db ? db : NULL});
    harness_build(&h);
    double *av = random_doubles(na, -2.0, 2.0, elem, 1), *bv = random_doubles(nb, -2.0, 2.0, elem, 2),
           *dyv = random_doubles(na, -1.0, 1.0, elem, 3), *got = doubles(na), *yv = doubles(na),
           *dav = doubles(na), *dbv = doubles(nb);
    for (int64_t i = 0; i < na; i++) {
        int64_t k = partner(shape, broadcast, i);
        yv[i] = av[i] * bv[k];
        dav[i] = dyv[i] * bv[k];
        dbv[k] += dyv[i] * av[i];
    }
    harness_set(a, av);
    harness_set(b, bv);
    harness_set(dy, dyv);
    harness_run(&h, forward);
    harness_run(&h, backward);
    harness_get(y, got);
    expect_close("y", elem, got, yv, na, 4.0, 1);
    harness_get(da, got);
    if (want_da)
        expect_close("da", elem, got, dav, na, 2.0, 1);
    harness_get(db, got);
    /* Sums of h w products up to 2. Gradients of products are linear in each factor: their own differences.
     */
    double terms = broadcast ? (double)(shape.h * shape.w) : 1.0;
    if (want_db)
        expect_close("db", elem, got, dbv, nb, 2.0 * terms, terms + 1.0);
    double *const all[] = {av, bv, dyv, got, yv, dav, dbv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    harness_close(&h);
}

Test(elementwise, products_and_their_gradients_agree_with_the_definition)
{
    for (int s = 0; s < SHAPES; s++)
        for (int e = 0; e < 2; e++)
            for (int broadcast = 0; broadcast < 2; broadcast++)
                expect_product(shapes[s], elems[e], broadcast, true, true);
}

Test(elementwise, gradients_that_nobody_wants_are_left_out)
{
    expect_product(shapes[2], HL_ELEM_F32, true, true, false);
    expect_product(shapes[2], HL_ELEM_F32, true, false, true);
    expect_product(shapes[2], HL_ELEM_F32, false, false, false);
}

Test(elementwise, whole_numbers_are_refused)
{
    step_harness h;
    harness_open(&h);
    hl_tensor *x = harness_tensor(&h, "x", shapes[1], HL_ELEM_I32);
    hl_step *step = harness_step(&h, HL_STEP_ADD, 1, &x, 1, &x);
    cr_assert_eq(harness_prepare(&h, step), HL_E_UNSUPPORTED);
    harness_close(&h);
}
