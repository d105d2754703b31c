/* A feedforward network is a convolutional one whose kernels are 1x1 (a scalar times what comes in), so
 * whatever holds for generalised convolutional networks has to hold for it. The properties below are checked
 * on convolutional networks and, by the same code, on embedded feedforward networks; and two witnesses show
 * that the inclusion is strict.
 *
 * Tolerances: a sum of m products in f32 errs by at most m 2^-24 of the sum of their magnitudes. Layers here
 * have up to 72 terms, weights keep values of order one, and a few layers follow each other: 1e-5 of the
 * largest value is some twenty times what is seen, and what is checked is off by far more where it does not
 * hold. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "graph/program.h"
#include "method/method.h"
#include "models/feedforward.h"
#include "support/device.h"

enum { BATCH = 2, SIZE = 11, CHANNELS = 3, CLASSES = 5, REACH = 2 };

static const double tolerance = 1e-5;

/* ---- the networks: each ends in a layer "last" and the mean over its map ---- */

typedef enum kind { CONVOLUTIONS, PATCHES, PIXELS, KINDS } kind;

typedef struct net {
    kind kind;
    bool homogeneous; /* ReLU and no biases: scaling a layer scales the logits */
    char name[48];
} net;

static hl_value activated(hl_graph *g, const char *name, hl_value x, const net *n)
{
    return hl_graph_act(g, name, x, n->homogeneous ? HL_ACT_RELU : HL_ACT_TANH);
}

static void fill(hl_graph *g, bool biases)
{
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        hl_rng rng = hl_rng_make(7, HL_STREAM_TEST, (uint32_t)i, 0);
        double fan = (double)p->count / (double)p->shape[0],
               scale = p->role == HL_PARAM_WEIGHT ? sqrt(2.0 / fan) : 0.1;
        for (int64_t k = 0; k < p->count; k++)
            p->host[k] =
                p->role == HL_PARAM_BIAS && !biases ? 0.0f : (float)(scale * (double)hl_rng_normal(&rng));
    }
}

static hl_graph *convolutions(const net *n)
{
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, SIZE, SIZE, CHANNELS);
    x = hl_graph_conv(g, "one", x, (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1, .bias = true});
    x = activated(g, "one.act", x, n);
    x = hl_graph_conv(g, "two", x,
                      (hl_conv_spec){.out = 8, .kernel = 3, .padding = 1, .groups = 8, .bias = true});
    x = activated(g, "two.act", x, n);
    x = hl_graph_conv(g, "last", x, (hl_conv_spec){.out = CLASSES, .bias = true});
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    fill(g, !n->homogeneous);
    return g;
}

/* A feedforward network of three layers over vectors. */
static hl_graph *feedforward(const net *n, int64_t inputs)
{
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, 1, 1, inputs);
    x = activated(g, "one.act", hl_graph_linear(g, "one", x, 12, true), n);
    x = activated(g, "two.act", hl_graph_linear(g, "two", x, 8, true), n);
    x = hl_graph_linear(g, "last", x, CLASSES, true);
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    fill(g, !n->homogeneous);
    return g;
}

static hl_graph *make(const net *n)
{
    hl_graph *g;
    if (n->kind == CONVOLUTIONS) {
        g = convolutions(n);
    } else {
        int64_t k = n->kind == PATCHES ? 3 : 1;
        hl_graph *from = feedforward(n, CHANNELS * k * k);
        const hl_embed_shape shape = {k, k, SIZE, SIZE};
        cr_assert_eq(hl_feedforward_embed(from, shape, &g), HL_OK, "%s", hl_last_error());
        hl_graph_destroy(from);
    }
    hl_node *last = hl_graph_node(g, g->output);
    cr_assert_str_eq(last->name, "last");
    cr_assert_eq(last->op, HL_OP_CONV);
    last->head = last->expr.weight->head = last->expr.bias->head = true;
    cr_assert_eq(hl_graph_finish(g, hl_graph_global_pool(g, "pool", g->output)), HL_OK, "%s",
                 hl_last_error());
    return g;
}

static struct criterion_test_params nets(bool homogeneous)
{
    static net cases[2][KINDS] = {{{CONVOLUTIONS, false, "convolutions"},
                                   {PATCHES, false, "feedforward over patches of 3x3"},
                                   {PIXELS, false, "feedforward over pixels"}},
                                  {{CONVOLUTIONS, true, "convolutions"},
                                   {PATCHES, true, "feedforward over patches of 3x3"},
                                   {PIXELS, true, "feedforward over pixels"}}};
    return cr_make_param_array(net, cases[homogeneous], KINDS);
}

/* ---- running them ---- */

typedef struct running {
    hl_graph *graph;
    hl_backend *backend;
    hl_program *program;
    hl_run_state state;
} running;

static void draw(float *x, int64_t count, uint32_t sub)
{
    hl_rng rng = hl_rng_make(9, HL_STREAM_TEST, 100 + sub, 0);
    for (int64_t i = 0; i < count; i++)
        x[i] = hl_rng_normal(&rng);
}

static void finish(running *r)
{
    cr_assert_eq(r->backend->ops->finish(r->backend), HL_OK, "%s", hl_last_error());
}

/* `r` must stay where it is: the program reads its state. */
static void compile(running *r, hl_graph *g, bool training)
{
    *r = (running){.graph = g, .backend = test_backend(1), .state = {.grad_scale = 1.0f}};
    const hl_compile_options options = {
        .batch = BATCH, .training = training, .raw_input = true, .keep_all = true, .run = &r->state};
    cr_assert_eq(hl_graph_place(g, r->backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_compile(g, r->backend, &options, &r->program), HL_OK, "%s", hl_last_error());
    finish(r);
    draw(hl_program_images(r->program), BATCH * SIZE * SIZE * CHANNELS, 0);
    for (int32_t i = 0; i < BATCH; i++)
        hl_program_labels(r->program)[i] = 3 * i + 1;
}

static const float *logits(running *r)
{
    cr_assert_eq(hl_program_refresh(r->program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_forward(r->program), HL_OK, "%s", hl_last_error());
    finish(r);
    return hl_program_logits(r->program);
}

static void gradients(running *r)
{
    logits(r);
    cr_assert_eq(hl_program_backward(r->program), HL_OK, "%s", hl_last_error());
    finish(r);
}

static void end(running *r)
{
    hl_program_destroy(r->program);
    hl_graph_destroy(r->graph);
    hl_backend_close(r->backend);
}

/* Largest difference as a share of the largest value; infinite where something is not finite. */
static double off(const float *have, const float *want, int64_t count)
{
    double error = 0.0, largest = 0.0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(have[i]) || !isfinite(want[i]))
            return INFINITY;
        error = fmax(error, fabs((double)have[i] - (double)want[i]));
        largest = fmax(largest, fabs((double)want[i]));
    }
    return largest > 0.0 ? error / largest : INFINITY;
}

/* ---- equivariance to translation ---- */

ParameterizedTestParameters(inheritance, maps_move_with_their_images)
{
    return nets(false);
}

ParameterizedTest(net *n, inheritance, maps_move_with_their_images)
{
    enum { DOWN = 2, RIGHT = 3 };
    running r;
    float moved[BATCH * SIZE * SIZE * CHANNELS];
    compile(&r, make(n), false);
    hl_shape map = hl_graph_node(r.graph, hl_graph_node(r.graph, r.graph->output)->in[0])->shape;
    int64_t count = BATCH * hl_shape_count(map);
    float *before = calloc((size_t)count, sizeof *before), *after = calloc((size_t)count, sizeof *after);
    float *images = hl_program_images(r.program);
    logits(&r);
    cr_assert_eq(hl_program_value(r.program, "last", false, before, count), HL_OK, "%s", hl_last_error());
    /* What comes in at the upper and left border is new. */
    draw(moved, sizeof moved / sizeof *moved, 1);
    for (int64_t i = 0; i < BATCH * SIZE * SIZE * CHANNELS; i++) {
        int64_t y = i / (SIZE * CHANNELS) % SIZE, x = i / CHANNELS % SIZE;
        if (y >= DOWN && x >= RIGHT)
            moved[i] = images[i - (DOWN * SIZE + RIGHT) * CHANNELS];
    }
    memcpy(images, moved, sizeof moved);
    logits(&r);
    cr_assert_eq(hl_program_value(r.program, "last", false, after, count), HL_OK, "%s", hl_last_error());
    /* Zeros around the image do not move with it: they reach two pixels in, from every side, before and
     * after. */
    int64_t border = n->kind == CONVOLUTIONS ? REACH : 0;
    float have[1024], want[1024];
    int64_t compared = 0;
    for (int64_t b = 0; b < BATCH; b++)
        for (int64_t y = DOWN + border; y < map.h - border; y++)
            for (int64_t x = RIGHT + border; x < map.w - border; x++)
                for (int64_t c = 0; c < map.c; c++, compared++) {
                    have[compared] = after[((b * map.h + y) * map.w + x) * map.c + c];
                    want[compared] = before[((b * map.h + y - DOWN) * map.w + x - RIGHT) * map.c + c];
                }
    cr_expect_geq(compared, BATCH * CLASSES * 10);
    cr_expect_leq(off(have, want, compared), tolerance, "%s", n->name);
    cr_expect_gt(off(after, before, count), 0.1, "%s: the map has not moved at all", n->name);
    free(before);
    free(after);
    end(&r);
}

/* ---- linearity in the last layer ---- */

ParameterizedTestParameters(inheritance, logits_are_linear_in_the_last_layer)
{
    return nets(false);
}

ParameterizedTest(net *n, inheritance, logits_are_linear_in_the_last_layer)
{
    const float a = 0.75f, b = -1.5f;
    float of[3][BATCH * CLASSES], want[BATCH * CLASSES];
    running r;
    hl_graph *g = make(n);
    hl_param *p[2] = {hl_graph_find_param(g, "last.weight"), hl_graph_find_param(g, "last.bias")};
    p[0]->trained = p[1]->trained = true;
    compile(&r, g, true);
    float *values[3][2];
    for (int k = 0; k < 2; k++) {
        for (int s = 0; s < 3; s++)
            values[s][k] = malloc((size_t)p[k]->count * sizeof(float));
        draw(values[0][k], p[k]->count, 2 + (uint32_t)k);
        draw(values[1][k], p[k]->count, 4 + (uint32_t)k);
        for (int64_t i = 0; i < p[k]->count; i++)
            values[2][k][i] = a * values[0][k][i] + b * values[1][k][i];
    }
    for (int s = 0; s < 3; s++) {
        for (int k = 0; k < 2; k++)
            memcpy(p[k]->value, values[s][k], (size_t)p[k]->count * sizeof(float));
        memcpy(of[s], logits(&r), sizeof of[s]);
    }
    for (int i = 0; i < BATCH * CLASSES; i++)
        want[i] = a * of[0][i] + b * of[1][i];
    cr_expect_leq(off(of[2], want, BATCH * CLASSES), tolerance, "%s", n->name);
    for (int k = 0; k < 2; k++)
        for (int s = 0; s < 3; s++)
            free(values[s][k]);
    end(&r);
}

/* ---- identities of gradients ---- */

static hl_graph *projected(const net *n)
{
    hl_graph *g = make(n);
    hl_method method;
    cr_assert_eq(hl_method_parse("projection", &method), HL_OK);
    cr_assert_eq(hl_method_apply(g, &method, HL_NORM_DEFAULT, 0), HL_OK, "%s", hl_last_error());
    return g;
}

ParameterizedTestParameters(inheritance, a_gates_gradient_is_the_weights_contracted_with_the_filter)
{
    return nets(false);
}

ParameterizedTest(net *n, inheritance, a_gates_gradient_is_the_weights_contracted_with_the_filter)
{
    static const char *const layers[] = {"one", "two"};
    running gated, plain;
    hl_graph *g = make(n);
    for (size_t i = 0; i < g->param_count; i++)
        g->params[i]->trained = true;
    compile(&plain, g, true);
    compile(&gated, projected(n), true);
    gradients(&plain);
    gradients(&gated);
    for (int l = 0; l < 2; l++) {
        char name[32];
        snprintf(name, sizeof name, "%s.weight", layers[l]);
        const hl_param *w = hl_graph_find_param(plain.graph, name);
        snprintf(name, sizeof name, "%s.gate", layers[l]);
        const hl_param *a = hl_graph_find_param(gated.graph, name);
        cr_assert(a != NULL && w != NULL && a->count == w->shape[0] * w->shape[1], "%s", name);
        float *want = calloc((size_t)a->count, sizeof *want);
        int64_t window = w->count / a->count;
        for (int64_t i = 0; i < w->count; i++)
            want[i / window] += w->grad[i] * w->value[i];
        cr_expect_leq(off(a->grad, want, a->count), tolerance, "%s: %s", n->name, name);
        free(want);
    }
    end(&plain);
    end(&gated);
}

ParameterizedTestParameters(inheritance, gates_of_homogeneous_networks_obey_eulers_identity)
{
    return nets(true);
}

/* Logits scale with the gates of any one layer, so sum a dL/da over a layer is sum y dL/dy over the logits.
 */
ParameterizedTest(net *n, inheritance, gates_of_homogeneous_networks_obey_eulers_identity)
{
    static const char *const names[] = {"one.gate", "two.gate"};
    running r;
    compile(&r, projected(n), true);
    gradients(&r);
    const float *y = hl_program_logits(r.program);
    double want = 0.0, size = 0.0;
    for (int b = 0; b < BATCH; b++) {
        double sum = 0.0;
        for (int c = 0; c < CLASSES; c++)
            sum += exp((double)y[b * CLASSES + c]);
        for (int c = 0; c < CLASSES; c++) {
            double v = (double)y[b * CLASSES + c],
                   slope = exp(v) / sum - (c == hl_program_labels(r.program)[b]);
            want += v * slope / BATCH;
            size += fabs(v * slope) / BATCH;
        }
    }
    cr_assert_gt(fabs(want), 1e-2 * size, "%s: the logits say nothing", n->name);
    for (int l = 0; l < 2; l++) {
        const hl_param *gate = hl_graph_find_param(r.graph, names[l]);
        double have = 0.0, sizes = 0.0;
        for (int64_t i = 0; i < gate->count; i++) { /* the gates are one */
            have += (double)gate->grad[i];
            sizes += fabs((double)gate->grad[i]);
        }
        cr_expect(fabs(have - want) <= tolerance * (sizes + size), "%s, %s: %.9g, not %.9g", n->name,
                  names[l], have, want);
    }
    end(&r);
}

/* ---- every method that can be merged ---- */

/* All that the method trains, moved away from where it starts. */
static hl_graph *adapted(const net *n, const hl_method *method, hl_status *applied)
{
    hl_graph *g = make(n);
    *applied = hl_method_apply(g, method, HL_NORM_DEFAULT, 5);
    for (size_t i = 0; i < g->param_count; i++) {
        hl_rng rng = hl_rng_make(11, HL_STREAM_TEST, (uint32_t)i, 0);
        for (int64_t k = 0; g->params[i]->trained && k < g->params[i]->count; k++)
            g->params[i]->host[k] += 0.2f * hl_rng_normal(&rng);
    }
    return g;
}

ParameterizedTestParameters(inheritance, merged_methods_leave_the_function_as_it_was)
{
    return nets(false);
}

ParameterizedTest(net *n, inheritance, merged_methods_leave_the_function_as_it_was)
{
    int merged = 0;
    for (int m = 0; m < hl_method_count(); m++) {
        hl_method method;
        hl_status applied, status;
        cr_assert_eq(hl_method_parse(hl_method_at(m)->name, &method), HL_OK, "%s", hl_last_error());
        hl_graph *g = adapted(n, &method, &applied), *h = adapted(n, &method, &applied);
        /* Methods that need what these networks do not have (norms, blocks) say so. */
        status = applied == HL_OK ? hl_method_merge(h) : applied;
        cr_expect(status == HL_OK || status == HL_E_UNSUPPORTED || status == HL_E_ARG, "%s: %s",
                  hl_method_at(m)->name, hl_last_error());
        if (status != HL_OK) {
            hl_graph_destroy(g);
            hl_graph_destroy(h);
            continue;
        }
        running a, b;
        float want[BATCH * CLASSES];
        compile(&a, g, false);
        memcpy(want, logits(&a), sizeof want);
        end(&a);
        compile(&b, h, false);
        cr_expect_leq(off(logits(&b), want, BATCH * CLASSES), tolerance, "%s: %s", n->name,
                      hl_method_at(m)->name);
        end(&b);
        merged++;
    }
    cr_expect_geq(merged, 3);
}

/* ---- the inclusion is strict ---- */

/* The least squares fit of y by the columns of x and a constant: what is left, as a share of y's deviation.
 */
static double residual(const double *x, int columns, const double *y, int rows)
{
    enum { MOST = 4 };
    double m[MOST][MOST + 1] = {{0}}, left = 0.0, whole = 0.0, mean = 0.0;
    int n = columns + 1;
    cr_assert_leq(n, MOST);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < n; i++) {
            double xi = i < columns ? x[r * columns + i] : 1.0;
            for (int j = 0; j < n; j++)
                m[i][j] += xi * (j < columns ? x[r * columns + j] : 1.0);
            m[i][n] += xi * y[r];
        }
        mean += y[r] / rows;
    }
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++) {
            double f = i != k ? m[i][k] / m[k][k] : 0.0;
            for (int j = k; j <= n && i != k; j++)
                m[i][j] -= f * m[k][j];
        }
    for (int r = 0; r < rows; r++) {
        double fit = m[columns][n] / m[columns][columns];
        for (int i = 0; i < columns; i++)
            fit += x[r * columns + i] * m[i][n] / m[i][i];
        left += (y[r] - fit) * (y[r] - fit);
        whole += (y[r] - mean) * (y[r] - mean);
    }
    return sqrt(left / whole);
}

/* One node of CHANNELS inputs, its 3x3 or 1x1 window at the pixels that it is centred on. */
static double residual_of_node(int64_t kernel)
{
    hl_graph *g;
    running r;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, SIZE, SIZE, CHANNELS);
    x = hl_graph_conv(g, "node", x,
                      (hl_conv_spec){.out = 2, .kernel = kernel, .padding = kernel / 2, .bias = true});
    cr_assert_eq(hl_graph_finish(g, hl_graph_global_pool(g, "pool", x)), HL_OK, "%s", hl_last_error());
    for (int64_t i = 0; i < hl_graph_find_param(g, "node.weight")->count; i++)
        hl_graph_find_param(g, "node.weight")->host[i] = 1.0f;
    compile(&r, g, false);
    hl_program_labels(r.program)[0] = hl_program_labels(r.program)[1] = 0;
    enum { COUNT = BATCH * SIZE * SIZE };
    float y[COUNT * 2];
    double inputs[COUNT * CHANNELS], outputs[COUNT];
    const float *images = hl_program_images(r.program);
    logits(&r);
    cr_assert_eq(hl_program_value(r.program, "node", false, y, COUNT * 2), HL_OK, "%s", hl_last_error());
    int rows = 0;
    for (int64_t i = 0; i < COUNT; i++) {
        int64_t row = i / SIZE % SIZE, column = i % SIZE;
        if (row < 1 || row > SIZE - 2 || column < 1 || column > SIZE - 2)
            continue;
        for (int c = 0; c < CHANNELS; c++)
            inputs[rows * CHANNELS + c] = (double)images[i * CHANNELS + c];
        outputs[rows++] = (double)y[2 * i];
    }
    end(&r);
    return residual(inputs, CHANNELS, outputs, rows);
}

/* A node that sums a window of nine independent pixels has one ninth of its variance from the pixel that a
 * scalar could weigh: the best scalars leave sqrt(8/9) = 0.94 of its deviation, less what 4 free numbers fit
 * of 162 rows by chance (and sums of neighbours are alike). A 1x1 node is such a recombination itself:
 * nothing but rounding is left. */
Test(inheritance, no_scalar_recombination_gives_what_a_spatial_node_computes)
{
    double spatial = residual_of_node(3), pointwise = residual_of_node(1);
    cr_expect(spatial > 0.75 && spatial < 1.0, "%g", spatial);
    cr_expect_leq(pointwise, 1e-6, "%g", pointwise);
}

/* Nor does any function of the pixel alone: here the pixels are the same and the outputs are not. */
Test(inheritance, a_spatial_node_tells_apart_what_is_the_same_at_its_pixel)
{
    hl_graph *g;
    running r;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_input(g, SIZE, SIZE, CHANNELS);
    hl_value spatial =
                 hl_graph_conv(g, "spatial", x, (hl_conv_spec){.out = CLASSES, .kernel = 3, .padding = 1}),
             pointwise = hl_graph_conv(g, "pointwise", x, (hl_conv_spec){.out = CLASSES});
    const hl_value both[2] = {spatial, pointwise};
    x = hl_graph_concat(g, "both", both, 2);
    cr_assert_eq(hl_graph_finish(g, hl_graph_global_pool(g, "pool", x)), HL_OK, "%s", hl_last_error());
    fill(g, false);
    compile(&r, g, false);
    enum { COUNT = BATCH * SIZE * SIZE * CLASSES, AT = (SIZE / 2 * SIZE + SIZE / 2) };
    float before[2][COUNT], after[2][COUNT], *images = hl_program_images(r.program);
    static const char *const names[] = {"spatial", "pointwise"};
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1) /* all but the pixel in the middle */
            for (int64_t i = 0; i < SIZE * SIZE * CHANNELS; i++)
                images[i] *= i / CHANNELS == AT ? 1.0f : -2.0f;
        logits(&r);
        for (int k = 0; k < 2; k++)
            cr_assert_eq(
                hl_program_value(r.program, names[k], false, pass == 0 ? before[k] : after[k], COUNT), HL_OK,
                "%s", hl_last_error());
    }
    cr_expect_leq(off(after[1] + AT * CLASSES, before[1] + AT * CLASSES, CLASSES), tolerance);
    cr_expect_gt(off(after[0] + AT * CLASSES, before[0] + AT * CLASSES, CLASSES), 0.5);
    end(&r);
}
