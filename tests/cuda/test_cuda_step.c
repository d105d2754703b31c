/* Whole training steps of the CUDA backend on the double of CUDA's libraries, beside the CPU backend: the
 * same losses and gradients; and how the libraries are used. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_rig.h"

static void start(void)
{
    double_reset();
    setenv("HEIRLOOM_CACHE_DIR", "/nowhere", 1); /* no choices from earlier runs */
}

TestSuite(cuda_step, .init = start);

static void expect_clean(void)
{
    cr_assert_eq(double_report(), 0, "see stderr");
}

static void run_both(const cuda_case *c, cuda_side *cpu, cuda_side *cuda, int steps)
{
    cuda_side_open(cpu, c, false, false);
    cuda_side_open(cuda, c, true, false);
    cr_assert_eq(cuda_side_compile(cpu, c), HL_OK, "%s", hl_last_error());
    cr_assert_eq(cuda_side_compile(cuda, c), HL_OK, "%s", hl_last_error());
    for (int s = 0; s < steps; s++) {
        cuda_side_step(cpu, c, s);
        cuda_side_step(cuda, c, s);
    }
    cuda_side_finish(cuda);
}

/* Three steps: run plainly, captured, replayed. */
static void expect_agreement(const cuda_case *c, double loss, double gradient)
{
    cuda_side cpu, cuda;
    const char *name;
    run_both(c, &cpu, &cuda, 3);
    double off = cuda_worst_loss(&cpu, &cuda, c->batch);
    cr_assert_lt(off, loss, "%s, %s: losses differ by %g", c->model, c->method, off);
    off = cuda_worst_gradient(&cpu, &cuda, 1e-4, &name);
    cr_assert_lt(off, gradient, "%s, %s: the gradient of %s is off by %g", c->model, c->method, name, off);
    cuda_side_close(&cpu);
    cuda_side_close(&cuda);
    expect_clean();
}

Test(cuda_step, networks_and_methods_agree_with_the_cpu_backend)
{
    static const cuda_case cases[] = {
        {"resnet18", "projection", HL_NORM_DEFAULT, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true, false},
        {"resnet18", "projection", HL_NORM_DEFAULT, 32, 2, HL_ELEM_F32, HL_PROJECTION_CACHE, true, false},
        {"resnet18", "linear", HL_NORM_DEFAULT, 40, 3, HL_ELEM_F32, HL_PROJECTION_AUTO, true, false},
        {"resnet18", "norm", HL_NORM_AFFINE, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true, true},
        {"mobilenet_v2", "projection", HL_NORM_DEFAULT, 40, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true, true},
        {"mobilenet_v2", "projection", HL_NORM_AFFINE, 33, 3, HL_ELEM_F32, HL_PROJECTION_FOLD, true, false},
        {"mobilenet_v2", "full", HL_NORM_FROZEN, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true, false},
        {"efficientnet_lite0", "projection", HL_NORM_DEFAULT, 40, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true,
         false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double_reset();
        /* Two float implementations whose sums run in other orders; the same bound as against PyTorch. */
        expect_agreement(&cases[i], 2e-5, 3e-5);
    }
}

Test(cuda_step, batch_statistics_agree_with_the_cpu_backend)
{
    static const cuda_case c = {"resnet18",         "full", HL_NORM_FULL, 48, 4, HL_ELEM_F32,
                                HL_PROJECTION_AUTO, true,   false};
    /* Normalising by the batch amplifies rounding, and values near a kink fall on either side. */
    expect_agreement(&c, 1e-3, 2e-2);
}

Test(cuda_step, a_network_in_evaluation_gives_the_same_losses)
{
    static const cuda_case cases[] = {
        {"resnet50", "projection", HL_NORM_DEFAULT, 64, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, false, false},
        {"mobilenet_v2", "full", HL_NORM_DEFAULT, 40, 3, HL_ELEM_F32, HL_PROJECTION_AUTO, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cuda_side cpu, cuda;
        double_reset();
        run_both(&cases[i], &cpu, &cuda, 3);
        double off = cuda_worst_loss(&cpu, &cuda, cases[i].batch);
        cr_assert_lt(off, 2e-5, "%s: losses differ by %g", cases[i].model, off);
        cuda_side_close(&cpu);
        cuda_side_close(&cuda);
        expect_clean();
    }
}

/* 16-bit gradients are as far from the f32 ones as the CPU backend's bf16 gradients are, within a factor of
 * two (fp16 has three bits more). */
Test(cuda_step, sixteen_bit_gradients_are_as_good_as_the_cpu_backends)
{
    static const hl_elem elems[] = {HL_ELEM_BF16, HL_ELEM_F16};
    cuda_case exact = {"mobilenet_v2", "projection", HL_NORM_DEFAULT, 40, 3, HL_ELEM_F32, HL_PROJECTION_AUTO,
                       true,           false};
    cuda_case half = exact;
    const char *name;
    cuda_side reference, cpu, cuda;
    cuda_side_open(&reference, &exact, false, false);
    cr_assert_eq(cuda_side_compile(&reference, &exact), HL_OK);
    cuda_side_step(&reference, &exact, 0);
    half.elem = HL_ELEM_BF16;
    cuda_side_open(&cpu, &half, false, false);
    cr_assert_eq(cuda_side_compile(&cpu, &half), HL_OK);
    cuda_side_step(&cpu, &half, 0);
    double usual = cuda_worst_gradient(&reference, &cpu, 1e-3, &name);
    for (int e = 0; e < 2; e++) {
        double_reset();
        half.elem = elems[e];
        cuda_side_open(&cuda, &half, true, false);
        cr_assert_eq(cuda_side_compile(&cuda, &half), HL_OK, "%s", hl_last_error());
        cuda_side_step(&cuda, &half, 0);
        cuda_side_finish(&cuda);
        double off = cuda_worst_gradient(&reference, &cuda, 1e-3, &name);
        cr_assert(off > 0.0 && off < (e == 0 ? 2.0 : 0.5) * usual, "%s is off by %g, where %g is usual", name,
                  off, usual);
        cuda_side_close(&cuda);
        expect_clean();
    }
    cuda_side_close(&reference);
    cuda_side_close(&cpu);
}

/* Calls of the compute and copy streams since `mark` whose text begins with `prefix`. */
static int count_text(int64_t mark, const char *prefix)
{
    int count = 0;
    for (int64_t i = mark; i < double_call_count(); i++) {
        double_call call = double_call_at(i);
        count += call.text != NULL && strncmp(call.text, prefix, strlen(prefix)) == 0;
    }
    return count;
}

static void expect_calls(const cuda_case *c, int forward, int data, int weight, int products)
{
    cuda_side cuda;
    cuda_side_open(&cuda, c, true, false);
    cr_assert_eq(cuda_side_compile(&cuda, c), HL_OK, "%s", hl_last_error());
    int64_t mark = double_mark();
    cuda_side_step(&cuda, c, 0);
    cr_assert_eq(count_text(mark, "conv_forward"), forward);
    cr_assert_eq(count_text(mark, "conv_data"), data);
    cr_assert_eq(count_text(mark, "conv_filter"), weight);
    cr_assert_eq(double_count_since(mark, "cublasLtMatmul"), products);
    cuda_side_step(&cuda, c, 1); /* captured */
    cuda_side_step(&cuda, c, 2);
    mark = double_mark();
    for (int s = 3; s < 6; s++)
        cuda_side_step(&cuda, c, s);
    double_counts counts = double_since(mark);
    cr_assert_eq(counts.allocations, 0);
    cr_assert_eq(counts.descriptors, 0);
    /* One wait a step, for the copy of the batch before: its memory is the loader's again. */
    cr_assert_eq(counts.synchronisations, 3);
    cr_assert_eq(double_count_since(mark, "cudaEventSynchronize"), 3);
    /* The run state by a kernel of its own, everything else in one graph. */
    cr_assert_eq(double_count_since(mark, "cudaGraphLaunch"), 3);
    cr_assert_eq(double_count_since(mark, "kernel"), 3);
    cr_assert_eq(double_count_since(mark, "cudnnBackendExecute"), 0);
    cuda_side_finish(&cuda);
    cuda_side_close(&cuda);
    expect_clean();
}

Test(cuda_step, a_resnet50_step_is_53_convolutions_and_a_product_each_way)
{
    static const cuda_case c = {
        "resnet50", "projection", HL_NORM_DEFAULT, 64, 2, HL_ELEM_BF16, HL_PROJECTION_AUTO, true, false};
    /* The stem's data gradient is not wanted; a product forward, one for dx, one for dW. */
    expect_calls(&c, 53, 52, 53, 3);
}

Test(cuda_step, a_mobilenet_step_leaves_depthwise_layers_to_our_kernels)
{
    static const cuda_case c = {
        "mobilenet_v2", "projection", HL_NORM_DEFAULT, 64, 2, HL_ELEM_BF16, HL_PROJECTION_AUTO, true, false};
    /* 52 convolutions, of which 17 are depthwise. */
    expect_calls(&c, 35, 34, 35, 3);
}

Test(cuda_step, deterministic_runs_refuse_engines_that_are_not)
{
    static const cuda_case c = {
        "resnet18", "projection", HL_NORM_DEFAULT, 32, 2, HL_ELEM_BF16, HL_PROJECTION_AUTO, true, false};
    for (int deterministic = 0; deterministic < 2; deterministic++) {
        cuda_side cuda;
        int with = 0;
        double_reset();
        cuda_side_open(&cuda, &c, true, deterministic != 0);
        cr_assert_eq(cuda_side_compile(&cuda, &c), HL_OK);
        int64_t mark = double_mark();
        cuda_side_step(&cuda, &c, 0);
        for (int64_t i = mark; i < double_call_count(); i++) {
            double_call call = double_call_at(i);
            /* The double's engine 11 sums weight gradients in no particular order. */
            with += call.text != NULL && strncmp(call.text, "conv_filter", 11) == 0 &&
                    strstr(call.text, "engine 11") != NULL;
        }
        cr_assert(deterministic ? with == 0 : with > 0, "%d calls of such an engine", with);
        cuda_side_finish(&cuda);
        cuda_side_close(&cuda);
    }
}
