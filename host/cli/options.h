/* Options of the program. One table (option_table.c) is what the parser, --help, the man page, shell
 * completion and a run's config.yaml come from. */
#ifndef HL_CLI_OPTIONS_H
#define HL_CLI_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* Commands, as bits: which options a command takes. */
enum {
    CLI_TRAIN = 1 << 0,
    CLI_EVAL = 1 << 1,
    CLI_PREDICT = 1 << 2,
    CLI_INSPECT = 1 << 3,
    CLI_BENCH = 1 << 4,
    CLI_EXPORT = 1 << 5,
    CLI_CONVERT = 1 << 6,
    CLI_MODELS = 1 << 7,
    CLI_METHODS = 1 << 8,
    CLI_DEVICES = 1 << 9,
    CLI_EMBED = 1 << 10,
    CLI_GATES = 1 << 11,
    CLI_ALL = (1 << 12) - 1
};

typedef enum cli_type { CLI_TEXT, CLI_FLAG, CLI_INT, CLI_REAL, CLI_CHOICE, CLI_NUMBERS } cli_type;

typedef struct cli_option {
    const char *name; /* without the dashes */
    cli_type type;
    const char *metavar;  /* in help; CHOICE: the choices, "a|b|c" */
    const char *fallback; /* default as text; NULL: none, help then says what `unset` says */
    const char *unset;
    double least, most; /* INT, REAL */
    unsigned commands;
    bool planned; /* known, but not in this version: refused with a message, not shown in help */
    const char *help;
} cli_option;

extern const cli_option cli_option_table[];
extern const int cli_option_count;

enum { CLI_MAX_OPTIONS = 96, CLI_MAX_REPEATS = 64 };

/* What a command line, a configuration file and the defaults give. */
typedef struct cli_values {
    unsigned command;
    const char *text[CLI_MAX_OPTIONS];     /* by index of the table; NULL: not given */
    bool typed[CLI_MAX_OPTIONS];           /* on the command line itself */
    const char *repeated[CLI_MAX_REPEATS]; /* all values of the option that repeats, in their order */
    int repeated_count;
    char **arguments; /* what is no option */
    int argument_count;
    char *owned; /* texts read from a configuration */
} cli_values;

/* Parses argv[1 ..] of a command. *help is set when --help is among them (nothing else is then checked). */
hl_status cli_parse(unsigned command, int argc, char **argv, cli_values *values, bool *help);
void cli_values_clear(cli_values *values);

/* Reads a configuration file; its values stand where the command line gives none. */
hl_status cli_read_config(cli_values *values, const char *path);
/* All options of the command that have a value, as YAML; the caller frees it. NULL when memory is out. */
char *cli_write_config(const cli_values *values);

/* Values by name; the option must be in the table and of that type. Text is NULL when nothing is given and
 * there is no default. */
bool cli_given(const cli_values *values, const char *name);
const char *cli_text(const cli_values *values, const char *name);
bool cli_flag(const cli_values *values, const char *name);
int64_t cli_int(const cli_values *values, const char *name);
double cli_real(const cli_values *values, const char *name);
int cli_choice(const cli_values *values, const char *name);                    /* place among the choices */
int64_t cli_numbers(const cli_values *values, const char *name, float out[4]); /* how many; 0: not given */
/* Sets a value that was resolved (a default that depends on other options); text must outlive the values. */
void cli_set(cli_values *values, const char *name, const char *text);

/* The same for a text from a user, checked as on the command line; `where` stands in front of errors. */
hl_status cli_assign(cli_values *values, const char *name, const char *text, const char *where);

/* "--name" of an option for messages goes through this: index in the table, -1 when unknown. */
int cli_option_index(const char *name);

#endif
