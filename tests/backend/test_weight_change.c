/* Weights that are changed as a whole, through a layer: f(W) against plain loops in double, and the gradients
 * of its factors, in each of which it is linear, against differences of those loops. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

#include "support/conv_rig.h"
#include "support/numeric.h"
#include "support/ref_conv.h"

typedef struct change_case {
    const char *name;
    hl_shape x;
    int64_t outputs, groups;
    int64_t kernel;
    hl_change_kind kind;
    hl_factor factor[2]; /* sizes; rank 0: the matrix itself */
    bool magnitude, norm;
} change_case;

static const change_case cases[] = {
    {"add 3x3",
     {2, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 8, .columns = 54, .rank = 3}},
     false,
     true},
    {"add 1x1",
     {2, 3, 3, 40},
     24,
     1,
     1,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 24, .columns = 40, .rank = 2}},
     false,
     true},
    {"add grouped",
     {2, 4, 4, 12},
     8,
     4,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 4, .rows = 2, .columns = 27, .rank = 2}},
     false,
     true},
    {"add depthwise",
     {2, 5, 5, 10},
     10,
     10,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 10, .rows = 1, .columns = 9, .rank = 2}},
     false,
     false},
    {"add in other rows",
     {1, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 24, .columns = 18, .rank = 6}},
     false,
     true},
    {"add, tall",
     {1, 3, 3, 128},
     128,
     1,
     1,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 16384, .columns = 1, .rank = 2}},
     false,
     false},
    {"add, a matrix as it is",
     {1, 4, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 8, .columns = 54}},
     false,
     true},
    {"add with magnitudes",
     {2, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_ADD,
     {{.blocks = 1, .rows = 8, .columns = 54, .rank = 3}},
     true,
     true},
    {"hadamard",
     {2, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_HADAMARD,
     {{.blocks = 1, .rows = 8, .columns = 54, .rank = 2}, {.blocks = 1, .rows = 8, .columns = 54, .rank = 2}},
     false,
     true},
    {"hadamard, wide rows",
     {1, 3, 3, 40},
     6,
     1,
     3,
     HL_CHANGE_HADAMARD,
     {{.blocks = 1, .rows = 6, .columns = 360, .rank = 2},
      {.blocks = 1, .rows = 6, .columns = 360, .rank = 1}},
     true,
     false},
    {"kronecker",
     {2, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_KRONECKER,
     {{.blocks = 1, .rows = 2, .columns = 2}, {.blocks = 1, .rows = 4, .columns = 27, .rank = 2}},
     false,
     true},
    {"kronecker of matrices",
     {1, 4, 4, 12},
     6,
     2,
     1,
     HL_CHANGE_KRONECKER,
     {{.blocks = 1, .rows = 3, .columns = 2, .rank = 1}, {.blocks = 1, .rows = 2, .columns = 3}},
     false,
     false},
    {"gate",
     {2, 5, 4, 6},
     8,
     1,
     3,
     HL_CHANGE_GATE,
     {{.blocks = 1, .rows = 8, .columns = 6, .rank = 2}},
     false,
     true},
    {"gate, many inputs",
     {1, 2, 2, 300},
     5,
     1,
     1,
     HL_CHANGE_GATE,
     {{.blocks = 1, .rows = 5, .columns = 300, .rank = 2}},
     false,
     true},
    {"gate grouped",
     {2, 4, 4, 12},
     8,
     4,
     3,
     HL_CHANGE_GATE,
     {{.blocks = 1, .rows = 8, .columns = 3, .rank = 2}},
     false,
     false},
    {"mask", {2, 5, 4, 6}, 8, 1, 3, HL_CHANGE_MASK, {{.blocks = 1, .rows = 8, .columns = 54}}, false, true},
};
enum { CASES = sizeof cases / sizeof *cases };
static const double scale = 0.5; /* the threshold of a mask, too */

typedef struct layer {
    const change_case *c;
    conv_rig rig;
    ref_conv ref;
    hl_weight_change change;
    hl_weight_expr expr;
    hl_tensor *x, *y, *dy, *packed, *dw;
    hl_step *fold, *forward, *weight, *weight_grad;
    double *xs, *dys, *norms;
} layer;

/* Multiples of 1/4, none of which is a mask's threshold. */
static hl_param *make_param(layer *l, const char *name, bool trained, int64_t count, uint32_t stream)
{
    hl_param *p = rig_param(&l->rig, name, trained, 1, &count);
    double *values = rig_array(count);
    rig_fill_integers(values, count, 3, stream);
    for (int64_t i = 0; i < count; i++)
        p->value[i] = (float)(values[i] * 0.25);
    free(values);
    return p;
}

static void open_factor(layer *l, int k)
{
    static const char *const names[] = {"left 0", "right 0", "left 1", "right 1"};
    hl_factor *f = &l->change.factor[k];
    *f = l->c->factor[k];
    if (f->blocks == 0)
        return;
    int64_t rows = f->blocks * f->rows;
    f->left =
        make_param(l, names[2 * k], true, rows * (f->rank > 0 ? f->rank : f->columns), 10 + 2 * (uint32_t)k);
    if (f->rank > 0)
        f->right =
            make_param(l, names[2 * k + 1], true, f->blocks * f->rank * f->columns, 11 + 2 * (uint32_t)k);
}

static void open_steps(layer *l, hl_window window, hl_elem elem)
{
    hl_conv_attr conv = {.window = window, .groups = l->c->groups, .expr = &l->expr};
    l->x = rig_tensor(&l->rig, "x", l->ref.x, elem);
    l->y = rig_tensor(&l->rig, "y", l->ref.y, elem);
    l->dy = rig_tensor(&l->rig, "dy", l->ref.y, elem);
    l->packed = rig_opaque(&l->rig, "packed", elem);
    l->dw = rig_opaque(&l->rig, "dW", HL_ELEM_F32);
    l->fold = rig_step(&l->rig, HL_STEP_FOLD, &conv, NULL, NULL, NULL, NULL, l->packed, NULL, NULL);
    l->fold->out_count = 3; /* all of a FOLD, of which two are not there */
    l->forward = rig_step(&l->rig, HL_STEP_CONV, &conv, l->x, l->packed, NULL, NULL, l->y, NULL, NULL);
    l->weight = rig_step(&l->rig, HL_STEP_CONV_WEIGHT, &conv, l->x, l->dy, NULL, NULL, l->dw, NULL, NULL);
    l->weight_grad = rig_step(&l->rig, HL_STEP_WEIGHT_GRAD, &conv, l->dw, NULL, NULL, NULL, NULL, NULL, NULL);
    rig_build(&l->rig);
}

static void layer_open(layer *l, const change_case *c, hl_elem elem)
{
    int64_t pad = c->kernel / 2, outputs = c->outputs;
    hl_window window = {c->kernel, c->kernel, 1, 1, 1, 1, pad, pad, pad, pad};
    *l = (layer){.c = c, .change = {.kind = c->kind, .scale = (float)scale}};
    rig_open(&l->rig);
    l->ref = ref_conv_make(c->x, outputs, c->groups, window);
    const int64_t dims[4] = {outputs, c->x.c / c->groups, c->kernel, c->kernel};
    l->expr = (hl_weight_expr){.kind = HL_WEIGHT_CHANGED, .change = &l->change, .eps = 0.0f};
    l->expr.weight = rig_param(&l->rig, "weight", false, 4, dims);
    hl_param *w = make_param(l, "values", false, l->expr.weight->count, 1);
    for (int64_t i = 0; i < w->count; i++)
        l->expr.weight->value[i] = w->value[i] != 0.0f ? w->value[i] : 0.25f;
    open_factor(l, 0);
    open_factor(l, 1);
    if (c->magnitude)
        l->change.magnitude = make_param(l, "magnitude", true, outputs, 20);
    if (c->norm) {
        l->expr.norm_scale = rig_param(&l->rig, "norm.weight", false, 1, dims);
        l->expr.norm_var = rig_param(&l->rig, "norm.running_var", false, 1, dims);
        for (int64_t o = 0; o < outputs; o++) {
            l->expr.norm_scale->value[o] = o % 2 == 0 ? 1.0f : -2.0f;
            l->expr.norm_var->value[o] = o % 3 == 0 ? 4.0f : 1.0f;
        }
    }
    open_steps(l, window, elem);
    l->xs = rig_array(hl_shape_count(l->ref.x));
    l->dys = rig_array(hl_shape_count(l->ref.y));
    rig_fill_integers(l->xs, hl_shape_count(l->ref.x), 2, 6);
    rig_fill_integers(l->dys, hl_shape_count(l->ref.y), 2, 7);
    rig_set(l->x, l->xs);
    rig_set(l->dy, l->dys);
}

static void layer_close(layer *l)
{
    free(l->xs);
    free(l->dys);
    free(l->norms);
    rig_expect_intact(&l->rig);
    rig_close(&l->rig);
}

static double row_scale(const layer *l, int64_t o)
{
    return l->c->norm ? (double)l->expr.norm_scale->value[o] / sqrt((double)l->expr.norm_var->value[o]) : 1.0;
}

static double factor_at(const hl_factor *f, int64_t row, int64_t column)
{
    if (f->right == NULL)
        return (double)f->left->value[row * f->columns + column];
    double sum = 0.0;
    for (int64_t r = 0; r < f->rank; r++)
        sum += (double)f->left->value[row * f->rank + r] *
               (double)f->right->value[(row / f->rows * f->rank + r) * f->columns + column];
    return sum;
}

/* f(W) at element k but for the magnitude; `linear`: what a mask's gradient is that of. */
static double plain_at(const layer *l, int64_t k, bool linear)
{
    const hl_factor *f = l->change.factor;
    int64_t window = l->c->kernel * l->c->kernel, inputs = l->c->x.c / l->c->groups;
    int64_t o = k / window / inputs, i = k / window % inputs;
    double w = (double)l->expr.weight->value[k];
    switch (l->c->kind) {
    case HL_CHANGE_ADD:
        return w + scale * factor_at(&f[0], k / f[0].columns, k % f[0].columns);
    case HL_CHANGE_HADAMARD:
        return w + scale * factor_at(&f[0], k / f[0].columns, k % f[0].columns) *
                       factor_at(&f[1], k / f[0].columns, k % f[0].columns);
    case HL_CHANGE_KRONECKER: {
        int64_t inner = f[1].columns / window;
        return w + scale * factor_at(&f[0], o / f[1].rows, i / inner) *
                       factor_at(&f[1], o % f[1].rows, i % inner * window + k % window);
    }
    case HL_CHANGE_GATE:
        return (1.0 + factor_at(&f[0], o, i)) * w;
    case HL_CHANGE_MASK: {
        double mask = factor_at(&f[0], 0, k);
        return (linear ? mask : mask > scale ? 1.0 : 0.0) * w;
    }
    }
    return NAN;
}

static double value_at(const layer *l, int64_t k, bool linear)
{
    int64_t o = k / (l->expr.weight->count / l->c->outputs);
    double v = plain_at(l, k, linear);
    return l->c->magnitude ? (double)l->change.magnitude->value[o] * v / l->norms[o] : v;
}

static void set_norms(layer *l)
{
    int64_t row = l->expr.weight->count / l->c->outputs;
    l->norms = rig_array(l->c->outputs);
    for (int64_t k = 0; k < l->expr.weight->count; k++)
        l->norms[k / row] += pow(plain_at(l, k, false), 2.0);
    for (int64_t o = 0; o < l->c->outputs; o++)
        l->norms[o] = sqrt(l->norms[o]);
}

/* Without magnitudes all is exact: f(W), the convolution and its gradients are sums of multiples of 1/64.
 * With them f(W) has three roundings and a sum of a row of squares behind it, at worst of its length, up to
 * 360. */
static double tolerance(const layer *l)
{
    return l->c->magnitude ? 400.0 * 0x1p-24 : 4.0 * 0x1p-24;
}

static void expect_value(const change_case *c, hl_elem elem)
{
    layer l;
    layer_open(&l, c, elem);
    set_norms(&l);
    rig_run(&l.rig, l.fold);
    rig_run(&l.rig, l.forward);
    int64_t nw = l.expr.weight->count, ny = hl_shape_count(l.ref.y);
    double *w = rig_array(nw), *y = rig_array(ny), *got = rig_array(ny), most = 0.0;
    for (int64_t k = 0; k < nw; k++) {
        w[k] = rig_round(elem, row_scale(&l, k / (nw / c->outputs)) * value_at(&l, k, false));
        most = fmax(most, fabs(w[k]));
    }
    ref_conv_forward(&l.ref, l.xs, w, y);
    rig_get(l.y, got);
    /* |x| is at most 2. A weight that falls on the other side of a rounding is off by a unit in its last
     * place. */
    double weight_error =
        tolerance(&l) + (c->magnitude && elem != HL_ELEM_F32 ? 2.0 * unit_roundoff(elem) : 0.0);
    double scale_y = 2.0 * most * (double)ref_conv_terms(&l.ref);
    for (int64_t i = 0; i < ny; i++) {
        double bound = unit_roundoff(elem) * fabs(y[i]) + scale_y * weight_error;
        cr_assert(fabs(got[i] - y[i]) <= bound, "%s: y[%lld] is %.9g, not %.9g", c->name, (long long)i,
                  got[i], y[i]);
    }
    free(w);
    free(y);
    free(got);
    layer_close(&l);
}

Test(weight_change, effective_weights_are_those_of_the_formula)
{
    for (int i = 0; i < CASES; i++) {
        expect_value(&cases[i], HL_ELEM_F32);
        if (rig_computes(HL_ELEM_BF16))
            expect_value(&cases[i], HL_ELEM_BF16);
    }
}

static double dot_value(const layer *l, const double *dw)
{
    int64_t nw = l->expr.weight->count, row = nw / l->c->outputs;
    double sum = 0.0;
    for (int64_t k = 0; k < nw; k++)
        sum += row_scale(l, k / row) * dw[k] * value_at(l, k, true);
    return sum;
}

static void expect_gradient(const layer *l, hl_param *p, const double *dw, float factor)
{
    if (p == NULL)
        return;
    double largest = 0.0;
    for (int64_t i = 0; i < p->count; i++)
        largest = fmax(largest, fabs((double)p->grad[i]));
    for (int64_t i = 0; i < p->count; i += p->count / 20 + 1) {
        float at = p->value[i];
        p->value[i] = at + 0.5f;
        double up = dot_value(l, dw);
        p->value[i] = at - 0.5f;
        double want = (up - dot_value(l, dw)) * (double)factor, got = (double)p->grad[i];
        p->value[i] = at;
        cr_assert(fabs(got - want) <= (tolerance(l) + 1e-6) * (fabs(want) + largest),
                  "%s: d %s[%lld] is %.9g, not %.9g", l->c->name, p->name, (long long)i, got, want);
    }
    cr_assert_gt(largest, 0.0, "%s: d %s is 0", l->c->name, p->name);
}

static void expect_gradients(const layer *l, float factor)
{
    double *dw = rig_array(l->expr.weight->count);
    ref_conv_weight(&l->ref, l->xs, l->dys, dw);
    for (int k = 0; k < 2; k++) {
        expect_gradient(l, l->change.factor[k].left, dw, factor);
        expect_gradient(l, l->change.factor[k].right, dw, factor);
    }
    expect_gradient(l, l->change.magnitude, dw, factor);
    free(dw);
}

Test(weight_change, gradients_of_factors_are_those_of_the_formula_and_accumulate)
{
    for (int i = 0; i < CASES; i++) {
        layer l;
        layer_open(&l, &cases[i], HL_ELEM_F32);
        set_norms(&l);
        rig_run(&l.rig, l.fold);
        rig_run(&l.rig, l.weight);
        rig_run(&l.rig, l.weight_grad);
        expect_gradients(&l, 1.0f);
        l.rig.run.grad_keep = 1.0f;
        rig_run(&l.rig, l.weight);
        rig_run(&l.rig, l.weight_grad);
        expect_gradients(&l, 2.0f);
        layer_close(&l);
    }
}
