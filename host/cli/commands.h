/* The commands of the program: each parses nothing itself, calls the library, and prints. */
#ifndef HL_CLI_COMMANDS_H
#define HL_CLI_COMMANDS_H

#include <heirloom/heirloom.h>

#include "cli/options.h"

typedef struct cli_command {
    const char *name;
    unsigned bit;
    const char *arguments; /* in usage, "" for none */
    const char *summary;
    int least, most; /* number of arguments; most -1: any */
    hl_status (*run)(cli_values *values);
} cli_command;

extern const cli_command cli_commands[];
extern const int cli_command_count;

hl_status cli_train(cli_values *values);
hl_status cli_eval(cli_values *values);
hl_status cli_predict(cli_values *values);
hl_status cli_inspect(cli_values *values);
hl_status cli_models(cli_values *values);
hl_status cli_methods(cli_values *values);
hl_status cli_devices(cli_values *values);
hl_status cli_bench(cli_values *values);
hl_status cli_export(cli_values *values);
hl_status cli_convert(cli_values *values);
hl_status cli_embed(cli_values *values);
hl_status cli_gates(cli_values *values);

#endif
