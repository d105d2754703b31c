#include "models/families.h"

hl_value hl_conv_norm_act(hl_graph *graph, const hl_block_style *style, const char *conv_name,
                          const char *norm_name, hl_value x, hl_conv_spec spec, bool linear)
{
    x = hl_graph_conv(graph, conv_name, x, spec);
    x = hl_graph_norm(graph, norm_name, x, style->norm_eps, style->norm_momentum);
    return linear ? x : hl_graph_act(graph, hl_graph_name(graph, "%s.act", norm_name), x, style->act);
}

int64_t hl_make_divisible(double channels, int64_t divisor)
{
    int64_t rounded = (int64_t)(channels + (double)divisor / 2.0) / divisor * divisor;
    if (rounded < divisor)
        rounded = divisor;
    return (double)rounded < 0.9 * channels ? rounded + divisor : rounded;
}
