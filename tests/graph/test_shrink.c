/* Networks with dead channels and what is left of them. The function must stay the same: outputs are compared
 * relative to the largest. Constants that move into biases are sums in another order; layers here have up to
 * 100 terms in f32, whose rounding is below 100 x 2^-24 = 6e-6 of the sum of magnitudes: 1e-5. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "graph/program.h"
#include "graph/shrink.h"
#include "support/device.h"

enum { BATCH = 2, SIZE = 8, CLASSES = 3 };

static hl_graph *g;

static void start(void)
{
    cr_assert_eq(hl_graph_create(&g), HL_OK);
}

static void stop(void)
{
    hl_graph_destroy(g);
}

TestSuite(shrink, .init = start, .fini = stop);

static void finish(hl_value x)
{
    cr_assert_eq(hl_graph_finish(g, hl_graph_head(g, "head", hl_graph_global_pool(g, "pool", x), CLASSES)),
                 HL_OK, "%s", hl_last_error());
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        hl_rng rng = hl_rng_make(3, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; k < p->count; k++)
            p->host[k] = p->role == HL_PARAM_NORM_VAR || p->role == HL_PARAM_NORM_SCALE
                             ? 0.5f + hl_rng_uniform(&rng)
                             : 0.4f * hl_rng_normal(&rng);
    }
}

static hl_param *param(const char *name)
{
    hl_param *p = hl_graph_find_param(g, name);
    cr_assert_not_null(p, "%s", name);
    return p;
}

/* Nothing goes into output o. */
static void clear_row(const char *name, int64_t o)
{
    hl_param *p = param(name);
    int64_t row = p->count / p->shape[0];
    memset(p->host + o * row, 0, (size_t)row * sizeof *p->host);
}

/* Nobody takes input i. */
static void clear_column(const char *name, int64_t i)
{
    hl_param *p = param(name);
    int64_t window = p->count / p->shape[0] / p->shape[1];
    for (int64_t o = 0; o < p->shape[0]; o++)
        memset(p->host + (o * p->shape[1] + i) * window, 0, (size_t)window * sizeof *p->host);
}

static void run(hl_graph *graph, float *logits)
{
    hl_program *program;
    hl_run_state state = {.grad_scale = 1.0f};
    hl_backend *backend = test_backend(1);
    const hl_compile_options options = {.batch = BATCH, .raw_input = true, .run = &state};
    cr_assert_eq(hl_graph_place(graph, backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_compile(graph, backend, &options, &program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK);
    float *x = hl_program_images(program);
    hl_rng rng = hl_rng_make(9, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < BATCH * SIZE * SIZE * 3; i++)
        x[i] = hl_rng_normal(&rng);
    cr_assert_eq(hl_program_forward(program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
    memcpy(logits, hl_program_logits(program), BATCH * CLASSES * sizeof *logits);
    hl_program_destroy(program);
    hl_placement_destroy(graph);
    hl_backend_close(backend);
}

/* Shrinks, expects these counts, and compares the two networks. The caller destroys the smaller one. */
static hl_graph *shrunk(int64_t removed, int64_t left)
{
    hl_graph *smaller;
    hl_shrink_counts counts;
    float want[BATCH * CLASSES], have[BATCH * CLASSES], error = 0.0f, largest = 0.0f;
    cr_assert_eq(hl_graph_shrink(g, &smaller, &counts), HL_OK, "%s", hl_last_error());
    cr_expect_eq(counts.removed, removed, "%lld removed, not %lld", (long long)counts.removed,
                 (long long)removed);
    cr_expect_eq(counts.left, left, "%lld left, not %lld", (long long)counts.left, (long long)left);
    run(g, want);
    run(smaller, have);
    for (int i = 0; i < BATCH * CLASSES; i++) {
        cr_assert(isfinite(want[i]) && isfinite(have[i]));
        error = fmaxf(error, fabsf(want[i] - have[i]));
        largest = fmaxf(largest, fabsf(want[i]));
    }
    cr_expect(largest > 0.01f && error <= 1e-5f * largest, "logits differ by %g of %g", (double)error,
              (double)largest);
    return smaller;
}

static int64_t channels(const hl_graph *graph, const char *weight, int dimension)
{
    hl_param *p = hl_graph_find_param(graph, weight);
    cr_assert_not_null(p, "%s", weight);
    return p->shape[dimension];
}

/* expand (1x1), depthwise 3x3 without padding unless `padding`, project (1x1), with norms between. */
static void bottleneck(hl_act act, int64_t padding)
{
    hl_value x = hl_graph_input(g, SIZE, SIZE, 3);
    x = hl_graph_act(g, "stem.act",
                     hl_graph_conv(g, "stem", x, (hl_conv_spec){.out = 6, .kernel = 3, .bias = true}),
                     HL_ACT_SILU);
    x = hl_graph_conv(g, "expand", x, (hl_conv_spec){.out = 12});
    x = hl_graph_act(g, "expand.act", hl_graph_norm(g, "expand.bn", x, 1e-5f, 0.1f), act);
    x = hl_graph_conv(g, "depthwise", x,
                      (hl_conv_spec){.out = 12, .kernel = 3, .padding = padding, .groups = 12});
    x = hl_graph_act(g, "depthwise.act", hl_graph_norm(g, "depthwise.bn", x, 1e-5f, 0.1f), act);
    finish(hl_graph_conv(g, "project", x, (hl_conv_spec){.out = 5}));
}

Test(shrink, a_network_without_dead_channels_is_copied)
{
    bottleneck(HL_ACT_RELU6, 1);
    hl_graph *s = shrunk(0, 0);
    cr_expect_eq(s->param_count, g->param_count);
    hl_graph_destroy(s);
}

/* Nothing goes in at the front, nothing at the depthwise layer, nobody reads: three channels go, and the
 * constants of two of them move into a bias that was not there. */
Test(shrink, dead_channels_leave_a_chain_and_their_constants_move_on)
{
    bottleneck(HL_ACT_GELU, 0);
    clear_row("expand.weight", 2);
    clear_row("depthwise.weight", 7);
    clear_column("project.weight", 11);
    hl_graph *s = shrunk(3, 0);
    cr_expect_eq(channels(s, "expand.weight", 0), 9);
    cr_expect_eq(channels(s, "expand.bn.running_var", 0), 9);
    cr_expect_eq(channels(s, "depthwise.weight", 0), 9);
    cr_expect_eq(channels(s, "project.weight", 1), 9);
    cr_expect_not_null(hl_graph_find_param(s, "project.bias"));
    hl_graph_destroy(s);
}

/* With padding a constant in front of the depthwise layer is none behind it, unless it is zero. */
Test(shrink, a_constant_that_padding_would_show_stays)
{
    bottleneck(HL_ACT_RELU, 1);
    clear_row("expand.weight", 2);
    clear_row("expand.weight", 3);
    float mean[2] = {param("expand.bn.running_mean")->host[2], param("expand.bn.running_mean")->host[3]};
    param("expand.bn.bias")->host[2] = 5.0f + mean[0]; /* behind the norm above zero */
    param("expand.bn.bias")->host[3] = -5.0f + mean[1];
    hl_graph *s = shrunk(1, 1);
    cr_expect_eq(channels(s, "expand.weight", 0), 11);
    hl_graph_destroy(s);
}

/* What only dead channels read dies with them. */
Test(shrink, what_goes_takes_along_what_was_for_it_alone)
{
    bottleneck(HL_ACT_RELU, 1);
    clear_column("project.weight", 4);
    for (int64_t o = 0; o < 12; o++)
        if (o != 4)
            param("expand.weight")->host[o * 6 + 1] = 0.0f;
    hl_graph *s = shrunk(2, 0);
    cr_expect_eq(channels(s, "expand.weight", 0), 11);
    cr_expect_eq(channels(s, "stem.weight", 0), 5);
    cr_expect_eq(channels(s, "stem.bias", 0), 5);
    hl_graph_destroy(s);
}

Test(shrink, a_channel_stays_where_all_are_dead)
{
    bottleneck(HL_ACT_SIGMOID, 0);
    for (int64_t o = 0; o < 12; o++)
        clear_row("depthwise.weight", o);
    hl_graph *s = shrunk(11, 0);
    cr_expect_eq(channels(s, "expand.weight", 0), 1);
    hl_graph_destroy(s);
}

/* Pooling, and a matrix over a flattened map. */
Test(shrink, chains_go_through_pooling_to_linear_layers)
{
    for (int max = 0; max < 2; max++) {
        hl_value x = hl_graph_input(g, SIZE, SIZE, 3);
        x = hl_graph_conv(g, "one", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1, .bias = true});
        x = hl_graph_pool(g, "pooled", hl_graph_act(g, "one.act", x, HL_ACT_TANH),
                          (hl_pool_spec){.max = max != 0, .kernel = 3, .stride = 2, .padding = 1});
        x = hl_graph_act(g, "fc.act", hl_graph_flat_linear(g, "fc", x, 10, true), HL_ACT_HARDSWISH);
        finish(x);
        clear_row("one.weight", 0);
        clear_row("one.weight", 5);
        clear_column("fc.weight", 6);
        clear_row("fc.weight", 9);
        hl_graph *s = shrunk(4, 0);
        cr_expect_eq(channels(s, "fc.weight", 1), 5);
        cr_expect_eq(channels(s, "head.weight", 1), 9);
        cr_expect(hl_graph_find_param(s, "head.weight")->head && hl_graph_find_param(s, "fc.weight")->flat);
        hl_graph_destroy(s);
        hl_graph_destroy(g);
        cr_assert_eq(hl_graph_create(&g), HL_OK);
    }
    finish(hl_graph_input(g, SIZE, SIZE, 3));
}

/* Averages that count zeros outside see a constant fade at the border. */
Test(shrink, an_average_that_counts_padding_keeps_its_constants)
{
    hl_value x = hl_graph_input(g, SIZE, SIZE, 3);
    x = hl_graph_conv(g, "one", x, (hl_conv_spec){.out = 8, .kernel = 3, .bias = true});
    x = hl_graph_pool(g, "pooled", x,
                      (hl_pool_spec){.kernel = 3, .stride = 1, .padding = 1, .count_padding = true});
    finish(hl_graph_conv(g, "two", x, (hl_conv_spec){.out = 4}));
    clear_row("one.weight", 3);
    clear_column("two.weight", 4);
    hl_graph_destroy(shrunk(1, 1));
}

/* Whoever else reads a value wants all of it. */
Test(shrink, sums_concatenations_and_groups_keep_their_channels)
{
    hl_value x = hl_graph_input(g, SIZE, SIZE, 3);
    x = hl_graph_conv(g, "stem", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1});
    hl_value a = hl_graph_conv(g, "a", x, (hl_conv_spec){.out = 8, .bias = true});
    x = hl_graph_add(g, "sum", x, a);
    hl_value grouped = hl_graph_conv(g, "grouped", x, (hl_conv_spec){.out = 8, .kernel = 3, .groups = 4});
    hl_value halves[2];
    hl_graph_halves(g, "split", hl_graph_conv(g, "b", grouped, (hl_conv_spec){.out = 6}), halves);
    const hl_value both[2] = {hl_graph_interleave(g, "turned", halves[1], halves[0]),
                              hl_graph_conv(g, "c", grouped, (hl_conv_spec){.out = 2})};
    finish(hl_graph_concat(g, "both", both, 2));
    clear_row("stem.weight", 1);
    clear_row("a.weight", 2);
    clear_row("b.weight", 0);
    clear_row("c.weight", 1);
    hl_graph_destroy(shrunk(0, 4));
}
