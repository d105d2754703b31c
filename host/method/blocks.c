#include "method/blocks.h"

#include <ctype.h>
#include <string.h>

/* How layers in blocks are called. # is a number, @ a letter, a dot also a slash; what is before the bar is
 * the block's name. A pattern may begin behind any dot or slash. */
static const char *const patterns[] = {
    "layer#.#|.",                         /* ResNet; also timm's */
    "layers.#.#|.",                       /* MNASNet */
    "features.denseblock#.denselayer#|.", /* DenseNet */
    "trunk_output.block#.block#-#|.",     /* RegNet */
    "inception#@|.",                      /* GoogLeNet */
    "Mixed_#@|.",                         /* Inception v3 */
    "stage#.#|.",                         /* ShuffleNetV2 */
    "blocks.#.#|.",                       /* timm's EfficientNet and MobileNet */
    "stages.#.blocks.#|.",                /* timm's ConvNeXt */
    "s#.b#|.",                            /* timm's RegNet */
    "features.#.#|.@",                    /* EfficientNet, ConvNeXt */
    "features.#|.@",                      /* MobileNet, SqueezeNet */
    "conv#_block#|_",                     /* Keras' ResNet and DenseNet */
    "block_#|_",                          /* Keras' MobileNetV2 */
    "expanded_conv_#|/",                  /* TensorFlow's */
    "block#@|_",                          /* Keras' EfficientNet */
};

/* Length of the block's name where `name` begins as the pattern does; 0 where it does not. */
static size_t match(const char *pattern, const char *name)
{
    const char *at = name;
    size_t length = 0;
    for (; *pattern != '\0'; pattern++) {
        if (*pattern == '|') {
            length = (size_t)(at - name);
        } else if (*pattern == '#') {
            if (!isdigit((unsigned char)*at))
                return 0;
            while (isdigit((unsigned char)*at))
                at++;
        } else {
            bool fits = *pattern == '@'   ? isalpha((unsigned char)*at)
                        : *pattern == '.' ? *at == '.' || *at == '/'
                                          : *pattern == *at;
            if (!fits)
                return 0;
            at++;
        }
    }
    return length;
}

size_t hl_block_name_length(const char *name)
{
    for (const char *start = name; start != NULL; start = strpbrk(start, "./"), start += start != NULL)
        for (size_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
            size_t length = match(patterns[p], start);
            if (length > 0)
                return (size_t)(start - name) + length;
        }
    return 0;
}

static const hl_node *node_at(const hl_graph *g, size_t place)
{
    return g->nodes[g->order[place]];
}

/* Nodes without a name of their own that end a block: names in ONNX files tell of layers with weights alone.
 */
static bool ends_block(const hl_node *node)
{
    return node->op == HL_OP_ADD || node->op == HL_OP_ACT || node->op == HL_OP_MUL ||
           node->op == HL_OP_DROP_PATH;
}

static hl_block *add_block(hl_blocks *blocks, size_t first, size_t last, const char *name)
{
    hl_block *block = &blocks->items[blocks->count++];
    *block = (hl_block){.name = name, .first = first, .last = last};
    return block;
}

static bool is_named(const char *block, const char *name, size_t length)
{
    return block != NULL && strncmp(block, name, length) == 0 && block[length] == '\0';
}

/* A block begins with a layer that has parameters, or with those without just before it (an activation behind
 * the stem may be called like one in a block). */
static hl_status by_names(const hl_graph *g, hl_arena *arena, hl_blocks *blocks)
{
    hl_block *block = NULL;
    const char *ahead = NULL; /* name of the block that nodes from `start` on may belong to */
    size_t start = 0;
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *node = node_at(g, k);
        size_t length = node->head ? 0 : hl_block_name_length(node->name);
        if (length == 0) {
            if (block != NULL && block->last + 1 == k && ends_block(node))
                block->last = k;
            continue;
        }
        if (block != NULL && is_named(block->name, node->name, length)) {
            block->last = k;
            continue;
        }
        if (!is_named(ahead, node->name, length)) {
            char *name = hl_arena_take(arena, length + 1);
            if (name == NULL)
                return HL_E_NOMEM;
            ahead = memcpy(name, node->name, length);
            start = k;
        }
        if (hl_node_has_parameters(node))
            block = add_block(blocks, start, k, ahead);
    }
    return HL_OK;
}

/* Marks `value` and everything it depends on. */
static void mark_ancestors(const hl_graph *g, hl_value value, bool *marked)
{
    memset(marked, 0, g->node_count * sizeof *marked);
    marked[value] = true;
    for (size_t k = g->node_count; k-- > 0;) {
        const hl_node *node = node_at(g, k);
        for (int i = 0; marked[node->id] && i < node->in_count; i++)
            marked[node->in[i]] = true;
    }
}

/* A block is what lies between an addition and the last value that both of its sides come from. */
static hl_status by_additions(const hl_graph *g, hl_arena *arena, hl_blocks *blocks)
{
    bool *left = hl_arena_take(arena, g->node_count * sizeof *left),
         *right = hl_arena_take(arena, g->node_count * sizeof *right);
    size_t behind = 0; /* the last block */
    if (left == NULL || right == NULL)
        return HL_E_NOMEM;
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *add = node_at(g, k);
        if (add->op != HL_OP_ADD || add->in_count != 2)
            continue;
        mark_ancestors(g, add->in[0], left);
        mark_ancestors(g, add->in[1], right);
        size_t split = k;
        while (split > 0 && !(left[g->order[split]] && right[g->order[split]]))
            split--;
        if (split + 1 < behind)
            continue; /* inside the one before */
        hl_block *block = add_block(blocks, split + 1, k, add->name);
        while (block->last + 1 < g->node_count && node_at(g, block->last + 1)->op == HL_OP_ACT)
            block->last++;
        behind = block->last + 1;
    }
    return HL_OK;
}

static void by_convolutions(const hl_graph *g, hl_blocks *blocks)
{
    bool stem = true;
    for (size_t k = 0; k < g->node_count; k++) {
        const hl_node *node = node_at(g, k);
        if (node->op != HL_OP_CONV || node->head)
            continue;
        if (!stem)
            add_block(blocks, k, k, node->name);
        stem = false;
    }
    for (int b = 0; b < blocks->count; b++) {
        hl_block *block = &blocks->items[b];
        while (block->last + 1 < g->node_count && (node_at(g, block->last + 1)->op == HL_OP_ACT ||
                                                   node_at(g, block->last + 1)->op == HL_OP_NORM))
            block->last++;
    }
}

/* Layers with parameters between two blocks begin the second one. */
static void take_in_between(const hl_graph *g, hl_blocks *blocks)
{
    for (int b = 1; b < blocks->count; b++) {
        hl_block *block = &blocks->items[b];
        for (size_t k = block[-1].last + 1; k < block->first; k++)
            if (hl_node_has_parameters(node_at(g, k)))
                block->first = k;
    }
}

static void set_stages(const hl_graph *g, hl_blocks *blocks)
{
    hl_shape before = {0};
    for (int b = 0; b < blocks->count; b++) {
        hl_block *block = &blocks->items[b];
        hl_shape map = node_at(g, block->last)->shape;
        blocks->stages += b == 0 || map.h != before.h || map.w != before.w;
        block->stage = blocks->stages - 1;
        block->input = node_at(g, block->first)->in[0];
        before = map;
    }
}

hl_status hl_blocks_find(const hl_graph *graph, hl_arena *arena, hl_blocks *blocks)
{
    *blocks = (hl_blocks){.items = hl_arena_take(arena, graph->node_count * sizeof *blocks->items),
                          .of = hl_arena_take(arena, graph->node_count * sizeof *blocks->of)};
    if (blocks->items == NULL || blocks->of == NULL)
        return HL_E_NOMEM;
    HL_TRY(by_names(graph, arena, blocks));
    if (blocks->count == 0)
        HL_TRY(by_additions(graph, arena, blocks));
    if (blocks->count == 0)
        by_convolutions(graph, blocks);
    take_in_between(graph, blocks);
    set_stages(graph, blocks);
    for (size_t k = 0; k < graph->node_count; k++)
        blocks->of[k] = -1;
    for (int b = 0; b < blocks->count; b++)
        for (size_t k = blocks->items[b].first; k <= blocks->items[b].last; k++)
            blocks->of[graph->order[k]] = b;
    return HL_OK;
}
