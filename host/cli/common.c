#include "cli/common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/backend.h"

/* A progress bar that was being drawn must not run into a message. */
static void write_line(void *user, hl_log_level level, const char *line)
{
    (void)user;
    const char *clear = isatty(STDERR_FILENO) ? "\r\033[K" : "";
    fprintf(stderr, "%s%s%s\n", clear, level == HL_LOG_WARNING ? "warning: " : "", line);
}

static void write_warning(void *user, hl_log_level level, const char *line)
{
    if (level == HL_LOG_WARNING)
        write_line(user, level, line);
}

const hl_log *cli_log(const cli_values *values)
{
    static const hl_log loud = {.write = write_line}, quiet = {.write = write_warning};
    return cli_flag(values, "quiet") ? &quiet : &loud;
}

hl_status cli_compute(const cli_values *values, hl_compute *compute)
{
    /* Now, so that a run does not find out after reading its data. */
    HL_TRY(hl_backend_probe(cli_text(values, "device")));
    *compute = (hl_compute){.device = cli_text(values, "device"),
                            .threads = (int)cli_int(values, "threads"),
                            .deterministic = cli_flag(values, "deterministic"),
                            .autotune = cli_flag(values, "autotune"),
                            .winograd = cli_flag(values, "winograd"),
                            .log = cli_log(values)};
    compute->projection = (hl_exec)cli_choice(values, "projection-exec");
    if (cli_text(values, "precision") != NULL)
        compute->precision = (hl_precision)(cli_choice(values, "precision") + 1);
    return HL_OK;
}

hl_status cli_require(const cli_values *values, const char *name)
{
    char subject[64];
    if (cli_text(values, name) != NULL)
        return HL_OK;
    snprintf(subject, sizeof subject, "--%s", name);
    return hl_fail(HL_E_ARG, subject, "--help shows the options", "the option is required");
}

hl_status cli_model(const cli_values *values, int64_t classes, hl_model **model)
{
    float mean[4], std[4];
    int64_t mean_count = cli_numbers(values, "mean", mean), std_count = cli_numbers(values, "std", std);
    bool train = values->command == CLI_TRAIN,
         seeded = (values->command & (CLI_TRAIN | CLI_BENCH | CLI_INSPECT)) != 0;
    hl_model_options options = {.name = cli_text(values, "model"),
                                .weights = cli_text(values, "weights"),
                                .init_from = train ? cli_text(values, "init-from") : NULL,
                                .classes = cli_given(values, "num-classes") ? cli_int(values, "num-classes")
                                                                            : classes,
                                .image_size = cli_int(values, "image-size"),
                                .resize = cli_int(values, "resize"),
                                .interpolation = cli_choice(values, "interpolation") + 1,
                                .in_channels = cli_int(values, "in-channels"),
                                .mean = mean_count > 0 ? mean : NULL,
                                .std = std_count > 0 ? std : NULL,
                                .mean_count = mean_count,
                                .std_count = std_count,
                                .bgr = cli_choice(values, "channel-order") == 1,
                                .zero_head = train && cli_choice(values, "init-head") == 1,
                                .seed = seeded ? (uint64_t)cli_int(values, "seed") : 0,
                                .log = cli_log(values)};
    if (options.init_from == NULL)
        HL_TRY(cli_require(values, "model"));
    return hl_model_create(&options, model);
}

hl_status cli_model_or_run(const cli_values *values, int64_t classes, hl_model **model)
{
    const char *run = cli_text(values, "run");
    if ((run != NULL) == cli_given(values, "model"))
        return hl_fail(HL_E_ARG, "--run or --model", "--help shows the options", "give one of the two");
    if (run == NULL)
        return cli_model(values, classes, model);
    return hl_model_open_run(run, cli_text(values, "weights"), true, cli_log(values), model);
}

hl_status cli_each_run(const cli_values *values,
                       hl_status (*visit)(void *user, const char *run, int index, hl_model *model),
                       void *user)
{
    hl_model *model;
    if (cli_given(values, "model"))
        return hl_fail(HL_E_ARG, "--run or --model", "--help shows the options", "give one of the two");
    HL_TRY(
        hl_model_open_run(values->repeated[0], cli_text(values, "weights"), false, cli_log(values), &model));
    hl_status status = HL_OK;
    for (int i = 0; status == HL_OK && i < values->repeated_count; i++) {
        if (i > 0)
            status = hl_model_swap_adapter(model, values->repeated[i]);
        if (status == HL_OK)
            status = visit(user, values->repeated[i], i, model);
    }
    hl_model_destroy(model);
    return status;
}

hl_status cli_apply_method(const cli_values *values, hl_model *model)
{
    hl_norm_mode norm = (hl_norm_mode)(cli_choice(values, "norm") + 1);
    if ((values->command & (CLI_TRAIN | CLI_BENCH)) != 0 && cli_given(values, "drop-path"))
        HL_TRY(hl_model_set_drop_path(model, cli_real(values, "drop-path")));
    return hl_model_apply_method(model, cli_text(values, "method"), norm, (uint64_t)cli_int(values, "seed"));
}

const char *cli_method_name(const hl_model *model, char *buf, size_t size)
{
    const char *text = hl_model_method(model);
    snprintf(buf, size, "%.*s", (int)strcspn(text, ":"), text);
    return buf;
}

hl_status cli_data(const cli_values *values, hl_dataset **data)
{
    HL_TRY(cli_require(values, "data"));
    bool train = values->command == CLI_TRAIN;
    hl_dataset_options options = {.val_fraction = train ? cli_real(values, "val-fraction") : 0.0,
                                  .seed = train ? (uint64_t)cli_int(values, "seed") : 0,
                                  .evaluation = !train,
                                  .log = cli_log(values)};
    return hl_dataset_open(cli_text(values, "data"), &options, data);
}

hl_status cli_print_json(json_t *object)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;
    json_decref(object);
    if (text == NULL)
        return hl_fail_nomem("JSON", 0);
    puts(text);
    free(text);
    return HL_OK;
}

/* Bytes of the UTF-8 character at `s`, 0 when it is none: overlong forms, surrogates and what is beyond
 * U+10FFFF are none. */
static size_t utf8_length(const unsigned char *s)
{
    size_t length = s[0] < 0x80   ? 1
                    : s[0] < 0xc2 ? 0
                    : s[0] < 0xe0 ? 2
                    : s[0] < 0xf0 ? 3
                    : s[0] < 0xf5 ? 4
                                  : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool unfit = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
                 (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return length > 2 && unfit ? 0 : length;
}

json_t *cli_json_text(const char *text)
{
    char *clean = malloc(3 * strlen(text) + 1), *to = clean;
    if (clean == NULL)
        return NULL;
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        size_t length = utf8_length(s);
        memcpy(to, length > 0 ? (const char *)s : "\xef\xbf\xbd", length > 0 ? length : 3);
        to += length > 0 ? length : 3;
        s += length > 0 ? length : 1;
    }
    *to = '\0';
    json_t *value = json_string(clean);
    free(clean);
    return value;
}

const char *cli_grouped(int64_t value, char *buf, size_t size)
{
    char digits[32];
    int length = snprintf(digits, sizeof digits, "%lld", (long long)value);
    size_t used = 0;
    for (int i = 0; i < length && used + 2 < size; i++) {
        if (i > 0 && (length - i) % 3 == 0 && digits[i - 1] != '-')
            buf[used++] = ',';
        buf[used++] = digits[i];
    }
    buf[used] = '\0';
    return buf;
}

const char *cli_duration(double seconds, char *buf, size_t size)
{
    long long s = seconds > 0.0 && seconds < 1e9 ? (long long)(seconds + 0.5) : 0;
    if (s >= 3600)
        snprintf(buf, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(buf, size, "%lld:%02lld", s / 60, s % 60);
    return buf;
}
