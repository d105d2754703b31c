#include "train/run_folder.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "io/atomic_file.h"
#include "io/folder.h"
#include "io/gnuplot.h"
#include "io/json.h"

struct hl_run_folder {
    char *path;
    char file[4096];
    FILE *log, *csv;
};

static const char csv_header[] = "epoch,step,lr,train_loss,train_acc1,val_loss,val_acc1,val_acc5,val_acc_"
                                 "class,val_auroc,images_per_second,"
                                 "best\n";

const char *hl_run_folder_file(hl_run_folder *f, const char *name)
{
    snprintf(f->file, sizeof f->file, "%s/%s", f->path, name);
    return f->file;
}

static hl_status check_empty(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return hl_fail(HL_E_ARG, path, "choose another --out", "the run folder cannot be read: %s",
                       strerror(errno));
    bool empty = true;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        empty = empty && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
    closedir(dir);
    return empty ? HL_OK
                 : hl_fail(HL_E_ARG, path, "continue with --resume, or choose another --out",
                           "the run folder is not empty");
}

static hl_status make_folder(const char *path, bool resume)
{
    struct stat info;
    if (stat(path, &info) == 0) {
        if (!S_ISDIR(info.st_mode))
            return hl_fail(HL_E_ARG, path, "choose another --out", "is there already and is no folder");
        return resume ? HL_OK : check_empty(path);
    }
    if (resume)
        return hl_fail(HL_E_NOT_FOUND, path, "leave --resume out to start it", "there is no such run");
    if (strlen(path) >= sizeof((hl_run_folder *)NULL)->file - 64)
        return hl_fail(HL_E_ARG, "--out", NULL, "the path is too long");
    return hl_folder_make(path, "choose another --out");
}

static hl_status open_append(hl_run_folder *f, const char *name, FILE **file)
{
    const char *path = hl_run_folder_file(f, name);
    *file = fopen(path, "ae");
    return *file != NULL ? HL_OK : hl_fail(HL_E_IO, path, NULL, "cannot be written: %s", strerror(errno));
}

static hl_status written(hl_run_folder *f, FILE *file, const char *name, bool sync)
{
    if (fflush(file) != 0 || ferror(file) || (sync && fsync(fileno(file)) != 0))
        return hl_fail(HL_E_IO, hl_run_folder_file(f, name), "free some space and continue with --resume",
                       "writing failed: %s", strerror(errno));
    return HL_OK;
}

static hl_status cut(hl_run_folder *f, FILE *file, const char *name, int64_t bytes)
{
    struct stat info;
    if (fstat(fileno(file), &info) == 0 && info.st_size >= bytes && ftruncate(fileno(file), bytes) == 0)
        return HL_OK;
    return hl_fail(HL_E_INPUT, hl_run_folder_file(f, name), "start the run anew in an empty folder",
                   "is shorter than when the checkpoint was written (%lld bytes)", (long long)bytes);
}

hl_status hl_run_folder_rewind(hl_run_folder *f, int64_t log_bytes, int64_t csv_bytes)
{
    HL_TRY(cut(f, f->log, "log.jsonl", log_bytes));
    return cut(f, f->csv, "metrics.csv", csv_bytes);
}

static hl_status open_files(hl_run_folder *f, bool goes_on, const char *config)
{
    if (!goes_on && config != NULL)
        HL_TRY(hl_atomic_put(hl_run_folder_file(f, "config.yaml"), config, strlen(config)));
    HL_TRY(open_append(f, "log.jsonl", &f->log));
    HL_TRY(open_append(f, "metrics.csv", &f->csv));
    if (goes_on)
        return HL_OK;
    HL_TRY(hl_run_folder_rewind(f, 0, 0));
    fputs(csv_header, f->csv);
    return written(f, f->csv, "metrics.csv", false);
}

hl_status hl_run_folder_open(const char *path, bool resume, const char *config, bool *checkpoint,
                             hl_run_folder **folder)
{
    *folder = NULL;
    HL_TRY(make_folder(path, resume));
    hl_run_folder *f = calloc(1, sizeof *f);
    if (f != NULL)
        f->path = strdup(path);
    hl_status status = f != NULL && f->path != NULL ? HL_OK : hl_fail_nomem(path, sizeof *f);
    *checkpoint = status == HL_OK && resume && access(hl_run_folder_file(f, "state.safetensors"), F_OK) == 0;
    if (status == HL_OK)
        status = open_files(f, *checkpoint, config);
    if (status != HL_OK) {
        hl_run_folder_close(f);
        return status;
    }
    *folder = f;
    return HL_OK;
}

void hl_run_folder_close(hl_run_folder *f)
{
    if (f == NULL)
        return;
    if (f->log != NULL)
        fclose(f->log);
    if (f->csv != NULL)
        fclose(f->csv);
    free(f->path);
    free(f);
}

hl_status hl_run_folder_position(hl_run_folder *f, int64_t *log_bytes, int64_t *csv_bytes)
{
    struct stat log, csv;
    HL_TRY(written(f, f->log, "log.jsonl", true));
    HL_TRY(written(f, f->csv, "metrics.csv", true));
    if (fstat(fileno(f->log), &log) != 0 || fstat(fileno(f->csv), &csv) != 0)
        return hl_fail(HL_E_IO, f->path, NULL, "its files have no size: %s", strerror(errno));
    *log_bytes = log.st_size;
    *csv_bytes = csv.st_size;
    return HL_OK;
}

static hl_status put_line(hl_run_folder *f, json_t *object)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (text == NULL)
        return hl_fail_nomem("log", 0);
    fprintf(f->log, "%s\n", text);
    free(text);
    return written(f, f->log, "log.jsonl", false);
}

hl_status hl_run_folder_log_step(hl_run_folder *f, int64_t epoch, int64_t step, double loss, double lr,
                                 double images_per_second)
{
    return put_line(f,
                    json_pack("{s:s, s:I, s:I, s:o, s:o, s:o}", "event", "step", "epoch", (json_int_t)epoch,
                              "step", (json_int_t)step, "loss", hl_json_real(loss), "lr", hl_json_real(lr),
                              "images_per_second", hl_json_real(images_per_second)));
}

/* The metrics of a split under "val_..." and so on. */
static void set_metrics(json_t *object, const char *prefix, const hl_metrics *m)
{
    const struct {
        const char *name;
        double value;
    } items[] = {{"loss", m->loss},
                 {"acc1", m->acc1},
                 {"acc5", m->acc5},
                 {"acc_class", m->acc_class},
                 {"auroc", m->auroc}};
    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s%s", prefix, items[i].name);
        if (!isnan(items[i].value))
            json_object_set_new(object, key, json_real(items[i].value));
    }
}

static void csv_number(FILE *file, double value)
{
    if (isnan(value))
        fputc(',', file);
    else
        fprintf(file, "%.9g,", value);
}

hl_status hl_run_folder_log_epoch(hl_run_folder *f, const hl_epoch_record *r)
{
    fprintf(f->csv, "%lld,%lld,", (long long)r->epoch, (long long)r->step);
    const double numbers[] = {r->lr,       r->train_loss,    r->train_acc1, r->val.loss,         r->val.acc1,
                              r->val.acc5, r->val.acc_class, r->val.auroc,  r->images_per_second};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        csv_number(f->csv, numbers[i]);
    fprintf(f->csv, "%d\n", r->best);
    HL_TRY(written(f, f->csv, "metrics.csv", false));
    json_t *object =
        json_pack("{s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:b}", "event", "epoch", "epoch", (json_int_t)r->epoch,
                  "step", (json_int_t)r->step, "lr", hl_json_real(r->lr), "train_loss",
                  hl_json_real(r->train_loss), "train_acc1", hl_json_real(r->train_acc1), "images_per_second",
                  hl_json_real(r->images_per_second), "best", r->best);
    set_metrics(object, "val_", &r->val);
    return put_line(f, object);
}

static json_t *result_object(int64_t epoch, const hl_metrics *m)
{
    json_t *object = json_pack("{s:I}", "epoch", (json_int_t)epoch);
    set_metrics(object, "val_", m);
    return object;
}

hl_status hl_run_folder_summary(hl_run_folder *f, const hl_model *model, const hl_dataset *data,
                                const hl_train_options *o, hl_number_type type, const hl_train_result *r)
{
    hl_model_counts counts;
    hl_model_count_params(model, &counts);
    json_t *summary =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "model", hl_model_name(model), "method",
                  model->method.info->name, "method_options", hl_model_method(model), "device",
                  model->backend->device, "precision", hl_number_type_name(type), "seed", (json_int_t)o->seed,
                  "epochs", (json_int_t)r->epochs, "steps", (json_int_t)r->steps);
    json_t *rates = json_pack("{s:f, s:f, s:f, s:f}", "lr", o->lr, "head_lr", o->lr * o->head_lr_scale,
                              "layer_decay", o->layer_decay, "weight_decay", o->weight_decay);
    json_t *numbers = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "norm", hl_norm_mode_name(model->norm),
                                "trainable_params", (json_int_t)counts.trainable, "trainable_conv_params",
                                (json_int_t)counts.trainable_conv, "total_params", (json_int_t)counts.total,
                                "conv_params", (json_int_t)counts.conv, "gates", (json_int_t)counts.gates);
    json_t *outcome =
        json_pack("{s:b, s:o, s:o, s:o, s:f, s:I}", "interrupted", r->interrupted, "best",
                  result_object(r->best_epoch, &r->best), "last", result_object(r->epochs - 1, &r->last),
                  "images_per_second", hl_json_real(r->images_per_second), "wall_seconds", r->wall_seconds,
                  "peak_memory_bytes", (json_int_t)r->peak_memory_bytes);
    json_t *sizes =
        json_pack("{s:s, s:i, s:I, s:I, s:I}", "name", hl_dataset_name(data), "classes",
                  hl_dataset_class_count(data), "train", (json_int_t)hl_dataset_count(data, HL_SPLIT_TRAIN),
                  "val", (json_int_t)hl_dataset_count(data, HL_SPLIT_VAL), "test",
                  (json_int_t)hl_dataset_count(data, HL_SPLIT_TEST));
    json_object_update(summary, rates);
    json_object_update(summary, numbers);
    json_object_update(summary, outcome);
    if (r->test.count > 0) {
        json_t *test = json_object();
        set_metrics(test, "", &r->test);
        json_object_set_new(summary, "test", test);
    }
    json_object_set_new(summary, "data", sizes);
    json_decref(rates);
    json_decref(numbers);
    json_decref(outcome);
    hl_status status = hl_json_write(hl_run_folder_file(f, "summary.json"), summary);
    json_decref(summary);
    return status;
}

static const char curves_script[] =
    "set terminal pngcairo size 1000,420 font 'sans,10'; set output ARG2; set datafile separator ','; "
    "set multiplot layout 1,2; set grid; set xlabel 'epoch'; set key bottom right; "
    "set title 'loss'; set key top right; "
    "plot ARG1 using 1:4 skip 1 with linespoints title 'train', '' using 1:6 skip 1 with linespoints title "
    "'val'; "
    "set title 'accuracy (val)'; set key bottom right; "
    "plot ARG1 using 1:7 skip 1 with linespoints title 'top-1', '' using 1:9 skip 1 with linespoints title "
    "'mean per class'; "
    "unset multiplot";

void hl_run_folder_curves(hl_run_folder *f, const hl_log *log)
{
    char data[4096];
    snprintf(data, sizeof data, "%s", hl_run_folder_file(f, "metrics.csv"));
    if (!hl_gnuplot(curves_script, data, hl_run_folder_file(f, "curves.png")))
        hl_log_warn(log, "curves.png: not drawn (install gnuplot-nox for pictures)");
}
