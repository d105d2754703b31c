#include "support/methods.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "support/device.h"
#include "support/formula.h"

/* A quarter of the channels, so that all methods on all backbones take seconds: the layers, windows, strides
 * and numbers of groups are those of the whole networks (the first stage of the ResNeXt is depthwise so). */
const method_backbone method_backbones[METHOD_BACKBONES] = {{"resnet18", 0.25},
                                                            {"mobilenet_v2", 0.5},
                                                            {"resnext50_32x4d", 0.25},
                                                            {"convnext_tiny", 0.25},
                                                            {"densenet121", 0.25}};

#define ROW(GOLDEN, ...)                                                                                     \
    {                                                                                                        \
        .golden = GOLDEN, .text = __VA_ARGS__                                                                \
    }
const method_row method_rows[] = {
    ROW("linear", "linear"),
    ROW("full", "full"),
    ROW("norm", "norm"),
    ROW("projection", "projection", .exec = HL_EXEC_FOLD),
    ROW("projection", "projection", .exec = HL_EXEC_CACHE),
    ROW("projection-spatial", "projection:scope=spatial"),
    ROW("projection-dense", "projection:scope=dense"),
    ROW("projection-linear-bias", "projection:linear=1,bias=1", .only = "convnext_tiny"),
    ROW("projection-rank", "projection:rank=2"),
    ROW("lora", "lora:r=8,alpha=16"),
    ROW("lora-spatial", "lora:r=8,alpha=16,spatial=1"),
    ROW("dora", "dora:r=8,alpha=16", .own_gradient = true),
    ROW("loha", "loha:r=8,alpha=8"),
    ROW("lokr", "lokr:r=8,alpha=8"),
    ROW("convlora", "convlora:r=8,alpha=16"),
    ROW("piggyback", "piggyback", .own_gradient = true),
    ROW("atoms", "atoms:m=9", .any_sign = true),
};

int method_row_count(void)
{
    return sizeof method_rows / sizeof *method_rows;
}

static const hl_model_info *variant_of(const method_backbone *b)
{
    static hl_model_info variants[METHOD_BACKBONES];
    hl_model_info *variant = &variants[b - method_backbones];
    const hl_model_info *info;
    cr_assert_eq(hl_model_find(b->model, &info), HL_OK, "%s", hl_last_error());
    *variant = *info;
    variant->width = b->width;
    return variant;
}

hl_graph *method_plain_graph(const method_backbone *b)
{
    hl_graph *graph;
    cr_assert_eq(hl_model_build(variant_of(b), METHODS_SIZE, METHODS_CLASSES, &graph), HL_OK, "%s",
                 hl_last_error());
    return graph;
}

/* Ranges of what methods add, by method_kind: -0.2 to 0.2 but for these. */
static const struct {
    const char *kind;
    double low, high; /* both 0: as it is */
} ranges[] = {{"mask", 0.0, 1e-2},     {"lora_magnitude_vector", 0, 0}, {"atoms", 0, 0},
              {"ssf.scale", 0.8, 1.2}, {"lora_A", -0.05, 0.05},         {"lora_B", -0.05, 0.05}};

static void fill_added(hl_param *p)
{
    double low = -0.2, high = 0.2;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (strcmp(method_kind(p), ranges[i].kind) == 0) {
            low = ranges[i].low;
            high = ranges[i].high;
        }
    if (low < high)
        formula_values(p->name, low, high, p->host, p->count);
}

static void smoothen(hl_graph *graph)
{
    for (size_t v = 0; v < graph->node_count; v++) {
        hl_node *node = graph->nodes[v];
        if (node->op == HL_OP_ACT && (node->act == HL_ACT_RELU || node->act == HL_ACT_RELU6))
            node->act = HL_ACT_SILU;
        if (node->op == HL_OP_POOL)
            node->pool_max = node->count_padding = false;
        node->drop = 0.0f;
    }
}

hl_model *method_model(const method_backbone *b, const method_row *row)
{
    hl_model *m = calloc(1, sizeof *m);
    m->info = variant_of(b);
    m->classes = METHODS_CLASSES;
    m->preprocess = (hl_preprocess){.size = METHODS_SIZE, .resize = METHODS_SIZE, .std = {1.0f, 1.0f, 1.0f}};
    m->graph = method_plain_graph(b);
    formula_fill(m->graph);
    cr_assert_eq(hl_model_hash_base(m), HL_OK, "%s", hl_last_error());
    size_t count = m->graph->param_count;
    hl_param **own = malloc(count * sizeof *own);
    memcpy(own, m->graph->params, count * sizeof *own);
    cr_assert_eq(hl_model_apply_method(m, row->text, HL_NORM_DEFAULT, 1), HL_OK, "%s", hl_last_error());
    for (size_t i = 0; i < m->graph->param_count; i++) {
        bool added = true;
        for (size_t k = 0; k < count && added; k++)
            added = own[k] != m->graph->params[i];
        if (added && m->graph->params[i]->trained)
            fill_added(m->graph->params[i]);
    }
    free(own);
    smoothen(m->graph);
    return m;
}

const char *method_kind(const hl_param *p)
{
    static const char *const added[] = {".lora_", ".adapter", ".ssf."};
    if (p->head)
        return "head";
    for (size_t i = 0; i < sizeof added / sizeof *added; i++) {
        const char *at = strstr(p->name, added[i]);
        if (at != NULL)
            return at + 1;
    }
    const char *dot = strrchr(p->name, '.'), *kind = dot != NULL ? dot + 1 : p->name;
    return strcmp(kind, "weight") == 0 && p->ndim == 1 ? "scale" : kind;
}

void method_fill_batch(hl_program *program)
{
    formula_images(hl_program_images(program), METHODS_BATCH * METHODS_SIZE * METHODS_SIZE * 3);
    for (int n = 0; n < METHODS_BATCH; n++)
        hl_program_labels(program)[n] = n * 3 % METHODS_CLASSES;
}

void method_logits(hl_model *m, hl_exec exec, float logits[METHODS_BATCH * METHODS_CLASSES])
{
    const hl_compute one_thread = {.threads = 1, .device = test_device()};
    const hl_run_state run = {.grad_scale = 1.0f};
    hl_compile_options options;
    hl_program *program;
    cr_assert_eq(hl_model_place(m, &one_thread), HL_OK, "%s", hl_last_error());
    hl_model_compile_options(m, exec, (hl_number_type){0}, &options);
    options.batch = METHODS_BATCH;
    options.raw_input = true;
    options.run = &run;
    cr_assert_eq(hl_program_compile(m->graph, m->backend, &options, &program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(m->backend->ops->finish(m->backend), HL_OK); /* its memory is cleared */
    method_fill_batch(program);
    cr_assert_eq(hl_program_forward(program), HL_OK, "%s", hl_last_error());
    cr_assert_eq(m->backend->ops->finish(m->backend), HL_OK, "%s", hl_last_error());
    memcpy(logits, hl_program_logits(program), sizeof(float) * METHODS_BATCH * METHODS_CLASSES);
    hl_program_destroy(program);
}
