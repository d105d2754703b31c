/* heirloom train */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/numbers.h"
#include "cli/common.h"
#include "cli/train_then.h"
#include "method/method.h"

static volatile sig_atomic_t stop_asked, checkpoint_asked;

static void on_stop(int number)
{
    (void)number;
    stop_asked = 1;
}

static void on_checkpoint(int number)
{
    (void)number;
    checkpoint_asked = 1;
}

static hl_request poll_signals(void *user)
{
    (void)user;
    if (stop_asked)
        return HL_STOP;
    if (!checkpoint_asked)
        return HL_GO_ON;
    checkpoint_asked = 0;
    return HL_CHECKPOINT;
}

static void watch_signals(void)
{
    struct sigaction stop = {.sa_handler = on_stop},
                     checkpoint = {.sa_handler = on_checkpoint, .sa_flags = SA_RESTART};
    /* A second Ctrl-C ends the program the hard way. */
    stop.sa_flags = SA_RESTART | (int)SA_RESETHAND;
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGUSR1, &checkpoint, NULL);
}

/* A bar where someone is looking, a line per epoch where not. */
static void show_progress(void *user, const hl_progress *p)
{
    (void)user;
    char left[32];
    bool terminal = isatty(STDERR_FILENO) != 0;
    cli_duration(p->seconds_left, left, sizeof left);
    if (p->val != NULL) {
        fprintf(stderr, "%sepoch %lld/%lld  step %lld", terminal ? "\r\033[K" : "", (long long)p->epoch + 1,
                (long long)p->epochs, (long long)p->step);
        if (!isnan(p->loss))
            fprintf(stderr, "  loss %.4f", p->loss);
        fprintf(stderr, "  val loss %.4f  val acc %.2f %%  %.0f images/s  %s left\n", p->val->loss,
                100.0 * p->val->acc1, p->images_per_second, left);
        return;
    }
    if (!terminal || p->steps <= 0)
        return;
    enum { WIDTH = 24 };
    int done = (int)(WIDTH * p->step / p->steps);
    fprintf(stderr, "\r\033[K[%.*s%.*s] epoch %lld/%lld  step %lld/%lld", done,
            "========================", WIDTH - done, "                        ", (long long)p->epoch + 1,
            (long long)p->epochs, (long long)p->step, (long long)p->steps);
    if (!isnan(p->loss))
        fprintf(stderr, "  loss %.4f", p->loss);
    fprintf(stderr, "  %.0f images/s  %s left", p->images_per_second, left);
    fflush(stderr);
}

/* What the method decides where the user does not; `rates` has the texts. */
typedef struct method_rates {
    char lr[32], decay[32];
} method_rates;

static hl_status set_method_rates(cli_values *values, method_rates *rates)
{
    hl_method method;
    HL_TRY(hl_method_parse(cli_text(values, "method"), &method));
    int64_t optimizer = cli_choice(values, "optimizer");
    bool sgd = optimizer == HL_SGD || optimizer == HL_LARS;
    snprintf(rates->lr, sizeof rates->lr, "%.17g", sgd ? method.info->lr_sgd : method.info->lr_adam);
    snprintf(rates->decay, sizeof rates->decay, "%g", hl_method_weight_decay(method.info));
    if (cli_text(values, "lr") == NULL || cli_real(values, "lr") == 0.0)
        cli_set(values, "lr", rates->lr);
    if (cli_text(values, "weight-decay") == NULL)
        cli_set(values, "weight-decay", rates->decay);
    return HL_OK;
}

static void fill_options(const cli_values *values, hl_train_options *o)
{
    hl_train_defaults(o);
    o->out = cli_text(values, "out");
    o->resume = cli_flag(values, "resume");
    o->epochs = (double)cli_int(values, "epochs");
    o->max_steps = cli_int(values, "max-steps");
    o->batch_size = cli_int(values, "batch-size");
    o->accumulate = cli_int(values, "accumulate");
    o->optimizer = (hl_optimizer)cli_choice(values, "optimizer");
    o->lr = cli_real(values, "lr");
    o->head_lr_scale = cli_given(values, "head-lr") ? cli_real(values, "head-lr") / o->lr : 0.0;
    o->layer_decay = cli_real(values, "layer-decay");
    o->momentum = cli_real(values, "momentum");
    o->weight_decay = cli_real(values, "weight-decay");
    o->clip_grad = cli_real(values, "clip-grad");
    o->schedule = (hl_schedule)cli_choice(values, "schedule");
    if (cli_given(values, "warmup-epochs"))
        o->warmup_epochs = cli_real(values, "warmup-epochs");
    o->mixup = cli_real(values, "mixup");
    o->cutmix = cli_real(values, "cutmix");
    o->feature_bytes = (int64_t)(cli_real(values, "feature-limit") * 0x1p30);
    o->feature_cache = cli_text(values, "feature-cache");
    o->label_smoothing = cli_real(values, "label-smoothing");
    o->augment = (hl_augment)cli_choice(values, "augment");
    o->no_shuffle = cli_flag(values, "no-shuffle");
    o->workers = (int)cli_int(values, "workers");
    o->seed = (uint64_t)cli_int(values, "seed");
    o->early_stop = (int)cli_int(values, "early-stop");
    o->monitor = (hl_monitor)cli_choice(values, "monitor");
    o->checkpoint_every = cli_int(values, "checkpoint-every");
    o->log_every = cli_int(values, "log-every");
    o->skip_bad_images = cli_choice(values, "bad-images") == 1;
    o->poll = poll_signals;
    if (!cli_flag(values, "quiet"))
        o->progress = show_progress;
}

static void print_result(const hl_model *model, const hl_train_options *o, const hl_train_result *r)
{
    char trained[32], took[32];
    hl_model_counts counts;
    hl_model_count_params(model, &counts);
    printf("%s on %s: %s trained parameters, %lld epochs, %lld steps in %s (%.0f images/s)\n",
           hl_model_method(model), hl_model_name(model),
           cli_grouped(counts.trainable, trained, sizeof trained), (long long)r->epochs, (long long)r->steps,
           cli_duration(r->wall_seconds, took, sizeof took), r->images_per_second);
    if (r->best_epoch >= 0)
        printf("best epoch %lld: val loss %.4f, val accuracy %.2f %%, mean per class %.2f %%\n",
               (long long)r->best_epoch + 1, r->best.loss, 100.0 * r->best.acc1, 100.0 * r->best.acc_class);
    if (r->test.count > 0)
        printf("test: loss %.4f, accuracy %.2f %%, mean per class %.2f %%\n", r->test.loss,
               100.0 * r->test.acc1, 100.0 * r->test.acc_class);
    printf("%s\n", o->out);
}

static hl_status print_summary(const char *run, bool interrupted)
{
    if (interrupted)
        return cli_print_json(json_pack("{s:b, s:o}", "interrupted", 1, "out", cli_json_text(run)));
    char path[4096];
    snprintf(path, sizeof path, "%s/summary.json", run);
    json_t *summary = json_load_file(path, JSON_REJECT_DUPLICATES, NULL);
    return summary != NULL ? cli_print_json(summary) : hl_fail(HL_E_IO, path, NULL, "cannot be read back");
}

/* Texts of the options whose defaults the model, the method and the machine decide. */
typedef struct resolved {
    char image_size[24], resize[24], channels[24], mean[HL_NUMBERS_SIZE], std[HL_NUMBERS_SIZE], drop_path[24];
} resolved;

/* Writes into `values` what was decided, so that config.yaml repeats this run whatever the defaults are by
 * then. */
static void resolve(cli_values *values, const hl_model *model, resolved *r)
{
    const hl_preprocess *p = hl_model_preprocess(model);
    snprintf(r->image_size, sizeof r->image_size, "%lld", (long long)p->size);
    snprintf(r->resize, sizeof r->resize, "%lld", (long long)p->resize);
    snprintf(r->channels, sizeof r->channels, "%lld", (long long)p->channels);
    hl_numbers_text(p->mean, p->channels, ',', r->mean, sizeof r->mean);
    hl_numbers_text(p->std, p->channels, ',', r->std, sizeof r->std);
    snprintf(r->drop_path, sizeof r->drop_path, "%.9g", hl_model_drop_path(model));
    cli_set(values, "image-size", r->image_size);
    cli_set(values, "resize", r->resize);
    cli_set(values, "interpolation", p->bicubic ? "bicubic" : "bilinear");
    cli_set(values, "in-channels", r->channels);
    cli_set(values, "mean", r->mean);
    cli_set(values, "std", r->std);
    cli_set(values, "drop-path", r->drop_path);
    cli_set(values, "method", hl_model_method(model));
    cli_set(values, "norm", hl_norm_mode_name(hl_model_norm_mode(model)));
}

static hl_status train(cli_values *values, hl_dataset *data, hl_model *model, bool *interrupted)
{
    hl_train_options options;
    hl_train_result result;
    resolved texts;
    fill_options(values, &options);
    HL_TRY(cli_compute(values, &options.compute));
    HL_TRY(cli_apply_method(values, model));
    resolve(values, model, &texts);
    char *config = cli_write_config(values);
    options.config = config;
    watch_signals();
    hl_status status = hl_train(model, data, &options, &result);
    free(config);
    HL_TRY(status);
    *interrupted = result.interrupted;
    if (result.interrupted)
        fprintf(stderr, "%sinterrupted, resume with --resume\n", isatty(STDERR_FILENO) ? "\r\033[K" : "");
    if (!cli_flag(values, "json"))
        print_result(model, &options, &result);
    return HL_OK;
}

static hl_status run_once(cli_values *values, bool *interrupted)
{
    method_rates rates;
    HL_TRY(set_method_rates(values, &rates));
    hl_compute compute;
    HL_TRY(cli_compute(values, &compute));
    hl_dataset *data;
    hl_model *model = NULL;
    HL_TRY(cli_data(values, &data));
    hl_status status = cli_model(values, hl_dataset_class_count(data), &model);
    if (status == HL_OK)
        status = train(values, data, model, interrupted);
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    return status;
}

hl_status cli_train(cli_values *values)
{
    char saved[4096];
    bool interrupted = false;
    HL_TRY(cli_require(values, "out"));
    const char *config = cli_text(values, "config");
    if (config == NULL && cli_flag(values, "resume")) {
        /* A run knows its own options. */
        snprintf(saved, sizeof saved, "%s/config.yaml", cli_text(values, "out"));
        config = access(saved, R_OK) == 0 ? saved : NULL;
    }
    if (config != NULL)
        HL_TRY(cli_read_config(values, config));
    const char *out = cli_text(values, "out");
    bool json = cli_flag(values, "json");
    if (cli_text(values, "then") != NULL) {
        HL_TRY(cli_train_then(values, run_once, &interrupted));
        return interrupted && json ? print_summary(out, true) : HL_OK;
    }
    if (cli_flag(values, "compare"))
        return hl_fail(HL_E_ARG, "--compare", "give --then as well, or leave it out",
                       "there is one run alone");
    HL_TRY(run_once(values, &interrupted));
    return json ? print_summary(out, interrupted) : HL_OK;
}
