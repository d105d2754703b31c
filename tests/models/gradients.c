/* Loss and gradients of a network as a file, for scripts/check_models.py to compare with PyTorch's:
 *
 *     gradients MODEL WEIGHTS INPUT OUTPUT [smooth]
 *
 * INPUT holds "images", f32 [N, H, H, C], normalised and channels-last, and "labels", i64 [N]. OUTPUT gets
 * "logits" [N, classes], "losses" [N] (cross-entropy, not averaged) and, by its name in the network, the
 * gradient of their mean with respect to every parameter. Norms use running statistics, nothing is dropped;
 * `smooth` puts SiLU in place of every activation that has kinks. On the CPU, in
 * fp32. */
#include <stdio.h>
#include <string.h>

#include "graph/params.h"
#include "graph/program.h"
#include "io/safetensors.h"
#include "io/weights_file.h"
#include "models/weights.h"
#include "support/ref_ops.h"

typedef struct job {
    hl_tensor_map *input, *weights, *output;
    const hl_named_tensor *images, *labels;
    int64_t batch, size, classes;
    hl_backend *backend;
    hl_graph *graph;
    hl_program *program;
    hl_run_state run;
} job;

static hl_status read_input(job *j, const char *path)
{
    HL_TRY(hl_safetensors_read(path, &j->input));
    j->images = hl_tensor_map_find(j->input, "images");
    j->labels = hl_tensor_map_find(j->input, "labels");
    if (j->images == NULL || j->images->dtype != HL_DTYPE_F32 || j->images->ndim != 4 || j->labels == NULL ||
        j->labels->dtype != HL_DTYPE_I64 || j->labels->ndim != 1 ||
        j->labels->shape[0] != j->images->shape[0] || j->images->shape[1] != j->images->shape[2])
        return hl_fail(HL_E_INPUT, path, NULL, "holds no square f32 images with i64 labels");
    j->batch = j->images->shape[0];
    j->size = j->images->shape[1];
    return HL_OK;
}

static hl_status build(job *j, const char *name, const char *weights, bool smooth)
{
    const hl_model_info *info;
    HL_TRY(hl_model_find(name, &info));
    HL_TRY(hl_weights_open(weights, &j->weights, NULL));
    j->classes = hl_weights_classes(info, j->weights);
    HL_TRY(hl_model_build(info, j->size, j->classes, &j->graph));
    HL_TRY(hl_weights_load(j->graph, info, j->weights, weights, NULL));
    for (size_t i = 0; i < j->graph->param_count; i++)
        j->graph->params[i]->trained = !hl_param_is_statistic(j->graph->params[i]);
    for (size_t v = 0; v < j->graph->node_count; v++) {
        hl_node *node = j->graph->nodes[v];
        node->act = smooth && node->op == HL_OP_ACT ? ref_act_smooth(node->act) : node->act;
        node->drop = 0.0f;
    }
    const hl_backend_options options = {.device = "cpu"};
    HL_TRY(hl_backend_open(&options, &j->backend));
    return hl_graph_place(j->graph, j->backend);
}

static hl_status compute(job *j)
{
    const hl_compile_options options = {
        .batch = j->batch, .training = true, .raw_input = true, .run = &j->run};
    j->run = (hl_run_state){.grad_scale = 1.0f};
    HL_TRY(hl_program_compile(j->graph, j->backend, &options, &j->program));
    memcpy(hl_program_images(j->program), j->images->data, j->images->bytes);
    const int64_t *labels = j->labels->data;
    for (int64_t n = 0; n < j->batch; n++) {
        if (labels[n] < 0 || labels[n] >= j->classes)
            return hl_fail(HL_E_INPUT, "labels", NULL, "%lld is no class", (long long)labels[n]);
        hl_program_labels(j->program)[n] = (int32_t)labels[n];
    }
    HL_TRY(hl_program_forward(j->program));
    HL_TRY(hl_program_backward(j->program));
    return j->backend->ops->finish(j->backend);
}

static hl_status write_output(job *j, const char *path)
{
    const int64_t logits[2] = {j->batch, j->classes};
    HL_TRY(hl_tensor_map_create(&j->output));
    HL_TRY(hl_tensor_map_add(j->output, "logits", HL_DTYPE_F32, 2, logits, hl_program_logits(j->program)));
    HL_TRY(hl_tensor_map_add(j->output, "losses", HL_DTYPE_F32, 1, logits, hl_program_losses(j->program)));
    for (size_t i = 0; i < j->graph->param_count; i++) {
        const hl_param *p = j->graph->params[i];
        int64_t shape[4];
        int ndim = hl_param_file_shape(p, shape);
        if (p->trained)
            HL_TRY(hl_tensor_map_add(j->output, p->name, HL_DTYPE_F32, ndim, shape, p->grad));
    }
    return hl_safetensors_write(path, j->output);
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 6 || (argc == 6 && strcmp(argv[5], "smooth") != 0)) {
        fprintf(stderr, "usage: %s MODEL WEIGHTS INPUT OUTPUT [smooth]\n", argv[0]);
        return 2;
    }
    job j = {0};
    hl_status status = read_input(&j, argv[3]);
    if (status == HL_OK)
        status = build(&j, argv[1], argv[2], argc == 6);
    if (status == HL_OK)
        status = compute(&j);
    if (status == HL_OK)
        status = write_output(&j, argv[4]);
    if (status != HL_OK)
        fprintf(stderr, "gradients: %s\n", hl_last_error());
    hl_program_destroy(j.program);
    hl_graph_destroy(j.graph);
    hl_backend_close(j.backend);
    hl_tensor_map_destroy(j.input);
    hl_tensor_map_destroy(j.weights);
    hl_tensor_map_destroy(j.output);
    return hl_status_exit_code(status);
}
