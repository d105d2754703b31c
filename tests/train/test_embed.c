/* Feedforward networks and what they become as convolutions. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <heirloom/heirloom.h>

#include "io/onnx_write.h"
#include "io/safetensors.h"
#include "support/device.h"
#include "support/formula.h"
#include "support/scratch.h"
#include "support/state_dict.h"
#include "train/embed.h"

static char *folder, *source, *target;

static void start(void)
{
    folder = scratch_make();
    source = scratch_path(folder, "mlp.safetensors");
    target = scratch_path(folder, "conv.safetensors");
}

static void stop(void)
{
    free(source);
    free(target);
    scratch_remove(folder);
}

TestSuite(embed, .init = start, .fini = stop);

static void put(hl_tensor_map *map, const char *name, int ndim, int64_t rows, int64_t columns)
{
    const int64_t shape[2] = {rows, columns};
    int64_t count = ndim == 2 ? rows * columns : rows;
    float *values = malloc((size_t)count * sizeof *values);
    double range = ndim == 2 ? sqrt(3.0 / (double)columns) : 0.1;
    formula_values(name, -range, range, values, count);
    state_put(map, name, HL_DTYPE_F32, ndim, shape, values);
    free(values);
}

/* Layers 0, 2 and 10, whose names a safetensors file sorts as 0, 10, 2. */
static void write_mlp(int64_t inputs, int64_t outputs)
{
    hl_tensor_map *map = state_empty();
    put(map, "net.0.weight", 2, 13, inputs);
    put(map, "net.0.bias", 1, 13, 1);
    put(map, "net.2.weight", 2, 7, 13);
    put(map, "net.10.weight", 2, outputs, 7);
    put(map, "net.10.bias", 1, outputs, 1);
    cr_assert_eq(hl_safetensors_write(source, map), HL_OK, "%s", hl_last_error());
    hl_tensor_map_destroy(map);
}

static hl_embedding *opened(const char *path, const hl_embed_options *options)
{
    hl_embedding *e;
    cr_assert_eq(hl_embed_open(path, options, &e), HL_OK, "%s", hl_last_error());
    return e;
}

static hl_embed_check verified(const hl_embedding *e)
{
    const hl_compute compute = {.device = test_device(), .threads = 1};
    hl_embed_check check;
    cr_assert_eq(hl_embed_verify(e, &compute, 0.0, 3, &check), HL_OK, "%s", hl_last_error());
    return check;
}

static void expect_equal(const hl_embedding *e, const char *what)
{
    hl_embed_check check = verified(e);
    cr_expect(check.equal && check.output_share <= check.tolerance && check.tolerance < 1e-4,
              "%s: outputs differ by %g, gradients by %g (%s), tolerance %g", what, check.output_share,
              check.gradient_share, check.worst, check.tolerance);
}

Test(embed, layers_become_convolutions_with_the_same_numbers)
{
    hl_tensor_map *before, *after;
    hl_embed_counts counts;
    write_mlp(18, 4);
    hl_embedding *e = opened(source, &(hl_embed_options){.kernel_h = 3, .kernel_w = 3});
    hl_embed_count(e, &counts);
    cr_expect(counts.layers == 3 && counts.inputs == 18 && counts.channels == 2 && counts.kernel_h == 3 &&
              counts.outputs == 4 && counts.params == 13 * 18 + 13 + 7 * 13 + 4 * 7 + 4);
    cr_assert_eq(hl_embed_write(e, target), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_safetensors_read(source, &before), HL_OK);
    cr_assert_eq(hl_safetensors_read(target, &after), HL_OK, "%s", hl_last_error());
    static const struct {
        const char *name;
        int ndim;
        int64_t shape[4];
    } want[] = {{"net.0.weight", 4, {13, 2, 3, 3}},
                {"net.0.bias", 1, {13}},
                {"net.2.weight", 4, {7, 13, 1, 1}},
                {"net.10.weight", 4, {4, 7, 1, 1}},
                {"net.10.bias", 1, {4}}};
    cr_assert_eq(hl_tensor_map_count(after), sizeof want / sizeof *want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const hl_named_tensor *a = hl_tensor_map_find(before, want[i].name),
                              *b = hl_tensor_map_find(after, want[i].name);
        cr_assert(b != NULL && b->ndim == want[i].ndim, "%s", want[i].name);
        for (int d = 0; d < b->ndim; d++)
            cr_expect_eq(b->shape[d], want[i].shape[d], "%s", want[i].name);
        cr_expect(a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0, "%s", want[i].name);
    }
    json_t *layers = json_loads(hl_tensor_map_meta(after, "layers"), 0, NULL);
    cr_assert_eq(json_array_size(layers), 5);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(layers, 4), "name")), "net.10");
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(layers, 1), "act")), "relu");
    json_decref(layers);
    hl_tensor_map_destroy(before);
    hl_tensor_map_destroy(after);
    hl_embed_destroy(e);
}

/* With every activation and window; a single output is checked as well. */
Test(embed, both_networks_give_the_same_outputs_and_gradients)
{
    static const char *const acts[] = {"relu", "tanh,gelu", "silu,sigmoid,none", "hardswish",
                                       "relu6,hardsigmoid"};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        write_mlp(36, i == 1 ? 1 : 4);
        static const int64_t windows[][2] = {{0, 0}, {3, 3}, {2, 3}, {6, 6}, {1, 1}};
        hl_embedding *e =
            opened(source,
                   &(hl_embed_options){.act = acts[i], .kernel_h = windows[i][0], .kernel_w = windows[i][1]});
        expect_equal(e, acts[i]);
        hl_embed_destroy(e);
    }
}

/* The features of a patch in the order of torch's flatten, against a plain loop in double. */
Test(embed, a_network_over_patches_sees_channels_first)
{
    enum { C = 2, K = 3, OUT = 13 };
    write_mlp(C * K * K, 4);
    hl_embedding *e = opened(source, &(hl_embed_options){.act = "none", .kernel_h = K, .kernel_w = K});
    const hl_param *w = hl_graph_find_param(e->feedforward, "net.0.weight"),
                   *k = hl_graph_find_param(e->convolutional, "net.0.weight");
    for (int o = 0; o < OUT; o++)
        for (int c = 0; c < C; c++)
            for (int y = 0; y < K; y++)
                for (int x = 0; x < K; x++)
                    cr_expect_eq(k->host[((o * C + c) * K + y) * K + x],
                                 w->host[o * C * K * K + c * K * K + y * K + x]);
    hl_embed_check check = verified(e);
    /* Twelve places of two larger images, besides the windows. */
    cr_expect_eq(check.places, 8 + 24);
    cr_expect(check.equal);
    hl_embed_destroy(e);
}

Test(embed, a_wrong_number_is_noticed)
{
    write_mlp(18, 4);
    for (int i = 0; i < 2; i++) {
        hl_embedding *e = opened(source, &(hl_embed_options){.kernel_h = 3, .kernel_w = 3, .act = "tanh"});
        hl_param *p = hl_graph_find_param(e->convolutional, i == 0 ? "net.0.weight" : "net.10.bias");
        p->host[1] += 0.01f;
        hl_embed_check check = verified(e);
        cr_expect(!check.equal && check.output_share > 1e-4 && check.worst[0] != '\0', "%s: %g", p->name,
                  check.output_share);
        hl_embed_destroy(e);
    }
}

static void refused(const hl_embed_options *options, const char *part)
{
    hl_embedding *e;
    hl_status status = hl_embed_open(source, options, &e);
    cr_expect(status != HL_OK && hl_status_exit_code(status) == 2 && strstr(hl_last_error(), part) != NULL,
              "'%s' is not in: %s", part, hl_last_error());
    cr_expect_null(e);
}

Test(embed, options_that_do_not_fit_are_refused)
{
    write_mlp(18, 4);
    refused(&(hl_embed_options){.act = "rlu"}, "did you mean relu");
    refused(&(hl_embed_options){.act = ""}, "no such activation");
    refused(&(hl_embed_options){.act = "relu,relu,relu,relu"}, "4 activations for 3 layers");
    refused(&(hl_embed_options){.kernel_h = 4, .kernel_w = 4}, "18 features");
    refused(&(hl_embed_options){.kernel_h = 4}, "out of range");
    refused(&(hl_embed_options){.kernel_h = 1, .kernel_w = 5000}, "out of range");
    refused(&(hl_embed_options){.layers = "net.0,net.10,net.2"}, "net.10 takes 7 features");
    refused(&(hl_embed_options){.layers = "net.0,net.2"}, "2 names for 3 layers");
    refused(&(hl_embed_options){.layers = "net.0,net.0,net.2"}, "named twice");
    refused(&(hl_embed_options){.layers = "net.0,net.1,net.2"}, "no layer of the file");
    refused(&(hl_embed_options){.layers = ""}, "no layer of the file");
}

/* Written, and refused with this text. */
static void refuses(const char *name, hl_dtype dtype, int ndim, const int64_t *shape, const void *data,
                    const char *part)
{
    hl_tensor_map *map = state_empty();
    put(map, "fc.weight", 2, 4, 6);
    state_put(map, name, dtype, ndim, shape, data);
    cr_assert_eq(hl_safetensors_write(source, map), HL_OK, "%s", hl_last_error());
    hl_tensor_map_destroy(map);
    refused(NULL, part);
}

Test(embed, state_dicts_of_other_networks_are_refused)
{
    static const float values[36] = {0}, nan[4] = {0.0f, NAN, 0.0f, 0.0f};
    refuses("conv.weight", HL_DTYPE_F32, 4, (const int64_t[]){1, 4, 3, 3}, values,
            "belongs to no linear layer");
    refuses("norm.weight", HL_DTYPE_F32, 1, (const int64_t[]){4}, values, "belongs to no linear layer");
    refuses("norm.running_mean", HL_DTYPE_F32, 1, (const int64_t[]){4}, values, "belongs to no linear layer");
    refuses("fc.bias", HL_DTYPE_F32, 1, (const int64_t[]){5}, values, "4 outputs and 5 biases");
    refuses("fc.bias", HL_DTYPE_F32, 1, (const int64_t[]){4}, nan, "not finite");
    refuses("fc.bias", HL_DTYPE_I64, 1, (const int64_t[]){4}, values, "no floating type");
    refuses("g.bias", HL_DTYPE_F32, 1, (const int64_t[]){4}, values, "no weight");
    refuses("g.weight", HL_DTYPE_F32, 2, (const int64_t[]){0, 4}, values, "empty");
    refuses("g.weight", HL_DTYPE_F32, 2, (const int64_t[]){2, 5}, values, "takes 5 features");
    refuses(".weight", HL_DTYPE_F32, 2, (const int64_t[]){2, 4}, values, "too short or too long");
}

/* [N, 12] -> Gemm, SiLU written out, MatMul and Add, Tanh, a sum with what came before, Gemm. */
static void write_onnx(const char *path, const char *strange)
{
    hl_onnx_writer *w;
    float a[96], b[64], c[24], bias[8];
    formula_values("a", -0.5, 0.5, a, 96);
    formula_values("b", -0.5, 0.5, b, 64);
    formula_values("c", -0.5, 0.5, c, 24);
    formula_values("bias", -0.5, 0.5, bias, 8);
    cr_assert_eq(hl_onnx_writer_create(&w), HL_OK);
    hl_onnx_put_port(w, false, "x", 2, (const int64_t[]){-1, 12});
#define NODE(op, name, out, ...)                                                                             \
    hl_onnx_put_node(w, op, name, (const char *[]){__VA_ARGS__},                                             \
                     (int)(sizeof((const char *[]){__VA_ARGS__}) / sizeof(char *)), (const char *[]){out},   \
                     1)
    NODE("Gemm", "", "h", "x", "one.weight", "one.bias");
    hl_onnx_put_int(w, "transB", 1);
    NODE("Sigmoid", "", "s", "h");
    NODE("Mul", "", "u", "h", "s");
    NODE("MatMul", "", "m", "u", "two.weight");
    NODE("Add", "", "p", "m", "two.bias");
    NODE("Tanh", "", "t", "p");
    NODE("Add", "", "r", "t", "u");
    if (strange != NULL) {
        NODE(strange, "odd one", "q", "r");
        NODE("Gemm", "", "y", "q", "three.weight");
    } else {
        NODE("Gemm", "", "y", "r", "three.weight");
    }
    hl_onnx_put_int(w, "transB", 1);
    NODE("Softmax", "", "z", "y");
    hl_onnx_put_port(w, true, "z", 2, (const int64_t[]){-1, 3});
    hl_onnx_put_tensor(w, "one.weight", HL_DTYPE_F32, 2, (const int64_t[]){8, 12}, a);
    hl_onnx_put_tensor(w, "two.weight", HL_DTYPE_F32, 2, (const int64_t[]){8, 8}, b);
    hl_onnx_put_tensor(w, "three.weight", HL_DTYPE_F32, 2, (const int64_t[]){3, 8}, c);
    hl_onnx_put_tensor(w, "one.bias", HL_DTYPE_F32, 1, (const int64_t[]){8}, bias);
    hl_onnx_put_tensor(w, "two.bias", HL_DTYPE_F32, 1, (const int64_t[]){8}, bias);
    cr_assert_eq(hl_onnx_writer_save(w, path), HL_OK, "%s", hl_last_error());
    hl_onnx_writer_destroy(w);
}

Test(embed, onnx_files_bring_their_activations_and_become_models_of_images)
{
    hl_model *model;
    char *path = scratch_path(folder, "mlp.onnx"), *out = scratch_path(folder, "conv.onnx");
    write_onnx(path, NULL);
    hl_embedding *e = opened(path, &(hl_embed_options){.kernel_h = 2, .kernel_w = 2});
    expect_equal(e, path);
    cr_assert_eq(hl_embed_write(e, out), HL_OK, "%s", hl_last_error());
    /* Of three channels, it is a classifier of images of the window's size, whose convolutions can be
     * projected. */
    cr_assert_eq(hl_model_create(&(hl_model_options){.name = out}, &model), HL_OK, "%s", hl_last_error());
    cr_expect(hl_model_preprocess(model)->size == 2 && hl_model_classes(model) == 3);
    cr_assert_eq(hl_model_apply_method(model, "projection", HL_NORM_DEFAULT, 0), HL_OK, "%s",
                 hl_last_error());
    hl_model_counts counts;
    hl_model_count_params(model, &counts);
    cr_expect(counts.gates == 8 * 3 + 8 * 8 && counts.head == 3 * 8 + 3, "%lld gates, head of %lld",
              (long long)counts.gates, (long long)counts.head);
    hl_model_destroy(model);
    hl_embed_destroy(e);

    hl_embedding *none;
    write_onnx(path, "GlobalMaxPool");
    cr_expect_eq(hl_embed_open(path, NULL, &none), HL_E_UNSUPPORTED, "%s", hl_last_error());
    cr_expect_eq(hl_embed_open(path, &(hl_embed_options){.act = "relu"}, &none), HL_E_ARG);
    cr_expect_not_null(strstr(hl_last_error(), "says that itself"));
    cr_expect_eq(hl_embed_open("tests/fixtures/onnx/pytorch.onnx", NULL, &none), HL_E_UNSUPPORTED);
    free(path);
    free(out);
}
