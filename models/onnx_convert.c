#include "models/onnx_convert.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

hl_onnx_value *hl_convert_value(hl_convert *x, const char *name)
{
    size_t low = 0, high = x->name_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (by_text(&x->names[middle], &name) <= 0)
            low = middle;
        else
            high = middle;
    }
    return &x->values[low]; /* every name of the graph is there */
}

hl_onnx_value *hl_convert_in(hl_convert *x, const hl_onnx_node *n, int i)
{
    return hl_convert_value(x, n->in[i]);
}

bool hl_convert_has(const hl_onnx_node *n, int i)
{
    return i < n->in_count && n->in[i][0] != '\0';
}

hl_status hl_convert_fail(const hl_convert *x, const hl_onnx_node *n, const char *todo, const char *why, ...)
{
    char text[512], what[512];
    va_list args;
    va_start(args, why);
    vsnprintf(text, sizeof text, why, args);
    va_end(args);
    snprintf(what, sizeof what, "%.200s: node '%.120s' (%.40s)", x->onnx->path,
             n->name[0] != '\0' ? n->name
             : n->out_count > 0 ? n->out[0]
                                : "",
             n->op);
    return hl_fail(HL_E_UNSUPPORTED, what, todo, "%s", text);
}

/* Last parts of node names that say what a node is, not which. */
static bool is_operator_name(const char *part, size_t length, const char *op)
{
    static const char *const others[] = {"Conv2D", "BiasAdd", "MatMul", "FusedBatchNormV3", "depthwise"};
    /* Conv_12, Conv__440 */
    size_t bare = length;
    while (bare > 0 && isdigit((unsigned char)part[bare - 1]))
        bare--;
    while (bare < length && bare > 0 && part[bare - 1] == '_')
        bare--;
    if (bare == strlen(op) && strncasecmp(part, op, bare) == 0)
        return true;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (length == strlen(others[i]) && strncmp(part, others[i], length) == 0)
            return true;
    return false;
}

/* The module a node's name speaks of: "/layer1/layer1.0/conv1/Conv" is layer1.0.conv1, since a part that the
 * next one begins with is said twice. */
static void module_name(const char *name, const char *op, char *out, size_t size)
{
    size_t used = 0;
    out[0] = '\0';
    while (*name != '\0') {
        size_t length = strcspn(name, "/");
        const char *next = name + length + strspn(name + length, "/");
        bool repeated = *next != '\0' && strncmp(name, next, length) == 0 && next[length] == '.',
             last = *next == '\0' && used > 0 && is_operator_name(name, length, op);
        if (length > 0 && !repeated && !last && used + length + 2 < size) {
            used +=
                (size_t)snprintf(out + used, size - used, "%s%.*s", used > 0 ? "." : "", (int)length, name);
        }
        name = next;
    }
    for (char *c = out; *c != '\0'; c++)
        if (!isalnum((unsigned char)*c) && strchr("._-:", *c) == NULL)
            *c = '_';
}

static bool is_taken(const hl_convert *x, const char *name)
{
    /* .0 and .1: halves of channels get two names from one. */
    char half[256];
    for (int i = 0; i < 2; i++) {
        snprintf(half, sizeof half, "%s.%d", name, i);
        if (hl_tensor_map_find(x->taken, half) != NULL)
            return true;
    }
    return hl_tensor_map_find(x->taken, name) != NULL;
}

/* Marks a name, and for halves the two made of it. */
static hl_status take_name(hl_convert *x, const hl_onnx_node *n, const char *name)
{
    static const int64_t nothing = 0;
    char half[256];
    HL_TRY(hl_tensor_map_add_ref(x->taken, name, HL_DTYPE_F32, 1, &nothing, NULL));
    bool splits = strcmp(n->op, "Split") == 0 || strcmp(n->op, "Slice") == 0 ||
                  strcmp(n->op, "Reshape") == 0 || strcmp(n->op, "Flatten") == 0;
    for (int i = 0; splits && i < 2; i++) {
        snprintf(half, sizeof half, "%s.%d", name, i);
        HL_TRY(hl_tensor_map_add_ref(x->taken, half, HL_DTYPE_F32, 1, &nothing, NULL));
    }
    return HL_OK;
}

const char *hl_convert_name(hl_convert *x, const hl_onnx_node *n, const char *weight)
{
    char base[160] = "", name[200];
    size_t length = weight != NULL ? strlen(weight) : 0;
    if (length > 7 && strcmp(weight + length - 7, ".weight") == 0) {
        char bare[160];
        snprintf(bare, sizeof bare, "%.*s", (int)(length - 7 < 150 ? length - 7 : 150), weight);
        module_name(bare, n->op, base, sizeof base);
    }
    if (base[0] == '\0')
        module_name(n->name, n->op, base, sizeof base);
    if (base[0] == '\0') {
        snprintf(base, sizeof base, "%s_%zu", n->op, x->at);
        for (char *c = base; *c != '\0'; c++)
            *c = isalnum((unsigned char)*c) ? (char)tolower((unsigned char)*c) : '_';
    }
    snprintf(name, sizeof name, "%s", base);
    /* The count goes on from where this base left it, so that many nodes of one name take no quadratic time.
     */
    const hl_named_tensor *counter = hl_tensor_map_find(x->counters, base);
    int64_t *count = counter != NULL ? (int64_t *)(uintptr_t)counter->data : NULL;
    if (count == NULL) {
        const int64_t one = 1;
        count = hl_arena_take(x->arena, sizeof *count);
        if (count == NULL || hl_tensor_map_add_ref(x->counters, base, HL_DTYPE_I64, 1, &one, count) != HL_OK)
            return "";
    }
    while (is_taken(x, name))
        snprintf(name, sizeof name, "%s_%lld", base, (long long)++*count);
    if (take_name(x, n, name) != HL_OK)
        return "";
    const char *kept = hl_arena_copy(x->arena, name);
    return kept != NULL ? kept : "";
}

hl_status hl_convert_source(hl_convert *x, hl_value node, int like, int *source)
{
    if (node == HL_NO_VALUE || x->graph->status != HL_OK)
        return x->graph->status != HL_OK
                   ? hl_fail_text(x->graph->status, x->graph->error)
                   : hl_fail(HL_E_INTERNAL, x->onnx->path, NULL, "a layer without a value");
    void *grown = x->sources;
    hl_status status =
        hl_grow(&grown, &x->source_capacity, x->source_count + 1, sizeof *x->sources, "ONNX graph");
    x->sources = grown;
    HL_TRY(status);
    const hl_node *made = hl_graph_node(x->graph, node);
    hl_shape s = made->shape;
    /* Paddings and concatenations add up; products of extents are to stay far from overflow. */
    if (s.h > 1 << 15 || s.w > 1 << 15 || s.c > 1 << 24 || s.h * s.w * s.c > (int64_t)1 << 36)
        return hl_fail(HL_E_UNSUPPORTED, x->onnx->path, "use smaller images",
                       "layer '%s' makes a map of %lldx%lldx%lld", made->name, (long long)s.h, (long long)s.w,
                       (long long)s.c);
    bool elementwise = like >= 0 && (made->op == HL_OP_ACT || (made->op == HL_OP_CONV && made->groups > 1));
    x->sources[x->source_count] =
        (hl_onnx_source){.node = node,
                         .name = made->name,
                         .shape = made->shape,
                         .halves = {HL_NO_VALUE, HL_NO_VALUE},
                         .reversed = elementwise && x->sources[like].reversed,
                         .from_head = made->head || (like >= 0 && x->sources[like].from_head)};
    *source = (int)x->source_count++;
    return HL_OK;
}

hl_status hl_convert_node(hl_convert *x, int source, hl_value *node)
{
    hl_onnx_source *s = &x->sources[source];
    if (s->node == HL_NO_VALUE) {
        s->node = hl_graph_concat(x->graph, s->name, s->parts, s->part_count);
        if (s->node == HL_NO_VALUE)
            return hl_fail_text(x->graph->status, x->graph->error);
    }
    *node = s->node;
    return HL_OK;
}

hl_status hl_convert_nchw(hl_convert *x, const hl_onnx_node *n, hl_onnx_value *v, hl_value *node)
{
    char text[96];
    HL_TRY(hl_convert_plain(x, n, v));
    if (!hl_view_is_nchw(&v->view, x->sources[v->source].shape))
        return hl_convert_fail(x, n, NULL, "its input %s is not [batch, channels, height, width]",
                               hl_view_text(&v->view, text, sizeof text));
    return hl_convert_node(x, v->source, node);
}

hl_status hl_convert_in_order(const hl_convert *x, const hl_onnx_node *n, const hl_onnx_value *v)
{
    return x->sources[v->source].reversed
               ? hl_convert_fail(x, n, "leave --channel-order out and reverse the images instead",
                                 "it reads the image, whose channels only a Conv can take in reverse")
               : HL_OK;
}

hl_status hl_convert_set(hl_convert *x, const hl_onnx_node *n, int i, hl_value node, hl_view view, int like)
{
    int source = -1;
    HL_TRY(hl_convert_source(x, node, like, &source));
    if (i < n->out_count && n->out[i][0] != '\0')
        *hl_convert_value(x, n->out[i]) =
            (hl_onnx_value){.kind = HL_ONNX_MAP, .source = source, .view = view};
    return HL_OK;
}

int64_t hl_convert_int(const hl_onnx_node *n, const char *name, int64_t fallback)
{
    const hl_onnx_attr *attr = hl_onnx_attr_find(n, name);
    return attr != NULL ? attr->i : fallback;
}

float hl_convert_float(const hl_onnx_node *n, const char *name, float fallback)
{
    const hl_onnx_attr *attr = hl_onnx_attr_find(n, name);
    return attr != NULL ? attr->f : fallback;
}

const char *hl_convert_operators(void)
{
    return "Add, AveragePool, BatchNormalization, Cast, Clip, Concat, Conv, Div, Dropout, Flatten, Gelu, "
           "Gemm, "
           "Gather, GlobalAveragePool, GlobalMaxPool, HardSigmoid, HardSwish, Identity, LayerNormalization, "
           "MatMul, MaxPool, Mul, Pad, "
           "ReduceMean, Relu, Reshape, Sigmoid, Slice, Split, Squeeze, Sub, Transpose, Unsqueeze";
}
