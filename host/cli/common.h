/* What commands share: the model and compute options, messages, JSON output. */
#ifndef HL_CLI_COMMON_H
#define HL_CLI_COMMON_H

#include "cli/commands.h"
#include "io/json.h"

/* Messages go to stderr, warnings always, the rest unless --quiet. */
const hl_log *cli_log(const cli_values *values);

/* --device, --precision, --projection-exec, --threads. An unusable device is an error. */
hl_status cli_compute(const cli_values *values, hl_compute *compute);

/* The model of --model, --weights, ... ; `classes` 0: --num-classes or what the weights have. */
hl_status cli_model(const cli_values *values, int64_t classes, hl_model **model);
/* Of --run with its method merged, or of --model; exactly one must be given. */
hl_status cli_model_or_run(const cli_values *values, int64_t classes, hl_model **model);
/* Several runs, where --run is given more than once: `visit` gets the model as each of them in turn. The
 * backbone is loaded once. */
hl_status cli_each_run(const cli_values *values,
                       hl_status (*visit)(void *user, const char *run, int index, hl_model *model),
                       void *user);

/* Applies --method with --norm. */
hl_status cli_apply_method(const cli_values *values, hl_model *model);

/* The bare name of the model's method, without its options; into buf, returned. */
const char *cli_method_name(const hl_model *model, char *buf, size_t size);

hl_status cli_data(const cli_values *values, hl_dataset **data);

/* Does the path end as a file that can be written does: .safetensors, or with `onnx` .onnx? */
hl_status cli_check_output(const char *path, bool onnx);

/* The option must be given. */
hl_status cli_require(const cli_values *values, const char *name);

/* Prints a JSON object on stdout, one line; takes over the reference; NULL is an error. */
hl_status cli_print_json(json_t *object);
/* File names are bytes, JSON is UTF-8: each byte that fits in no character becomes U+FFFD. */
json_t *cli_json_text(const char *text);

/* 12345678 -> "12,345,678" in buf, which is returned. */
const char *cli_grouped(int64_t value, char *buf, size_t size);
/* Seconds as "4:05" or "1:02:09". */
const char *cli_duration(double seconds, char *buf, size_t size);

#endif
