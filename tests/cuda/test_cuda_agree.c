/* Networks and methods on the CUDA backend beside the CPU backend: the same losses and gradients. On the
 * double of CUDA's libraries a selection; on a device every model with every method. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_rig.h"
#include "method/method.h"
#include "models/registry.h"

static void start(void)
{
    cuda_begin();
    setenv("HEIRLOOM_CACHE_DIR", "/nowhere", 1); /* no choices from earlier runs */
}

TestSuite(cuda_agree, .init = start);

/* Two float implementations whose sums run in other orders; the same bounds as against PyTorch. */
static const double exact_loss = 2e-5, exact_gradient = 3e-5;

/* A line for scripts/gpu_check.sh, in the file that it names. */
static void report(const cuda_case *c, double loss, double gradient, const char *name)
{
    static const char *const execs[] = {"auto", "fold", "cache"};
    const char *path = getenv("HEIRLOOM_TEST_REPORT");
    FILE *file = path != NULL ? fopen(path, "a") : NULL;
    if (file == NULL)
        return;
    fprintf(file, "%s %s %s %s %.2e %.2e %s\n", c->model, c->method, hl_norm_mode_name(c->norm),
            execs[c->exec], loss, gradient, name);
    fclose(file);
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
static bool agree(const cuda_case *c, double most_loss, double most_gradient)
{
    cuda_side cpu, cuda;
    const char *name;
    run_both(c, &cpu, &cuda, 3);
    double loss = cuda_worst_loss(&cpu, &cuda, c->batch);
    double gradient = cuda_worst_gradient(&cpu, &cuda, 1e-4, &name);
    bool fine = loss < most_loss && gradient < most_gradient;
    report(c, loss, gradient, name);
    cr_expect(fine, "%s, %s: losses differ by %g, the gradient of %s by %g of its norm", c->model, c->method,
              loss, name, gradient);
    cuda_side_close(&cpu);
    cuda_side_close(&cuda);
    cuda_expect_clean();
    return fine;
}

Test(cuda_agree, networks_and_methods_agree_with_the_cpu_backend)
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
        {"resnet18", "bitfit", HL_NORM_DEFAULT, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true, false},
        {"shufflenet_v2_x0_5", "ssf:norms=1", HL_NORM_DEFAULT, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true,
         false},
        {"shufflenet_v2_x0_5", "conv-adapter", HL_NORM_DEFAULT, 32, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, true,
         false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cuda_begin();
        agree(&cases[i], exact_loss, exact_gradient);
    }
}

/* Some networks take no images of 64 pixels. */
static int64_t small_size(const hl_model_info *info)
{
    hl_graph *graph;
    if (hl_model_build(info, 64, 10, &graph) != HL_OK)
        return info->image_size;
    hl_graph_destroy(graph);
    return 64;
}

/* The double takes an hour for what a device does in minutes: there, when asked to. */
Test(cuda_agree, every_model_and_method_agrees_with_the_cpu_backend)
{
    int wrong = 0;
    if (!cuda_on_device() && getenv("HEIRLOOM_TEST_EVERYTHING") == NULL)
        cr_skip_test("SKIPPED: without a device a selection of models is compared");
    for (int i = 0; i < hl_model_count() * hl_method_count(); i++) {
        const hl_method_info *method = hl_method_at(i % hl_method_count());
        cuda_case c = {.model = hl_model_at(i / hl_method_count())->name,
                       .method = method->name,
                       .norm = HL_NORM_FROZEN,
                       .size = small_size(hl_model_at(i / hl_method_count())),
                       .batch = 4,
                       .training = true};
        bool projection = strcmp(method->name, "projection") == 0;
        for (c.exec = HL_PROJECTION_AUTO; c.exec <= (projection ? HL_PROJECTION_FOLD : HL_PROJECTION_AUTO);
             c.exec++) {
            cuda_begin();
            wrong += !agree(&c, exact_loss, exact_gradient);
        }
    }
    cr_assert_eq(wrong, 0, "%d of them do not", wrong);
}

Test(cuda_agree, batch_statistics_agree_with_the_cpu_backend)
{
    static const cuda_case c = {"resnet18",         "full", HL_NORM_FULL, 48, 4, HL_ELEM_F32,
                                HL_PROJECTION_AUTO, true,   false};
    /* Normalising by the batch amplifies rounding, and values near a kink fall on either side. */
    agree(&c, 1e-3, 2e-2);
}

Test(cuda_agree, a_network_in_evaluation_gives_the_same_losses)
{
    static const cuda_case cases[] = {
        {"resnet50", "projection", HL_NORM_DEFAULT, 64, 2, HL_ELEM_F32, HL_PROJECTION_AUTO, false, false},
        {"mobilenet_v2", "full", HL_NORM_DEFAULT, 40, 3, HL_ELEM_F32, HL_PROJECTION_AUTO, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cuda_side cpu, cuda;
        cuda_begin();
        run_both(&cases[i], &cpu, &cuda, 3);
        double off = cuda_worst_loss(&cpu, &cuda, cases[i].batch);
        cr_assert_lt(off, 2e-5, "%s: losses differ by %g", cases[i].model, off);
        cuda_side_close(&cpu);
        cuda_side_close(&cuda);
        cuda_expect_clean();
    }
}

/* 16-bit gradients are as far from the f32 ones as the CPU backend's bf16 gradients are, within a factor of
 * two (fp16 has three bits more). */
Test(cuda_agree, sixteen_bit_gradients_are_as_good_as_the_cpu_backends)
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
        cuda_begin();
        half.elem = elems[e];
        cuda_side_open(&cuda, &half, true, false);
        cr_assert_eq(cuda_side_compile(&cuda, &half), HL_OK, "%s", hl_last_error());
        cuda_side_step(&cuda, &half, 0);
        cuda_side_finish(&cuda);
        double off = cuda_worst_gradient(&reference, &cuda, 1e-3, &name);
        cr_assert(off > 0.0 && off < (e == 0 ? 2.0 : 0.5) * usual, "%s is off by %g, where %g is usual", name,
                  off, usual);
        cuda_side_close(&cuda);
        cuda_expect_clean();
    }
    cuda_side_close(&reference);
    cuda_side_close(&cpu);
}
