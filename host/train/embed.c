#include <heirloom/embed.h>

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "io/safetensors.h"
#include "models/feedforward.h"
#include "models/onnx.h"
#include "train/embed.h"

hl_status hl_embed_open(const char *path, const hl_embed_options *options, hl_embedding **embedding)
{
    const hl_embed_options none = {0}, *o = options != NULL ? options : &none;
    const hl_feedforward_spec spec = {.act = o->act, .layers = o->layers};
    *embedding = NULL;
    if (o->kernel_h < 0 || o->kernel_w < 0 || o->kernel_h > 4096 || o->kernel_w > 4096 ||
        (o->kernel_h == 0) != (o->kernel_w == 0))
        return hl_fail(HL_E_ARG, "--spatial", "write rows x columns, as 5x5", "%lldx%lld is out of range",
                       (long long)o->kernel_h, (long long)o->kernel_w);
    hl_embedding *e = calloc(1, sizeof *e);
    if (e == NULL)
        return hl_fail_nomem(path, sizeof *e);
    e->shape = (hl_embed_shape){.kernel_h = o->kernel_h, .kernel_w = o->kernel_w};
    hl_status status = hl_feedforward_read(path, &spec, o->log, &e->feedforward);
    if (status == HL_OK)
        status = hl_feedforward_embed(e->feedforward, e->shape, &e->convolutional);
    if (status != HL_OK) {
        hl_embed_destroy(e);
        return status;
    }
    *embedding = e;
    return HL_OK;
}

void hl_embed_destroy(hl_embedding *e)
{
    if (e == NULL)
        return;
    hl_graph_destroy(e->feedforward);
    hl_graph_destroy(e->convolutional);
    free(e);
}

void hl_embed_count(const hl_embedding *e, hl_embed_counts *counts)
{
    const hl_graph *g = e->convolutional;
    hl_shape in = hl_graph_node(g, g->input)->shape;
    *counts = (hl_embed_counts){
        .inputs = hl_shape_count(in), .channels = in.c, .outputs = hl_graph_node(g, g->output)->shape.c};
    hl_embedded_window(g, &counts->kernel_h, &counts->kernel_w);
    for (size_t v = 0; v < g->node_count; v++)
        counts->layers += g->nodes[v]->op == HL_OP_CONV;
    for (size_t i = 0; i < g->param_count; i++)
        counts->params += hl_param_is_statistic(g->params[i]) ? 0 : g->params[i]->count;
}

/* The layers in the order they run, for whoever rebuilds the network around a state dict; NULL where a name
 * is no UTF-8. */
static json_t *describe(const hl_graph *g)
{
    static const char *const names[] = {[HL_OP_CONV] = "conv",
                                        [HL_OP_NORM] = "norm",
                                        [HL_OP_ACT] = "act",
                                        [HL_OP_ADD] = "add",
                                        [HL_OP_MUL] = "mul"};
    json_t *list = json_array();
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *n = g->nodes[g->order[k]];
        if (n->op == HL_OP_INPUT || n->op == HL_OP_DROPOUT)
            continue;
        json_t *layer = json_pack("{s:s, s:s}", "name", n->name, "op", names[n->op]), *from = json_array();
        for (int i = 0; i < n->in_count; i++) {
            const hl_node *source = hl_graph_node(g, n->in[i]);
            while (source->op == HL_OP_DROPOUT)
                source = hl_graph_node(g, source->in[0]);
            json_array_append_new(from, json_string(source->name));
        }
        if (layer == NULL || json_array_size(from) != (size_t)n->in_count) {
            json_decref(layer);
            json_decref(from);
            json_decref(list);
            return NULL;
        }
        if (n->op == HL_OP_ACT)
            json_object_set_new(layer, "act", json_string(hl_act_name(n->act)));
        if (n->op == HL_OP_CONV)
            json_object_set_new(layer, "kernel",
                                json_pack("[I,I]", (json_int_t)n->window.kh, (json_int_t)n->window.kw));
        json_object_set_new(layer, "in", from);
        json_array_append_new(list, layer);
    }
    return list;
}

static hl_status write_tensors(const hl_graph *g, const char *path)
{
    hl_tensor_map *map;
    json_t *layers = describe(g);
    char *text = json_dumps(layers, JSON_COMPACT);
    json_decref(layers);
    if (text == NULL)
        return hl_fail(HL_E_INPUT, path, "rename it", "a layer's name is no UTF-8");
    hl_status status = hl_tensor_map_create(&map);
    if (status == HL_OK)
        status = hl_tensor_map_set_meta(map, "format", "pt");
    if (status == HL_OK)
        status = hl_tensor_map_set_meta(map, "layers", text);
    for (size_t i = 0; status == HL_OK && i < g->param_count; i++) {
        const hl_param *p = g->params[i];
        status = hl_tensor_map_add_ref(map, p->name, HL_DTYPE_F32, p->ndim, p->shape, p->host);
    }
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    free(text);
    return status;
}

hl_status hl_embed_write(const hl_embedding *e, const char *path)
{
    const hl_graph *g = e->convolutional;
    if (!hl_onnx_is_name(path))
        return write_tensors(g, path);
    hl_shape in = hl_graph_node(g, g->input)->shape;
    const hl_onnx_meta meta = {.image_size = in.h, .open_size = in.h > 1 || in.w > 1};
    return hl_onnx_export(g, &meta, path);
}
