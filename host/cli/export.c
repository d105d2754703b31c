/* heirloom export, convert */
#include <string.h>

#include "cli/common.h"
#include "io/safetensors.h"
#include "io/weights_file.h"

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

hl_status cli_check_output(const char *path, bool onnx)
{
    if (ends_with(path, ".safetensors") || (onnx && ends_with(path, ".onnx")))
        return HL_OK;
    return hl_fail(HL_E_ARG, path, onnx ? "name a .safetensors or .onnx file" : "name a .safetensors file",
                   ends_with(path, ".onnx") ? "weights alone make no ONNX graph (export writes those)"
                                            : "the ending names no format that can be written");
}

hl_status cli_export(cli_values *values)
{
    hl_model *model;
    HL_TRY(cli_require(values, "run"));
    HL_TRY(cli_require(values, "out"));
    HL_TRY(cli_check_output(cli_text(values, "out"), true));
    HL_TRY(hl_model_open_run(cli_text(values, "run"), cli_text(values, "weights"), true, cli_log(values),
                             &model));
    hl_status status = hl_model_export_as(model, cli_text(values, "out"), cli_text(values, "keys"));
    if (status == HL_OK && cli_flag(values, "json"))
        status = cli_print_json(json_pack("{s:s, s:o}", "model", hl_model_name(model), "out",
                                          cli_json_text(cli_text(values, "out"))));
    else if (status == HL_OK)
        printf("%s\n", cli_text(values, "out"));
    hl_model_destroy(model);
    return status;
}

hl_status cli_convert(cli_values *values)
{
    const char *in = values->arguments[0], *out = values->arguments[1];
    hl_tensor_map *map;
    HL_TRY(cli_check_output(out, false));
    HL_TRY(hl_weights_open(in, &map, NULL));
    json_int_t tensors = (json_int_t)hl_tensor_map_count(map);
    hl_status status = hl_tensor_map_set_meta(map, "format", "pt");
    if (status == HL_OK)
        status = hl_safetensors_write(out, map);
    hl_tensor_map_destroy(map);
    HL_TRY(status);
    if (cli_flag(values, "json"))
        return cli_print_json(json_pack("{s:o, s:I}", "out", cli_json_text(out), "tensors", tensors));
    printf("%s: %lld tensors\n", out, (long long)tensors);
    return HL_OK;
}
