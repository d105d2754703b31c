/* How whole training steps of the CUDA backend use CUDA's libraries, seen by the double. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda/cuda_rig.h"
#include "cuda_double/double.h"

static void start(void)
{
    cuda_begin();
    setenv("HEIRLOOM_CACHE_DIR", "/nowhere", 1); /* no choices from earlier runs */
}

TestSuite(cuda_step, .init = start);

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
    cuda_expect_clean();
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
