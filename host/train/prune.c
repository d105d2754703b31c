/* A network without the contributions that training made small. */
#include <heirloom/gates.h>

#include <math.h>

#include "graph/params.h"
#include "graph/shrink.h"
#include "io/safetensors.h"
#include "train/model.h"

hl_status hl_model_prune(hl_model *m, double threshold, int64_t *pruned, int64_t *total)
{
    *pruned = *total = 0;
    for (size_t i = 0; i < m->graph->param_count; i++) {
        hl_param *p = m->graph->params[i];
        for (int64_t k = 0; p->role == HL_PARAM_GATE && k < p->count; k++) {
            if (fabs(1.0 + (double)p->host[k]) <= threshold) {
                p->host[k] = -1.0f;
                ++*pruned;
            }
        }
        *total += p->role == HL_PARAM_GATE ? p->count : 0;
    }
    hl_model_changed(m);
    return hl_graph_upload(m->graph);
}

static void count(const hl_graph *g, int64_t *params, int64_t *macs)
{
    *params = *macs = 0;
    for (size_t i = 0; i < g->param_count; i++)
        *params += hl_param_is_statistic(g->params[i]) ? 0 : g->params[i]->count;
    for (size_t v = 0; v < g->node_count; v++) {
        const hl_node *n = g->nodes[v];
        *macs += hl_node_has_weight(n) ? n->shape.h * n->shape.w * n->expr.weight->count : 0;
    }
}

static hl_status write_tensors(const hl_graph *g, const char *path)
{
    hl_tensor_map *map;
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = hl_tensor_map_set_meta(map, "format", "pt");
    for (size_t i = 0; status == HL_OK && i < g->param_count; i++) {
        const hl_param *p = g->params[i];
        int64_t shape[4];
        int ndim = hl_param_file_shape(p, shape);
        status = hl_tensor_map_add_ref(map, p->name, HL_DTYPE_F32, ndim, shape, p->host);
    }
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

hl_status hl_model_export_shrunk(hl_model *m, const char *path, hl_shrink_report *r)
{
    hl_graph *smaller;
    hl_shrink_counts counts;
    if (m->backend != NULL)
        return hl_fail(HL_E_ARG, path, "open the run again",
                       "a network that has computed is not taken apart");
    HL_TRY(hl_model_merge(m));
    count(m->graph, &r->params_before, &r->macs_before);
    HL_TRY(hl_graph_shrink(m->graph, &smaller, &counts));
    count(smaller, &r->params_after, &r->macs_after);
    r->removed = counts.removed;
    r->left = counts.left;
    hl_graph_destroy(m->graph);
    m->graph = smaller;
    return hl_onnx_is_name(path) ? hl_model_export(m, path) : write_tensors(smaller, path);
}
