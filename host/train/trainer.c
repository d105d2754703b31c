/* hl_train: sets a run up, trains epoch by epoch, keeps the best one, writes the results. */
#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static const hl_log *log_of(const hl_trainer *t)
{
    return t->options.compute.log;
}

static void choose_val_split(hl_trainer *t)
{
    t->val_split = HL_SPLIT_VAL;
    if (hl_dataset_count(t->data, HL_SPLIT_VAL) == 0) {
        t->val_split = HL_SPLIT_TRAIN;
        hl_log_warn(log_of(t),
                    "%s: there is no val split, so epochs are judged on the training images "
                    "(--val-fraction makes one)",
                    hl_dataset_name(t->data));
    }
    int64_t count = hl_dataset_count(t->data, t->val_split);
    t->val_batch = t->options.batch_size < count ? t->options.batch_size : count;
}

static hl_status open_loaders(hl_trainer *t)
{
    const hl_train_options *o = &t->options;
    const hl_loader_options options = {
        .split = HL_SPLIT_TRAIN,
        .transform = hl_session_transform(t->model, o->augment),
        .batch_size = o->batch_size,
        .workers = o->workers,
        .seed = o->seed,
        .shuffle = !o->no_shuffle,
        .bad_images = o->skip_bad_images ? HL_BAD_IMAGES_SKIP : HL_BAD_IMAGES_FAIL,
        .depth = 4, /* one in use, one on its way to the device, two being made */
        .memory = hl_session_loader_memory(&t->session),
        .rows = hl_trainer_rows(t, HL_SPLIT_TRAIN),
        .log = o->compute.log,
    };
    HL_TRY(hl_loader_create(t->data, &options, &t->train));
    t->batches = hl_loader_batch_count(t->train);
    return hl_evaluation_loader(t->model, t->data, t->val_split, NULL, t->val_batch, o->workers,
                                o->skip_bad_images, hl_trainer_rows(t, t->val_split), o->compute.log,
                                &t->val);
}

static void plan_steps(hl_trainer *t)
{
    hl_train_options *o = &t->options;
    t->steps_per_epoch = (t->batches + o->accumulate - 1) / o->accumulate;
    t->steps = o->epochs > 0.0 ? (int64_t)ceil(o->epochs * (double)t->steps_per_epoch - 1e-9) : o->max_steps;
    if (o->max_steps > 0 && o->max_steps < t->steps)
        t->steps = o->max_steps;
    t->epochs = (t->steps + t->steps_per_epoch - 1) / t->steps_per_epoch;
    double warmup =
        o->warmup_epochs >= 0.0 ? o->warmup_epochs * (double)t->steps_per_epoch : 0.05 * (double)t->steps;
    t->warmup_steps = (int64_t)fmin(floor(warmup), (double)t->steps);
}

/* The cross-entropy that the labels' frequencies alone reach, smoothing included. */
static double label_entropy(const hl_dataset *data, double smoothing)
{
    double entropy = 0.0, all = (double)hl_dataset_count(data, HL_SPLIT_TRAIN);
    int32_t classes = hl_dataset_class_count(data);
    for (int32_t c = 0; c < classes; c++) {
        double share = (double)hl_dataset_count_of_class(data, HL_SPLIT_TRAIN, c) / all;
        share = (1.0 - smoothing) * share + smoothing / classes;
        if (share > 0.0)
            entropy -= share * log(share);
    }
    return entropy;
}

static hl_status set_class_names(hl_model *model, const hl_dataset *data)
{
    const char **names;
    HL_TRY(hl_alloc_array((size_t)model->classes, sizeof *names, "class names", (void **)&names));
    for (int64_t c = 0; c < model->classes; c++)
        names[c] = hl_dataset_class_name(data, (int32_t)c);
    hl_status status = hl_model_set_class_names(model, names, model->classes);
    free(names);
    return status;
}

static hl_status resume(hl_trainer *t)
{
    HL_TRY(hl_checkpoint_load(hl_run_folder_file(t->folder, "state.safetensors"), t->model, t->optimizer,
                              t->run, &t->at, &t->fingerprint));
    HL_TRY(hl_optimizer_write(t->optimizer, &t->at.record));
    HL_TRY(hl_run_folder_rewind(t->folder, t->at.log_bytes, t->at.csv_bytes));
    t->wall_before = t->at.wall_seconds;
    hl_session_changed(&t->session);
    hl_log_info(log_of(t), "%s: resumed at epoch %lld, step %lld", t->options.out, (long long)t->at.epoch,
                (long long)t->run->step);
    return HL_OK;
}

/* Everything that an epoch runs, so that too little memory shows now and not at its end. The largest comes
 * first: the others use its memory. */
static hl_status compile_programs(hl_trainer *t)
{
    hl_program *program;
    int64_t batch = t->options.batch_size, rest = hl_dataset_count(t->data, HL_SPLIT_TRAIN) % batch;
    HL_TRY(hl_session_program(&t->session, batch, true, t->type, &program));
    if (rest > 0)
        HL_TRY(hl_session_program(&t->session, rest, true, t->type, &program));
    return hl_session_program(&t->session, t->val_batch, false, t->type, &program);
}

static hl_status start(hl_trainer *t)
{
    hl_train_options *o = &t->options;
    bool checkpoint;
    t->started = hl_seconds();
    HL_TRY(hl_train_options_resolve(t->model, t->data, o));
    HL_TRY(set_class_names(t->model, t->data));
    hl_session_drop(t->model); /* its programs know nothing of what training changes */
    HL_TRY(hl_session_open(&t->session, t->model, &o->compute, o->seed));
    HL_TRY(hl_model_number_type(t->model, &o->compute, true, &t->type));
    t->run = &t->session.run;
    choose_val_split(t);
    HL_TRY(hl_trainer_keep_features(t));
    HL_TRY(open_loaders(t));
    plan_steps(t);
    HL_TRY(hl_meter_create(t->model->classes, &t->meter));
    HL_TRY(hl_optimizer_create(t->model, o, o->lr, t->type.elem, t->run, &t->optimizer));
    t->session.smoothing = (float)o->label_smoothing;
    t->session.record = t->optimizer->record;
    t->session.update = &t->optimizer->step;
    t->session.mix = o->mixup > 0.0 || o->cutmix > 0.0;
    if (t->session.mix)
        HL_TRY(hl_alloc_array((size_t)o->batch_size, sizeof *t->mixes, "mixed images", (void **)&t->mixes));
    hl_train_options_fingerprint(t->model, t->data, o, t->type, &t->fingerprint);
    t->label_entropy = label_entropy(t->data, o->label_smoothing);
    t->at.best_epoch = -1;
    HL_TRY(hl_optimizer_read(t->optimizer, &t->at.record));
    HL_TRY(compile_programs(t));
    /* The folder comes last: a run that cannot begin leaves none behind. */
    HL_TRY(hl_run_folder_open(o->out, o->resume, o->config, &checkpoint, &t->folder));
    return checkpoint ? resume(t) : HL_OK;
}

static void stop(hl_trainer *t)
{
    hl_run_folder_close(t->folder);
    hl_loader_destroy(t->train); /* its buffers are the session's */
    hl_loader_destroy(t->val);
    for (int i = 0; i < HL_SPLIT_COUNT; i++)
        hl_features_close(t->features[i]);
    hl_session_close(&t->session);
    hl_optimizer_destroy(t->optimizer);
    hl_meter_destroy(t->meter);
    free(t->mixes);
}

static double wall_seconds(const hl_trainer *t)
{
    return t->wall_before + hl_seconds() - t->started;
}

/* state.safetensors is written last: what it says about the other files has happened by then. */
hl_status hl_trainer_checkpoint(hl_trainer *t)
{
    HL_TRY(hl_optimizer_read(t->optimizer, &t->at.record));
    HL_TRY(hl_model_save_adapter(t->model, hl_run_folder_file(t->folder, "last.safetensors")));
    HL_TRY(hl_run_folder_position(t->folder, &t->at.log_bytes, &t->at.csv_bytes));
    t->at.wall_seconds = wall_seconds(t);
    return hl_checkpoint_save(hl_run_folder_file(t->folder, "state.safetensors"), t->model, t->optimizer,
                              t->run, &t->at, &t->fingerprint);
}

static bool stop_wanted(void *trainer)
{
    hl_trainer_poll(trainer);
    return ((hl_trainer *)trainer)->stop_asked;
}

/* A network that has learnt to ignore the image gives every class its frequency. */
static void warn_if_stuck(hl_trainer *t, double train_loss)
{
    if (t->at.warned || (int64_t)t->run->step < 2 * t->warmup_steps + 20 ||
        train_loss < 0.98 * t->label_entropy)
        return;
    t->at.warned = 1;
    hl_log_warn(log_of(t),
                "training loss %.4f after epoch %lld is no better than always guessing by class frequency "
                "(%.4f): try a smaller learning rate than %g",
                train_loss, (long long)t->at.epoch, t->label_entropy, t->options.lr);
}

/* Judges the epoch, keeps it if it is the best, and moves on to the next. */
static hl_status end_epoch(hl_trainer *t)
{
    hl_metrics metrics;
    HL_TRY(hl_meter_read(t->meter, &metrics));
    double seen = (double)t->at.record.seen;
    double now = hl_monitored(t->options.monitor, &metrics),
           then = hl_monitored(t->options.monitor, &t->at.best);
    bool best = t->at.best_epoch < 0 || now > then || (isnan(then) && !isnan(now));
    hl_epoch_record record = {.epoch = t->at.epoch,
                              .step = (int64_t)t->run->step,
                              .lr = (double)t->run->lr,
                              .train_loss = seen > 0.0 ? t->at.record.loss_sum / seen : NAN,
                              .train_acc1 = seen > 0.0 ? (double)t->at.record.correct / seen : NAN,
                              .images_per_second = t->at.timed_seconds > 0.0
                                                       ? (double)t->at.timed_images / t->at.timed_seconds
                                                       : NAN,
                              .val = metrics,
                              .best = best};
    HL_TRY(hl_run_folder_log_epoch(t->folder, &record));
    warn_if_stuck(t, record.train_loss);
    hl_trainer_report_features(t);
    if (best) {
        HL_TRY(hl_model_save_adapter(t->model, hl_run_folder_file(t->folder, "adapter.safetensors")));
        t->at.best_epoch = t->at.epoch;
        t->at.best = metrics;
        t->at.stale = 0;
    } else {
        t->at.stale++;
    }
    t->at.last = metrics;
    hl_trainer_report(t, record.train_loss, &metrics);
    t->at.epoch++;
    t->at.epochs_done++;
    t->at.batch = t->at.record.seen = t->at.record.correct = 0;
    t->at.record.loss_sum = 0.0;
    HL_TRY(hl_optimizer_write(t->optimizer, &t->at.record));
    t->checkpoint_asked = false;
    return hl_trainer_checkpoint(t);
}

static bool finished(const hl_trainer *t)
{
    return t->at.epoch >= t->epochs || (t->options.early_stop > 0 && t->at.stale >= t->options.early_stop);
}

static hl_status train(hl_trainer *t, bool *interrupted)
{
    *interrupted = false;
    while (!finished(t)) {
        HL_TRY(hl_trainer_epoch(t));
        bool stopped = t->stop_asked;
        /* The gradients of an unfinished step are dropped: the checkpoint stands before it. */
        if (!stopped) {
            hl_session_changed(&t->session);
            HL_TRY(hl_evaluation_run(&t->session, t->val, t->val_batch, t->type, t->meter, stop_wanted, t,
                                     &stopped));
        }
        if (stopped) {
            *interrupted = true;
            return hl_trainer_checkpoint(t);
        }
        HL_TRY(end_epoch(t));
        if (t->stop_asked && !finished(t)) {
            *interrupted = true;
            return HL_OK;
        }
    }
    return HL_OK;
}

static hl_status test(hl_trainer *t, hl_metrics *metrics)
{
    hl_loader *loader;
    bool stopped;
    int64_t count = hl_dataset_count(t->data, HL_SPLIT_TEST),
            batch = t->options.batch_size < count ? t->options.batch_size : count;
    const hl_number_type exact = {.elem = HL_ELEM_F32};
    HL_TRY(hl_trainer_keep_test_features(t, exact));
    HL_TRY(hl_evaluation_loader(t->model, t->data, HL_SPLIT_TEST, NULL, batch, t->options.workers,
                                t->options.skip_bad_images, hl_trainer_rows(t, HL_SPLIT_TEST), log_of(t),
                                &loader));
    hl_status status = hl_evaluation_run(&t->session, loader, batch, exact, t->meter, NULL, NULL, &stopped);
    hl_loader_destroy(loader);
    return status == HL_OK ? hl_meter_read(t->meter, metrics) : status;
}

/* The best epoch's parameters, the test split, the files that sum the run up. */
static hl_status finish(hl_trainer *t, hl_train_result *result)
{
    HL_TRY(hl_model_load_adapter(t->model, hl_run_folder_file(t->folder, "adapter.safetensors")));
    hl_session_changed(&t->session);
    if (hl_dataset_count(t->data, HL_SPLIT_TEST) > 0)
        HL_TRY(test(t, &result->test));
    result->wall_seconds = wall_seconds(t);
    result->peak_memory_bytes = hl_peak_memory(t->session.backend);
    HL_TRY(hl_run_folder_summary(t->folder, t->model, t->data, &t->options, t->type, result));
    hl_run_folder_curves(t->folder, log_of(t));
    return HL_OK;
}

static void fill_result(const hl_trainer *t, hl_train_result *result)
{
    *result = (hl_train_result){
        .epochs = t->at.epochs_done,
        .steps = (int64_t)t->run->step,
        .best_epoch = t->at.best_epoch,
        .best = t->at.best,
        .last = t->at.last,
        .images_per_second =
            t->at.timed_seconds > 0.0 ? (double)t->at.timed_images / t->at.timed_seconds : NAN,
        .wall_seconds = wall_seconds(t),
        .peak_memory_bytes = hl_peak_memory(t->session.backend),
    };
}

hl_status hl_train(hl_model *model, const hl_dataset *data, const hl_train_options *options,
                   hl_train_result *result)
{
    hl_trainer *t = calloc(1, sizeof *t);
    bool interrupted = false;
    *result = (hl_train_result){.best_epoch = -1};
    if (t == NULL)
        return hl_fail_nomem("training", sizeof *t);
    t->model = model;
    t->data = data;
    t->options = *options;
    hl_status status = start(t);
    if (status == HL_OK)
        status =
            hl_method_fits_head(&model->method) ? hl_trainer_fit(t, &interrupted) : train(t, &interrupted);
    if (status == HL_OK) {
        fill_result(t, result);
        result->interrupted = interrupted;
        if (!interrupted)
            status = finish(t, result);
    }
    stop(t);
    free(t);
    return status;
}
