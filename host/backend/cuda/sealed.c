/* Lists of steps as one CUDA graph each.
 *
 * A list runs step by step the first time, when the libraries load their code, is captured the second time,
 * and is replayed from then on. What changes from step to step (learning rate, seeds) is written to the
 * device in front of it. All FOLD steps of a list but those of changed weights become one kernel launch. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/memory.h"

struct hl_sealed {
    const hl_run_state *run; /* of the steps; NULL where none reads it */
    hl_fold_item *folds;     /* device */
    int fold_count;
    int64_t fold_blocks;
    bool warm;
    cudaGraphExec_t graph;
    int count;
    hl_step *steps[]; /* all but those */
};

static bool is_gathered(const hl_step *step)
{
    return step->kind == HL_STEP_FOLD && !hl_cuda_fold_is_apart(step);
}

static hl_status gather_folds(hl_cuda *cuda, hl_step *const *steps, int count, hl_sealed *list)
{
    hl_fold_item *items;
    for (int i = 0; i < count; i++)
        list->fold_count += is_gathered(steps[i]);
    if (list->fold_count == 0)
        return HL_OK;
    size_t bytes = (size_t)list->fold_count * sizeof *items;
    HL_TRY(hl_alloc_array((size_t)list->fold_count, sizeof *items, "weights to fold", (void **)&items));
    int n = 0;
    for (int i = 0; i < count; i++)
        if (is_gathered(steps[i]))
            items[n++] = hl_cuda_fold_item(steps[i]);
    list->fold_blocks = hl_fold_blocks(items, n);
    hl_status status = hl_cuda_alloc(&cuda->base, bytes, "weights to fold", (void **)&list->folds);
    if (status == HL_OK)
        status = hl_cuda_upload(&cuda->base, list->folds, items, bytes);
    free(items);
    return status;
}

hl_status hl_cuda_seal(hl_backend *backend, hl_step *const *steps, int count, hl_sealed **list)
{
    size_t bytes = sizeof **list + (size_t)count * sizeof *steps;
    hl_sealed *l = *list = calloc(1, bytes);
    if (l == NULL)
        return hl_fail_nomem("list of steps", bytes);
    for (int i = 0; i < count; i++) {
        if (!is_gathered(steps[i]))
            l->steps[l->count++] = steps[i];
        if (l->run == NULL)
            l->run = steps[i]->run;
    }
    hl_status status = gather_folds((hl_cuda *)backend, steps, count, l);
    if (status != HL_OK) {
        hl_cuda_unseal(backend, l);
        *list = NULL;
    }
    return status;
}

void hl_cuda_unseal(hl_backend *backend, hl_sealed *list)
{
    if (list == NULL)
        return;
    /* It may still be running. */
    (void)cudaStreamSynchronize(((hl_cuda *)backend)->compute);
    if (list->graph != NULL)
        cudaGraphExecDestroy(list->graph);
    hl_cuda_free(backend, list->folds);
    free(list);
}

static hl_status enqueue(hl_cuda *cuda, hl_sealed *list)
{
    if (list->fold_count > 0)
        HL_TRY(hl_cuda_status(
            (cudaError_t)hl_launch_fold(list->folds, list->fold_count, list->fold_blocks, cuda->compute),
            "effective weights", "launch a kernel"));
    for (int i = 0; i < list->count; i++)
        HL_TRY(hl_cuda_ops[list->steps[i]->kind]->run(cuda, list->steps[i]));
    return HL_OK;
}

static hl_status capture(hl_cuda *cuda, hl_sealed *list)
{
    cudaGraph_t graph = NULL;
    HL_CUDA(cudaStreamBeginCapture(cuda->compute, cudaStreamCaptureModeThreadLocal), "CUDA graph",
            "begin a capture");
    hl_status status = enqueue(cuda, list);
    cudaError_t ended = cudaStreamEndCapture(cuda->compute, &graph);
    if (status == HL_OK)
        status = hl_cuda_status(ended, "CUDA graph", "capture a list of steps");
    if (status == HL_OK)
        status = hl_cuda_status(cudaGraphInstantiate(&list->graph, graph, 0), "CUDA graph",
                                "make a graph executable");
    if (graph != NULL)
        cudaGraphDestroy(graph);
    return status;
}

hl_status hl_cuda_run(hl_backend *backend, hl_sealed *list)
{
    hl_cuda *cuda = (hl_cuda *)backend;
    if (cuda->planner)
        return hl_fail(HL_E_INTERNAL, "CUDA", NULL, "a planner runs nothing");
    if (list->run != NULL)
        HL_TRY(hl_cuda_status((cudaError_t)hl_launch_set_run_state(*list->run, cuda->run, cuda->compute),
                              "CUDA", "launch a kernel"));
    if (!list->warm) {
        list->warm = true;
        return enqueue(cuda, list);
    }
    if (list->graph == NULL)
        HL_TRY(capture(cuda, list));
    return hl_cuda_status(cudaGraphLaunch(list->graph, cuda->compute), "CUDA graph", "launch");
}
