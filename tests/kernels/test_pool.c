/* Pooling kernels against plain loops in double; every element type, in several orders of threads. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/kernel_rig.h"
#include "kernels/kernels.h"
#include "support/numeric.h"
#include "support/ref_ops.h"

typedef struct problem {
    const char *name;
    int64_t n, h, w;
    hl_window window; /* kh, kw, sh, sw, dh, dw, top, bottom, left, right */
    bool count_padding;
} problem;

/* `bottom` and `right` may go beyond `top` and `left`: that is what ceil mode adds. */
static const problem problems[] = {
    {"2x2 stride 2", 2, 8, 6, {2, 2, 2, 2, 1, 1, 0, 0, 0, 0}, false},
    {"3x3 stride 2", 2, 9, 11, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, false},
    {"3x3 stride 2, padding counted", 2, 9, 11, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, true},
    {"3x3 stride 1", 1, 5, 7, {3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, true},
    {"3x3 stride 3", 1, 11, 8, {3, 3, 3, 3, 1, 1, 1, 1, 1, 1}, false},
    {"ceil mode", 1, 6, 8, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}, false},
    {"ceil mode, padding counted", 1, 6, 8, {3, 3, 2, 2, 1, 1, 1, 2, 1, 2}, true},
    {"one side padded", 1, 7, 7, {3, 3, 2, 2, 1, 1, 0, 1, 0, 1}, true},
    {"2x3", 1, 5, 6, {2, 3, 1, 2, 1, 1, 1, 0, 0, 1}, false},
    {"one pixel", 2, 1, 1, {3, 3, 2, 2, 1, 1, 1, 1, 1, 1}, false},
    {"larger than the image", 1, 3, 4, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}, false},
    {"larger than the image, padding counted", 1, 3, 4, {7, 7, 1, 1, 1, 1, 3, 3, 3, 3}, true},
    {"stride beyond the window", 1, 9, 9, {2, 2, 3, 3, 1, 1, 0, 0, 0, 0}, false},
};
static const int64_t channel_counts[] = {1, 3, 8, 12, 17, 40};

#define COUNT(list) (sizeof(list) / sizeof *(list))

typedef struct operands {
    char name[160];
    hl_pool_attr attr;
    hl_pool_args args;
    hl_elem elem;
    int64_t xs, ys;
    double *x, *dy, *y, *index, *dx; /* the last three: what is wanted */
} operands;

static int64_t outputs_of(int64_t size, int64_t kernel, int64_t stride, int64_t padding)
{
    return (size + padding - kernel) / stride + 1;
}

static operands make(const problem *p, int64_t channels, hl_elem elem, bool max, bool wide)
{
    const hl_window *w = &p->window;
    operands o = {.elem = elem, .attr = {*w, max, p->count_padding}};
    snprintf(o.name, sizeof o.name, "%s %s, %lld channels, element type %d", max ? "max" : "average", p->name,
             (long long)channels, (int)elem);
    o.args = (hl_pool_args){.x = {p->n, p->h, p->w, channels},
                            .y = {p->n, outputs_of(p->h, w->kh, w->sh, w->top + w->bottom),
                                  outputs_of(p->w, w->kw, w->sw, w->left + w->right), channels},
                            .window = *w,
                            .max = max,
                            .count_padding = p->count_padding,
                            .wide_index = wide};
    o.xs = hl_shape_count(o.args.x);
    o.ys = hl_shape_count(o.args.y);
    o.x = random_doubles(o.xs, -1.0, 1.0, elem, 1);
    /* Coarse values, so that equal ones meet in a window. */
    for (int64_t i = 0; i < o.xs && max; i++)
        o.x[i] = floor(4.0 * o.x[i]) / 4.0;
    o.dy = random_doubles(o.ys, -1.0, 1.0, elem, 2);
    o.y = doubles(o.ys);
    o.index = doubles(o.ys);
    o.dx = doubles(o.xs);
    return o;
}

static void solve(operands *o)
{
    ref_pool(&o->attr, o->x, o->args.x, o->args.y, o->y, o->index);
    ref_pool_grad(&o->attr, o->dy, o->index, o->args.x, o->args.y, o->dx);
}

static void drop(operands *o)
{
    double *all[] = {o->x, o->dy, o->y, o->index, o->dx};
    for (size_t i = 0; i < COUNT(all); i++)
        free(all[i]);
}

static hl_elem index_elem(const operands *o)
{
    return o->args.wide_index ? HL_ELEM_I32 : HL_ELEM_U8;
}

static double *fetch(const void *buffer, int64_t count, hl_elem elem)
{
    double *values = doubles(count);
    kernel_get(buffer, count, elem, values);
    return values;
}

/* Maxima and their places are exact; averages are sums of `window` terms, divided. */
static void check_forward(const operands *o)
{
    kernel_rig r = {0};
    void *x = kernel_input(&r, o->xs, o->elem, o->x), *y = kernel_output(&r, o->ys, o->elem);
    void *index = o->args.max ? kernel_output(&r, o->ys, index_elem(o)) : NULL;
    KERNEL_RUN(&r, hl_launch_pool(&o->args, x, y, index, o->elem, NULL));
    double *got = fetch(y, o->ys, o->elem);
    if (o->args.max) {
        double *places = fetch(index, o->ys, index_elem(o));
        expect_same(o->name, got, o->y, o->ys);
        expect_same(o->name, places, o->index, o->ys);
        free(places);
    } else {
        double terms = (double)(o->args.window.kh * o->args.window.kw);
        expect_close(o->name, o->elem, got, o->y, o->ys, 1.0, terms + 1.0);
    }
    kernel_rig_clear(&r);
    free(got);
}

static void check_gradient(const operands *o)
{
    kernel_rig r = {0};
    void *dy = kernel_input(&r, o->ys, o->elem, o->dy), *dx = kernel_output(&r, o->xs, o->elem);
    void *index = o->args.max ? kernel_input(&r, o->ys, index_elem(o), o->index) : NULL;
    KERNEL_RUN(&r, hl_launch_pool_grad(&o->args, dy, index, dx, o->elem, NULL));
    double *got = fetch(dx, o->xs, o->elem);
    /* An input is covered by at most a window of outputs. */
    double terms = (double)(o->args.window.kh * o->args.window.kw);
    expect_close(o->name, o->elem, got, o->dx, o->xs, terms, terms + 2.0);
    kernel_rig_clear(&r);
    free(got);
}

static void every_problem(bool max, bool wide, void (*check)(const operands *o))
{
    for (size_t p = 0; p < COUNT(problems); p++)
        for (size_t c = 0; c < COUNT(channel_counts); c++)
            for (size_t e = 0; e < COUNT(kernel_elems); e++)
                if (kernel_takes_case(13)) {
                    operands o = make(&problems[p], channel_counts[c], kernel_elems[e], max, wide);
                    solve(&o);
                    check(&o);
                    drop(&o);
                }
}

Test(pool, maxima_and_their_first_places)
{
    every_problem(true, false, check_forward);
}

Test(pool, places_may_be_kept_wide)
{
    every_problem(true, true, check_forward);
    every_problem(true, true, check_gradient);
}

Test(pool, averages_divide_by_what_counts)
{
    every_problem(false, false, check_forward);
}

Test(pool, the_gradient_of_a_maximum_goes_to_its_place)
{
    every_problem(true, false, check_gradient);
}

Test(pool, the_gradient_of_an_average_is_spread_over_its_window)
{
    every_problem(false, false, check_gradient);
}

Test(pool, places_in_windows_of_more_than_256_elements)
{
    static const problem wide = {"17x18", 1, 19, 20, {17, 18, 1, 1, 1, 1, 2, 2, 3, 3}, false};
    operands o = make(&wide, 8, HL_ELEM_BF16, true, true);
    solve(&o);
    check_forward(&o);
    check_gradient(&o);
    drop(&o);
}

Test(pool, the_last_nan_of_a_window_is_its_maximum_and_infinities_are_values)
{
    for (int64_t channels = 3; channels <= 8; channels += 5) {
        operands o = make(&problems[1], channels, HL_ELEM_F32, true, false);
        for (int64_t i = 0; i < o.xs; i++)
            o.x[i] = i % 7 == 0 ? NAN : i % 3 == 0 ? INFINITY : i < o.xs / 2 ? -INFINITY : o.x[i];
        solve(&o);
        check_forward(&o);
        drop(&o);
    }
}

Test(pool, no_index_is_written_where_none_is_wanted)
{
    kernel_rig r = {0};
    operands o = make(&problems[1], 8, HL_ELEM_F16, true, false);
    solve(&o);
    void *x = kernel_input(&r, o.xs, o.elem, o.x), *y = kernel_output(&r, o.ys, o.elem);
    KERNEL_RUN(&r, hl_launch_pool(&o.args, x, y, NULL, o.elem, NULL));
    double *got = fetch(y, o.ys, o.elem);
    expect_same(o.name, got, o.y, o.ys);
    kernel_rig_clear(&r);
    free(got);
    drop(&o);
}

static void check_grid(hl_shape in, hl_shape out, hl_elem elem, bool grad)
{
    char name[96];
    snprintf(name, sizeof name, "grid of %lldx%lld from %lldx%lld, %lld channels, element type %d%s",
             (long long)out.h, (long long)out.w, (long long)in.h, (long long)in.w, (long long)in.c, (int)elem,
             grad ? ", gradient" : "");
    hl_shape from = grad ? out : in, to = grad ? in : out;
    int64_t count = hl_shape_count(to);
    kernel_rig r = {0};
    double *values = random_doubles(hl_shape_count(from), -1.0, 1.0, elem, 3), *want = doubles(count);
    if (grad)
        ref_grid_pool_grad(values, in, out, want);
    else
        ref_grid_pool(values, in, out, want);
    void *x = kernel_input(&r, hl_shape_count(from), elem, values), *y = kernel_output(&r, count, elem);
    KERNEL_RUN(&r, hl_launch_grid_pool(x, from, y, to, grad, elem, NULL));
    double *got = fetch(y, count, elem);
    /* A pixel has a part in at most so many, each of at most 1. */
    double terms = (double)((from.h / to.h + 2) * (from.w / to.w + 2));
    expect_close(name, elem, got, want, count, grad ? terms : 1.0, terms + 2.0);
    kernel_rig_clear(&r);
    free(values), free(want), free(got);
}

Test(pool, means_over_cells_agree_with_the_definition)
{
    static const struct {
        int64_t n, h, w, cells_h, cells_w;
    } maps[] = {{2, 1, 1, 7, 7},  {1, 5, 5, 7, 7}, {2, 8, 9, 7, 7},
                {1, 13, 4, 6, 7}, {2, 6, 6, 6, 6}, {1, 17, 30, 7, 7}};
    for (size_t m = 0; m < COUNT(maps); m++)
        for (size_t c = 0; c < COUNT(channel_counts); c++)
            for (size_t e = 0; e < COUNT(kernel_elems); e++)
                if (kernel_takes_case(7)) {
                    int64_t channels = channel_counts[c];
                    hl_shape in = {maps[m].n, maps[m].h, maps[m].w, channels},
                             out = {maps[m].n, maps[m].cells_h, maps[m].cells_w, channels};
                    check_grid(in, out, kernel_elems[e], false);
                    check_grid(in, out, kernel_elems[e], true);
                }
}
