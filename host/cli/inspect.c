/* heirloom inspect */
#include "cli/common.h"

static json_t *layer_json(const hl_layer *layer)
{
    return json_pack("{s:s, s:s, s:[I,I,I], s:I, s:I, s:I, s:I}", "name", layer->name, "kind", layer->kind,
                     "shape", (json_int_t)layer->out_h, (json_int_t)layer->out_w, (json_int_t)layer->out_c,
                     "params", (json_int_t)layer->params, "trainable", (json_int_t)layer->trainable, "gates",
                     (json_int_t)layer->gates, "macs", (json_int_t)layer->macs);
}

static hl_status print_json(const hl_model *model, const hl_model_counts *c)
{
    char method[64];
    json_t *layers = json_array();
    for (int i = 0; i < hl_model_layer_count(model); i++) {
        hl_layer layer;
        hl_model_layer(model, i, &layer);
        json_array_append_new(layers, layer_json(&layer));
    }
    return cli_print_json(
        json_pack("{s:s, s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "model",
                  hl_model_name(model), "in_channels", (json_int_t)hl_model_preprocess(model)->channels,
                  "method", cli_method_name(model, method, sizeof method), "method_options",
                  hl_model_method(model), "total_params", (json_int_t)c->total, "conv_params",
                  (json_int_t)c->conv, "head_params", (json_int_t)c->head, "trainable_params",
                  (json_int_t)c->trainable, "trainable_conv_params", (json_int_t)c->trainable_conv, "gates",
                  (json_int_t)c->gates, "macs", (json_int_t)c->macs, "layers", layers));
}

static void print_table(const hl_model *model, const hl_model_counts *c)
{
    char params[32], trainable[32], gates[32], macs[32];
    printf("%-34s %-7s %-15s %12s %12s %12s %15s\n", "layer", "kind", "output", "parameters", "trained",
           "gates", "MACs");
    for (int i = 0; i < hl_model_layer_count(model); i++) {
        hl_layer l;
        char shape[48];
        hl_model_layer(model, i, &l);
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)l.out_h, (long long)l.out_w,
                 (long long)l.out_c);
        printf("%-34s %-7s %-15s %12s %12s %12s %15s\n", l.name, l.kind, shape,
               cli_grouped(l.params, params, sizeof params),
               cli_grouped(l.trainable, trainable, sizeof trainable),
               cli_grouped(l.gates, gates, sizeof gates), cli_grouped(l.macs, macs, sizeof macs));
    }
    printf("\n%s with %s\n", hl_model_name(model), hl_model_method(model));
    printf("parameters          %15s\n", cli_grouped(c->total, params, sizeof params));
    printf("  of convolutions   %15s\n", cli_grouped(c->conv, params, sizeof params));
    printf("  of the head       %15s\n", cli_grouped(c->head, params, sizeof params));
    printf("trained             %15s  (with the head)\n",
           cli_grouped(c->trainable, trainable, sizeof trainable));
    printf("  without the head  %15s\n", cli_grouped(c->trainable - c->head, trainable, sizeof trainable));
    printf("gates               %15s\n", cli_grouped(c->gates, gates, sizeof gates));
    printf("MACs per image      %15s\n", cli_grouped(c->macs, macs, sizeof macs));
}

hl_status cli_inspect(cli_values *values)
{
    hl_model *model;
    hl_model_counts counts;
    HL_TRY(cli_model(values, 0, &model));
    hl_status status = cli_apply_method(values, model);
    if (status == HL_OK) {
        hl_model_count_params(model, &counts);
        if (cli_flag(values, "json"))
            status = print_json(model, &counts);
        else
            print_table(model, &counts);
    }
    hl_model_destroy(model);
    return status;
}
