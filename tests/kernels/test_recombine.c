/* Recombination of sub-function outputs and its gradient against plain loops in double; every element type,
 * in three orders of threads. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_ops.h"

typedef struct problem {
    int64_t rows, channels;
    int32_t groups, inputs;
} problem;

/* Depthwise layers, stems, groups that vectors fit in and that they do not, more inputs than are summed at
 * once, one row and enough rows for several blocks. */
static const problem problems[] = {
    {7, 1, 1, 1},    {130, 3, 3, 1}, {49, 8, 8, 1},      {30, 12, 12, 1}, {1, 17, 17, 1}, {300, 40, 40, 1},
    {2500, 8, 8, 1}, {25, 8, 1, 3},  {60, 40, 1, 3},     {33, 17, 1, 3},  {20, 12, 3, 2}, {700, 16, 2, 5},
    {9, 10, 2, 9},   {1, 40, 5, 4},  {5, 2080, 2080, 1}, {10, 8, 4, 1},
};

#define COUNT(list) (sizeof(list) / sizeof *(list))

typedef struct operands {
    char name[160];
    problem p;
    hl_elem elem;
    int64_t ys, ss, gates;
    double *s, *gate;
} operands;

static operands make(const problem *p, hl_elem elem)
{
    operands o = {.p = *p, .elem = elem, .ys = p->rows * p->channels, .gates = p->channels * p->inputs};
    snprintf(o.name, sizeof o.name, "%lld rows, %lld channels, %d groups, %d inputs, element type %d",
             (long long)p->rows, (long long)p->channels, (int)p->groups, (int)p->inputs, (int)elem);
    o.ss = p->rows * o.gates;
    o.s = random_doubles(o.ss, -1.0, 1.0, elem, 1);
    o.gate = random_doubles(o.gates, -0.9, 0.9, HL_ELEM_F32, 2);
    return o;
}

static void drop(operands *o)
{
    free(o->s);
    free(o->gate);
}

static double *fetch(const void *buffer, int64_t count, hl_elem elem)
{
    double *values = doubles(count);
    kernel_get(buffer, count, elem, values);
    return values;
}

static hl_recombine_args args_of(kernel_rig *r, const operands *o, hl_act act)
{
    return (hl_recombine_args){.gate = kernel_input(r, o->gates, HL_ELEM_F32, o->gate),
                               .rows = o->p.rows,
                               .channels = o->p.channels,
                               .groups = o->p.groups,
                               .inputs = o->p.inputs,
                               .act = act};
}

/* S of input j of output o, in one row. */
static double sub(const operands *op, int64_t row, int64_t o, int64_t j)
{
    int64_t outputs = op->p.channels / op->p.groups, input = o / outputs * op->p.inputs + j;
    return op->s[row * op->gates + input * outputs + o % outputs];
}

/* ---- forward ---- */

typedef struct extras {
    hl_act act;
    const double *bias, *residual;
    hl_elem bias_elem;
    bool in_place; /* y is the residual's memory */
} extras;

static double *forward(const operands *o, const extras *e)
{
    kernel_rig r = {0};
    hl_recombine_args args = args_of(&r, o, e->act);
    void *s = kernel_input(&r, o->ss, o->elem, o->s);
    void *bias = e->bias != NULL ? kernel_input(&r, o->p.channels, e->bias_elem, e->bias) : NULL;
    void *residual = e->residual != NULL ? kernel_input(&r, o->ys, o->elem, e->residual) : NULL;
    void *y = e->in_place ? residual : kernel_output(&r, o->ys, o->elem);
    KERNEL_RUN(&r, hl_launch_recombine(&args, s, bias, e->bias_elem, residual, y, o->elem, NULL));
    double *got = fetch(y, o->ys, o->elem);
    kernel_rig_clear(&r);
    return got;
}

static void check_forward(const operands *o, const extras *e)
{
    double *want = doubles(o->ys);
    for (int64_t i = 0; i < o->ys; i++) {
        int64_t row = i / o->p.channels, c = i % o->p.channels;
        for (int64_t j = 0; j < o->p.inputs; j++)
            want[i] += (1.0 + o->gate[c * o->p.inputs + j]) * sub(o, row, c, j);
        want[i] += (e->bias != NULL ? e->bias[c] : 0.0) + (e->residual != NULL ? e->residual[i] : 0.0);
        want[i] = ref_act(e->act, want[i]);
    }
    /* Products up to 1.9, each with the rounding of its gate; 1.13 bounds the slope of activations. */
    double terms = (double)o->p.inputs + 2.0, *got = forward(o, e);
    expect_close(o->name, o->elem, got, want, o->ys, 1.9 * terms, 1.13 * (2.0 * terms) + 16.0);
    free(got);
    free(want);
}

Test(recombine, outputs_are_gated_sums_of_their_subfunctions)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13)) {
                operands o = make(&problems[p], kernel_elems[e]);
                check_forward(&o, &(extras){.act = HL_ACT_NONE, .bias_elem = HL_ELEM_F32});
                drop(&o);
            }
}

Test(recombine, bias_residual_and_activation_are_fused)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13)) {
                operands o = make(&problems[p], kernel_elems[e]);
                double *residual = random_doubles(o.ys, -1.0, 1.0, o.elem, 3);
                extras x = {
                    .act = (hl_act)(p % (HL_ACT_TANH + 1)), .residual = residual, .bias_elem = HL_ELEM_F32};
                double *bias = random_doubles(o.p.channels, -1.0, 1.0, HL_ELEM_F32, 4);
                x.bias = bias;
                check_forward(&o, &x);
                x.in_place = true;
                x.act = HL_ACT_RELU6;
                check_forward(&o, &x);
                free(bias);
                x.residual = NULL;
                x.in_place = false;
                x.bias = bias = random_doubles(o.p.channels, -1.0, 1.0, o.elem, 5);
                x.bias_elem = o.elem;
                check_forward(&o, &x);
                free(bias);
                free(residual);
                drop(&o);
            }
}

/* ---- gradient ---- */

typedef struct gradients {
    hl_act act;
    int count;
    enum { DZ_SEPARATE, DZ_ALIASED, DZ_NONE } dz;
    double *y, *d[HL_KERNEL_MAX_TERMS], *old; /* old: dgate before */
    float keep;
} gradients;

/* Values that an activation can have given, at its kinks as well. */
static double output_of(hl_act act, double x)
{
    return ref_act(act, 8.0 * x);
}

static double slope_at(hl_act act, double y)
{
    switch (act) {
    case HL_ACT_RELU:
        return y > 0.0 ? 1.0 : 0.0;
    case HL_ACT_RELU6:
        return y > 0.0 && y < 6.0 ? 1.0 : 0.0;
    case HL_ACT_SIGMOID:
        return y * (1.0 - y);
    case HL_ACT_TANH:
        return 1.0 - y * y;
    default:
        return 1.0;
    }
}

static gradients make_gradients(const operands *o, hl_act act, int count, int dz, float keep)
{
    gradients g = {.act = act, .count = count, .dz = dz, .keep = keep};
    g.y = random_doubles(o->ys, -1.0, 1.0, HL_ELEM_F32, 6);
    for (int64_t i = 0; i < o->ys; i++)
        g.y[i] = stored(o->elem, output_of(act, g.y[i]));
    for (int k = 0; k < count; k++)
        g.d[k] = random_doubles(o->ys, -1.0, 1.0, o->elem, (uint32_t)(7 + k));
    g.old = random_doubles(o->gates, -1.0, 1.0, HL_ELEM_F32, 20);
    for (int64_t i = 0; i < o->gates && keep == 0.0f; i++)
        g.old[i] = NAN;
    return g;
}

static void drop_gradients(gradients *g)
{
    free(g->y);
    free(g->old);
    for (int k = 0; k < g->count; k++)
        free(g->d[k]);
}

typedef struct result {
    double *dz, *dgate;
} result;

static result gradient(const operands *o, const gradients *g)
{
    kernel_rig r = {0};
    hl_recombine_args args = args_of(&r, o, g->act);
    hl_run_state state = {.grad_keep = g->keep};
    void *run = kernel_bytes(&r, &state, sizeof state), *last = NULL;
    hl_terms terms = {.count = g->count};
    for (int k = 0; k < g->count; k++)
        terms.term[k] = last = kernel_input(&r, o->ys, o->elem, g->d[k]);
    void *s = kernel_input(&r, o->ss, o->elem, o->s);
    void *dgate = kernel_input(&r, o->gates, HL_ELEM_F32, g->old);
    void *y = g->act != HL_ACT_NONE ? kernel_input(&r, o->ys, o->elem, g->y) : NULL;
    void *dz = g->dz == DZ_SEPARATE ? kernel_output(&r, o->ys, o->elem) : g->dz == DZ_ALIASED ? last : NULL;
    void *scratch = kernel_output(&r, (int64_t)hl_recombine_grad_scratch(&args), HL_ELEM_U8);
    KERNEL_RUN(&r, hl_launch_recombine_grad(&args, s, y, terms, dz, dgate, run, scratch, o->elem, NULL));
    result got = {NULL, fetch(dgate, o->gates, HL_ELEM_F32)};
    if (dz != NULL)
        got.dz = fetch(dz, o->ys, o->elem);
    kernel_rig_clear(&r);
    return got;
}

/* dz in double, rounded nowhere. */
static double *dz_want(const operands *o, const gradients *g)
{
    double *want = doubles(o->ys);
    for (int64_t i = 0; i < o->ys; i++) {
        for (int k = 0; k < g->count; k++)
            want[i] += g->d[k][i];
        want[i] *= slope_at(g->act, g->y[i]);
    }
    return want;
}

static void check_dgate(const operands *o, const gradients *g, const double *dz, const double *got)
{
    double *want = doubles(o->gates);
    int64_t inputs = o->p.inputs;
    for (int64_t c = 0; c < o->gates; c++) {
        want[c] = g->keep != 0.0f ? g->old[c] : 0.0;
        for (int64_t row = 0; row < o->p.rows; row++)
            want[c] += dz[row * o->p.channels + c / inputs] * sub(o, row, c / inputs, c % inputs);
    }
    double terms = (double)o->p.rows + 1.0;
    expect_close(o->name, HL_ELEM_F32, got, want, o->gates, terms * g->count, terms);
    free(want);
}

static void check_gradient(const operands *o, const gradients *g)
{
    double *dz = dz_want(o, g);
    result got = gradient(o, g);
    if (got.dz != NULL)
        expect_close(o->name, o->elem, got.dz, dz, o->ys, (double)g->count, (double)g->count + 3.0);
    /* Sums are of dz as it is stored. Where it is not, the one gradient is dz. */
    check_dgate(o, g, got.dz != NULL ? got.dz : dz, got.dgate);
    free(got.dz);
    free(got.dgate);
    free(dz);
}

static void every_problem(hl_act act, int count, int dz, float keep)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13)) {
                operands o = make(&problems[p], kernel_elems[e]);
                gradients g = make_gradients(&o, act, count, dz, keep);
                check_gradient(&o, &g);
                drop_gradients(&g);
                drop(&o);
            }
}

Test(recombine, gradient_overwrites_whatever_was_there)
{
    every_problem(HL_ACT_RELU, 1, DZ_SEPARATE, 0.0f);
}

Test(recombine, gradient_adds_to_what_was_there)
{
    every_problem(HL_ACT_SIGMOID, 2, DZ_SEPARATE, 1.0f);
}

Test(recombine, dz_may_be_one_of_the_gradients)
{
    every_problem(HL_ACT_RELU6, 3, DZ_ALIASED, 0.0f);
}

Test(recombine, dz_may_be_left_out)
{
    every_problem(HL_ACT_NONE, 1, DZ_NONE, 1.0f);
}

Test(recombine, eight_gradients_are_summed)
{
    every_problem(HL_ACT_NONE, HL_KERNEL_MAX_TERMS, DZ_SEPARATE, 0.0f);
}

Test(recombine, no_rows_make_a_zero_gradient)
{
    operands o = make(&(problem){0, 8, 8, 1}, HL_ELEM_F32);
    gradients g = make_gradients(&o, HL_ACT_NONE, 1, DZ_SEPARATE, 0.0f);
    check_gradient(&o, &g);
    drop_gradients(&g);
    drop(&o);
}
