/* What the program says about itself, all from the option table and the table of commands. */
#ifndef HL_CLI_HELP_H
#define HL_CLI_HELP_H

#include "cli/commands.h"

void cli_help_program(FILE *out);
void cli_help_command(FILE *out, const cli_command *command);
void cli_man_page(FILE *out);
void cli_bash_completion(FILE *out);

#endif
