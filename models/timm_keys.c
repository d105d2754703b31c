/* timm's names for the layers of networks that are named as torchvision's here. */
#include "models/timm_keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct renaming {
    const char *from, *to; /* what a name begins with */
} renaming;

/* How timm names the layers of a family. Blocks are numbered by stage there; what is in them is told by
 * `inner`, or for inverted residuals by what the block consists of. */
typedef struct family {
    const char *models;    /* what their names begin with */
    const char *mark;      /* a key that a file with timm's names has, and one with torchvision's has not */
    const renaming *outer; /* of layers that belong to no block, ended by NULL */
    const char *block;     /* what a block's name is like, # being a number; NULL: there are none */
    const int *repeats; /* blocks of each stage, where the name has one number, counted through from 1; NULL:
                           its first number is the stage, its last the place */
    int before;         /* subtracted from the stage's number */
    const renaming *inner; /* of layers in blocks; NULL: inverted residuals */
    bool linear;           /* linear layers before the head are that there as well, not 1x1 convolutions */
} family;

static const renaming mobilenet_v2[] = {{"features.0.0.", "conv_stem."},  {"features.0.1.", "bn1."},
                                        {"features.18.0.", "conv_head."}, {"features.18.1.", "bn2."},
                                        {"classifier.1.", "classifier."}, {0}};
static const renaming mobilenet_v3_large[] = {{"features.0.0.", "conv_stem."},
                                              {"features.0.1.", "bn1."},
                                              {"features.16.0.", "blocks.6.0.conv."},
                                              {"features.16.1.", "blocks.6.0.bn1."},
                                              {"classifier.0.", "conv_head."},
                                              {"classifier.3.", "classifier."},
                                              {0}};
static const renaming mobilenet_v3_small[] = {{"features.0.0.", "conv_stem."},
                                              {"features.0.1.", "bn1."},
                                              {"features.12.0.", "blocks.5.0.conv."},
                                              {"features.12.1.", "blocks.5.0.bn1."},
                                              {"classifier.0.", "conv_head."},
                                              {"classifier.3.", "classifier."},
                                              {0}};
static const renaming mnasnet[] = {{"layers.0.", "conv_stem."},          {"layers.1.", "bn1."},
                                   {"layers.3.", "blocks.0.0.conv_dw."}, {"layers.4.", "blocks.0.0.bn1."},
                                   {"layers.6.", "blocks.0.0.conv_pw."}, {"layers.7.", "blocks.0.0.bn2."},
                                   {"layers.14.", "conv_head."},         {"layers.15.", "bn2."},
                                   {"classifier.1.", "classifier."},     {0}};
/* The last convolution has the number behind the stages', of which v2_s has six. */
static const renaming efficientnet[] = {{"features.0.0.", "conv_stem."},  {"features.0.1.", "bn1."},
                                        {"features.7.0.", "conv_head."},  {"features.7.1.", "bn2."},
                                        {"features.8.0.", "conv_head."},  {"features.8.1.", "bn2."},
                                        {"classifier.1.", "classifier."}, {0}};
static const renaming regnet[] = {
    {"stem.0.", "stem.conv."}, {"stem.1.", "stem.bn."}, {"fc.", "head.fc."}, {0}};
static const renaming regnet_block[] = {{"f.a.0.", "conv1.conv."},
                                        {"f.a.1.", "conv1.bn."},
                                        {"f.b.0.", "conv2.conv."},
                                        {"f.b.1.", "conv2.bn."},
                                        {"f.c.0.", "conv3.conv."},
                                        {"f.c.1.", "conv3.bn."},
                                        {"f.se.fc1.", "se.fc1."},
                                        {"f.se.fc2.", "se.fc2."},
                                        {"proj.0.", "downsample.conv."},
                                        {"proj.1.", "downsample.bn."},
                                        {0}};
static const renaming convnext[] = {{"features.0.", "stem."},
                                    {"features.2.", "stages.1.downsample."},
                                    {"features.4.", "stages.2.downsample."},
                                    {"features.6.", "stages.3.downsample."},
                                    {"classifier.0.", "head.norm."},
                                    {"classifier.2.", "head.fc."},
                                    {0}};
static const renaming convnext_block[] = {{"layer_scale", "gamma"}, {"block.0.", "conv_dw."},
                                          {"block.2.", "norm."},    {"block.3.", "mlp.fc1."},
                                          {"block.5.", "mlp.fc2."}, {0}};
static const renaming vgg[] = {{"classifier.0.", "pre_logits.fc1."},
                               {"classifier.3.", "pre_logits.fc2."},
                               {"classifier.6.", "head.fc."},
                               {0}};
static const int repeats_v2[] = {1, 2, 3, 4, 3, 3, 1, 0}, repeats_large[] = {1, 2, 3, 4, 2, 3, 0},
                 repeats_small[] = {1, 2, 3, 2, 3, 0};

/* clang-format off */
static const family families[] = {
    {"mobilenet_v2",       "conv_stem.weight",      mobilenet_v2,       "features.#.conv.",     repeats_v2,    0, NULL, false},
    {"mobilenet_v3_large", "conv_stem.weight",      mobilenet_v3_large, "features.#.block.",    repeats_large, 0, NULL, false},
    {"mobilenet_v3_small", "conv_stem.weight",      mobilenet_v3_small, "features.#.block.",    repeats_small, 0, NULL, false},
    {"mnasnet",            "conv_stem.weight",      mnasnet,            "layers.#.#.layers.",  NULL,          7, NULL, false},
    {"efficientnet_b",     "conv_stem.weight",      efficientnet,       "features.#.#.block.", NULL,          1, NULL, false},
    {"efficientnet_v2_",   "conv_stem.weight",      efficientnet,       "features.#.#.block.", NULL,          1, NULL, false},
    {"regnet_",            "stem.conv.weight",      regnet,             "trunk_output.block#.block#-#.", NULL, 0, regnet_block, false},
    {"convnext_",          "stem.0.weight",         convnext,           "features.#.#.",       NULL,          1, convnext_block, true},
    {"vgg",                "pre_logits.fc1.weight", vgg,                NULL,                      NULL,          0, NULL, false},
};
/* clang-format on */

/* timm names these as torchvision does, but for models that it has not. */
static const char *const same[] = {"resnet", "resnext", "wide_resnet", "densenet", "inception_v3"};
static const char *const absent[] = {"mnasnet1_3"};

static bool begins_with(const char *name, const char *start)
{
    return strncmp(name, start, strlen(start)) == 0;
}

static const family *family_of(const hl_model_info *info)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        if (!info->timm && begins_with(info->name, families[f].models))
            return &families[f];
    return NULL;
}

bool hl_timm_names_differ(const hl_model_info *info)
{
    return family_of(info) != NULL;
}

bool hl_timm_has(const hl_model_info *info)
{
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        if (strcmp(info->name, absent[i]) == 0)
            return false;
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (begins_with(info->name, same[i]))
            return true;
    return info->timm || family_of(info) != NULL;
}

const char *hl_timm_mark(const hl_model_info *info)
{
    const family *f = family_of(info);
    return f != NULL ? f->mark : NULL;
}

/* PREFIX and the new name, into buf; false where no start in the list is that of `name`. */
static bool rename_start(const renaming *list, const char *name, const char *prefix, char *buf, size_t size)
{
    for (; list->from != NULL; list++)
        if (begins_with(name, list->from)) {
            snprintf(buf, size, "%s%s%s", prefix, list->to, name + strlen(list->from));
            return true;
        }
    return false;
}

/* What an inverted residual consists of: `layer` is the length of its name; its convolutions and norms before
 * that layer, squeeze-excite not counted, and its convolutions in all. */
typedef struct block_count {
    int convs, norms, all;
    bool depthwise; /* the first convolution is */
} block_count;

static block_count count_block(const hl_graph *graph, const char *name, size_t prefix, size_t layer)
{
    block_count c = {0};
    bool before = true;
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (strncmp(node->name, name, prefix) != 0 || strstr(node->name + prefix, ".fc") != NULL)
            continue;
        before = before && !(strlen(node->name) == layer && strncmp(node->name, name, layer) == 0);
        if (node->op == HL_OP_CONV) {
            c.depthwise = c.all == 0 ? node->groups > 1 : c.depthwise;
            c.all++;
            c.convs += before;
        }
        c.norms += node->op == HL_OP_NORM && before;
    }
    return c;
}

/* timm's name for a layer of a block that consists of `c`, by what it is: "conv_dw", "bn2". */
static const char *inverted_residual_layer(const block_count *c, bool norm, char *buf, size_t size)
{
    static const char *const three[] = {"conv_pw", "conv_dw", "conv_pwl"},
                             *const plain[] = {"conv_dw", "conv_pw"},
                             *const fused[] = {"conv_exp", "conv_pwl"}, *const one[] = {"conv"};
    const char *const *names = c->all == 3 ? three : c->all == 1 ? one : c->depthwise ? plain : fused;
    if (norm)
        snprintf(buf, size, "bn%d", c->norms + 1);
    else
        snprintf(buf, size, "%s", c->convs < c->all ? names[c->convs] : "");
    return buf;
}

static bool is_norm(const hl_graph *graph, const char *name, size_t length)
{
    for (size_t v = 0; v < graph->node_count; v++)
        if (strlen(graph->nodes[v]->name) == length && strncmp(graph->nodes[v]->name, name, length) == 0)
            return graph->nodes[v]->op == HL_OP_NORM;
    return false;
}

/* The length of what `pattern` matches at the start of `name`, 0 where it does not; the first and the last of
 * the numbers in it. */
static size_t match(const char *pattern, const char *name, int *first, int *last)
{
    const char *at = name;
    int count = 0;
    for (; *pattern != '\0'; pattern++) {
        if (*pattern != '#') {
            if (*at++ != *pattern)
                return 0;
            continue;
        }
        char *end;
        long number = strtol(at, &end, 10);
        if (end == at || number < 0 || number > 999)
            return 0;
        *(count++ == 0 ? first : last) = (int)number;
        at = end;
    }
    return (size_t)(at - name);
}

/* Where `name` is of a block, that block's stage and place, from 0, and the length of what it begins with;
 * else 0. */
static size_t find_block(const family *f, const char *name, int *stage, int *place)
{
    size_t length = f->block != NULL ? match(f->block, name, stage, place) : 0;
    if (length > 0 && f->repeats != NULL) {
        *place = *stage - 1;
        for (*stage = 0; f->repeats[*stage] > 0 && *place >= f->repeats[*stage]; (*stage)++)
            *place -= f->repeats[*stage];
    }
    *stage -= f->before;
    return length;
}

static void inverted_residual_key(const hl_graph *graph, const char *name, size_t prefix, int stage,
                                  int place, char *buf, size_t size)
{
    const char *dot = strrchr(name, '.');
    size_t length = (size_t)(dot - name);
    block_count c = count_block(graph, name, prefix, length);
    char layer[32];
    const char *own = strstr(name + prefix, ".fc1.") != NULL   ? "se.conv_reduce"
                      : strstr(name + prefix, ".fc2.") != NULL ? "se.conv_expand"
                                                               : NULL;
    if (own == NULL)
        own = inverted_residual_layer(&c, is_norm(graph, name, length), layer, sizeof layer);
    snprintf(buf, size, "blocks.%d.%d.%s%s", stage, place, own, dot);
}

const char *hl_timm_key(const hl_model_info *info, const hl_graph *graph, const char *name, char *buf,
                        size_t size)
{
    const family *f = family_of(info);
    int stage = 0, place = 0;
    size_t length = f != NULL ? find_block(f, name, &stage, &place) : 0;
    char prefix[32];
    snprintf(buf, size, "%s", name);
    if (f == NULL)
        return buf;
    /* What lies between ConvNeXt's stages has names like its blocks'. */
    bool outer = length == 0 || f->inner == convnext_block;
    if (outer && (rename_start(f->outer, name, "", buf, size) || length == 0))
        return buf;
    if (f->inner == convnext_block) { /* every second of its features is a stage */
        snprintf(prefix, sizeof prefix, "stages.%d.blocks.%d.", stage / 2, place);
        rename_start(f->inner, name + length, prefix, buf, size);
    } else if (f->inner != NULL) {
        snprintf(prefix, sizeof prefix, "s%d.b%d.", stage, place + 1);
        rename_start(f->inner, name + length, prefix, buf, size);
    } else if (strchr(name + length, '.') != NULL) {
        inverted_residual_key(graph, name, length, stage, place, buf, size);
    }
    return buf;
}

int hl_timm_shape(const hl_model_info *info, const hl_param *p, int64_t shape[4])
{
    int ndim = hl_param_file_shape(p, shape);
    if (p->role == HL_PARAM_SCALE)
        return 1;
    if (p->role != HL_PARAM_WEIGHT || p->head || (family_of(info) != NULL && family_of(info)->linear))
        return ndim;
    if (p->flat)
        memcpy(shape, p->shape, sizeof p->shape);
    else if (ndim == 2)
        shape[2] = shape[3] = 1;
    return 4;
}
