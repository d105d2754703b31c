/* The program `heirloom`: finds the command, parses its options, runs it, reports errors. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "cli/help.h"

const cli_command cli_commands[] = {
    {"train", CLI_TRAIN, "", "transfer a pretrained network to new data", 0, 0, cli_train},
    {"eval", CLI_EVAL, "", "measure a network on labelled images", 0, 0, cli_eval},
    {"predict", CLI_PREDICT, "IMAGE...", "classify images", 1, -1, cli_predict},
    {"inspect", CLI_INSPECT, "", "layers, parameters, gates and operations of a model under a method", 0, 0,
     cli_inspect},
    {"models", CLI_MODELS, "", "list the models", 0, 0, cli_models},
    {"methods", CLI_METHODS, "", "list the methods and their options", 0, 0, cli_methods},
    {"devices", CLI_DEVICES, "", "list what can compute here", 0, 0, cli_devices},
    {"bench", CLI_BENCH, "", "measure throughput on synthetic images", 0, 0, cli_bench},
    {"export", CLI_EXPORT, "", "write a run's network with the method merged in, for PyTorch", 0, 0,
     cli_export},
    {"convert", CLI_CONVERT, "IN OUT", "PyTorch weights to safetensors", 2, 2, cli_convert},
    {"embed", CLI_EMBED, "FILE", "a feedforward network as a convolutional one", 1, 1, cli_embed},
    {"gates", CLI_GATES, "",
     "statistics and pictures of learned gates, and the network without the small ones", 0, 0, cli_gates},
};
const int cli_command_count = sizeof cli_commands / sizeof *cli_commands;

static hl_status find_command(const char *name, const cli_command **command)
{
    static const char *const planned[] = {"sweep", "report"};
    const char *names[sizeof cli_commands / sizeof *cli_commands];
    for (int i = 0; i < cli_command_count; i++) {
        names[i] = cli_commands[i].name;
        *command = &cli_commands[i];
        if (strcmp(names[i], name) == 0)
            return HL_OK;
    }
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++)
        if (strcmp(planned[i], name) == 0)
            return hl_fail(HL_E_ARG, name, "`heirloom --help` lists the commands",
                           "not available in this version");
    char nearest[128], todo[256];
    hl_nearest_names(name, names, cli_command_count, nearest, sizeof nearest);
    snprintf(todo, sizeof todo,
             nearest[0] != '\0' ? "did you mean %s? `heirloom --help` lists them"
                                : "`heirloom --help` lists them%s",
             nearest);
    return hl_fail(HL_E_ARG, name, todo, "there is no such command");
}

static hl_status run_command(int argc, char **argv)
{
    const cli_command *command;
    cli_values values;
    bool help;
    HL_TRY(find_command(argv[0], &command));
    hl_status status = cli_parse(command->bit, argc, argv, &values, &help);
    if (status == HL_OK && help) {
        cli_help_command(stdout, command);
        return HL_OK;
    }
    int count = values.argument_count;
    if (status == HL_OK && count < command->least)
        status =
            hl_fail(HL_E_ARG, command->name, "--help shows its usage", "%s is missing", command->arguments);
    if (status == HL_OK && command->most >= 0 && count > command->most)
        status = hl_fail(HL_E_ARG, values.arguments[command->most], "--help shows the command's usage",
                         "%s takes %d arguments, not %d", command->name, command->most, count);
    if (status == HL_OK)
        status = command->run(&values);
    cli_values_clear(&values);
    return status;
}

static hl_status run(int argc, char **argv)
{
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        if (argc == 3 && strcmp(argv[1], "help") == 0) {
            char *const words[] = {argv[2], "--help", NULL};
            return run_command(2, (char **)words);
        }
        cli_help_program(argc < 2 ? stderr : stdout);
        return argc < 2 ? hl_fail(HL_E_ARG, "command", "see above", "none is given") : HL_OK;
    }
    if (strcmp(argv[1], "--version") == 0)
        printf("heirloom %s\n", hl_version());
    else if (strcmp(argv[1], "--man") == 0)
        cli_man_page(stdout);
    else if (strcmp(argv[1], "--bash-completion") == 0)
        cli_bash_completion(stdout);
    else
        return run_command(argc - 1, argv + 1);
    return HL_OK;
}

int main(int argc, char **argv)
{
    /* A reader that closes the pipe early, or a limit on the size of files, ends the program by its write
     * error, not by a signal. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    hl_status status = run(argc, argv);
    if (status == HL_OK && (fflush(stdout) != 0 || ferror(stdout)))
        status = hl_fail(HL_E_IO, "stdout", NULL, "writing failed: %s", strerror(errno));
    if (status == HL_OK)
        return 0;
    fprintf(stderr, "heirloom: %s\n", hl_last_error());
    return hl_status_exit_code(status);
}
