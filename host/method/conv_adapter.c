/* conv-adapter (Chen et al., 2022, arXiv 2208.07463): a bottleneck of a grouped convolution to fewer
 * channels, relu, a 1x1 convolution back and a factor for each channel, up being zero at the start. It stands
 * beside or behind each convolution with a window larger than 1x1, or beside or behind each block. */
#include <string.h>

#include "method/blocks.h"
#include "method/insert.h"
#include "method/layers.h"
#include "method/method.h"
#include "method/row.h"

typedef struct place {
    const char *name; /* of the layer or block that it belongs to */
    hl_value from;    /* what it reads */
    hl_value to;      /* what it is added to; later readers of this read the sum */
    hl_window window; /* of the first convolution */
} place;

static hl_status insert(hl_graph *graph, const place *p, int64_t gamma, uint64_t seed)
{
    int64_t width = graph->nodes[p->from]->shape.c, hidden = width / gamma > 0 ? width / gamma : 1;
    hl_graph_insert_after(graph, p->to);
    hl_node *down = hl_insert_conv(
        graph, hl_graph_name(graph, "%s.adapter_down", p->name), p->from,
        (hl_conv_spec){.out = hidden, .groups = hl_gcd(width, hidden), .window = &p->window, .bias = true});
    if (down == NULL)
        return graph->status;
    hl_insert_scatter(down, seed);
    hl_value x = hl_graph_act(graph, hl_graph_name(graph, "%s.adapter_relu", p->name), down->id, HL_ACT_RELU);
    hl_node *up = hl_insert_conv(graph, hl_graph_name(graph, "%s.adapter_up", p->name), x,
                                 (hl_conv_spec){.out = graph->nodes[p->to]->shape.c, .bias = true});
    if (up == NULL || hl_row_add_factor(graph, up, "scale") == NULL)
        return graph->status;
    hl_value sum = hl_graph_add(graph, hl_graph_name(graph, "%s.adapter_sum", p->name), p->to, up->id);
    hl_graph_redirect(graph, p->to, sum, down->id);
    return graph->status;
}

/* The window of `conv` on a map whose size stays. */
static hl_window keeping_size(const hl_window *conv)
{
    hl_window w = *conv;
    w.sh = w.sw = 1;
    int64_t high = (w.kh - 1) * w.dh, wide = (w.kw - 1) * w.dw;
    w.top = high / 2;
    w.bottom = high - w.top;
    w.left = wide / 2;
    w.right = wide - w.left;
    return w;
}

/* Stride and padding of a window of 3 along one axis from `in` to `out` elements. */
static void fit(int64_t in, int64_t out, int64_t *stride, int64_t *before, int64_t *after)
{
    *stride = (in + out / 2) / out;
    int64_t padding = (out - 1) * *stride + 3 - in;
    padding = padding > 0 ? padding : 0;
    *before = padding / 2;
    *after = padding - *before;
}

static hl_status at_convolutions(hl_graph *graph, bool parallel, int64_t gamma, uint64_t seed)
{
    size_t nodes = graph->node_count;
    for (size_t v = 0; v < nodes; v++) {
        const hl_node *conv = graph->nodes[v];
        if (!hl_is_inner_spatial(graph, conv))
            continue;
        const place p = {.name = conv->name,
                         .from = parallel ? conv->in[0] : conv->id,
                         .to = conv->id,
                         .window = parallel ? conv->window : keeping_size(&conv->window)};
        HL_TRY(insert(graph, &p, gamma, seed));
    }
    return HL_OK;
}

/* A block's sum, before its last activation; of a block without one, its last value. */
static hl_value sum_of(const hl_graph *graph, const hl_block *block)
{
    for (size_t k = block->last + 1; k-- > block->first;)
        if (graph->nodes[graph->order[k]]->op == HL_OP_ADD)
            return graph->order[k];
    return graph->order[block->last];
}

static hl_status at_blocks(hl_graph *graph, bool parallel, int64_t gamma, uint64_t seed, hl_arena *arena)
{
    hl_blocks blocks;
    HL_TRY(hl_blocks_find(graph, arena, &blocks));
    place *places = hl_arena_take(arena, (size_t)blocks.count * sizeof *places);
    if (places == NULL)
        return HL_E_NOMEM;
    for (int b = 0; b < blocks.count; b++) {
        const hl_block *block = &blocks.items[b];
        place *p = &places[b];
        p->name = hl_graph_name(graph, "%s", block->name);
        p->to = parallel ? sum_of(graph, block) : graph->order[block->last];
        p->from = parallel ? block->input : p->to;
        hl_shape in = graph->nodes[p->from]->shape, out = graph->nodes[p->to]->shape;
        p->window = (hl_window){.kh = 3, .kw = 3, .dh = 1, .dw = 1};
        fit(in.h, out.h, &p->window.sh, &p->window.top, &p->window.bottom);
        fit(in.w, out.w, &p->window.sw, &p->window.left, &p->window.right);
    }
    /* From the last one on, so that each reads what those before it have added to. */
    for (int b = blocks.count - 1; b >= 0; b--)
        HL_TRY(insert(graph, &places[b], gamma, seed));
    return HL_OK;
}

static hl_status apply(hl_graph *graph, const hl_method *method, uint64_t seed)
{
    static const char *const forms[] = {"parallel", "sequential", "residual-parallel", "residual-sequential"};
    const char *text = hl_method_text(method, "form");
    int64_t gamma = (int64_t)hl_method_number(method, "gamma");
    int form = 0;
    while (form < 4 && strcmp(forms[form], text) != 0)
        form++;
    if (form == 4)
        return hl_fail(HL_E_ARG, "--method conv-adapter",
                       "form is parallel, sequential, residual-parallel or residual-sequential",
                       "there is no form=%s", text);
    if (form < 2)
        return at_convolutions(graph, form == 0, gamma, seed);
    hl_arena *arena;
    HL_TRY(hl_arena_create(&arena));
    hl_status status = at_blocks(graph, form == 2, gamma, seed, arena);
    hl_arena_destroy(arena);
    return status;
}

const hl_method_info hl_method_conv_adapter = {
    .name = "conv-adapter",
    .summary = "a small bottleneck of convolutions beside each convolution larger than 1x1",
    .norm = HL_NORM_FROZEN,
    .lr_adam = 1e-3,
    .lr_sgd = 1e-2,
    .options = {{"gamma", HL_OPTION_WHOLE, "4", "its channels are the input's divided by this", 1, 4096},
                {"form", HL_OPTION_TEXT, "parallel",
                 "parallel or sequential to convolutions, residual-parallel or residual-sequential to blocks",
                 0, 0}},
    .apply = apply,
};
