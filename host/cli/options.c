#include "cli/options.h"

#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/numbers.h"
#include "io/yaml.h"

int cli_option_index(const char *name)
{
    for (int i = 0; i < cli_option_count; i++)
        if (strcmp(cli_option_table[i].name, name) == 0)
            return i;
    return -1;
}

static hl_status unknown_option(unsigned command, const char *given)
{
    const char *names[CLI_MAX_OPTIONS];
    int count = 0;
    for (int i = 0; i < cli_option_count; i++)
        if ((cli_option_table[i].commands & command) != 0 && !cli_option_table[i].planned)
            names[count++] = cli_option_table[i].name;
    char bare[64], nearest[192], subject[96], todo[256];
    snprintf(bare, sizeof bare, "%s", given + strspn(given, "-"));
    bare[strcspn(bare, "=")] = '\0';
    hl_nearest_names(bare, names, count, nearest, sizeof nearest);
    snprintf(subject, sizeof subject, "--%s", bare);
    int i = strchr(given, '=') != NULL ? cli_option_index(bare) : -1;
    if (i >= 0 && (cli_option_table[i].commands & command) != 0 && cli_option_table[i].type == CLI_FLAG)
        return hl_fail(HL_E_ARG, subject, "write it without =", "the option takes no value");
    snprintf(todo, sizeof todo,
             nearest[0] != '\0' ? "did you mean --%s? --help lists all" : "--help lists the options%s",
             nearest);
    return hl_fail(HL_E_ARG, subject, todo, "this command has no such option");
}

/* Place of `value` among choices "a|b|c", -1 when it is none. */
static int choice_index(const char *choices, const char *value)
{
    size_t length = strlen(value);
    int place = 0;
    for (const char *c = choices;; place++) {
        size_t n = strcspn(c, "|");
        if (n == length && strncmp(c, value, n) == 0)
            return place;
        if (c[n] == '\0')
            return -1;
        c += n + 1;
    }
}

static hl_status bad_choice(const cli_option *option, const char *subject, const char *value)
{
    char copy[160], nearest[128], todo[320];
    const char *names[16];
    int count = 0;
    char *rest = NULL;
    snprintf(copy, sizeof copy, "%s", option->metavar);
    for (char *name = strtok_r(copy, "|", &rest); name != NULL && count < 16;
         name = strtok_r(NULL, "|", &rest))
        names[count++] = name;
    hl_nearest_names(value, names, count, nearest, sizeof nearest);
    if (nearest[0] != '\0')
        snprintf(todo, sizeof todo, "did you mean %s? choices are %s", nearest, option->metavar);
    else
        snprintf(todo, sizeof todo, "choices are %s", option->metavar);
    return hl_fail(HL_E_ARG, subject, todo, "there is no such choice");
}

/* Choices that are known but not in this version. */
static bool is_planned_choice(const char *name, const char *value)
{
    static const char *const planned[][2] = {{"augment", "randaugment"},
                                             {"augment", "trivial"},
                                             {"schedule", "onecycle"},
                                             {"class-weights", "balanced"}};
    for (size_t i = 0; i < sizeof planned / sizeof *planned; i++)
        if (strcmp(planned[i][0], name) == 0 && strcmp(planned[i][1], value) == 0)
            return true;
    return false;
}

static hl_status check_number(const cli_option *option, const char *subject, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    bool whole = option->type != CLI_INT || (number == floor(number) && strpbrk(value, ".eExXnN") == NULL);
    if (end == value || *end != '\0' || !isfinite(number) || !whole || number < option->least ||
        number > option->most)
        return hl_fail(HL_E_ARG, subject, "--help shows the options",
                       "the value must be %s from %.15g to %.15g",
                       option->type == CLI_INT ? "a whole number" : "a number", option->least, option->most);
    return HL_OK;
}

/* `where` stands before the option in errors: "FILE, line N: ", or "". */
static hl_status check_value(const cli_option *option, const char *value, const char *where)
{
    char subject[800];
    float numbers[4];
    if (option->type == CLI_FLAG)
        snprintf(subject, sizeof subject, "%s--%s", where, option->name);
    else
        snprintf(subject, sizeof subject, "%s--%s %.100s", where, option->name, value);
    if (option->planned || (option->type == CLI_CHOICE && is_planned_choice(option->name, value)))
        return hl_fail(HL_E_ARG, subject, "leave it out", "not available in this version");
    switch (option->type) {
    case CLI_TEXT:
        return *value != '\0'
                   ? HL_OK
                   : hl_fail(HL_E_ARG, subject, "give one or leave the option out", "the value is empty");
    case CLI_FLAG:
        return HL_OK;
    case CLI_INT:
    case CLI_REAL:
        return check_number(option, subject, value);
    case CLI_CHOICE:
        return choice_index(option->metavar, value) >= 0 ? HL_OK : bad_choice(option, subject, value);
    case CLI_NUMBERS:
        return hl_numbers_parse(value, ',', 4, numbers) > 0
                   ? HL_OK
                   : hl_fail(HL_E_ARG, subject, "write 0.5,0.5,0.5",
                             "the value must be a number for each channel, or one for all");
    }
    return HL_OK;
}

/* Of all other options the last one counts. */
static bool repeats(const cli_option *option, unsigned command)
{
    return strcmp(option->name, "run") == 0 && (command & (CLI_EVAL | CLI_PREDICT)) != 0;
}

hl_status cli_parse(unsigned command, int argc, char **argv, cli_values *values, bool *help)
{
    struct option long_options[CLI_MAX_OPTIONS + 1] = {{0}};
    int place[CLI_MAX_OPTIONS], count = 0, chosen = 0;
    *values = (cli_values){.command = command};
    *help = false;
    for (int i = 0; i < cli_option_count; i++) {
        if ((cli_option_table[i].commands & command) == 0)
            continue;
        bool flag = cli_option_table[i].type == CLI_FLAG;
        long_options[count] =
            (struct option){cli_option_table[i].name, flag ? no_argument : required_argument, NULL, 0};
        place[count++] = i;
    }
    opterr = 0;
    optind = 1;
    for (int at = optind, c; (c = getopt_long(argc, argv, ":h", long_options, &chosen)) != -1; at = optind) {
        const char *word = argv[optind > at ? optind - 1 : at];
        if (c == ':')
            return hl_fail(HL_E_ARG, word, "--help shows what it takes", "the option needs a value");
        if (c == 'h') {
            *help = true;
            continue;
        }
        if (c == '?')
            return unknown_option(command, word);
        const cli_option *option = &cli_option_table[place[chosen]];
        const char *value = option->type == CLI_FLAG ? "1" : optarg;
        if (strcmp(option->name, "help") == 0)
            *help = true;
        if (!*help)
            HL_TRY(check_value(option, value, ""));
        if (repeats(option, command)) {
            if (values->repeated_count == CLI_MAX_REPEATS)
                return hl_fail(HL_E_ARG, word, "make it several commands", "it is given more than %d times",
                               CLI_MAX_REPEATS);
            values->repeated[values->repeated_count++] = value;
        }
        values->text[place[chosen]] = value;
        values->typed[place[chosen]] = true;
    }
    values->arguments = argv + optind;
    values->argument_count = argc - optind;
    return HL_OK;
}

void cli_values_clear(cli_values *values)
{
    free(values->owned);
    values->owned = NULL;
}

/* One item of a configuration: an option of the command, with a fit value. */
static hl_status take_item(cli_values *values, const hl_yaml *yaml, const char *path,
                           const hl_yaml_item *item, char **to)
{
    char subject[512];
    const char *text;
    int i = cli_option_index(item->key);
    snprintf(subject, sizeof subject, "%.400s, line %d", path, item->line);
    if (i < 0 || (cli_option_table[i].commands & values->command) == 0)
        return hl_fail(HL_E_ARG, subject, "remove it", "\"%s\" is no option of this command", item->key);
    if (hl_yaml_is_null(item) || values->typed[i])
        return HL_OK;
    bool off = false;
    if (cli_option_table[i].type == CLI_FLAG) {
        HL_TRY(hl_yaml_bool(yaml, item, &off));
        off = !off;
        text = "1";
    } else {
        HL_TRY(hl_yaml_text(yaml, item, &text));
    }
    if (off)
        return HL_OK;
    char where[520];
    snprintf(where, sizeof where, "%s: ", subject);
    HL_TRY(check_value(&cli_option_table[i], text, where));
    size_t size = strlen(text) + 1;
    memcpy(*to, text, size);
    values->text[i] = *to;
    *to += size;
    return HL_OK;
}

hl_status cli_read_config(cli_values *values, const char *path)
{
    hl_yaml *yaml;
    HL_TRY(hl_yaml_read(path, &yaml));
    size_t bytes = 1;
    for (size_t k = 0; k < hl_yaml_count(yaml); k++)
        bytes += hl_yaml_at(yaml, k)->count > 0 ? strlen(hl_yaml_at(yaml, k)->values[0].text) + 2 : 2;
    free(values->owned);
    char *to = values->owned = malloc(bytes);
    hl_status status = to != NULL ? HL_OK : hl_fail_nomem(path, bytes);
    for (size_t k = 0; status == HL_OK && k < hl_yaml_count(yaml); k++)
        status = take_item(values, yaml, path, hl_yaml_at(yaml, k), &to);
    hl_yaml_destroy(yaml);
    return status;
}

static const char *effective(const cli_values *values, int i)
{
    return values->text[i] != NULL ? values->text[i] : cli_option_table[i].fallback;
}

/* A YAML double-quoted scalar. */
static void put_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\')
            fputc('\\', out);
        if ((unsigned char)*c < ' ')
            fprintf(out, "\\x%02x", (unsigned)*c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

char *cli_write_config(const cli_values *values)
{
    static const char *const left_out[] = {"help", "json", "quiet", "config", "resume"};
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (out == NULL)
        return NULL;
    for (int i = 0; i < cli_option_count; i++) {
        const cli_option *option = &cli_option_table[i];
        bool skipped =
            (option->commands & values->command) == 0 || option->planned || effective(values, i) == NULL;
        for (size_t k = 0; k < sizeof left_out / sizeof *left_out; k++)
            skipped = skipped || strcmp(option->name, left_out[k]) == 0;
        if (skipped)
            continue;
        fprintf(out, "%s: ", option->name);
        if (option->type == CLI_FLAG)
            fputs("true", out);
        else if (option->type == CLI_TEXT || option->type == CLI_NUMBERS)
            put_quoted(out, effective(values, i));
        else
            fputs(effective(values, i), out);
        fputc('\n', out);
    }
    return fclose(out) == 0 ? text : NULL;
}

bool cli_given(const cli_values *values, const char *name)
{
    return values->text[cli_option_index(name)] != NULL;
}

const char *cli_text(const cli_values *values, const char *name)
{
    return effective(values, cli_option_index(name));
}

bool cli_flag(const cli_values *values, const char *name)
{
    return cli_given(values, name);
}

int64_t cli_int(const cli_values *values, const char *name)
{
    const char *text = cli_text(values, name);
    return text != NULL ? strtoll(text, NULL, 10) : 0;
}

double cli_real(const cli_values *values, const char *name)
{
    const char *text = cli_text(values, name);
    return text != NULL ? strtod(text, NULL) : 0.0;
}

int cli_choice(const cli_values *values, const char *name)
{
    const char *text = cli_text(values, name);
    return text != NULL ? choice_index(cli_option_table[cli_option_index(name)].metavar, text) : -1;
}

int64_t cli_numbers(const cli_values *values, const char *name, float out[4])
{
    const char *text = cli_text(values, name);
    return text != NULL ? hl_numbers_parse(text, ',', 4, out) : 0;
}

void cli_set(cli_values *values, const char *name, const char *text)
{
    values->text[cli_option_index(name)] = text;
}

hl_status cli_assign(cli_values *values, const char *name, const char *text, const char *where)
{
    int i = cli_option_index(name);
    HL_TRY(check_value(&cli_option_table[i], text, where));
    values->text[i] = text;
    return HL_OK;
}
