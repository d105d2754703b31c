/* Execution plans of operation graphs: found once, kept, bound to memory and run. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cudnn_choose.h"
#include "base/log.h"
#include "base/memory.h"

typedef struct cached_plan {
    char *text; /* of the graph */
    cudnnBackendDescriptor_t plan;
    cudnnBackendDescriptor_t
        parts[HL_CUDNN_MADE + HL_PLAN_KNOBS + 3]; /* what it was made of, which lives as long */
    int part_count;
    size_t workspace;
    bool compiled;
} cached_plan;

struct hl_cuda_plans {
    cached_plan *items;
    size_t count, capacity;
    int reused;
    hl_plan_store *store;
};

hl_status hl_cuda_plans_open(hl_cuda *cuda)
{
    char identity[400];
    hl_cuda_device device;
    cuda->plans = calloc(1, sizeof *cuda->plans);
    if (cuda->plans == NULL)
        return hl_fail_nomem("plans", sizeof *cuda->plans);
    if (cuda->planner)
        return HL_OK;
    HL_TRY(hl_cuda_describe(cuda->number, &device));
    snprintf(identity, sizeof identity, "cuDNN %zu, CUDA %d, %s, %d.%d, %d multiprocessors%s%s",
             cudnnGetVersion(), CUDART_VERSION, device.name, device.major, device.minor,
             device.multiprocessors, cuda->deterministic ? ", deterministic" : "",
             cuda->autotune ? ", timed" : "");
    return hl_plan_store_open(identity, &cuda->plans->store);
}

void hl_cuda_plans_close(hl_cuda *cuda)
{
    hl_cuda_plans *plans = cuda->plans;
    if (plans == NULL)
        return;
    for (size_t i = 0; i < plans->count; i++) {
        cudnnBackendDestroyDescriptor(plans->items[i].plan);
        while (plans->items[i].part_count > 0)
            cudnnBackendDestroyDescriptor(plans->items[i].parts[--plans->items[i].part_count]);
        free(plans->items[i].text);
    }
    hl_plan_store_close(plans->store);
    free(plans->items);
    free(plans);
    cuda->plans = NULL;
}

hl_cuda_plan_counts hl_cuda_count_plans(const hl_backend *backend)
{
    const hl_cuda_plans *plans = ((const hl_cuda *)backend)->plans;
    hl_cuda_plan_counts counts = {.plans = (int)plans->count, .reused = plans->reused};
    for (size_t i = 0; i < plans->count; i++)
        counts.compiled += plans->items[i].compiled;
    return counts;
}
/* Takes the plan and all that it was made of over. */
static hl_status remember(hl_cudnn_graph *g, cudnnBackendDescriptor_t *operations, hl_cudnn_candidate *c,
                          const cached_plan **cached)
{
    hl_cuda_plans *plans = g->cuda->plans;
    HL_TRY(
        hl_grow((void **)&plans->items, &plans->capacity, plans->count + 1, sizeof *plans->items, "plans"));
    cached_plan *item = &plans->items[plans->count];
    *item = (cached_plan){
        .text = strdup(g->text), .plan = c->plan, .workspace = c->workspace, .compiled = c->compiled};
    if (item->text == NULL)
        return hl_fail_nomem("plans", g->text_length);
    for (int i = 0; i < g->made_count; i++)
        item->parts[item->part_count++] = g->made[i];
    item->parts[item->part_count++] = *operations;
    item->parts[item->part_count++] = c->config;
    if (c->engine != NULL)
        item->parts[item->part_count++] = c->engine;
    for (int k = 0; k < HL_PLAN_KNOBS && c->knobs[k] != NULL; k++)
        item->parts[item->part_count++] = c->knobs[k];
    *c = (hl_cudnn_candidate){.compiled = c->compiled, .workspace = c->workspace, .choice = c->choice};
    g->made_count = 0;
    *operations = NULL;
    plans->count++;
    *cached = item;
    hl_log_info(&g->cuda->base.log, "%s: cuDNN engine %lld%s, workspace %zu bytes", g->subject,
                (long long)c->choice.engine, c->compiled ? " (compiled at run time)" : "", c->workspace);
    return HL_OK;
}

static hl_status find_plan(hl_cudnn_graph *g, const cached_plan **cached)
{
    hl_cuda_plans *plans = g->cuda->plans;
    for (size_t i = 0; i < plans->count; i++)
        if (strcmp(plans->items[i].text, g->text) == 0) {
            plans->reused++;
            *cached = &plans->items[i];
            return HL_OK;
        }
    cudnnBackendDescriptor_t operations = NULL;
    hl_cudnn_candidate c = {0};
    hl_status status = hl_cudnn_operations(g, &operations);
    bool kept = status == HL_OK && plans->store != NULL &&
                hl_plan_store_find(plans->store, g->text, &c.choice) && hl_cudnn_restore(g, operations, &c);
    if (status == HL_OK && !kept) {
        status = hl_cudnn_choose(g, operations, &c);
        if (status == HL_OK && plans->store != NULL)
            hl_plan_store_add(plans->store, g->text, &c.choice);
    }
    if (status == HL_OK)
        status = remember(g, &operations, &c, cached);
    hl_cudnn_drop(&c);
    hl_cudnn_destroy(&operations);
    return status;
}

hl_status hl_cudnn_plan(hl_cudnn_graph *g, hl_cudnn_call *call)
{
    const cached_plan *cached = NULL;
    hl_status status = g->status;
    *call = (hl_cudnn_call){0};
    if (status == HL_OK)
        status = find_plan(g, &cached);
    if (status == HL_OK) {
        call->plan = cached->plan;
        call->workspace = cached->workspace;
        for (int i = 0; i < g->tensor_count; i++)
            if (!g->tensors[i].is_virtual)
                call->uids[call->operands++] = i + 1;
    }
    while (g->made_count > 0)
        hl_cudnn_destroy(&g->made[--g->made_count]);
    return status;
}
