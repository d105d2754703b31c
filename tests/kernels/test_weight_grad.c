/* Gradients of gates, weights and biases against plain loops in double; every element type, in three orders
 * of threads. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

/* ---- gates and weights ---- */

typedef struct problem {
    int32_t outputs, inputs, window;
    hl_packing packing;
    bool norm, gate;
} problem;

static const problem problems[] = {
    {8, 16, 1, HL_PACK_KRSC, true, true},       {5, 3, 1, HL_PACK_KRSC, true, true},
    {40, 128, 1, HL_PACK_KRSC, false, true},    {70, 41, 1, HL_PACK_KRSC, true, false},
    {12, 3, 9, HL_PACK_KRSC, true, true},       {17, 40, 9, HL_PACK_KRSC, true, true},
    {64, 24, 25, HL_PACK_KRSC, false, true},    {9, 3, 49, HL_PACK_KRSC, true, true},
    {2, 3, 132, HL_PACK_KRSC, true, true},      {1, 1, 1, HL_PACK_KRSC, true, true},
    {40, 1, 9, HL_PACK_DEPTHWISE, true, true},  {17, 1, 25, HL_PACK_DEPTHWISE, false, true},
    {600, 1, 9, HL_PACK_DEPTHWISE, true, true}, {3, 1, 144, HL_PACK_DEPTHWISE, true, true},
};

typedef struct operands {
    char name[96];
    problem p;
    int64_t pairs, weights;
    double *w, *gate, *scale, *var, *dw, *old_gate, *old_weight; /* dw in W's order */
} operands;

static double *old_values(int64_t count, float keep, uint32_t stream)
{
    double *old = random_doubles(count, -1.0, 1.0, HL_ELEM_F32, stream);
    for (int64_t i = 0; i < count && keep == 0.0f; i++)
        old[i] = NAN;
    return old;
}

static operands make(const problem *p, hl_elem elem, float keep)
{
    operands o = {.p = *p, .pairs = (int64_t)p->outputs * p->inputs};
    snprintf(o.name, sizeof o.name, "%dx%d, window %d, packing %d, element type %d, keep %g", (int)p->outputs,
             (int)p->inputs, (int)p->window, (int)p->packing, (int)elem, (double)keep);
    o.weights = o.pairs * p->window;
    o.w = random_doubles(o.weights, -1.0, 1.0, HL_ELEM_F32, 1);
    o.gate = random_doubles(o.pairs, -0.9, 0.9, HL_ELEM_F32, 2);
    o.scale = random_doubles(p->outputs, -1.5, 1.5, HL_ELEM_F32, 3);
    o.var = random_doubles(p->outputs, 0.5, 2.0, HL_ELEM_F32, 4);
    o.dw = random_doubles(o.weights, -1.0, 1.0, elem, 5);
    o.old_gate = old_values(o.pairs, keep, 6);
    o.old_weight = old_values(o.weights, keep, 7);
    return o;
}

static void drop(operands *o)
{
    double *all[] = {o->w, o->gate, o->scale, o->var, o->dw, o->old_gate, o->old_weight};
    for (size_t i = 0; i < COUNT(all); i++)
        free(all[i]);
}

static double scale_of(const operands *o, int64_t output)
{
    return o->p.norm ? o->scale[output] / sqrt(o->var[output] + 1e-3) : 1.0;
}

static double *fetch(const void *buffer, int64_t count, hl_elem elem)
{
    double *values = doubles(count);
    kernel_get(buffer, count, elem, values);
    return values;
}

static hl_expr_args expr_of(kernel_rig *r, const operands *o)
{
    hl_expr_args e = {.weight = kernel_input(r, o->weights, HL_ELEM_F32, o->w),
                      .eps = 1e-3f,
                      .outputs = o->p.outputs,
                      .inputs = o->p.inputs,
                      .window = o->p.window};
    if (o->p.gate)
        e.gate = kernel_input(r, o->pairs, HL_ELEM_F32, o->gate);
    if (o->p.norm) {
        e.norm_scale = kernel_input(r, o->p.outputs, HL_ELEM_F32, o->scale);
        e.norm_var = kernel_input(r, o->p.outputs, HL_ELEM_F32, o->var);
    }
    return e;
}

/* dw as the kernels take it. */
static double *packed(const operands *o)
{
    double *to = doubles(o->weights);
    int64_t window = o->p.window, inputs = o->p.inputs;
    for (int64_t k = 0; k < o->weights; k++) {
        int64_t t = k % window, i = k / window % inputs, out = k / window / inputs;
        to[o->p.packing == HL_PACK_KRSC ? (out * window + t) * inputs + i : t * o->p.outputs + out] =
            o->dw[k];
    }
    return to;
}

typedef struct result {
    double *dgate, *dweight;
} result;

static result run(const operands *o, hl_elem elem, float keep, bool wants_gate, bool wants_weight)
{
    kernel_rig r = {0};
    hl_expr_args e = expr_of(&r, o);
    hl_run_state state = {.grad_keep = keep};
    double *from = packed(o);
    void *on_device = kernel_bytes(&r, &state, sizeof state), *dw = kernel_input(&r, o->weights, elem, from);
    void *dgate = wants_gate ? kernel_input(&r, o->pairs, HL_ELEM_F32, o->old_gate) : NULL;
    void *dweight = wants_weight ? kernel_input(&r, o->weights, HL_ELEM_F32, o->old_weight) : NULL;
    KERNEL_RUN(&r, hl_launch_weight_grad(&e, o->p.packing, dw, elem, dgate, dweight, on_device, NULL));
    result got = {NULL, NULL};
    if (wants_gate)
        got.dgate = fetch(dgate, o->pairs, HL_ELEM_F32);
    if (wants_weight)
        got.dweight = fetch(dweight, o->weights, HL_ELEM_F32);
    kernel_rig_clear(&r);
    free(from);
    return got;
}

/* |s| is at most 1.5 / sqrt(0.501) < 2.2, 1 + gate at most 1.9. */
static void check_result(const operands *o, float keep, const result *r)
{
    double *dgate = doubles(o->pairs), *dweight = doubles(o->weights);
    for (int64_t pair = 0; pair < o->pairs; pair++) {
        double s = scale_of(o, pair / o->p.inputs), sum = 0.0;
        for (int64_t k = pair * o->p.window; k < (pair + 1) * o->p.window; k++) {
            sum += o->dw[k] * o->w[k];
            dweight[k] = (keep != 0.0f ? o->old_weight[k] : 0.0) +
                         s * (o->p.gate ? 1.0 + o->gate[pair] : 1.0) * o->dw[k];
        }
        dgate[pair] = (keep != 0.0f ? o->old_gate[pair] : 0.0) + s * sum;
    }
    double terms = (double)o->p.window;
    if (r->dgate != NULL)
        expect_close(o->name, HL_ELEM_F32, r->dgate, dgate, o->pairs, 2.2 * terms + 1.0, terms + 6.0);
    if (r->dweight != NULL)
        expect_close(o->name, HL_ELEM_F32, r->dweight, dweight, o->weights, 2.2 * 1.9 + 1.0, 8.0);
    free(dgate);
    free(dweight);
}

static void check(const problem *p, hl_elem elem, float keep, bool wants_gate, bool wants_weight)
{
    operands o = make(p, elem, keep);
    result r = run(&o, elem, keep, wants_gate, wants_weight);
    check_result(&o, keep, &r);
    free(r.dgate);
    free(r.dweight);
    drop(&o);
}

static void every_problem(float keep, bool wants_gate, bool wants_weight)
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13))
                check(&problems[p], kernel_elems[e], keep, wants_gate, wants_weight);
}

Test(weight_grad, gate_gradients_contract_the_window_with_the_weights)
{
    every_problem(0.0f, true, false);
    every_problem(1.0f, true, false);
}

Test(weight_grad, weight_gradients_are_scaled_by_gate_and_norm)
{
    every_problem(0.0f, false, true);
    every_problem(1.0f, false, true);
}

Test(weight_grad, gates_and_weights_may_both_be_trained)
{
    every_problem(0.0f, true, true);
    every_problem(1.0f, true, true);
}

/* ---- biases ---- */

typedef struct bias_problem {
    int64_t rows, channels;
} bias_problem;

/* One row, less than a block, several chunks, channels of one and of several blocks, and so many rows that
 * chunks grow longer. */
static const bias_problem bias_problems[] = {
    {1, 1},    {5, 3},   {400, 8},   {1000, 12}, {77, 17},  {3000, 40},
    {3, 2056}, {2, 520}, {70, 1000}, {0, 9},     {9000, 2}, {40, 2048},
};

/* scale NULL: no norm. The gradients of bias, offset and shift, one behind the other. */
static double *bias_run(const bias_problem *p, const double *dy, hl_elem elem, const double *scale,
                        const double *var, const double *row, const double *old, float keep)
{
    kernel_rig r = {0};
    hl_expr_args e = {.eps = 1e-3f, .outputs = (int32_t)p->channels, .inputs = 1, .window = 1};
    hl_run_state state = {.grad_keep = keep};
    if (scale != NULL) {
        e.norm_scale = kernel_input(&r, p->channels, HL_ELEM_F32, scale);
        e.norm_var = kernel_input(&r, p->channels, HL_ELEM_F32, var);
    }
    void *d = kernel_input(&r, p->rows * p->channels, elem, dy);
    if (row != NULL)
        e.row_gate = kernel_input(&r, p->channels, HL_ELEM_F32, row);
    const hl_bias_grads grads = {.dbias = kernel_input(&r, p->channels, HL_ELEM_F32, old),
                                 .doffset = kernel_input(&r, p->channels, HL_ELEM_F32, old),
                                 .dshift = kernel_input(&r, p->channels, HL_ELEM_F32, old)};
    void *scratch = kernel_output(&r, (int64_t)hl_bias_grad_scratch(p->rows, p->channels), HL_ELEM_U8);
    void *on_device = kernel_bytes(&r, &state, sizeof state);
    KERNEL_RUN(&r, hl_launch_bias_grad(&e, d, elem, p->rows, p->channels, grads, on_device, scratch, NULL));
    double *got = doubles(3 * p->channels);
    kernel_get(grads.dbias, p->channels, HL_ELEM_F32, got);
    kernel_get(grads.doffset, p->channels, HL_ELEM_F32, got + p->channels);
    kernel_get(grads.dshift, p->channels, HL_ELEM_F32, got + 2 * p->channels);
    kernel_rig alone = {0};
    double *shift = doubles(p->channels); /* the same where nothing else is wanted */
    const hl_bias_grads only = {.dshift = kernel_input(&alone, p->channels, HL_ELEM_F32, old)};
    KERNEL_RUN(&alone,
               hl_launch_bias_grad(&e, d, elem, p->rows, p->channels, only, on_device, scratch, NULL));
    kernel_get(only.dshift, p->channels, HL_ELEM_F32, shift);
    expect_same("shift alone", shift, got + 2 * p->channels, p->channels);
    free(shift);
    kernel_rig_clear(&alone);
    kernel_rig_clear(&r);
    return got;
}

static void check_bias(const bias_problem *p, hl_elem elem, bool norm, float keep)
{
    char name[96];
    snprintf(name, sizeof name, "%lld rows, %lld channels, element type %d", (long long)p->rows,
             (long long)p->channels, (int)elem);
    double *dy = random_doubles(p->rows * p->channels + 1, -1.0, 1.0, elem, 1);
    double *scale = random_doubles(p->channels, -1.5, 1.5, HL_ELEM_F32, 2);
    double *var = random_doubles(p->channels, 0.5, 2.0, HL_ELEM_F32, 3);
    double *row = random_doubles(p->channels, -0.7, 0.9, HL_ELEM_F32, 5);
    double *old = old_values(p->channels, keep, 4), *want = doubles(3 * p->channels);
    for (int64_t c = 0; c < p->channels; c++) {
        double sum = 0.0, s = norm ? scale[c] / sqrt(var[c] + 1e-3) : 1.0,
               before = keep != 0.0f ? old[c] : 0.0;
        for (int64_t r = 0; r < p->rows; r++)
            sum += dy[r * p->channels + c];
        want[c] = before + s * (1.0 + row[c]) * sum;
        want[p->channels + c] = before + s * sum;
        want[2 * p->channels + c] = before + sum;
    }
    double terms = (double)p->rows + 1.0,
           *got = bias_run(p, dy, elem, norm ? scale : NULL, var, row, old, keep);
    expect_close(name, HL_ELEM_F32, got, want, 3 * p->channels, 2.2 * 1.9 * terms, terms + 6.0);
    double *all[] = {dy, scale, var, row, old, want, got};
    for (size_t i = 0; i < COUNT(all); i++)
        free(all[i]);
}

Test(bias_grad, overwrites_with_scaled_column_sums)
{
    for (size_t p = 0; p < COUNT(bias_problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13))
                check_bias(&bias_problems[p], kernel_elems[e], true, 0.0f);
}

Test(bias_grad, adds_to_what_was_there)
{
    for (size_t p = 0; p < COUNT(bias_problems); p++)
        for (size_t e = 0; e < COUNT(kernel_elems); e++)
            if (kernel_takes_case(13))
                check_bias(&bias_problems[p], kernel_elems[e], false, 1.0f);
}

/* 2^19 values of 1 + 2^-7. A sum in one chain loses the 2^-7 of every value once it is beyond 2^18, a fifth
 * of a per cent in the end; in chunks it is exact. */
Test(bias_grad, rounding_does_not_grow_with_the_rows)
{
    enum { ROWS = 1 << 19, CHANNELS = 8 };
    if (KERNEL_ORDERS == 1)
        return; /* the accesses are those of the tests before */
    bias_problem p = {ROWS, CHANNELS};
    double *dy = doubles((int64_t)ROWS * CHANNELS), *want = doubles(CHANNELS);
    double *old = old_values(CHANNELS, 0.0f, 2);
    float chain = 0.0f;
    for (int64_t i = 0; i < (int64_t)ROWS * CHANNELS; i++) {
        dy[i] = 1.0078125;
        want[i % CHANNELS] += dy[i];
        chain += i % CHANNELS == 0 ? 1.0078125f : 0.0f;
    }
    cr_assert(fabs((double)chain - want[0]) > 1e-3 * want[0]);
    double *got = bias_run(&p, dy, HL_ELEM_BF16, NULL, NULL, NULL, old, 0.0f);
    expect_same("bias gradient", got, want, CHANNELS);
    free(dy);
    free(old);
    free(want);
    free(got);
}
