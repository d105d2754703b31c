/* The two ways of computing a gated layer, folding and recombining, side by side. */
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "support/conv_rig.h"
#include "support/ref_conv.h"

typedef struct gated_case {
    const char *name;
    hl_shape x;
    int64_t outputs, groups;
    hl_window window;
} gated_case;

static const gated_case cases[] = {
    {"depthwise", {2, 9, 8, 32}, 32, 32, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise, 17 channels", {2, 7, 6, 17}, 17, 17, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}},
    {"depthwise, many channels", {1, 5, 5, 200}, 200, 200, {5, 5, 1, 1, 1, 1, 2, 2, 2, 2}},
    {"depthwise, 1 pixel", {2, 1, 1, 70}, 70, 70, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise with a multiplier", {2, 6, 6, 8}, 24, 8, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"stem", {2, 14, 13, 3}, 32, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"stem, 1 channel", {2, 14, 13, 1}, 32, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"stem, 4 channels", {2, 14, 13, 4}, 24, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"stem, 70 outputs", {2, 9, 9, 3}, 70, 1, {7, 7, 2, 2, 1, 1, 3, 3, 3, 3}},
    {"grouped", {2, 6, 6, 12}, 20, 4, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"dense 1x1", {2, 4, 4, 6}, 10, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"linear", {5, 1, 1, 7}, 3, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"one input, one output", {2, 5, 5, 1}, 1, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"enough rows for every block", {4, 40, 40, 3}, 5, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct gated {
    conv_rig rig;
    ref_conv ref;
    hl_weight_expr expr;
    hl_tensor *x, *s, *b, *residual, *recombined, *folded, *dy, *packed_s, *packed, *dw;
    hl_step *fold_s, *conv_s, *recombine, *recombine_grad, *fold, *conv, *weight, *weight_grad;
    int64_t nx, ny, nw, ns;
} gated;

static void gated_open(gated *l, const gated_case *c, hl_elem elem, hl_act act, bool extras)
{
    rig_open(&l->rig);
    l->ref = ref_conv_make(c->x, c->outputs, c->groups, c->window);
    l->nx = hl_shape_count(l->ref.x);
    l->ny = hl_shape_count(l->ref.y);
    l->nw = ref_conv_weights(&l->ref);
    hl_shape s_shape = l->ref.y;
    s_shape.c = c->x.c * (c->outputs / c->groups);
    l->ns = hl_shape_count(s_shape);
    const int64_t dims[4] = {c->outputs, c->x.c / c->groups, c->window.kh, c->window.kw};
    hl_weight_expr *e = &l->expr;
    *e = (hl_weight_expr){.kind = HL_WEIGHT_GATED, .eps = 0.0f};
    e->weight = rig_param(&l->rig, "weight", false, 4, dims);
    e->bias = rig_param(&l->rig, "bias", false, 1, dims);
    e->gate = rig_param(&l->rig, "gate", true, 2, dims);
    e->norm_mean = rig_param(&l->rig, "mean", false, 1, dims);
    e->norm_var = rig_param(&l->rig, "var", false, 1, dims);
    hl_conv_attr conv = {.window = c->window, .groups = c->groups, .expr = e}, sub = conv, last = conv;
    sub.subfunction = true;
    last.act = act;
    conv_rig *rig = &l->rig;
    l->x = rig_tensor(rig, "x", l->ref.x, elem);
    l->s = rig_tensor(rig, "S", s_shape, elem);
    l->b = extras ? rig_bias(rig, c->outputs, elem) : NULL;
    l->residual = extras ? rig_tensor(rig, "residual", l->ref.y, elem) : NULL;
    l->recombined = rig_tensor(rig, "recombined", l->ref.y, elem);
    l->folded = rig_tensor(rig, "folded", l->ref.y, elem);
    l->dy = rig_tensor(rig, "dy", l->ref.y, elem);
    l->packed_s = rig_opaque(rig, "packed sub-functions", elem);
    l->packed = rig_opaque(rig, "packed", elem);
    l->dw = rig_opaque(rig, "dW", HL_ELEM_F32);
    l->fold_s = rig_step(rig, HL_STEP_FOLD, &sub, NULL, NULL, NULL, NULL, l->packed_s, NULL, l->b);
    l->conv_s = rig_step(rig, HL_STEP_CONV, &sub, l->x, l->packed_s, NULL, NULL, l->s, NULL, NULL);
    l->recombine =
        rig_step(rig, HL_STEP_RECOMBINE, &last, l->s, l->b, l->residual, NULL, l->recombined, NULL, NULL);
    l->recombine_grad =
        rig_step(rig, HL_STEP_RECOMBINE_GRAD, &conv, l->s, NULL, l->dy, NULL, NULL, NULL, NULL);
    l->fold = rig_step(rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, l->packed, NULL, NULL);
    l->conv = rig_step(rig, HL_STEP_CONV, &last, l->x, l->packed, l->b, l->residual, l->folded, NULL, NULL);
    l->weight = rig_step(rig, HL_STEP_CONV_WEIGHT, &conv, l->x, l->dy, NULL, NULL, l->dw, NULL, NULL);
    l->weight_grad = rig_step(rig, HL_STEP_WEIGHT_GRAD, &conv, l->dw, NULL, NULL, NULL, NULL, NULL, NULL);
    rig_build(rig);
}

static void set_integers(const hl_tensor *t, int most, uint32_t stream)
{
    int64_t count = hl_shape_count(t->shape);
    double *values = rig_array(count);
    rig_fill_integers(values, count, most, stream);
    rig_set(t, values);
    free(values);
}

static void param_integers(const hl_param *p, int most, uint32_t stream, double unit)
{
    double *values = rig_array(p->count);
    rig_fill_integers(values, p->count, most, stream);
    for (int64_t i = 0; i < p->count; i++)
        p->value[i] = (float)(values[i] * unit);
    free(values);
}

/* Small integers and halves, so that S is exact in both element types and the sums are exact in float32. */
static void fill(gated *l)
{
    set_integers(l->x, 1, 1);
    set_integers(l->dy, 2, 2);
    param_integers(l->expr.weight, 1, 3, 1.0);
    param_integers(l->expr.bias, 4, 4, 0.5);
    param_integers(l->expr.gate, 2, 5, 0.5);
    for (int64_t o = 0; o < l->expr.norm_var->count; o++)
        l->expr.norm_var->value[o] = o % 2 == 0 ? 1.0f : 0.25f;
    if (l->residual != NULL)
        set_integers(l->residual, 3, 6);
}

static void run_both(gated *l)
{
    hl_step *const order[] = {l->fold_s, l->conv_s, l->recombine, l->fold, l->conv};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        rig_run(&l->rig, order[i]);
    rig_expect_intact(&l->rig);
}

static void expect_agreement(const gated_case *c, hl_elem elem, hl_act act, bool extras)
{
    gated l;
    gated_open(&l, c, elem, act, extras);
    fill(&l);
    run_both(&l);
    double *a = rig_array(l.ny), *b = rig_array(l.ny);
    rig_get(l.recombined, a);
    rig_get(l.folded, b);
    bool exact = act == HL_ACT_NONE || act == HL_ACT_RELU || act == HL_ACT_RELU6;
    for (int64_t i = 0; i < l.ny; i++) {
        /* Two implementations of the activation, each within 2e-6 of |x|, and a rounding that may fall to
         * either side. */
        double tolerance =
            exact ? 0.0 : 4e-6 * (1.0 + 32.0) + (elem == HL_ELEM_BF16 ? 0x1p-7 : 0x1p-22) * fabs(b[i]);
        cr_assert(fabs(a[i] - b[i]) <= tolerance, "%s, activation %d: [%lld] is %g recombined, %g folded",
                  c->name, (int)act, (long long)i, a[i], b[i]);
    }
    free(a);
    free(b);
    rig_close(&l.rig);
}

Test(recombine, recombined_and_folded_layers_agree_exactly_on_integers)
{
    for (int i = 0; i < CASES; i++)
        for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++)
            for (int extras = 0; extras < 2; extras++)
                expect_agreement(&cases[i], (hl_elem)elem, HL_ACT_NONE, extras != 0);
}

Test(recombine, every_activation_is_fused_as_behind_a_convolution)
{
    for (int act = HL_ACT_RELU; act <= HL_ACT_TANH; act++)
        for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++) {
            expect_agreement(&cases[1], (hl_elem)elem, (hl_act)act, true);
            expect_agreement(&cases[6], (hl_elem)elem, (hl_act)act, false);
        }
}

Test(recombine, subfunctions_are_the_scaled_products_of_one_input_and_one_filter)
{
    for (int i = 0; i < CASES; i++)
        for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++) {
            gated l;
            gated_open(&l, &cases[i], (hl_elem)elem, HL_ACT_NONE, false);
            fill(&l);
            rig_run(&l.rig, l.fold_s);
            rig_run(&l.rig, l.conv_s);
            double *x = rig_array(l.nx), *w = rig_array(l.nw), *want = rig_array(l.ns),
                   *got = rig_array(l.ns);
            rig_get(l.x, x);
            int64_t row = l.nw / cases[i].outputs;
            for (int64_t j = 0; j < l.nw; j++)
                w[j] = (double)l.expr.weight->value[j] / sqrt((double)l.expr.norm_var->value[j / row]);
            ref_conv_subfunctions(&l.ref, x, w, want);
            rig_get(l.s, got);
            for (int64_t j = 0; j < l.ns; j++)
                cr_assert(got[j] == want[j], "%s: S[%lld] is %g, not %g", cases[i].name, (long long)j, got[j],
                          want[j]);
            free(x);
            free(w);
            free(want);
            free(got);
            rig_close(&l.rig);
        }
}

Test(recombine, gate_gradients_are_those_of_the_folded_layer)
{
    for (int i = 0; i < CASES; i++)
        for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++) {
            gated l;
            gated_open(&l, &cases[i], (hl_elem)elem, HL_ACT_NONE, false);
            fill(&l);
            run_both(&l);
            hl_param *gate = l.expr.gate;
            float *cached = calloc((size_t)gate->count, sizeof *cached);
            gate->grad[0] = NAN; /* overwritten, not kept */
            rig_run(&l.rig, l.recombine_grad);
            memcpy(cached, gate->grad, (size_t)gate->count * sizeof *cached);
            rig_run(&l.rig, l.weight);
            rig_run(&l.rig, l.weight_grad);
            for (int64_t j = 0; j < gate->count; j++)
                cr_assert(cached[j] == gate->grad[j], "%s: d gate[%lld] is %g, folded %g", cases[i].name,
                          (long long)j, (double)cached[j], (double)gate->grad[j]);
            l.rig.run.grad_keep = 1.0f;
            rig_run(&l.rig, l.recombine_grad);
            for (int64_t j = 0; j < gate->count; j++)
                cr_assert(gate->grad[j] == 2.0f * cached[j], "%s: kept gradient", cases[i].name);
            rig_expect_intact(&l.rig);
            free(cached);
            rig_close(&l.rig);
        }
}

/* dz = act'(y) (g0 + g1), in place of g0, and the gate's gradient from dz: values of y on and off every kink.
 */
static void expect_fused_gradient(const gated_case *c, hl_elem elem, hl_act act)
{
    const ref_conv ref = ref_conv_make(c->x, c->outputs, c->groups, c->window);
    hl_shape s_shape = ref.y;
    s_shape.c = c->x.c * (c->outputs / c->groups);
    int64_t ny = hl_shape_count(ref.y), ns = hl_shape_count(s_shape);
    conv_rig rig;
    const int64_t gates[2] = {c->outputs, c->x.c / c->groups},
                  weights[4] = {gates[0], gates[1], c->window.kh, c->window.kw};
    rig_open(&rig);
    hl_weight_expr e = {.kind = HL_WEIGHT_GATED,
                        .weight = rig_param(&rig, "weight", false, 4, weights),
                        .gate = rig_param(&rig, "gate", true, 2, gates)};
    const hl_conv_attr conv = {.window = c->window, .groups = c->groups, .expr = &e, .act = act};
    hl_tensor *s = rig_tensor(&rig, "S", s_shape, elem), *y = rig_tensor(&rig, "y", ref.y, elem),
              *g0 = rig_tensor(&rig, "g0", ref.y, elem), *g1 = rig_tensor(&rig, "g1", ref.y, elem);
    hl_step *step = rig_step(&rig, HL_STEP_RECOMBINE_GRAD, &conv, s, act == HL_ACT_NONE ? NULL : y, g0, g1,
                             g0, NULL, NULL);
    rig_build(&rig);
    double *sv = rig_array(ns), *yv = rig_array(ny), *a = rig_array(ny), *b = rig_array(ny),
           *dz = rig_array(ny);
    rig_fill_integers(sv, ns, 2, 31);
    rig_fill_integers(yv, ny, 6, 32); /* as an activation leaves it: -0.25 ... 6 */
    rig_fill_integers(a, ny, 2, 33);
    rig_fill_integers(b, ny, 2, 34);
    for (int64_t i = 0; i < ny; i++) {
        yv[i] = act == HL_ACT_NONE || yv[i] > 0.0 ? fabs(yv[i]) : 0.0;
        double slope = act == HL_ACT_RELU    ? yv[i] > 0.0
                       : act == HL_ACT_RELU6 ? yv[i] > 0.0 && yv[i] < 6.0
                                             : 1.0;
        dz[i] = slope * (a[i] + b[i]);
    }
    rig_set(s, sv);
    rig_set(y, yv);
    rig_set(g0, a);
    rig_set(g1, b);
    rig_run(&rig, step);
    rig_expect_intact(&rig);
    rig_get(g0, a);
    for (int64_t i = 0; i < ny; i++)
        cr_assert(a[i] == dz[i], "%s, activation %d: dz[%lld] is %g, not %g", c->name, (int)act, (long long)i,
                  a[i], dz[i]);
    int64_t rows = ny / c->outputs, width = s_shape.c, each = c->outputs / c->groups;
    for (int64_t o = 0; o < c->outputs; o++)
        for (int64_t i = 0; i < gates[1]; i++) {
            double sum = 0.0;
            for (int64_t r = 0; r < rows; r++)
                sum += dz[r * c->outputs + o] * sv[r * width + (o / each * gates[1] + i) * each + o % each];
            cr_assert((double)e.gate->grad[o * gates[1] + i] == sum, "%s, activation %d: d gate[%lld,%lld]",
                      c->name, (int)act, (long long)o, (long long)i);
        }
    free(sv), free(yv), free(a), free(b), free(dz);
    rig_close(&rig);
}

Test(recombine, gradients_pass_a_fused_activation_exactly_on_integers)
{
    static const hl_act acts[] = {HL_ACT_NONE, HL_ACT_RELU, HL_ACT_RELU6};
    for (int i = 0; i < CASES; i++)
        for (int elem = HL_ELEM_F32; elem <= HL_ELEM_BF16 && rig_computes((hl_elem)elem); elem++)
            for (int k = 0; k < 3; k++)
                expect_fused_gradient(&cases[i], (hl_elem)elem, acts[k]);
}

/* Of random floats against sums in double; runs of 64 rows and the partial sums of up to 32 blocks bound the
 * depth of any sum. */
Test(recombine, gate_gradients_of_long_sums_err_little_and_repeat_bit_for_bit)
{
    const gated_case *c = &cases[CASES - 1];
    gated l;
    gated_open(&l, c, HL_ELEM_F32, HL_ACT_NONE, false);
    double *s = rig_array(l.ns), *dy = rig_array(l.ny);
    rig_fill_uniform(s, l.ns, HL_ELEM_F32, 1);
    rig_fill_uniform(dy, l.ny, HL_ELEM_F32, 2);
    rig_set(l.s, s);
    rig_set(l.dy, dy);
    rig_run(&l.rig, l.recombine_grad);
    int64_t rows = l.ny / c->outputs, inputs = c->x.c, runs = rows / 32 / 64 + 1;
    float first[15];
    memcpy(first, l.expr.gate->grad, sizeof first);
    for (int64_t o = 0; o < c->outputs; o++)
        for (int64_t i = 0; i < inputs; i++) {
            double sum = 0.0, absolute = 0.0;
            for (int64_t r = 0; r < rows; r++) {
                double product = dy[r * c->outputs + o] * s[r * inputs * c->outputs + i * c->outputs + o];
                sum += product;
                absolute += fabs(product);
            }
            double tolerance = (double)(64 + runs + 32 + 2) * 0x1p-24 * absolute;
            double got = (double)first[o * inputs + i];
            cr_assert(fabs(got - sum) <= tolerance, "d gate[%lld,%lld] is %.9g, not %.9g", (long long)o,
                      (long long)i, got, sum);
        }
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        rig_run(&l.rig, l.recombine_grad);
        cr_assert_eq(memcmp(first, l.expr.gate->grad, sizeof first), 0, "%d threads", threads);
    }
    free(s);
    free(dy);
    rig_close(&l.rig);
}
