#include "method/layer_depth.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 256 };

static bool is_numbered(const char *part, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (isdigit((unsigned char)part[i]))
            return true;
    return false;
}

static bool is_number(const char *part)
{
    return *part != '\0' && strspn(part, "0123456789") == strlen(part);
}

/* Characters of `name` in front of its last part, without the dot. */
static size_t parent_length(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot != NULL ? (size_t)(dot - name) : 0;
}

/* The first parts in a row that are numbered: where they end, 0 without any. Branches of a block ("branch1")
 * are inside it. */
static size_t numbered_length(const char *name, size_t parent)
{
    size_t found = 0;
    for (size_t at = 0; at < parent;) {
        size_t length = strcspn(name + at, ".");
        bool numbered = is_numbered(name + at, length) && strncmp(name + at, "branch", 6) != 0;
        if (!numbered && found > 0)
            break;
        if (numbered)
            found = at + length;
        at += length + 1;
    }
    return found;
}

static bool is_plain_member(const char *name)
{
    size_t parent = parent_length(name);
    return parent > 0 && is_number(name + parent + 1) && numbered_length(name, parent) == 0;
}

const char *hl_layer_block(const char *name, char *buf, size_t size)
{
    size_t parent = parent_length(name), length = numbered_length(name, parent);
    if (length == 0)
        length = is_plain_member(name) ? strlen(name) : parent;
    snprintf(buf, size, "%.*s", (int)length, name);
    return buf;
}

/* Does a new block begin with this node, after one called `block`? */
static bool begins_block(const hl_node *node, const char *block, char *next)
{
    hl_layer_block(node->name, next, NAME_SIZE);
    return strcmp(block, next) != 0 && (hl_node_has_weight(node) || !is_plain_member(node->name));
}

/* The block each node belongs to, counted from the input; the head's nodes and those behind it: -1. */
static int number_blocks(const hl_graph *graph, int *block_of)
{
    char block[NAME_SIZE] = "", next[NAME_SIZE];
    int count = 0;
    for (size_t i = 0; i < graph->node_count; i++) {
        const hl_node *node = graph->nodes[graph->order[i]];
        bool parameters = hl_node_has_weight(node) || node->norm.scale != NULL;
        block_of[node->id] = -1;
        if (node->head || !parameters)
            continue;
        if (count == 0 || begins_block(node, block, next)) {
            hl_layer_block(node->name, block, sizeof block);
            count++;
        }
        block_of[node->id] = count - 1;
    }
    return count;
}

static bool owns(const hl_node *node, const hl_param *p)
{
    return node->expr.weight == p || node->expr.bias == p || node->expr.gate == p || node->norm.scale == p ||
           node->norm.shift == p;
}

hl_status hl_layer_depths(const hl_graph *graph, hl_param *const *params, int count, int *depth)
{
    int *block_of;
    HL_TRY(hl_alloc_array(graph->node_count, sizeof *block_of, "blocks", (void **)&block_of));
    int blocks = number_blocks(graph, block_of);
    for (int i = 0; i < count; i++) {
        depth[i] = 0;
        for (size_t v = 0; v < graph->node_count; v++)
            if (owns(graph->nodes[v], params[i]) && block_of[v] >= 0)
                depth[i] = blocks - block_of[v];
    }
    free(block_of);
    return HL_OK;
}
