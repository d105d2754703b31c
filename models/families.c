#include "models/families.h"

hl_value hl_conv_norm_act(hl_graph *graph, const hl_block_style *style, const char *conv_name,
                          const char *norm_name, hl_value x, hl_conv_spec spec, bool linear)
{
    x = hl_graph_conv(graph, conv_name, x, spec);
    x = hl_graph_norm(graph, norm_name, x, style->norm_eps, style->norm_momentum);
    return linear ? x : hl_graph_act(graph, hl_graph_name(graph, "%s.act", norm_name), x, style->act);
}

hl_value hl_conv_norm_act_at(hl_graph *graph, const hl_block_style *style, const char *name, int first,
                             hl_value x, hl_conv_spec spec, bool linear)
{
    return hl_conv_norm_act(graph, style, hl_graph_name(graph, "%s.%d", name, first),
                            hl_graph_name(graph, "%s.%d", name, first + 1), x, spec, linear);
}

hl_value hl_pointwise(hl_graph *graph, const char *name, hl_value x, int64_t out)
{
    return hl_graph_conv(graph, name, x, (hl_conv_spec){.out = out, .bias = true});
}

hl_value hl_squeeze_excite(hl_graph *graph, const hl_squeeze_style *style, const char *name, hl_value x,
                           int64_t squeezed)
{
    hl_value s = hl_graph_global_pool(graph, hl_graph_name(graph, "%s.pool", name), x);
    s = hl_pointwise(graph, hl_graph_name(graph, "%s.%s", name, style->reduce), s, squeezed);
    s = hl_graph_act(graph, hl_graph_name(graph, "%s.act", name), s, style->act);
    s = hl_pointwise(graph, hl_graph_name(graph, "%s.%s", name, style->expand), s, hl_channels(graph, x));
    s = hl_graph_act(graph, hl_graph_name(graph, "%s.gate", name), s, style->gate);
    return hl_graph_mul(graph, hl_graph_name(graph, "%s.mul", name), x, s);
}

int64_t hl_make_divisible(double channels, int64_t divisor)
{
    int64_t rounded = (int64_t)(channels + (double)divisor / 2.0) / divisor * divisor;
    if (rounded < divisor)
        rounded = divisor;
    return (double)rounded < 0.9 * channels ? rounded + divisor : rounded;
}
