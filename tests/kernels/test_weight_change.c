/* Weights that are changed as a whole against backend/weight_change.c: f(W) bit by bit, lengths and gradients
 * within the roundings of their sums; on odd sizes, with groups, in three orders of threads. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/weight_change.h"
#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"

typedef struct problem {
    const char *name;
    hl_change_kind kind;
    int64_t outputs, inputs, window; /* inputs of a group */
    hl_factor factor[2];             /* sizes; blocks 0: not there, rank 0: the matrix itself */
    bool magnitude, left_frozen, right_frozen;
} problem;

/* Less than a warp, less than a block, several blocks; columns that are no multiple of 32, ranks above and
 * below what a thread sums at once, rows of more than one chunk. */
static const problem problems[] = {
    {.name = "one element",
     .kind = HL_CHANGE_ADD,
     .outputs = 1,
     .inputs = 1,
     .window = 1,
     .factor = {{.blocks = 1, .rows = 1, .columns = 1, .rank = 1}}},
    {.name = "add",
     .kind = HL_CHANGE_ADD,
     .outputs = 17,
     .inputs = 13,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 17, .columns = 117, .rank = 3}}},
    {.name = "add, rank 11",
     .kind = HL_CHANGE_ADD,
     .outputs = 70,
     .inputs = 33,
     .window = 1,
     .factor = {{.blocks = 1, .rows = 70, .columns = 33, .rank = 11}}},
    {.name = "add by groups",
     .kind = HL_CHANGE_ADD,
     .outputs = 15,
     .inputs = 5,
     .window = 9,
     .factor = {{.blocks = 3, .rows = 5, .columns = 45, .rank = 4}}},
    {.name = "add to depthwise",
     .kind = HL_CHANGE_ADD,
     .outputs = 37,
     .inputs = 1,
     .window = 25,
     .factor = {{.blocks = 37, .rows = 1, .columns = 25, .rank = 2}}},
    {.name = "add in other rows",
     .kind = HL_CHANGE_ADD,
     .outputs = 6,
     .inputs = 7,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 18, .columns = 21, .rank = 6}}},
    {.name = "atoms",
     .kind = HL_CHANGE_ADD,
     .outputs = 50,
     .inputs = 45,
     .window = 9,
     .left_frozen = true,
     .factor = {{.blocks = 1, .rows = 2250, .columns = 9, .rank = 9}}},
    {.name = "add with a frozen right factor",
     .kind = HL_CHANGE_ADD,
     .outputs = 5,
     .inputs = 70,
     .window = 1,
     .right_frozen = true,
     .factor = {{.blocks = 1, .rows = 5, .columns = 70, .rank = 2}}},
    {.name = "add a matrix",
     .kind = HL_CHANGE_ADD,
     .outputs = 9,
     .inputs = 3,
     .window = 49,
     .factor = {{.blocks = 1, .rows = 9, .columns = 147}}},
    {.name = "add with magnitudes",
     .kind = HL_CHANGE_ADD,
     .outputs = 11,
     .inputs = 35,
     .window = 9,
     .magnitude = true,
     .factor = {{.blocks = 1, .rows = 11, .columns = 315, .rank = 3}}},
    {.name = "hadamard",
     .kind = HL_CHANGE_HADAMARD,
     .outputs = 17,
     .inputs = 13,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 17, .columns = 117, .rank = 3},
                {.blocks = 1, .rows = 17, .columns = 117, .rank = 9}}},
    {.name = "hadamard with magnitudes",
     .kind = HL_CHANGE_HADAMARD,
     .outputs = 5,
     .inputs = 3,
     .window = 9,
     .magnitude = true,
     .factor = {{.blocks = 1, .rows = 5, .columns = 27, .rank = 2},
                {.blocks = 1, .rows = 5, .columns = 27, .rank = 1}}},
    {.name = "kronecker",
     .kind = HL_CHANGE_KRONECKER,
     .outputs = 15,
     .inputs = 14,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 3, .columns = 2}, {.blocks = 1, .rows = 5, .columns = 63, .rank = 2}}},
    {.name = "kronecker of matrices",
     .kind = HL_CHANGE_KRONECKER,
     .outputs = 33,
     .inputs = 21,
     .window = 1,
     .factor = {{.blocks = 1, .rows = 3, .columns = 3}, {.blocks = 1, .rows = 11, .columns = 7}}},
    {.name = "gates",
     .kind = HL_CHANGE_GATE,
     .outputs = 19,
     .inputs = 41,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 19, .columns = 41, .rank = 3}}},
    {.name = "gates of 1x1",
     .kind = HL_CHANGE_GATE,
     .outputs = 70,
     .inputs = 5,
     .window = 1,
     .factor = {{.blocks = 1, .rows = 70, .columns = 5, .rank = 9}}},
    {.name = "mask",
     .kind = HL_CHANGE_MASK,
     .outputs = 23,
     .inputs = 11,
     .window = 9,
     .factor = {{.blocks = 1, .rows = 23, .columns = 99}}},
};
enum { PROBLEMS = sizeof problems / sizeof *problems };

/* Small, so that no length of a row of W, whose elements are from 2 to 3, comes near 0. */
static const float scale = 0.0625f;

typedef struct model {
    hl_param weight, left[2], right[2], magnitude;
    hl_weight_change change;
    hl_weight_expr expr;
} model;

static hl_param param(int64_t count, double low, double high, float keep, bool trained, uint32_t stream)
{
    hl_param p = {.name = "p", .ndim = 1, .shape = {count}, .count = count, .trained = trained};
    double *v = random_doubles(2 * count, low, high, HL_ELEM_F32, stream);
    p.host = malloc((size_t)count * sizeof *p.host);
    p.grad = malloc((size_t)count * sizeof *p.grad);
    cr_assert(p.host != NULL && p.grad != NULL);
    for (int64_t i = 0; i < count; i++) {
        p.host[i] = (float)v[i];
        p.grad[i] = keep != 0.0f ? (float)v[count + i] : NAN;
    }
    free(v);
    return p;
}

static void build(const problem *p, float keep, model *m)
{
    *m = (model){.change = {.kind = p->kind, .scale = scale}};
    m->weight = param(p->outputs * p->inputs * p->window, 2.0, 3.0, 0.0f, false, 1);
    m->weight.ndim = 4;
    memcpy(m->weight.shape, (int64_t[4]){p->outputs, p->inputs, p->window, 1}, sizeof m->weight.shape);
    for (int i = 0; i < 2; i++) {
        hl_factor *f = &m->change.factor[i];
        *f = p->factor[i];
        if (f->blocks == 0)
            continue;
        int64_t width = f->rank > 0 ? f->rank : f->columns;
        m->left[i] =
            param(f->blocks * f->rows * width, -1.0, 1.0, keep, !p->left_frozen, 2 + 2 * (uint32_t)i);
        f->left = &m->left[i];
        if (f->rank == 0)
            continue;
        m->right[i] =
            param(f->blocks * f->rank * f->columns, -1.0, 1.0, keep, !p->right_frozen, 3 + 2 * (uint32_t)i);
        f->right = &m->right[i];
    }
    if (p->magnitude) {
        m->magnitude = param(p->outputs, 0.5, 2.0, keep, true, 9);
        m->change.magnitude = &m->magnitude;
    }
    m->expr = (hl_weight_expr){.kind = HL_WEIGHT_CHANGED, .weight = &m->weight, .change = &m->change};
}

static void drop(model *m)
{
    hl_param *all[] = {&m->weight, &m->left[0], &m->left[1], &m->right[0], &m->right[1], &m->magnitude};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        free(all[i]->host);
        free(all[i]->grad);
    }
}

static float *on_device(kernel_rig *r, const hl_param *p, bool grad)
{
    if (p == NULL || (grad && !p->trained))
        return NULL;
    return kernel_bytes(r, grad ? p->grad : p->host, (size_t)p->count * sizeof(float));
}

static hl_change_args args_of(kernel_rig *r, const problem *p, const model *m, bool grads)
{
    hl_change_args a = {.kind = (int32_t)p->kind,
                        .scale = scale,
                        .magnitude = on_device(r, m->change.magnitude, false),
                        .dmagnitude = grads ? on_device(r, m->change.magnitude, true) : NULL,
                        .weight = on_device(r, &m->weight, false),
                        .outputs = p->outputs,
                        .inputs = p->inputs,
                        .window = p->window};
    for (int i = 0; i < 2; i++) {
        const hl_factor *f = &m->change.factor[i];
        a.factor[i] = (hl_factor_args){.left = on_device(r, f->left, false),
                                       .right = on_device(r, f->right, false),
                                       .dleft = grads ? on_device(r, f->left, true) : NULL,
                                       .dright = grads ? on_device(r, f->right, true) : NULL,
                                       .blocks = f->blocks,
                                       .rows = f->rows,
                                       .columns = f->columns,
                                       .rank = f->rank};
    }
    return a;
}

/* Both in f32: twice the roundings of one. */
static void expect_near(const problem *p, const char *what, const float *got, const float *want,
                        int64_t count, double most, double operations)
{
    char name[96];
    snprintf(name, sizeof name, "%s, %s", p->name, what);
    double *g = doubles(count), *w = doubles(count);
    for (int64_t i = 0; i < count; i++) {
        g[i] = (double)got[i];
        w[i] = (double)want[i];
    }
    expect_close(name, HL_ELEM_F32, g, w, count, most, 2.0 * operations);
    free(g);
    free(w);
}

static void check_value(const problem *p)
{
    model m;
    kernel_rig r = {0};
    build(p, 0.0f, &m);
    hl_change_args a = args_of(&r, p, &m, false);
    float *value = kernel_output(&r, m.weight.count, HL_ELEM_F32),
          *want = malloc((size_t)m.weight.count * sizeof *want);
    cr_assert_not_null(want);
    KERNEL_RUN(&r, hl_launch_change_value(&a, value, NULL));
    hl_weight_change_value(&m.expr, want);
    if (!p->magnitude)
        cr_assert_eq(memcmp(value, want, (size_t)m.weight.count * sizeof *want), 0, "%s", p->name);
    else /* a length of 2, and no element longer; a sum of squares, a root, a quotient, a product */
        expect_near(p, "f(W)", value, want, m.weight.count, 2.0, (double)(m.weight.count / p->outputs) + 4.0);
    free(want);
    kernel_rig_clear(&r);
    drop(&m);
}

Test(weight_change, effective_weights_are_those_of_the_cpu)
{
    for (int i = 0; i < PROBLEMS; i++)
        if (kernel_takes_case(5))
            check_value(&problems[i]);
}

/* How large the gradient of a matrix of factor i can be, and how many terms it is a sum of. dv is at most 1,
 * W at most 3, an element of a product of rank r at most r; with magnitudes dv is multiplied by less than 1.
 */
static void bound_of_matrix(const problem *p, int i, double *most, double *terms)
{
    const hl_factor *other = &p->factor[1 - i];
    double largest = other->rank > 0 ? (double)other->rank : 1.0;
    *terms = 1.0;
    switch (p->kind) {
    case HL_CHANGE_ADD:
        *most = 1.0;
        return;
    case HL_CHANGE_HADAMARD:
        *most = largest;
        return;
    case HL_CHANGE_KRONECKER:
        *terms = (double)(other->rows * other->columns);
        *most = *terms * largest;
        return;
    case HL_CHANGE_GATE:
    case HL_CHANGE_MASK:
        *terms = (double)p->window;
        *most = 3.0 * *terms;
        return;
    }
}

static void check_factor(const problem *p, int i, const model *m, const hl_factor_args *a)
{
    const hl_factor *f = &m->change.factor[i];
    double most = 0.0, terms = 0.0,
           coefficient = p->kind == HL_CHANGE_GATE || p->kind == HL_CHANGE_MASK ? 1.0 : (double)scale,
           lengths = p->magnitude ? (double)(m->weight.count / p->outputs) : 0.0;
    bound_of_matrix(p, i, &most, &terms);
    terms += lengths + 8.0 + (double)(p->factor[0].rank + p->factor[1].rank);
    double columns = f->rank > 0 ? (double)f->columns : 1.0;
    if (a->dleft != NULL)
        expect_near(p, i == 0 ? "left 0" : "left 1", a->dleft, f->left->grad, f->left->count,
                    1.0 + coefficient * most * columns, terms + columns);
    if (a->dright != NULL)
        expect_near(p, i == 0 ? "right 0" : "right 1", a->dright, f->right->grad, f->right->count,
                    1.0 + coefficient * most * (double)f->rows, terms + (double)f->rows);
}

static void check_grad(const problem *p, float keep)
{
    model m;
    kernel_rig r = {0};
    build(p, keep, &m);
    hl_change_args a = args_of(&r, p, &m, true);
    hl_run_state state = {.grad_keep = keep};
    int64_t count = m.weight.count, length = count / p->outputs;
    double *dv = random_doubles(count, -1.0, 1.0, HL_ELEM_F32, 11);
    float *dv_host = malloc((size_t)count * sizeof *dv_host),
          *scratch_host = malloc((hl_weight_change_scratch(&m.expr) + 1) * sizeof *scratch_host);
    cr_assert(dv_host != NULL && scratch_host != NULL);
    for (int64_t k = 0; k < count; k++)
        dv_host[k] = (float)dv[k];
    float *dv_device = kernel_input(&r, count, HL_ELEM_F32, dv);
    hl_run_state *run = kernel_bytes(&r, &state, sizeof state);
    void *scratch = kernel_output(&r, (int64_t)hl_change_grad_scratch(&a), HL_ELEM_U8);
    KERNEL_RUN(&r, hl_launch_change_grad(&a, dv_device, run, scratch, NULL));
    hl_weight_change_grad(&m.expr, dv_host, keep, scratch_host);
    for (int i = 0; i < 2; i++)
        if (m.change.factor[i].left != NULL)
            check_factor(p, i, &m, &a.factor[i]);
    if (p->magnitude) /* dv V / |V|, with |V| above 1.5 sqrt(length) and V at most 3.5 */
        expect_near(p, "magnitude", a.dmagnitude, m.magnitude.grad, p->outputs,
                    1.0 + 3.5 / 1.5 * sqrt((double)length), 2.0 * (double)length + 4.0);
    free(dv);
    free(dv_host);
    free(scratch_host);
    kernel_rig_clear(&r);
    drop(&m);
}

Test(weight_change, gradients_are_those_of_the_cpu)
{
    for (int i = 0; i < PROBLEMS; i++)
        if (kernel_takes_case(5))
            check_grad(&problems[i], 0.0f);
}

Test(weight_change, gradients_are_added_to_what_was_there)
{
    for (int i = 0; i < PROBLEMS; i++)
        if (kernel_takes_case(5))
            check_grad(&problems[i], 1.0f);
}
