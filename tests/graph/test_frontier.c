/* Networks cut at the frontier: the fixed side's values, put into the changing side, give what the whole
 * gives. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/frontier.h"
#include "graph/params.h"
#include "graph/program.h"
#include "support/device.h"
#include "support/toy.h"
#include "train/model.h"

enum { BATCH = 3, CLASSES = 5, PIXELS = TOY_SIZE * TOY_SIZE * 3 };

static hl_frontier frontier_of(const hl_model *model, hl_arena *arena)
{
    hl_frontier f;
    cr_assert_eq(hl_frontier_find(model->graph, arena, &f), HL_OK);
    return f;
}

/* Frontiers as the networks' papers draw them: values and fixed layers. */
Test(frontier, lies_before_the_first_trained_layers)
{
    static const struct {
        const char *model, *method;
        hl_norm_mode norm;
        int count, layers;
        int64_t elements;
    } cases[] = {
        {"resnet18", "linear", HL_NORM_FROZEN, 1, 20, 512},
        /* dropout is on the changing side */
        {"mobilenet_v2", "linear", HL_NORM_FROZEN, 1, 52, 1280},
        {"resnet18", "projection:scope=layer4.1.*", HL_NORM_FROZEN, 1, 18, 512},
        /* stochastic depth leaves frozen blocks alone; dropout again on the changing side */
        {"efficientnet_b0", "linear", HL_NORM_FROZEN, 1, 81, 1280},
        /* inside a block: its input is still to be added */
        {"resnet18", "projection:scope=layer4.1.conv2", HL_NORM_FROZEN, 2, 19, 2 * 512},
        {"resnet18", "projection", HL_NORM_FROZEN, 1, 0, PIXELS},
        /* norms that move make everything behind them move */
        {"resnet18", "linear", HL_NORM_UPDATE, 1, 1, 64 * (TOY_SIZE / 2) * (TOY_SIZE / 2)},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hl_arena *arena;
        cr_assert_eq(hl_arena_create(&arena), HL_OK);
        hl_model *model = toy_model(cases[i].model, CLASSES, cases[i].method, cases[i].norm);
        hl_frontier f = frontier_of(model, arena);
        cr_assert_eq(f.count, cases[i].count, "%zu: %d values", i, f.count);
        cr_assert_eq(f.layers, cases[i].layers, "%zu: %d layers", i, f.layers);
        cr_assert_eq(f.elements, cases[i].elements, "%zu: %lld elements", i, (long long)f.elements);
        hl_model_destroy(model);
        hl_arena_destroy(arena);
    }
}

static hl_program *compile(const hl_model *model, hl_portion portion, bool training,
                           const hl_run_state *state)
{
    hl_compile_options o;
    hl_program *program;
    hl_model_compile_options(model, HL_EXEC_AUTO, (hl_number_type){0}, &o);
    o.batch = BATCH;
    o.training = training;
    o.portion = portion;
    o.run = state;
    cr_assert_eq(hl_program_compile(model->graph, model->backend, &o, &program), HL_OK, "%s",
                 hl_last_error());
    return program;
}

static void put_labels(const hl_backend *b, hl_program *p)
{
    static const int32_t labels[BATCH] = {1, 4, 0};
    cr_assert_eq(b->ops->upload((hl_backend *)b, hl_program_labels(p), labels, sizeof labels), HL_OK);
}

static void put_images(const hl_backend *b, hl_program *p)
{
    static uint8_t pixels[BATCH * PIXELS], flips[BATCH] = {0, 1, 0};
    hl_rng rng = hl_rng_make(8, HL_STREAM_TEST, 0, 0);
    for (int i = 0; i < BATCH * PIXELS; i++)
        pixels[i] = (uint8_t)(255.0f * hl_rng_uniform(&rng));
    cr_assert_eq(b->ops->upload((hl_backend *)b, hl_program_images(p), pixels, sizeof pixels), HL_OK);
    cr_assert_eq(b->ops->upload((hl_backend *)b, hl_program_flips(p), flips, sizeof flips), HL_OK);
}

static void get(const hl_backend *b, float *to, const float *from, size_t count)
{
    cr_assert_eq(b->ops->finish((hl_backend *)b), HL_OK);
    cr_assert_eq(b->ops->download((hl_backend *)b, to, from, count * sizeof *to), HL_OK);
}

/* Logits, and when training gradients, of a program whose inputs are in place. */
static void results(const hl_model *model, hl_program *p, bool training, float *logits, float *grads)
{
    const hl_placement *placed = model->graph->placement;
    put_labels(model->backend, p);
    cr_assert_eq(hl_program_forward(p), HL_OK, "%s", hl_last_error());
    get(model->backend, logits, hl_program_logits(p), BATCH * CLASSES);
    if (!training)
        return;
    cr_assert_eq(hl_program_backward(p), HL_OK, "%s", hl_last_error());
    get(model->backend, grads, placed->grads, (size_t)placed->count);
}

/* Moves every value of the frontier from one program to the other. */
static void hand_over(const hl_backend *b, const hl_program *from, const hl_program *to)
{
    cr_assert_eq(hl_program_feature_count(from), hl_program_feature_count(to));
    for (int i = 0; i < hl_program_feature_count(from); i++) {
        const hl_tensor *a = hl_program_feature(from, i), *c = hl_program_feature(to, i);
        cr_assert_eq(a->bytes, c->bytes);
        void *bytes = malloc(a->bytes);
        cr_assert_eq(b->ops->finish((hl_backend *)b), HL_OK);
        cr_assert_eq(b->ops->download((hl_backend *)b, bytes, a->data, a->bytes), HL_OK);
        cr_assert_eq(b->ops->upload((hl_backend *)b, c->data, bytes, c->bytes), HL_OK);
        free(bytes);
    }
}

static void expect_equal_floats(const float *got, const float *want, int64_t count, const char *what)
{
    float scale = 0.0f;
    for (int64_t i = 0; i < count; i++)
        scale = fmaxf(scale, fabsf(want[i]));
    cr_assert_gt(scale, 0.0f, "%s", what);
    /* The same operations in fp32; what is fused across the frontier in the whole rounds once less. */
    for (int64_t i = 0; i < count; i++)
        cr_assert_float_eq(got[i], want[i], 1e-5f * scale, "%s %lld: %g, not %g", what, (long long)i,
                           (double)got[i], (double)want[i]);
}

static void expect_cut(const char *name, const char *method, hl_norm_mode norm, bool training)
{
    const hl_run_state state = {.seed = 5, .grad_scale = 1.0f};
    const hl_compute compute = {.device = test_device(), .precision = HL_PRECISION_FP32, .threads = 1};
    hl_model *model = toy_model(name, CLASSES, method, norm);
    cr_assert_eq(hl_model_place(model, &compute), HL_OK, "%s", hl_last_error());
    size_t count = (size_t)model->graph->placement->count;
    float logits[2][BATCH * CLASSES], *grads = calloc(2 * count, sizeof *grads);
    hl_program *whole = compile(model, HL_PORTION_ALL, training, &state),
               *fixed = compile(model, HL_PORTION_FIXED, false, &state),
               *rest = compile(model, HL_PORTION_CHANGING, training, &state);
    put_images(model->backend, whole);
    results(model, whole, training, logits[0], grads);
    put_images(model->backend, fixed);
    cr_assert_eq(hl_program_forward(fixed), HL_OK, "%s", hl_last_error());
    hand_over(model->backend, fixed, rest);
    results(model, rest, training, logits[1], grads + count);
    expect_equal_floats(logits[1], logits[0], BATCH * CLASSES, name);
    if (training)
        expect_equal_floats(grads + count, grads, (int64_t)count, name);
    cr_assert_lt(hl_program_step_count(rest), hl_program_step_count(whole));
    hl_program_destroy(rest);
    hl_program_destroy(fixed);
    hl_program_destroy(whole);
    hl_model_destroy(model);
    free(grads);
}

Test(frontier, both_sides_together_are_the_whole_network)
{
    for (int training = 0; training < 2; training++) {
        expect_cut("resnet18", "linear", HL_NORM_FROZEN, training);
        expect_cut("mobilenet_v2", "linear", HL_NORM_FROZEN, training);
        expect_cut("resnet18", "projection:scope=layer4.1.conv2", HL_NORM_FROZEN, training);
        expect_cut("mobilenet_v2", "projection:scope=features.16.*", HL_NORM_FROZEN, training);
        expect_cut("efficientnet_lite0", "norm", HL_NORM_AFFINE, training);
        expect_cut("resnet18", "linear", HL_NORM_UPDATE, training);
    }
}
