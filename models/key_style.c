/* What a parameter is called in files of other projects, and in old ones. */
#include <stdio.h>
#include <string.h>

#include "models/timm_keys.h"
#include "models/weights.h"

/* Number of blocks in stages before `stage`: EfficientNet-PyTorch numbers blocks through, timm by stage. */
static int blocks_before(const hl_graph *graph, int stage)
{
    int count = 0;
    for (size_t v = 0; v < graph->node_count; v++) {
        int s, b, used = 0;
        if (sscanf(graph->nodes[v]->name, "blocks.%d.%d.conv_dw%n", &s, &b, &used) == 2 && used > 0 &&
            graph->nodes[v]->name[used] == '\0' && s < stage)
            count++;
    }
    return count;
}

static bool has_layer(const hl_graph *graph, const char *name)
{
    for (size_t v = 0; v < graph->node_count; v++)
        if (strcmp(graph->nodes[v]->name, name) == 0)
            return true;
    return false;
}

/* timm's "blocks.1.0.bn2.weight" as EfficientNet-PyTorch's "_blocks.1._bn1.weight". */
static const char *efficientnet_block_key(const hl_graph *graph, int stage, int block, const char *rest,
                                          char *buf, size_t size)
{
    static const char *const expanded[][2] = {
        {"conv_pw.", "_expand_conv."},      {"bn1.", "_bn0."},
        {"conv_dw.", "_depthwise_conv."},   {"bn2.", "_bn1."},
        {"se.conv_reduce.", "_se_reduce."}, {"se.conv_expand.", "_se_expand."},
        {"conv_pwl.", "_project_conv."},    {"bn3.", "_bn2."}};
    static const char *const plain[][2] = {
        {"conv_dw.", "_depthwise_conv."},   {"bn1.", "_bn1."},
        {"se.conv_reduce.", "_se_reduce."}, {"se.conv_expand.", "_se_expand."},
        {"conv_pw.", "_project_conv."},     {"bn2.", "_bn2."}};
    char probe[64];
    snprintf(probe, sizeof probe, "blocks.%d.%d.conv_pwl", stage, block);
    bool expands = has_layer(graph, probe);
    const char *const(*map)[2] = expands ? expanded : plain;
    size_t count = expands ? sizeof expanded / sizeof *expanded : sizeof plain / sizeof *plain;
    for (size_t i = 0; i < count; i++)
        if (strncmp(rest, map[i][0], strlen(map[i][0])) == 0) {
            snprintf(buf, size, "_blocks.%d.%s%s", blocks_before(graph, stage) + block, map[i][1],
                     rest + strlen(map[i][0]));
            return buf;
        }
    snprintf(buf, size, "%s", rest);
    return buf;
}

/* "features.denseblock1.denselayer2.norm1.weight" as "...denselayer2.norm.1.weight"; false for other names.
 */
static bool densenet_key(const char *name, char *buf, size_t size)
{
    int block, layer, digit = 0;
    if (sscanf(name, "features.denseblock%d.denselayer%d.%*[a-z]%n", &block, &layer, &digit) != 2 ||
        digit == 0)
        return false;
    snprintf(buf, size, "%.*s.%s", digit, name, name + digit);
    return true;
}

const char *hl_weights_key(hl_key_style style, const hl_model_info *info, const hl_graph *graph,
                           const char *name, char *buf, size_t size)
{
    static const char *const outer[][2] = {{"conv_stem.", "_conv_stem."},
                                           {"bn1.", "_bn0."},
                                           {"conv_head.", "_conv_head."},
                                           {"bn2.", "_bn1."},
                                           {"classifier.", "_fc."}};
    int stage, block, used = 0;
    if (style == HL_KEYS_TIMM)
        return hl_timm_key(info, graph, name, buf, size);
    if (style == HL_KEYS_EFFICIENTNET && sscanf(name, "blocks.%d.%d.%n", &stage, &block, &used) == 2 &&
        used > 0)
        return efficientnet_block_key(graph, stage, block, name + used, buf, size);
    for (size_t i = 0; style == HL_KEYS_EFFICIENTNET && i < sizeof outer / sizeof *outer; i++)
        if (strncmp(name, outer[i][0], strlen(outer[i][0])) == 0) {
            snprintf(buf, size, "%s%s", outer[i][1], name + strlen(outer[i][0]));
            return buf;
        }
    if (style == HL_KEYS_DENSENET && densenet_key(name, buf, size))
        return buf;
    snprintf(buf, size, "%s", name);
    return buf;
}

int hl_weights_shape(const hl_model_info *info, hl_key_style style, const hl_param *param, int64_t shape[4])
{
    return style == HL_KEYS_TIMM ? hl_timm_shape(info, param, shape) : hl_param_file_shape(param, shape);
}

hl_status hl_weights_library_style(const hl_model_info *info, const char *library, hl_key_style *style)
{
    bool timm = strcmp(library, "timm") == 0;
    *style = timm && hl_timm_names_differ(info) ? HL_KEYS_TIMM : HL_KEYS_NATIVE;
    if (timm ? hl_timm_has(info) : !info->timm)
        return HL_OK;
    char subject[64];
    snprintf(subject, sizeof subject, "--keys %s", library);
    return hl_fail(HL_E_ARG, subject, "leave it out", "%s has no network equal to %s", library, info->name);
}

hl_key_style hl_weights_style(const hl_model_info *info, const hl_tensor_map *map)
{
    const char *mark = hl_timm_mark(info);
    if (mark != NULL && hl_tensor_map_find(map, mark) != NULL)
        return HL_KEYS_TIMM;
    if (hl_tensor_map_find(map, "_conv_stem.weight") != NULL)
        return HL_KEYS_EFFICIENTNET;
    if (hl_tensor_map_find(map, "features.denseblock1.denselayer1.norm.1.weight") != NULL)
        return HL_KEYS_DENSENET;
    return HL_KEYS_NATIVE;
}
