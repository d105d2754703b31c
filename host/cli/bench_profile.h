/* The profile of heirloom bench: a table, JSON, a Chrome trace. */
#ifndef HL_CLI_BENCH_PROFILE_H
#define HL_CLI_BENCH_PROFILE_H

#include <heirloom/train.h>

#include "io/json.h"

/* A new array with an object for each row; NULL when memory is out. */
json_t *cli_profile_json(const hl_bench_result *result);
/* To stdout: every operation, then their sums by kind. */
hl_status cli_print_profile(const hl_bench_result *result);
/* In the format of chrome://tracing and ui.perfetto.dev. */
hl_status cli_write_trace(const hl_bench_result *result, const char *path);

#endif
