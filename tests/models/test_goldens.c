/* Every network against torchvision and timm, which computed in double from the same formula
 * (scripts/make_model_goldens.py): logits, losses, layers inside, gradients of every parameter and of layers,
 * running statistics.
 *
 * Tolerances are relative to the norm of what is compared. f32 rounds at u = 2^-24 = 6e-8; each of L layers
 * adds an error of a few u of its output's norm, forward and again backward, and errors of separate roundings
 * add as their squares do: sqrt(2 L) times a few u, which for L = 50 ... 160 convolutions and norms is 1e-6
 * to 1e-5. Statistics of the batch multiply that: subtracting the mean of eight values and dividing by their
 * deviation enlarges the error by the ratio of the two, layer after layer, up to a hundredfold. No gradient
 * meets a kink (see the script). */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/params.h"
#include "graph/program.h"
#include "io/safetensors.h"
#include "models/registry.h"
#include "support/device.h"
#include "support/formula.h"
#include "support/ref_ops.h"

typedef struct golden_case {
    char name[32], mode[16];
} golden_case;

/* How a mode of the script is set up here, and how close it must come. */
static const struct mode {
    const char *name;
    bool training, batch_statistics, smooth, gradients;
    double tolerance, tolerance_grad;
} modes[] = {
    {"forward", .tolerance = 1e-5},
    {"frozen", .training = true, .gradients = true, .tolerance = 1e-5, .tolerance_grad = 3e-5},
    {"batch", .training = true, .batch_statistics = true, .tolerance = 3e-4},
    {"smooth", true, true, true, true, .tolerance = 3e-4, .tolerance_grad = 3e-4},
};

typedef struct rig {
    hl_tensor_map *golden;
    const struct mode *mode;
    hl_backend *backend;
    hl_graph *graph;
    hl_program *program;
    hl_run_state run;
    int64_t batch, size, classes;
    float smoothing, width;
    int values, gradients; /* how many layers were compared */
    double worst[4];       /* values, gradients of layers, gradients of parameters, statistics */
} rig;

static const float *floats(const rig *r, const char *key, int64_t count)
{
    char name[160];
    snprintf(name, sizeof name, "%s/%s", r->mode->name, key);
    const hl_named_tensor *t = hl_tensor_map_find(r->golden, name);
    cr_assert(t != NULL && t->dtype == HL_DTYPE_F32 && (int64_t)hl_named_tensor_count(t) == count,
              "%s is not in the golden file, or not of %lld values", name, (long long)count);
    return t->data;
}

static int64_t integer(const rig *r, const char *key)
{
    const hl_named_tensor *t = hl_tensor_map_find(r->golden, key);
    cr_assert(t != NULL && t->dtype == HL_DTYPE_I64);
    return *(const int64_t *)t->data;
}

static void open_golden(rig *r, const golden_case *c)
{
    char path[128];
    snprintf(path, sizeof path, "tests/fixtures/models/%s.safetensors", c->name);
    cr_assert_eq(hl_safetensors_read(path, &r->golden), HL_OK, "%s", hl_last_error());
    cr_assert_str_eq(hl_tensor_map_meta(r->golden, "format"), "heirloom model golden 1");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (strcmp(modes[i].name, c->mode) == 0)
            r->mode = &modes[i];
    r->batch = integer(r, "batch");
    r->size = integer(r, "image_size");
    r->classes = integer(r, "classes");
    r->smoothing = *(const float *)hl_tensor_map_find(r->golden, "smoothing")->data;
    r->width = *(const float *)hl_tensor_map_find(r->golden, "width")->data;
}

static void build(rig *r)
{
    const hl_model_info *info;
    cr_assert_eq(hl_model_find(hl_tensor_map_meta(r->golden, "model"), &info), HL_OK, "%s", hl_last_error());
    hl_model_info variant = *info;
    if (r->width != 1.0f)
        variant.width = (double)r->width;
    cr_assert_eq(hl_model_build(&variant, r->size, r->classes, &r->graph), HL_OK, "%s", hl_last_error());
    formula_fill(r->graph);
    for (size_t i = 0; i < r->graph->param_count; i++) {
        hl_param *p = r->graph->params[i];
        p->trained = r->mode->training && !hl_param_is_statistic(p);
        p->moves = hl_param_is_statistic(p) && r->mode->batch_statistics;
    }
    for (size_t v = 0; v < r->graph->node_count; v++) {
        hl_node *node = r->graph->nodes[v];
        node->batch_statistics = node->op == HL_OP_NORM && r->mode->batch_statistics;
        node->act = r->mode->smooth && node->op == HL_OP_ACT ? ref_act_smooth(node->act) : node->act;
        node->drop = 0.0f;
    }
    r->backend = test_backend(2);
    cr_assert_eq(hl_graph_place(r->graph, r->backend), HL_OK, "%s", hl_last_error());
    r->run = (hl_run_state){.grad_scale = 1.0f};
}

static void compile(rig *r, bool training)
{
    const hl_compile_options options = {.batch = r->batch,
                                        .training = training,
                                        .raw_input = true,
                                        .keep_all = true,
                                        .smoothing = r->smoothing,
                                        .run = &r->run};
    hl_program_destroy(r->program);
    cr_assert_eq(hl_program_compile(r->graph, r->backend, &options, &r->program), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(r->backend->ops->finish(r->backend), HL_OK); /* its memory is cleared */
    char key[32];
    snprintf(key, sizeof key, "%s/images", r->mode->name);
    const char *images = hl_tensor_map_meta(r->golden, key);
    cr_assert_not_null(images);
    formula_values(images, -2.0, 2.0, hl_program_images(r->program), r->batch * r->size * r->size * 3);
    formula_labels(hl_program_labels(r->program), r->batch, r->classes);
    cr_assert_eq(hl_program_forward(r->program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(r->backend->ops->finish(r->backend), HL_OK, "%s", hl_last_error());
}

static void stop(rig *r)
{
    hl_program_destroy(r->program);
    hl_graph_destroy(r->graph);
    hl_backend_close(r->backend);
    hl_tensor_map_destroy(r->golden);
}

/* Largest error among the parts of a summary, relative to `norm`. An error vector of norm e |x| moves the
 * norm and the first elements by at most that; the probe, whose weights have variance 1/3, by about
 * e |x| / sqrt(3); the sum by e |x| where the errors are independent, by sqrt(count) e |x| at worst: it is
 * given a factor of ten. */
static double difference(const summary *have, const float *want, double norm)
{
    if (!isfinite(have->norm) || !isfinite(have->sum) || !isfinite(have->probe))
        return INFINITY; /* fmax below would pass NaN over */
    double first = 0.0, sum = fabs(have->sum - (double)want[1]) / 10.0,
           probe = fabs(have->probe - (double)want[2]);
    for (int i = 0; i < SUMMARY_FIRST; i++) {
        double d = have->first[i] - (double)want[3 + i];
        first += d * d;
    }
    double worst = fmax(fmax(fabs(have->norm - (double)want[0]), sqrt(first)), fmax(probe, sum));
    return worst / fmax(norm, 1e-30);
}

static void compare(rig *r, int kind, const char *name, const float *values, int64_t count, const float *want,
                    double norm)
{
    double limit = kind == 1 || kind == 2 ? r->mode->tolerance_grad : r->mode->tolerance;
    summary s = formula_summary(values, count);
    double d = difference(&s, want, norm);
    r->worst[kind] = fmax(r->worst[kind], d);
    cr_expect(d <= limit, "%s: off by %.2g of %g (norm %g, want %g; sum %g, want %g; probe %g, want %g)",
              name, d, norm, s.norm, (double)want[0], s.sum, (double)want[1], s.probe, (double)want[2]);
}

static void check_outputs(rig *r)
{
    const float *logits = hl_program_logits(r->program), *losses = hl_program_losses(r->program);
    const float *want = floats(r, "logits", r->batch * r->classes),
                *want_losses = floats(r, "losses", r->batch);
    double off = 0.0, norm = 0.0;
    for (int64_t i = 0; i < r->batch * r->classes; i++) {
        double d = (double)logits[i] - (double)want[i];
        off += d * d;
        norm += (double)want[i] * (double)want[i];
    }
    cr_expect(off <= r->mode->tolerance * r->mode->tolerance * norm, "logits: off by %.2g of their norm",
              sqrt(off / norm));
    r->worst[0] = fmax(r->worst[0], sqrt(off / norm));
    for (int64_t n = 0; n < r->batch; n++)
        cr_expect(fabs((double)losses[n] - (double)want_losses[n]) <=
                      r->mode->tolerance * (1.0 + (double)want_losses[n]),
                  "loss %lld: %g, want %g", (long long)n, (double)losses[n], (double)want_losses[n]);
}

/* The value of a layer or its gradient, where the golden has it and fusion has left it in one piece. */
static void check_layer(rig *r, const hl_node *node, bool gradient)
{
    char key[160];
    snprintf(key, sizeof key, "%s/%svalue/%s", r->mode->name, gradient ? "d" : "", node->name);
    if (hl_tensor_map_find(r->golden, key) == NULL)
        return;
    int64_t count = r->batch * hl_shape_count(node->shape);
    float *values = malloc((size_t)count * sizeof *values);
    hl_status status = hl_program_value(r->program, node->name, gradient, values, count);
    cr_assert(status == HL_OK || status == HL_E_NOT_FOUND, "%s", hl_last_error());
    if (status == HL_OK) {
        const float *want = floats(r, key + strlen(r->mode->name) + 1, SUMMARY_SIZE);
        compare(r, gradient, key, values, count, want, (double)want[0]);
        *(gradient ? &r->gradients : &r->values) += 1;
    }
    free(values);
}

static void check_layers(rig *r)
{
    for (size_t v = 0; v < r->graph->node_count; v++) {
        check_layer(r, r->graph->nodes[v], false);
        if (r->mode->gradients)
            check_layer(r, r->graph->nodes[v], true);
    }
    cr_expect_geq(r->values, 3, "%s: only %d layers were compared", hl_tensor_map_meta(r->golden, "model"),
                  r->values);
    cr_expect(!r->mode->gradients || r->gradients > 0, "%s: no layer's gradient was compared",
              hl_tensor_map_meta(r->golden, "model"));
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(hl_param *const *)a)->name, (*(hl_param *const *)b)->name);
}

/* Shifts whose channels go into another norm on batch statistics have no gradient at all, and what is
 * computed is rounding. So scale and shift are taken relative to their norm together: "bias" stands right
 * before "weight" in the order of names. Likewise biases of convolutions in front of such a norm. */
static double joint_norm(hl_param *const *params, const float *want, int64_t count, int64_t i)
{
    double own = (double)want[i * SUMMARY_SIZE];
    bool bias = params[i]->role == HL_PARAM_BIAS && i + 1 < count && hl_param_is_conv(params[i + 1]);
    int64_t other = params[i]->role == HL_PARAM_NORM_SHIFT   ? i + 1
                    : bias                                   ? i + 1
                    : params[i]->role == HL_PARAM_NORM_SCALE ? i - 1
                                                             : i;
    return other == i || other < 0 || other >= count ? own : hypot(own, (double)want[other * SUMMARY_SIZE]);
}

/* Parameters or running statistics, sorted by name, against rows of summaries. */
static void check_params(rig *r, bool statistics, const char *key, const char *names_key)
{
    hl_param **params = malloc(r->graph->param_count * sizeof *params);
    int64_t count = 0;
    for (size_t i = 0; i < r->graph->param_count; i++)
        if (hl_param_is_statistic(r->graph->params[i]) == statistics)
            params[count++] = r->graph->params[i];
    qsort(params, (size_t)count, sizeof *params, by_name);
    const float *want = floats(r, key, count * SUMMARY_SIZE);
    char name[64];
    snprintf(name, sizeof name, "%s/%s", r->mode->name, names_key);
    const hl_named_tensor *names = hl_tensor_map_find(r->golden, name);
    cr_assert(names != NULL && names->dtype == HL_DTYPE_I64 && names->shape[0] == count);
    const int64_t *hashes = names->data;
    for (int64_t i = 0; i < count; i++) {
        cr_assert_eq(hashes[i], (int64_t)formula_hash(params[i]->name), "%s is another parameter in PyTorch",
                     params[i]->name);
        compare(r, statistics ? 3 : 2, params[i]->name, statistics ? params[i]->value : params[i]->grad,
                params[i]->count, want + i * SUMMARY_SIZE, joint_norm(params, want, count, i));
    }
    free(params);
}

ParameterizedTestParameters(goldens, networks_compute_what_pytorch_computes)
{
    static golden_case cases[] = {{"mobilenet_v2", "frozen"},
                                  {"mobilenet_v2", "batch"},
                                  {"mobilenet_v2", "smooth"},
                                  {"mobilenet_v2_224", "forward"},
                                  {"resnet18", "frozen"},
                                  {"resnet18", "batch"},
                                  {"resnet18", "smooth"},
                                  {"resnet34", "frozen"},
                                  {"resnet50", "frozen"},
                                  {"resnet50", "batch"},
                                  {"resnet50", "smooth"},
                                  {"efficientnet_lite0", "frozen"},
                                  {"efficientnet_lite0", "batch"},
                                  {"efficientnet_lite0", "smooth"},
                                  {"efficientnet_lite1", "frozen"},
                                  {"efficientnet_lite2", "frozen"},
                                  {"efficientnet_lite3", "frozen"},
                                  {"efficientnet_lite4", "frozen"},
                                  {"resnext50_32x4d", "frozen"},
                                  {"resnext50_32x4d", "batch"},
                                  {"seresnet50", "frozen"},
                                  {"seresnet50", "smooth"},
                                  {"seresnet18", "frozen"},
                                  {"seresnet18", "batch"},
                                  {"vgg11_bn", "frozen"},
                                  {"vgg11_bn", "batch"},
                                  {"vgg11_bn", "smooth"},
                                  {"squeezenet1_1", "frozen"},
                                  {"densenet121", "frozen"},
                                  {"densenet121", "batch"},
                                  {"densenet121", "smooth"},
                                  {"mobilenet_v3_small", "frozen"},
                                  {"mobilenet_v3_small", "batch"},
                                  {"mobilenet_v3_small", "smooth"},
                                  {"mnasnet0_5", "frozen"},
                                  {"mnasnet0_5", "batch"},
                                  {"mnasnet0_5", "smooth"},
                                  {"efficientnet_b0", "frozen"},
                                  {"efficientnet_b0", "batch"},
                                  {"tf_efficientnet_b0", "frozen"},
                                  {"tf_efficientnet_b0", "batch"},
                                  {"efficientnet_v2_s", "frozen"},
                                  {"efficientnet_v2_s", "batch"},
                                  {"regnet_x_400mf", "frozen"},
                                  {"regnet_y_400mf", "frozen"},
                                  {"regnet_y_400mf", "batch"},
                                  {"regnet_y_400mf", "smooth"},
                                  {"googlenet", "frozen"},
                                  {"googlenet", "batch"},
                                  {"inception_v3", "frozen"},
                                  {"inception_v3_111", "batch"},
                                  {"shufflenet_v2_x0_5", "frozen"},
                                  {"shufflenet_v2_x0_5", "batch"},
                                  {"shufflenet_v2_x0_5", "smooth"},
                                  {"convnext_tiny", "frozen"},
                                  {"vgg11_bn_96", "frozen"},
                                  {"alexnet", "frozen"}};
    size_t count = sizeof cases / sizeof *cases;
#ifdef __SANITIZE_ADDRESS__
    /* Sanitizers watch memory, not numbers: the smooth mode runs what the others do. */
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (strcmp(cases[i].mode, "smooth") != 0)
            cases[kept++] = cases[i];
    count = kept;
#endif
    return cr_make_param_array(golden_case, cases, count);
}

ParameterizedTest(golden_case *c, goldens, networks_compute_what_pytorch_computes)
{
    rig r = {0};
    open_golden(&r, c);
    build(&r);
    compile(&r, r.mode->training);
    check_outputs(&r);
    if (r.mode->training)
        cr_assert_eq(hl_program_backward(r.program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(r.backend->ops->finish(r.backend), HL_OK, "%s", hl_last_error());
    check_layers(&r);
    if (r.mode->gradients)
        check_params(&r, false, "grads", "names");
    if (r.mode->batch_statistics)
        check_params(&r, true, "stats", "stat_names");
    if (r.mode->training && !r.mode->batch_statistics) {
        /* As evaluated, with the norms folded into the convolutions. */
        compile(&r, false);
        check_outputs(&r);
    }
    cr_log_info("%s, %s: values %.1e, gradients of layers %.1e and parameters %.1e, statistics %.1e", c->name,
                c->mode, r.worst[0], r.worst[1], r.worst[2], r.worst[3]);
    stop(&r);
}
