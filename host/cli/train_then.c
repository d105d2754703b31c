/* heirloom train --then: a second run that starts from the first one's merged result, and with --compare the
 * control, the second run's method from where the first began, for as many epochs as both together. Each is
 * an ordinary run in a folder of its own under --out. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/train_then.h"
#include "io/atomic_file.h"
#include "io/folder.h"
#include "method/method.h"

enum { PATH_SIZE = 4096, TEXT_SIZE = 1024 };

/* One run; `values` point into it. */
typedef struct phase {
    cli_values values;
    char name[96], folder[PATH_SIZE], method[TEXT_SIZE], spec[TEXT_SIZE], epochs[24], steps[24];
    json_t *summary;
} phase;

typedef struct plan {
    phase phases[3]; /* the first, the second, the control */
    int count;
} plan;

/* What --then may say of the second run besides its method's own options. */
static bool is_training_option(const char *key)
{
    static const char *const keys[] = {
        "epochs",    "max-steps",     "batch-size",       "accumulate", "optimizer",      "lr",
        "head-lr",   "layer-decay",   "momentum",         "clip-grad",  "schedule",       "norm",
        "drop-path", "warmup-epochs", "weight-decay",     "early-stop", "augment",        "mixup",
        "cutmix",    "log-every",     "checkpoint-every", "monitor",    "label-smoothing"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

/* NAME:key=value,...: training options into the values, the rest with the name into `method`. */
static hl_status apply_spec(phase *p, const char *spec)
{
    static const char *const own[] = {"lr", "head-lr", "layer-decay", "weight-decay", "norm", "drop-path"};
    char *rest = NULL;
    if (strlen(spec) >= sizeof p->spec)
        return hl_fail(HL_E_ARG, "--then", NULL, "is longer than %zu characters", sizeof p->spec - 1);
    snprintf(p->spec, sizeof p->spec, "%s", spec);
    /* What suits one method does not suit another: these are not the first run's. */
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        cli_set(&p->values, own[i], NULL);
    char *items = strchr(p->spec, ':');
    if (items != NULL)
        *items++ = '\0';
    size_t used = (size_t)snprintf(p->method, sizeof p->method, "%s", p->spec);
    bool first = true;
    for (char *item = items != NULL ? strtok_r(items, ",", &rest) : NULL; item != NULL;
         item = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(item, '=');
        if (value != NULL)
            *value++ = '\0';
        if (value != NULL && is_training_option(item)) {
            HL_TRY(cli_assign(&p->values, item, value, "--then: "));
            continue;
        }
        used += (size_t)snprintf(p->method + used, sizeof p->method - used, "%s%s%s%s", first ? ":" : ",",
                                 item, value != NULL ? "=" : "", value != NULL ? value : "");
        first = false;
    }
    cli_set(&p->values, "method", p->method);
    return HL_OK;
}

static hl_status open_phase(plan *all, const cli_values *values, const char *method, phase **to)
{
    phase *p = *to = &all->phases[all->count++];
    p->values = *values;
    p->values.owned = NULL;
    hl_method parsed;
    char name[sizeof p->name];
    HL_TRY(hl_method_parse(method, &parsed));
    snprintf(name, sizeof name, "%d-%s", all->count, parsed.info->name);
    memcpy(p->name, name, sizeof name);
    if (snprintf(p->folder, sizeof p->folder, "%s/%s", cli_text(values, "out"), name) >= PATH_SIZE)
        return hl_fail(HL_E_ARG, "--out", NULL, "the path is too long");
    cli_set(&p->values, "out", p->folder);
    cli_set(&p->values, "then", NULL);
    cli_set(&p->values, "compare", NULL);
    return HL_OK;
}

/* The bare method of --then, for the name of its folder. */
static const char *bare(const char *spec, char *buf, size_t size)
{
    snprintf(buf, size, "%.*s", (int)strcspn(spec, ":"), spec);
    return buf;
}

static hl_status make_plan(const cli_values *values, plan *all)
{
    phase *first, *second, *control;
    hl_method parsed;
    char name[96];
    const char *spec = cli_text(values, "then");
    HL_TRY(open_phase(all, values, cli_text(values, "method"), &first));
    HL_TRY(open_phase(all, values, bare(spec, name, sizeof name), &second));
    HL_TRY(apply_spec(second, spec));
    HL_TRY(hl_method_parse(second->method, &parsed));
    cli_set(&second->values, "init-from", first->folder);
    if (!cli_flag(values, "compare"))
        return HL_OK;
    HL_TRY(open_phase(all, values, name, &control));
    HL_TRY(apply_spec(control, spec));
    snprintf(control->epochs, sizeof control->epochs, "%lld",
             (long long)(cli_int(&first->values, "epochs") + cli_int(&second->values, "epochs")));
    cli_set(&control->values, "epochs", control->epochs);
    int64_t steps[2] = {cli_int(&first->values, "max-steps"), cli_int(&second->values, "max-steps")};
    snprintf(control->steps, sizeof control->steps, "%lld",
             steps[0] > 0 && steps[1] > 0 ? (long long)(steps[0] + steps[1]) : 0LL);
    cli_set(&control->values, "max-steps", control->steps);
    return HL_OK;
}

static bool is_there(const char *folder, const char *name)
{
    char path[PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return access(path, F_OK) == 0;
}

static hl_status read_summary(phase *p)
{
    char path[PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/summary.json", p->folder);
    return hl_json_read(path, 1 << 20, &p->summary);
}

/* Each run in turn; with --resume those that are done are left alone and the others go on or begin. */
static hl_status run_phases(plan *all, cli_run *run, bool resume, bool *interrupted)
{
    for (int i = 0; i < all->count && !*interrupted; i++) {
        phase *p = &all->phases[i];
        bool there = access(p->folder, F_OK) == 0;
        if (!resume || !is_there(p->folder, "summary.json")) {
            cli_set(&p->values, "resume", resume && there ? "1" : NULL);
            HL_TRY(run(&p->values, interrupted));
        }
        if (!*interrupted)
            HL_TRY(read_summary(p));
    }
    return HL_OK;
}

static json_t *summary_of(const plan *all)
{
    json_t *phases = json_array(), *whole = json_pack("{s:o}", "phases", phases);
    for (int i = 0; i < all->count; i++) {
        const phase *p = &all->phases[i];
        json_t *one = json_pack("{s:s, s:O}", "folder", p->name, "summary", p->summary);
        if (i < 2)
            json_array_append_new(phases, one);
        else
            json_object_set_new(whole, "control", one);
    }
    return whole;
}

/* A share as percents; "-" where there is none. */
static const char *percents(const json_t *summary, const char *part, const char *key, char *buf, size_t size)
{
    const json_t *value = json_object_get(json_object_get(summary, part), key);
    if (json_is_number(value))
        snprintf(buf, size, "%.2f %%", 100.0 * json_number_value(value));
    else
        snprintf(buf, size, "-");
    return buf;
}

static void print_table(const plan *all)
{
    char val[24], test[24], trained[32], took[32];
    printf("%-18s %6s %20s %14s %14s %8s\n", "run", "epochs", "trained parameters", "val accuracy",
           "test accuracy", "time");
    for (int i = 0; i < all->count; i++) {
        const json_t *s = all->phases[i].summary;
        printf(
            "%-18s %6lld %20s %14s %14s %8s%s\n", all->phases[i].name,
            (long long)json_integer_value(json_object_get(s, "epochs")),
            cli_grouped(json_integer_value(json_object_get(s, "trainable_params")), trained, sizeof trained),
            percents(s, "best", "val_acc1", val, sizeof val), percents(s, "test", "acc1", test, sizeof test),
            cli_duration(json_number_value(json_object_get(s, "wall_seconds")), took, sizeof took),
            i == 2 ? "  (control)" : "");
    }
}

static hl_status report(const plan *all, const cli_values *values)
{
    char path[PATH_SIZE + 64];
    snprintf(path, sizeof path, "%s/summary.json", cli_text(values, "out"));
    json_t *whole = summary_of(all);
    hl_status status = hl_json_write(path, whole);
    if (status == HL_OK && cli_flag(values, "json"))
        return cli_print_json(whole);
    json_decref(whole);
    if (status == HL_OK)
        print_table(all);
    return status;
}

/* --resume reads the options from here. */
static hl_status write_config(const cli_values *values)
{
    char path[PATH_SIZE + 64];
    const char *out = cli_text(values, "out");
    HL_TRY(hl_folder_make(out, "choose another --out"));
    snprintf(path, sizeof path, "%s/config.yaml", out);
    char *config = cli_write_config(values);
    if (config == NULL)
        return hl_fail_nomem(path, 0);
    hl_status status = hl_atomic_put(path, config, strlen(config));
    free(config);
    return status;
}

hl_status cli_train_then(cli_values *values, cli_run *run, bool *interrupted)
{
    bool resume = cli_flag(values, "resume");
    if (!resume && is_there(cli_text(values, "out"), "config.yaml"))
        return hl_fail(HL_E_ARG, cli_text(values, "out"), "continue with --resume, or choose another --out",
                       "there is a run in it");
    plan *all = calloc(1, sizeof *all);
    if (all == NULL)
        return hl_fail_nomem("--then", sizeof *all);
    hl_status status = make_plan(values, all);
    if (status == HL_OK && !resume)
        status = write_config(values);
    if (status == HL_OK)
        status = run_phases(all, run, resume, interrupted);
    if (status == HL_OK && !*interrupted)
        status = report(all, values);
    for (int i = 0; i < all->count; i++)
        json_decref(all->phases[i].summary);
    free(all);
    return status;
}
