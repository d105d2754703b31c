/* Networks from ONNX files against onnxruntime (scripts/make_onnx_fixtures.py), and networks of the zoo
 * written as ONNX and read again.
 *
 * Logits are compared relative to the norm of what they should be. f32 rounds at 2^-24 = 6e-8, each of up to
 * 60 layers adds an error of a few times that, and independent errors add as their squares do: below 1e-5. A
 * layer read wrongly is off by far more. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/philox.h"
#include "graph/params.h"
#include "graph/program.h"
#include "io/onnx.h"
#include "io/onnx_write.h"
#include "io/safetensors.h"
#include "models/onnx.h"
#include "support/device.h"
#include "support/formula.h"
#include "support/ref_ops.h"
#include "support/scratch.h"

#define FOLDER "tests/fixtures/onnx/"

static const double tolerance = 1e-5;

/* Logits of `batch` images, channels last, into a new array. */
static float *run(hl_graph *g, const float *images, int64_t batch)
{
    hl_program *program;
    hl_run_state state = {.grad_scale = 1.0f};
    hl_backend *backend = test_backend(2);
    const hl_compile_options options = {.batch = batch, .raw_input = true, .run = &state};
    cr_assert_eq(hl_graph_place(g, backend), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_program_compile(g, backend, &options, &program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK);
    hl_shape in = hl_graph_node(g, g->input)->shape;
    memcpy(hl_program_images(program), images, (size_t)(batch * hl_shape_count(in)) * sizeof *images);
    cr_assert_eq(hl_program_forward(program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(backend->ops->finish(backend), HL_OK, "%s", hl_last_error());
    size_t bytes = (size_t)(batch * hl_graph_node(g, g->output)->shape.c) * sizeof(float);
    float *logits = malloc(bytes);
    memcpy(logits, hl_program_logits(program), bytes);
    hl_program_destroy(program);
    hl_graph_destroy(g);
    hl_backend_close(backend);
    return logits;
}

static double off(const float *have, const float *want, int64_t count)
{
    double error = 0.0, norm = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double d = (double)have[i] - (double)want[i];
        error += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    return isfinite(error) && norm > 0.0 ? sqrt(error / norm) : INFINITY;
}

static hl_graph *read_graph(const char *path, hl_onnx_build *b)
{
    hl_onnx_net *net;
    hl_graph *g;
    cr_assert_eq(hl_onnx_net_open(path, NULL, &net), HL_OK, "%s", hl_last_error());
    if (b->image_size == 0)
        b->image_size = hl_onnx_net_info(net)->image_size;
    cr_assert_eq(hl_onnx_net_build(net, b, &g), HL_OK, "%s", hl_last_error());
    hl_onnx_net_destroy(net);
    return g;
}

/* Writes the graph and reads it again. */
static hl_graph *written_and_read(const hl_graph *g, int64_t size)
{
    static const float mean[4] = {0.25f, 0.5f, 0.75f, 0.1f}, std[4] = {1.0f, 2.0f, 0.1f, 0.3f};
    size_t channels = (size_t)g->nodes[0]->shape.c;
    static const char *const names[] = {"a", "b"};
    const hl_onnx_meta meta = {.image_size = size,
                               .resize = 300,
                               .bicubic = true,
                               .mean = mean,
                               .std = std,
                               .classes = names,
                               .class_count = 2};
    char *folder = scratch_make(), *path = scratch_path(folder, "net.onnx");
    cr_assert_eq(hl_onnx_export(g, &meta, path), HL_OK, "%s", hl_last_error());
    hl_onnx_net *net;
    cr_assert_eq(hl_onnx_net_open(path, NULL, &net), HL_OK, "%s", hl_last_error());
    const hl_model_info *info = hl_onnx_net_info(net);
    cr_expect_str_eq(info->name, "net.onnx");
    cr_expect(info->image_size == size && info->resize == 300 && info->bicubic);
    cr_expect_str_eq(hl_onnx_net_class_names(net), "[\"a\",\"b\"]");
    cr_expect_eq(hl_model_channels(info), channels);
    cr_expect(memcmp(info->mean, mean, channels * sizeof *mean) == 0 &&
              memcmp(info->std, std, channels * sizeof *std) == 0);
    hl_onnx_build b = {.image_size = size};
    hl_graph *again;
    cr_assert_eq(hl_onnx_net_build(net, &b, &again), HL_OK, "%s", hl_last_error());
    hl_onnx_net_destroy(net);
    free(path);
    scratch_remove(folder);
    return again;
}

typedef struct fixture {
    char name[16];
} fixture;

ParameterizedTestParameters(onnx, files_compute_what_onnxruntime_computes)
{
    static fixture cases[] = {{"pytorch"}, {"tensorflow"}, {"modern"}, {"old"}};
    return cr_make_param_array(fixture, cases, sizeof cases / sizeof *cases);
}

ParameterizedTest(fixture *c, onnx, files_compute_what_onnxruntime_computes)
{
    char path[128];
    hl_tensor_map *golden;
    hl_onnx_build b = {0};
    snprintf(path, sizeof path, FOLDER "%s.safetensors", c->name);
    cr_assert_eq(hl_safetensors_read(path, &golden), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *images = hl_tensor_map_find(golden, "images"),
                          *logits = hl_tensor_map_find(golden, "logits");
    int64_t batch = images->shape[0], count = batch * logits->shape[1];
    snprintf(path, sizeof path, FOLDER "%s.onnx", c->name);
    hl_graph *g = read_graph(path, &b);
    cr_expect_eq(b.classes, logits->shape[1]);
    cr_expect(!b.head_fresh && b.image_size == images->shape[1]);
    hl_graph *again = written_and_read(g, b.image_size);
    float *have = run(g, images->data, batch);
    double error = off(have, logits->data, count);
    cr_expect(error <= tolerance, "%s: logits are off by %.2g of their norm", c->name, error);
    free(have);
    have = run(again, images->data, batch);
    error = off(have, logits->data, count);
    cr_expect(error <= tolerance, "%s, written and read again: logits are off by %.2g of their norm", c->name,
              error);
    free(have);
    hl_tensor_map_destroy(golden);
}

Test(onnx, a_network_for_bgr_takes_rgb_images)
{
    hl_tensor_map *golden;
    cr_assert_eq(hl_safetensors_read(FOLDER "tensorflow.safetensors", &golden), HL_OK);
    const hl_named_tensor *images = hl_tensor_map_find(golden, "images"),
                          *logits = hl_tensor_map_find(golden, "logits");
    size_t count = hl_named_tensor_count(images);
    float *reversed = malloc(images->bytes);
    for (size_t i = 0; i < count; i++)
        reversed[i / 3 * 3 + 2 - i % 3] = ((const float *)images->data)[i];
    hl_onnx_build b = {.bgr = true};
    float *have = run(read_graph(FOLDER "tensorflow.onnx", &b), reversed, images->shape[0]);
    double error = off(have, logits->data, images->shape[0] * logits->shape[1]);
    cr_expect(error <= tolerance, "logits are off by %.2g of their norm", error);
    free(have);
    free(reversed);
    hl_tensor_map_destroy(golden);
}

static bool has_param(const hl_graph *g, const char *name)
{
    return hl_graph_find_param(g, name) != NULL;
}

Test(onnx, layers_are_named_by_their_weights_or_nodes)
{
    hl_onnx_build b = {0};
    hl_graph *g = read_graph(FOLDER "pytorch.onnx", &b);
    cr_expect(has_param(g, "stem.conv.weight") && has_param(g, "stem.norm.running_mean"));
    cr_expect(has_param(g, "deep.0.weight"), "/deep/deep.0/Conv");
    cr_expect(has_param(g, "fc1.weight") && has_param(g, "fc.bias"));
    cr_expect(hl_graph_find_param(g, "fc.weight")->head && !hl_graph_find_param(g, "fc1.weight")->head);
    hl_graph_destroy(g);
    g = read_graph(FOLDER "tensorflow.onnx", &(hl_onnx_build){.image_size = 11});
    cr_expect(has_param(g, "model.conv1.weight") && has_param(g, "model.dense.weight"));
    cr_expect(has_param(g, "model.conv1.bias"), "the Add behind it");
    cr_expect(hl_graph_find_param(g, "model.logits.weight")->flat);
    hl_graph_destroy(g);
}

Test(onnx, another_number_of_classes_gets_a_fresh_head)
{
    static const char *const files[] = {"pytorch", "tensorflow", "modern", "old"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        hl_onnx_build b = {.classes = 9};
        snprintf(path, sizeof path, FOLDER "%s.onnx", files[i]);
        hl_graph *g = read_graph(path, &b);
        cr_expect(b.head_fresh && b.classes == 9 && hl_graph_node(g, g->output)->shape.c == 9, "%s", path);
        for (size_t k = 0; k < g->param_count; k++)
            if (g->params[k]->head && g->params[k]->role == HL_PARAM_WEIGHT)
                cr_expect_eq(g->params[k]->shape[0], 9);
        hl_graph_destroy(g);
    }
}

typedef struct zoo_case {
    char name[32];
    int64_t size, channels;
} zoo_case;

ParameterizedTestParameters(onnx, networks_of_the_zoo_survive_writing_and_reading)
{
    /* What these have between them is all that the zoo has, in networks of few weights. */
    static zoo_case cases[] = {{"mobilenet_v3_small", 32, 1}, {"shufflenet_v2_x0_5", 32, 4},
                               {"squeezenet1_1", 48, 3},      {"googlenet", 32, 3},
                               {"regnet_y_400mf", 32, 3},     {"efficientnet_b0", 32, 3}};
    size_t count = sizeof cases / sizeof *cases;
#ifdef __SANITIZE_ADDRESS__
    count = 3; /* sanitizers watch memory, not numbers */
#endif
    /* On the double of CUDA the files' own networks are enough; the zoo's are there in test_goldens. */
    if (strcmp(test_device(), "cpu") != 0)
        count = 1;
    return cr_make_param_array(zoo_case, cases, count);
}

ParameterizedTest(zoo_case *c, onnx, networks_of_the_zoo_survive_writing_and_reading)
{
    const hl_model_info *info;
    hl_graph *g;
    int64_t count = 2 * c->size * c->size * c->channels;
    cr_assert_eq(hl_model_find(c->name, &info), HL_OK);
    cr_assert_eq(hl_model_build_for(info, c->size, c->channels, 5, &g), HL_OK, "%s", hl_last_error());
    formula_fill(g);
    hl_graph *again = written_and_read(g, c->size);
    size_t missing = 0;
    for (size_t i = 0; i < g->param_count; i++)
        missing += !has_param(again, g->params[i]->name);
    cr_expect_eq(missing, 0, "%s: %zu parameters have another name", c->name, missing);
    cr_expect_eq(again->param_count, g->param_count);
    float *images = malloc((size_t)count * sizeof *images);
    formula_values("images", -2.0, 2.0, images, count);
    float *want = run(g, images, 2), *have = run(again, images, 2);
    double error = off(have, want, 10);
    cr_expect(error <= tolerance, "%s: logits are off by %.2g of their norm", c->name, error);
    free(images);
    free(want);
    free(have);
}

/* The matrix of a product of the file, [rows, columns]. */
static const float *matrix(const hl_onnx *file, const hl_onnx_node *node, int input, int64_t rows,
                           int64_t columns)
{
    const hl_named_tensor *t = hl_tensor_map_find(file->tensors, node->in[input]);
    cr_assert(t != NULL && t->dtype == HL_DTYPE_F32 && t->ndim == 2 && t->shape[0] == rows &&
                  t->shape[1] == columns,
              "%s", node->name);
    return t->data;
}

/* Unequal cells are a product from the right and one from the left, and cells again. */
Test(onnx, means_over_unequal_cells_are_two_products)
{
    enum { H = 8, W = 8, M = 3 };
    hl_graph *g;
    hl_onnx *file;
    const float zeros[3] = {0}, ones[3] = {1.0f, 1.0f, 1.0f};
    const hl_onnx_meta meta = {.image_size = H, .resize = H, .mean = zeros, .std = ones};
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_grid_pool(g, "pool", hl_graph_input(g, H, W, 3), M);
    x = hl_graph_head(g, "fc", hl_graph_flat_linear(g, "flat", x, 4, true), 2);
    cr_assert_eq(hl_graph_finish(g, x), HL_OK, "%s", hl_last_error());
    formula_fill(g);
    char *folder = scratch_make(), *path = scratch_path(folder, "net.onnx");
    cr_assert_eq(hl_onnx_export(g, &meta, path), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_onnx_read(path, &file), HL_OK, "%s", hl_last_error());
    const hl_onnx_node *right = &file->nodes[0], *left = &file->nodes[1];
    cr_assert(strcmp(right->op, "MatMul") == 0 && strcmp(left->op, "MatMul") == 0);
    cr_assert_str_eq(right->in[0], "input");
    cr_assert_str_eq(left->in[1], right->out[0]);
    const float *columns = matrix(file, right, 1, W, M), *rows = matrix(file, left, 0, M, H);
    double image[H * W], want[M * M];
    for (int i = 0; i < H * W; i++)
        image[i] = i * i % 17;
    ref_grid_pool(image, (hl_shape){1, H, W, 1}, (hl_shape){1, M, M, 1}, want);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < M; j++) {
            double sum = 0.0;
            for (int y = 0; y < H; y++)
                for (int k = 0; k < W; k++)
                    sum += (double)rows[i * H + y] * image[y * W + k] * (double)columns[k * M + j];
            /* Sums of up to 16 values up to 16, of shares rounded twice. */
            cr_expect_float_eq(sum, want[i * M + j], 16.0 * 4.0 * 0x1p-24);
        }
    hl_onnx_destroy(file);
    scratch_remove(folder);
    free(path);

    float images[2 * H * W * 3];
    formula_values("images", -2.0, 2.0, images, sizeof images / sizeof *images);
    hl_graph *again = written_and_read(g, H);
    cr_expect_eq(hl_graph_node(again, 1)->op, HL_OP_GRID_POOL);
    float *expected = run(g, images, 2), *have = run(again, images, 2);
    cr_expect_leq(off(have, expected, 4), tolerance);
    free(expected);
    free(have);
}

/* What ConvNeXt has that the networks above have not; layer norms over maps and over vectors. */
Test(onnx, layer_norms_and_scales_survive_writing_and_reading)
{
    hl_graph *g;
    cr_assert_eq(hl_graph_create(&g), HL_OK);
    hl_value x = hl_graph_conv(g, "stem", hl_graph_input(g, 12, 12, 3),
                               (hl_conv_spec){.out = 24, .kernel = 4, .stride = 4, .bias = true});
    x = hl_graph_layer_norm(g, "norm", x, 1e-6f);
    hl_value y = hl_graph_linear(g, "up", x, 40, true);
    y = hl_graph_linear(g, "down", hl_graph_act(g, "act", y, HL_ACT_GELU), 24, true);
    y = hl_graph_drop_path(g, "drop", hl_graph_scale(g, "block.layer_scale", y), 0.1f, 1.0f);
    x = hl_graph_global_pool(g, "pool", hl_graph_add(g, "sum", x, y));
    x = hl_graph_scale(g, "last.layer_scale", hl_graph_layer_norm(g, "last.norm", x, 1e-6f));
    cr_assert_eq(hl_graph_finish(g, hl_graph_head(g, "fc", x, 5)), HL_OK, "%s", hl_last_error());
    formula_fill(g);
    hl_graph *again = written_and_read(g, 12);
    for (size_t i = 0; i < g->param_count; i++)
        cr_expect(has_param(again, g->params[i]->name), "%s", g->params[i]->name);
    float *images = malloc(2 * 12 * 12 * 3 * sizeof *images);
    formula_values("images", -2.0, 2.0, images, 2 * 12 * 12 * 3);
    float *want = run(g, images, 2), *have = run(again, images, 2);
    double error = off(have, want, 10);
    cr_expect(error <= tolerance, "logits are off by %.2g of their norm", error);
    free(images);
    free(want);
    free(have);
}

/* A node of a small network: its operator, inputs and output. */
typedef struct small_node {
    const char *op, *in[2], *out;
} small_node;

static const float small_kernel[6] = {1.0f, 0.5f, -1.0f, 0.25f, 2.0f, 1.0f};
enum { SMALL_IMAGE = 4 * 4 * 3 };

/* A network of those nodes from "x", [n, 3, 4, 4], to "y", [n, 2], as it is read, applied to one image. There
 * are the kernel "k" of two channels, the unit matrix "m", some numbers, and "order", whole numbers of shape
 * [1, 2, 1, 1]. NULL and the error where it is refused. */
static float *run_small(const small_node *nodes, size_t count, const int64_t order[2], float *images)
{
    static const int64_t image[4] = {-1, 3, 4, 4}, kernel[4] = {2, 3, 1, 1}, last[2] = {2, 2},
                         out[2] = {-1, 2}, places[4] = {1, 2, 1, 1};
    static const int64_t flat = 2;
    static const float m[4] = {1.0f, 0.0f, 0.0f, 1.0f}, root = 1.41421356f, one = 1.0f, half = 0.5f;
    char *folder = scratch_make(), *path = scratch_path(folder, "net.onnx");
    hl_onnx_writer *w;
    cr_assert_eq(hl_onnx_writer_create(&w), HL_OK);
    hl_onnx_put_port(w, false, "x", 4, image);
    hl_onnx_put_tensor(w, "k", HL_DTYPE_F32, 4, kernel, small_kernel);
    hl_onnx_put_tensor(w, "m", HL_DTYPE_F32, 2, last, m);
    hl_onnx_put_tensor(w, "root", HL_DTYPE_F32, 0, NULL, &root);
    hl_onnx_put_tensor(w, "one", HL_DTYPE_F32, 0, NULL, &one);
    hl_onnx_put_tensor(w, "half", HL_DTYPE_F32, 0, NULL, &half);
    hl_onnx_put_tensor(w, "flat", HL_DTYPE_I64, 1, (const int64_t[]){1}, &flat);
    hl_onnx_put_tensor(w, "order", HL_DTYPE_I64, 4, places, order);
    for (size_t i = 0; i < count; i++)
        hl_onnx_put_node(w, nodes[i].op, nodes[i].out, nodes[i].in, nodes[i].in[1] != NULL ? 2 : 1,
                         &nodes[i].out, 1);
    hl_onnx_put_port(w, true, "y", 2, out);
    cr_assert_eq(hl_onnx_writer_save(w, path), HL_OK, "%s", hl_last_error());
    hl_onnx_writer_destroy(w);
    hl_onnx_net *net;
    hl_graph *g;
    hl_onnx_build b = {.image_size = 4};
    cr_assert_eq(hl_onnx_net_open(path, NULL, &net), HL_OK, "%s", hl_last_error());
    hl_status status = hl_onnx_net_build(net, &b, &g);
    hl_onnx_net_destroy(net);
    free(path);
    scratch_remove(folder);
    formula_values("images", -2.0, 2.0, images, SMALL_IMAGE);
    return status == HL_OK ? run(g, images, 1) : NULL;
}

/* Means over pixels of what `f` makes of the kernel's channels. */
static void expect_means(float *have, const float *images, double (*f)(double))
{
    cr_assert(have != NULL, "%s", hl_last_error());
    for (int o = 0; o < 2; o++) {
        double sum = 0.0;
        for (int i = 0; i < 16; i++) {
            double x = 0.0;
            for (int c = 0; c < 3; c++)
                x += (double)small_kernel[o * 3 + c] * (double)images[i * 3 + c];
            sum += f(x);
        }
        cr_expect(fabs((double)have[o] - sum / 16.0) <= 1e-5 * fabs(sum / 16.0), "%g, not %g",
                  (double)have[o], sum / 16.0);
    }
    free(have);
}

static double gelu(double x)
{
    return x * 0.5 * (1.0 + erf(x / sqrt(2.0)));
}

static double same(double x)
{
    return x;
}

/* GELU as PyTorch's newer exporter writes it: x times (0.5 times (1 + erf(x / sqrt 2))). */
Test(onnx, a_gelu_may_halve_the_distribution_first)
{
    static const small_node nodes[] = {
        {"Conv", {"x", "k"}, "c"},         {"Div", {"c", "root"}, "d"}, {"Erf", {"d"}, "e"},
        {"Add", {"e", "one"}, "a"},        {"Mul", {"half", "a"}, "h"}, {"Mul", {"c", "h"}, "g"},
        {"GlobalAveragePool", {"g"}, "p"}, {"Flatten", {"p"}, "f"},     {"Gemm", {"f", "m"}, "y"}};
    float images[SMALL_IMAGE],
        *have = run_small(nodes, sizeof nodes / sizeof *nodes, (int64_t[]){0, 1}, images);
    expect_means(have, images, gelu);
}

/* As that exporter writes a view of pooled channels with other strides. */
Test(onnx, gathering_everything_in_its_order_is_another_shape)
{
    static const small_node nodes[] = {{"Conv", {"x", "k"}, "c"},       {"GlobalAveragePool", {"c"}, "p"},
                                       {"Reshape", {"p", "flat"}, "r"}, {"Gather", {"r", "order"}, "g"},
                                       {"Flatten", {"g"}, "f"},         {"Gemm", {"f", "m"}, "y"}};
    float images[SMALL_IMAGE],
        *have = run_small(nodes, sizeof nodes / sizeof *nodes, (int64_t[]){0, 1}, images);
    expect_means(have, images, same);
    have = run_small(nodes, sizeof nodes / sizeof *nodes, (int64_t[]){1, 0}, images);
    cr_expect_null(have);
    cr_expect_not_null(strstr(hl_last_error(), "node 'g' (Gather)"), "%s", hl_last_error());
    free(have);
}

/* A file with one operator between a convolution and a classifier: what is said of it. */
static void refused(const char *op, const char *attr, int64_t value, const char *says)
{
    static const int64_t image[4] = {-1, 3, 8, 8}, kernel[4] = {4, 3, 1, 1}, last[2] = {2, 4},
                         out[2] = {-1, 2};
    static const float zeros[12];
    char *folder = scratch_make(), *path = scratch_path(folder, "net.onnx");
    hl_onnx_writer *w;
    cr_assert_eq(hl_onnx_writer_create(&w), HL_OK);
    hl_onnx_put_port(w, false, "x", 4, image);
    hl_onnx_put_tensor(w, "k", HL_DTYPE_F32, 4, kernel, zeros);
    hl_onnx_put_tensor(w, "m", HL_DTYPE_F32, 2, last, zeros);
    hl_onnx_put_node(w, "Conv", "conv", (const char *[]){"x", "k"}, 2, (const char *[]){"c"}, 1);
    hl_onnx_put_node(w, op, "odd", (const char *[]){"c", "c"}, 2, (const char *[]){"o"}, 1);
    if (attr != NULL)
        hl_onnx_put_int(w, attr, value);
    hl_onnx_put_node(w, "GlobalAveragePool", "pool", (const char *[]){"o"}, 1, (const char *[]){"p"}, 1);
    hl_onnx_put_node(w, "Flatten", "flat", (const char *[]){"p"}, 1, (const char *[]){"f"}, 1);
    hl_onnx_put_node(w, "Gemm", "fc", (const char *[]){"f", "m"}, 2, (const char *[]){"y"}, 1);
    hl_onnx_put_int(w, "transB", 1);
    hl_onnx_put_port(w, true, "y", 2, out);
    cr_assert_eq(hl_onnx_writer_save(w, path), HL_OK, "%s", hl_last_error());
    hl_onnx_writer_destroy(w);
    hl_onnx_net *net;
    hl_graph *g;
    hl_onnx_build b = {.image_size = 8};
    cr_assert_eq(hl_onnx_net_open(path, NULL, &net), HL_OK, "%s", hl_last_error());
    cr_expect_eq(hl_onnx_net_build(net, &b, &g), HL_E_UNSUPPORTED, "%s", op);
    cr_expect(strstr(hl_last_error(), "node 'odd'") != NULL && strstr(hl_last_error(), op) != NULL &&
                  strstr(hl_last_error(), says) != NULL && strchr(hl_last_error(), '\n') == NULL,
              "%s", hl_last_error());
    hl_onnx_net_destroy(net);
    free(path);
    scratch_remove(folder);
}

/* Any byte of a file may be another one: what is made of it, if anything, is a graph. */
Test(onnx, damaged_files_are_refused_or_read)
{
    static const char *const files[] = {"pytorch", "tensorflow", "modern", "old"};
    char *folder = scratch_make(), *path = scratch_path(folder, "net.onnx"), from[128];
    hl_rng rng = hl_rng_make(1, HL_STREAM_INIT, 0, 0);
    int read = 0, refused_count = 0;
    for (int i = 0; i < 400; i++) {
        size_t size;
        snprintf(from, sizeof from, FOLDER "%s.onnx", files[i % 4]);
        uint8_t *bytes = scratch_read(from, &size);
        for (int k = 0; k < 3; k++)
            bytes[hl_rng_below(&rng, (uint32_t)size)] = (uint8_t)hl_rng_below(&rng, 256);
        scratch_write(path, bytes, size);
        hl_onnx_net *net;
        hl_graph *g;
        hl_status status = hl_onnx_net_open(path, NULL, &net);
        if (status == HL_OK) {
            hl_onnx_build b = {.image_size = hl_onnx_net_info(net)->image_size};
            b.image_size = b.image_size < 64 ? b.image_size : 64;
            status = hl_onnx_net_build(net, &b, &g);
            if (status == HL_OK)
                hl_graph_destroy(g);
            hl_onnx_net_destroy(net);
        }
        cr_assert(status == HL_OK || (status != HL_E_INTERNAL && hl_last_error()[0] != '\0'), "%s",
                  hl_last_error());
        read += status == HL_OK;
        refused_count += status != HL_OK;
        free(bytes);
    }
    cr_expect(read > 0 && refused_count > 0, "%d read, %d refused", read, refused_count);
    free(path);
    scratch_remove(folder);
}

Test(onnx, what_is_not_supported_is_said_with_its_node)
{
    refused("LSTM", NULL, 0, "not supported");
    refused("LRN", NULL, 0, "supported are");
    refused("LeakyRelu", NULL, 0, "supported are");
    refused("LayerNormalization", "axis", 1, "the last dimension");
    refused("Erf", NULL, 0, "GELU");
    refused("Conv", NULL, 0, "constant");
    refused("MatMul", NULL, 0, "constant");
    refused("Concat", "axis", 2, "dimension 2");
    refused("Split", "axis", 1, "constant list");
    refused("Sub", NULL, 0, "computed");
    refused("ReduceMean", NULL, 0, "constant list");
    refused("Cast", "to", 7, "not floating");
}
