/* Weight expressions through a whole layer: fold, convolution, gradients of every parameter. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "support/conv_rig.h"
#include "support/ref_conv.h"

typedef struct layer_case {
    const char *name;
    hl_shape x;
    int64_t outputs, groups;
    hl_window window;
} layer_case;

static const layer_case cases[] = {
    {"3x3", {2, 5, 4, 6}, 7, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"3x3, 1 channel", {2, 5, 4, 1}, 17, 1, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"3x3, full vectors", {1, 5, 5, 32}, 32, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}},
    {"1x1", {2, 3, 4, 18}, 16, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
    {"grouped", {2, 4, 4, 12}, 8, 4, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise", {2, 5, 5, 17}, 17, 17, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"depthwise 5x5", {2, 6, 5, 16}, 16, 16, {5, 5, 2, 2, 1, 1, 2, 2, 2, 2}},
    {"linear", {3, 1, 1, 21}, 5, 1, {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}},
};
enum { CASES = sizeof cases / sizeof *cases };

typedef struct layer {
    conv_rig rig;
    ref_conv ref;
    hl_weight_expr expr;
    hl_tensor *x, *y, *dy, *dx, *b, *packed, *packed_data, *dw;
    hl_step *fold, *forward, *data, *weight, *weight_grad, *bias_grad;
    double *xs, *dys;
    int64_t nx, ny, nw;
} layer;

/* Parameters in multiples of 1/4 with a norm of scale 1/2: everything folded is exact in float32. */
static void fill_param(hl_param *p, uint32_t stream, double unit)
{
    double *values = rig_array(p->count);
    rig_fill_integers(values, p->count, 3, stream);
    for (int64_t i = 0; i < p->count; i++)
        p->value[i] = (float)(values[i] * unit);
    free(values);
}

static void layer_open(layer *l, const layer_case *c, hl_elem elem)
{
    rig_open(&l->rig);
    l->ref = ref_conv_make(c->x, c->outputs, c->groups, c->window);
    l->nx = hl_shape_count(l->ref.x);
    l->ny = hl_shape_count(l->ref.y);
    l->nw = ref_conv_weights(&l->ref);
    const int64_t dims[4] = {c->outputs, c->x.c / c->groups, c->window.kh, c->window.kw};
    hl_weight_expr *e = &l->expr;
    *e = (hl_weight_expr){.kind = HL_WEIGHT_GATED, .eps = 0.0f};
    e->weight = rig_param(&l->rig, "weight", true, 4, dims);
    e->bias = rig_param(&l->rig, "bias", true, 1, dims);
    e->gate = rig_param(&l->rig, "gate", true, 2, dims);
    e->norm_scale = rig_param(&l->rig, "norm.weight", false, 1, dims);
    e->norm_shift = rig_param(&l->rig, "norm.bias", false, 1, dims);
    e->norm_mean = rig_param(&l->rig, "norm.running_mean", false, 1, dims);
    e->norm_var = rig_param(&l->rig, "norm.running_var", false, 1, dims);
    fill_param(e->weight, 1, 1.0);
    fill_param(e->bias, 2, 0.25);
    fill_param(e->gate, 3, 0.25);
    fill_param(e->norm_shift, 4, 0.25);
    fill_param(e->norm_mean, 5, 0.25);
    for (int64_t o = 0; o < c->outputs; o++) {
        e->norm_scale->value[o] = o % 2 == 0 ? 1.0f : -2.0f;
        e->norm_var->value[o] = o % 3 == 0 ? 4.0f : 1.0f;
    }
    hl_conv_attr conv = {.window = c->window, .groups = c->groups, .expr = e};
    l->x = rig_tensor(&l->rig, "x", l->ref.x, elem);
    /* f32 results show every rounding, where the backend writes them. */
    hl_elem wide = l->rig.backend->bias_as_output ? elem : HL_ELEM_F32;
    l->y = rig_tensor(&l->rig, "y", l->ref.y, wide);
    l->dy = rig_tensor(&l->rig, "dy", l->ref.y, elem);
    l->dx = rig_tensor(&l->rig, "dx", l->ref.x, wide);
    l->b = rig_bias(&l->rig, c->outputs, elem);
    l->packed = rig_opaque(&l->rig, "packed", elem);
    l->packed_data = rig_packed_data(&l->rig, l->packed);
    l->dw = rig_opaque(&l->rig, "dW", HL_ELEM_F32);
    l->fold = rig_step(&l->rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, l->packed, l->packed_data, l->b);
    l->forward = rig_step(&l->rig, HL_STEP_CONV, &conv, l->x, l->packed, l->b, NULL, l->y, NULL, NULL);
    l->data =
        rig_step(&l->rig, HL_STEP_CONV_DATA, &conv, l->dy, l->packed_data, NULL, NULL, l->dx, NULL, NULL);
    l->weight = rig_step(&l->rig, HL_STEP_CONV_WEIGHT, &conv, l->x, l->dy, NULL, NULL, l->dw, NULL, NULL);
    l->weight_grad = rig_step(&l->rig, HL_STEP_WEIGHT_GRAD, &conv, l->dw, NULL, NULL, NULL, NULL, NULL, NULL);
    l->bias_grad = rig_step(&l->rig, HL_STEP_BIAS_GRAD, &conv, l->dy, NULL, NULL, NULL, NULL, NULL, NULL);
    rig_build(&l->rig);
    l->xs = rig_array(l->nx);
    l->dys = rig_array(l->ny);
    rig_fill_integers(l->xs, l->nx, 2, 6);
    rig_fill_integers(l->dys, l->ny, 2, 7);
    rig_set(l->x, l->xs);
    rig_set(l->dy, l->dys);
}

static void layer_close(layer *l)
{
    free(l->xs);
    free(l->dys);
    rig_close(&l->rig);
}

static void forward(layer *l)
{
    rig_run(&l->rig, l->fold);
    rig_run(&l->rig, l->forward);
}

static void backward(layer *l)
{
    rig_run(&l->rig, l->data);
    rig_run(&l->rig, l->weight);
    rig_run(&l->rig, l->weight_grad);
    rig_run(&l->rig, l->bias_grad);
}

/* sum of dy y: its gradient with respect to y is dy. */
static double loss(layer *l)
{
    forward(l);
    double *y = rig_array(l->ny), sum = 0.0;
    rig_get(l->y, y);
    for (int64_t i = 0; i < l->ny; i++)
        sum += l->dys[i] * y[i];
    free(y);
    return sum;
}

static double row_scale(const hl_weight_expr *e, int64_t o)
{
    return (double)e->norm_scale->value[o] / sqrt((double)e->norm_var->value[o]);
}

static void expect_folded(const layer_case *c, hl_elem elem)
{
    layer l;
    layer_open(&l, c, elem);
    forward(&l);
    rig_run(&l.rig, l.data);
    const hl_weight_expr *e = &l.expr;
    int64_t inputs = c->x.c / c->groups, k = c->window.kh * c->window.kw;
    double *w = rig_array(l.nw), *y = rig_array(l.ny), *dx = rig_array(l.nx);
    double *got_y = rig_array(l.ny), *got_dx = rig_array(l.nx);
    for (int64_t o = 0; o < c->outputs; o++)
        for (int64_t i = 0; i < inputs; i++)
            for (int64_t j = 0; j < k; j++) {
                int64_t at = (o * inputs + i) * k + j;
                double gate = 1.0 + (double)e->gate->value[o * inputs + i];
                w[at] = rig_round(elem, row_scale(e, o) * gate * (double)e->weight->value[at]);
            }
    ref_conv_forward(&l.ref, l.xs, w, y);
    ref_conv_data(&l.ref, l.dys, w, dx);
    rig_get(l.y, got_y);
    rig_get(l.dx, got_dx);
    for (int64_t i = 0; i < l.ny; i++) {
        int64_t o = i % c->outputs;
        double b = row_scale(e, o) * ((double)e->bias->value[o] - (double)e->norm_mean->value[o]);
        double want = rig_round(l.y->elem, y[i] + rig_round(l.b->elem, b + (double)e->norm_shift->value[o]));
        cr_assert(got_y[i] == want, "%s: y[%lld] is %g, not %g", c->name, (long long)i, got_y[i], want);
    }
    for (int64_t i = 0; i < l.nx; i++)
        cr_assert(got_dx[i] == rig_round(l.dx->elem, dx[i]), "%s: dx[%lld] is %g, not %g", c->name,
                  (long long)i, got_dx[i], dx[i]);
    rig_expect_intact(&l.rig);
    free(w);
    free(y);
    free(dx);
    free(got_y);
    free(got_dx);
    layer_close(&l);
}

Test(fold, gates_and_a_norm_are_folded_for_both_passes)
{
    for (int i = 0; i < CASES; i++) {
        expect_folded(&cases[i], HL_ELEM_F32);
        if (rig_computes(HL_ELEM_BF16))
            expect_folded(&cases[i], HL_ELEM_BF16);
    }
}

/* The loss is linear in each parameter, so that differences over a whole unit are exact but for rounding. */
static void expect_gradient(const layer_case *c, layer *l, const hl_param *p)
{
    int64_t stride = p->count / 40 + 1;
    for (int64_t i = 0; i < p->count; i += stride) {
        float at = p->value[i];
        p->value[i] = at + 0.5f;
        double up = loss(l);
        p->value[i] = at - 0.5f;
        double down = loss(l);
        p->value[i] = at;
        double got = (double)p->grad[i], want = up - down;
        cr_assert(fabs(got - want) <= 1e-5 * (1.0 + fabs(want)), "%s: d %s[%lld] is %g, by differences %g",
                  c->name, p->name, (long long)i, got, want);
    }
}

Test(fold, gradients_of_weight_gate_and_bias_agree_with_differences)
{
    for (int i = 0; i < CASES; i++) {
        layer l;
        layer_open(&l, &cases[i], HL_ELEM_F32);
        forward(&l);
        backward(&l);
        expect_gradient(&cases[i], &l, l.expr.weight);
        expect_gradient(&cases[i], &l, l.expr.gate);
        expect_gradient(&cases[i], &l, l.expr.bias);
        rig_expect_intact(&l.rig);
        layer_close(&l);
    }
}

Test(fold, bf16_gradients_are_those_of_fp32_on_the_same_integers)
{
    if (!rig_computes(HL_ELEM_BF16))
        cr_skip_test("SKIPPED: no bf16 on this processor");
    for (int i = 0; i < CASES; i++) {
        layer full, half;
        layer_open(&full, &cases[i], HL_ELEM_F32);
        layer_open(&half, &cases[i], HL_ELEM_BF16);
        backward(&full); /* the two data gradients differ by the rounding of the weights; nothing else reads
                            weights */
        backward(&half);
        for (int p = 0; p < 3; p++) {
            const hl_param *a = &full.rig.params[p], *b = &half.rig.params[p];
            for (int64_t j = 0; j < a->count; j++)
                cr_assert(a->grad[j] == b->grad[j], "%s: d %s[%lld]", cases[i].name, a->name, (long long)j);
        }
        layer_close(&full);
        layer_close(&half);
    }
}

Test(fold, gradients_accumulate_where_asked)
{
    layer l;
    layer_open(&l, &cases[0], HL_ELEM_F32);
    for (int p = 0; p < 3; p++)
        l.rig.params[p].grad[0] = NAN; /* overwritten, not kept */
    backward(&l);
    float once[3] = {l.expr.weight->grad[0], l.expr.bias->grad[0], l.expr.gate->grad[0]};
    l.rig.run.grad_keep = 1.0f;
    backward(&l);
    cr_assert(l.expr.weight->grad[0] == 2.0f * once[0]);
    cr_assert(l.expr.bias->grad[0] == 2.0f * once[1]);
    cr_assert(l.expr.gate->grad[0] == 2.0f * once[2]);
    layer_close(&l);
}

Test(fold, packed_weights_that_no_convolution_laid_out_are_a_defect)
{
    conv_rig rig;
    rig_open(&rig);
    if (rig.backend->one_packing)
        cr_skip_test("the layout is always the same");
    const int64_t dims[4] = {4, 4, 1, 1};
    hl_weight_expr expr = {.kind = HL_WEIGHT_PLAIN, .weight = rig_param(&rig, "weight", false, 4, dims)};
    hl_conv_attr conv = {.window = {1, 1, 1, 1, 1, 1, 0, 0, 0, 0}, .groups = 1, .expr = &expr};
    hl_tensor *packed = rig_opaque(&rig, "packed", HL_ELEM_F32);
    hl_step *fold = rig_step(&rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, packed, NULL, NULL);
    cr_assert_eq(rig.backend->ops->prepare(rig.backend, fold), HL_E_INTERNAL);
    rig_close(&rig);
}
