#include "graph/params.h"

#include <stdlib.h>
#include <string.h>

/* Every trained parameter starts on a cache line, so that vector loops and threads do not share lines. */
static int64_t padded(int64_t count)
{
    const int64_t line = HL_ALIGNMENT / (int64_t)sizeof(float);
    return (count + line - 1) / line * line;
}

static hl_status place_trained(hl_graph *g, hl_placement *placement)
{
    hl_backend *be = placement->backend;
    HL_TRY(be->ops->alloc(be, (size_t)placement->count * sizeof(float), "trained parameters",
                          (void **)&placement->values));
    HL_TRY(be->ops->alloc(be, (size_t)placement->count * sizeof(float), "gradients",
                          (void **)&placement->grads));
    HL_TRY(hl_alloc_array((size_t)placement->trained_count, sizeof *placement->trained, "parameter table",
                          (void **)&placement->trained));
    HL_TRY(hl_alloc_array((size_t)placement->trained_count, sizeof *placement->first, "parameter table",
                          (void **)&placement->first));
    int64_t at = 0;
    int k = 0;
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        if (!p->trained)
            continue;
        placement->trained[k] = p;
        placement->first[k++] = at;
        p->value = placement->values + at;
        p->grad = placement->grads + at;
        HL_TRY(be->ops->upload(be, p->value, p->host, (size_t)p->count * sizeof(float)));
        if (be->host_memory) {
            free(p->host);
            p->host = p->value;
        }
        at += padded(p->count);
    }
    return HL_OK;
}

hl_status hl_graph_place(hl_graph *g, hl_backend *backend)
{
    if (g->placement != NULL)
        return hl_fail(HL_E_INTERNAL, "graph", NULL, "its parameters are placed already");
    hl_placement *placement = calloc(1, sizeof *placement);
    if (placement == NULL)
        return hl_fail_nomem("parameter table", sizeof *placement);
    placement->backend = backend;
    g->placement = placement;
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        if (p->trained) {
            placement->count += padded(p->count);
            placement->trained_count++;
        } else if (!backend->host_memory) {
            HL_TRY(
                backend->ops->alloc(backend, (size_t)p->count * sizeof(float), p->name, (void **)&p->value));
            HL_TRY(backend->ops->upload(backend, p->value, p->host, (size_t)p->count * sizeof(float)));
        }
    }
    return place_trained(g, placement);
}

hl_status hl_graph_download(hl_graph *g)
{
    hl_backend *be = g->placement != NULL ? g->placement->backend : NULL;
    if (be == NULL || be->host_memory)
        return HL_OK;
    for (size_t i = 0; i < g->param_count; i++)
        HL_TRY(be->ops->download(be, g->params[i]->host, g->params[i]->value,
                                 (size_t)g->params[i]->count * sizeof(float)));
    return HL_OK;
}

hl_status hl_graph_upload(hl_graph *g)
{
    hl_backend *be = g->placement != NULL ? g->placement->backend : NULL;
    if (be == NULL || be->host_memory)
        return HL_OK;
    for (size_t i = 0; i < g->param_count; i++)
        HL_TRY(be->ops->upload(be, g->params[i]->value, g->params[i]->host,
                               (size_t)g->params[i]->count * sizeof(float)));
    return HL_OK;
}

void hl_placement_destroy(hl_graph *g)
{
    hl_placement *placement = g->placement;
    if (placement == NULL)
        return;
    hl_backend *be = placement->backend;
    for (size_t i = 0; i < g->param_count; i++) {
        hl_param *p = g->params[i];
        if (!p->trained && !be->host_memory)
            be->ops->free(be, p->value);
        if (p->trained && be->host_memory && p->host == p->value)
            p->host = NULL; /* lies in placement->values */
        p->value = p->grad = NULL;
    }
    be->ops->free(be, placement->values);
    be->ops->free(be, placement->grads);
    free(placement->trained);
    free(placement->first);
    free(placement);
    g->placement = NULL;
}

void hl_graph_destroy(hl_graph *g)
{
    if (g == NULL)
        return;
    hl_placement_destroy(g);
    for (size_t i = 0; i < g->param_count; i++)
        free(g->params[i]->host);
    free(g->params);
    free(g->nodes);
    free(g->order);
    hl_arena_destroy(g->arena);
    free(g);
}
