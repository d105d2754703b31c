#include "cli/help.h"

#include <string.h>

#include "models/registry.h"

void cli_help_program(FILE *out)
{
    fprintf(out,
            "usage: heirloom COMMAND [options]\n\n"
            "Transfers pretrained convolutional networks to new image tasks, parameter-efficiently.\n\n");
    for (int i = 0; i < cli_command_count; i++)
        fprintf(out, "  %-10s %s\n", cli_commands[i].name, cli_commands[i].summary);
    fprintf(out,
            "\n`heirloom COMMAND --help` shows a command's options; `heirloom --version` the version.\n");
}

/* Text filled to `width` columns, lines after the first indented. */
static void put_filled(FILE *out, const char *text, int indent, int width)
{
    int column = indent;
    for (text += strspn(text, " "); *text != '\0'; text += strspn(text, " ")) {
        int length = (int)strcspn(text, " ");
        bool first = column == indent;
        if (!first && column + 1 + length > width) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
            first = true;
        }
        fprintf(out, "%s%.*s", first ? "" : " ", length, text);
        column += length + !first;
        text += length;
    }
    fputc('\n', out);
}

/* An option with a single choice decides nothing yet. */
static bool is_shown(const cli_option *option, unsigned command)
{
    bool lone = option->type == CLI_CHOICE && strchr(option->metavar, '|') == NULL;
    return (option->commands & command) != 0 && !option->planned && !lone;
}

static void describe(const cli_option *option, char *buf, size_t size)
{
    const char *fallback = option->fallback != NULL ? option->fallback : option->unset;
    if (fallback != NULL)
        snprintf(buf, size, "%s [%s]", option->help, fallback);
    else
        snprintf(buf, size, "%s", option->help);
}

void cli_help_command(FILE *out, const cli_command *command)
{
    fprintf(out, "usage: heirloom %s [options]%s%s\n\n%s. Defaults in brackets.\n\n", command->name,
            *command->arguments != '\0' ? " " : "", command->arguments, command->summary);
    for (int i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_option_table[i];
        char left[128], text[512];
        if (!is_shown(option, command->bit))
            continue;
        snprintf(left, sizeof left, "--%s%s%s", option->name, option->type == CLI_FLAG ? "" : " ",
                 option->type == CLI_FLAG ? "" : option->metavar);
        describe(option, text, sizeof text);
        if (strlen(left) <= 26)
            fprintf(out, "  %-26s  ", left);
        else
            fprintf(out, "  %s\n%30s", left, "");
        put_filled(out, text, 30, 100);
    }
}

/* Text for troff: backslashes, quotes at line starts and dashes are its own. */
static void put_troff(FILE *out, const char *text)
{
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '\\')
            fputs("\\e", out);
        else if (*c == '-')
            fputs("\\-", out);
        else
            fputc(*c, out);
    }
}

void cli_man_page(FILE *out)
{
    fprintf(out,
            ".TH HEIRLOOM 1 \"\" \"heirloom %s\"\n.SH NAME\nheirloom \\- transfer pretrained convolutional "
            "networks to new image "
            "tasks\n.SH SYNOPSIS\n.B heirloom\n.I COMMAND\n[options]\n",
            hl_version());
    for (int c = 0; c < cli_command_count; c++) {
        fprintf(out, ".SH heirloom %s %s\n", cli_commands[c].name, cli_commands[c].arguments);
        put_troff(out, cli_commands[c].summary);
        fputs(".\n", out);
        for (int i = 0; i < cli_option_count; i++) {
            const cli_option *option = &cli_option_table[i];
            char text[512];
            if (!is_shown(option, cli_commands[c].bit))
                continue;
            fputs(".TP\n.B ", out);
            put_troff(out, "--");
            put_troff(out, option->name);
            if (option->type != CLI_FLAG) {
                fputs(" ", out);
                put_troff(out, option->metavar);
            }
            fputc('\n', out);
            describe(option, text, sizeof text);
            put_troff(out, text);
            fputc('\n', out);
        }
    }
    fputs(".SH EXIT STATUS\n0: done. 1: it failed while running. 2: the command line, a configuration or an "
          "input is wrong.\n",
          out);
}

void cli_bash_completion(FILE *out)
{
    fputs("_heirloom() {\n"
          "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
          "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        COMPREPLY=($(compgen -W \"",
          out);
    for (int i = 0; i < cli_command_count; i++)
        fprintf(out, "%s%s", i > 0 ? " " : "", cli_commands[i].name);
    fputs("\" -- \"$word\"))\n        return\n    fi\n    case $before in\n    --model) COMPREPLY=($(compgen "
          "-f -W \"",
          out);
    for (int i = 0; i < hl_model_count(); i++)
        fprintf(out, "%s%s", i > 0 ? " " : "", hl_model_at(i)->name);
    fputs("\" -- \"$word\")); return ;;\n", out);
    for (int i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_option_table[i];
        if (option->type != CLI_CHOICE || !is_shown(option, CLI_ALL))
            continue;
        fprintf(out, "    --%s) COMPREPLY=($(compgen -W \"", option->name);
        for (const char *c = option->metavar; *c != '\0'; c++)
            fputc(*c == '|' ? ' ' : *c, out);
        fputs("\" -- \"$word\")); return ;;\n", out);
    }
    fputs("    esac\n    case ${COMP_WORDS[1]} in\n", out);
    for (int c = 0; c < cli_command_count; c++) {
        fprintf(out, "    %s) COMPREPLY=($(compgen -f -W \"", cli_commands[c].name);
        for (int i = 0; i < cli_option_count; i++)
            if (is_shown(&cli_option_table[i], cli_commands[c].bit))
                fprintf(out, "--%s ", cli_option_table[i].name);
        fputs("\" -- \"$word\")) ;;\n", out);
    }
    fputs("    esac\n}\ncomplete -o filenames -F _heirloom heirloom\n", out);
}
