#include "train/train_options.h"

#include <math.h>

#include "base/numbers.h"

void hl_train_defaults(hl_train_options *options)
{
    *options = (hl_train_options){
        .epochs = 10.0,
        .batch_size = 32,
        .accumulate = 1,
        .optimizer = HL_ADAMW,
        .head_lr_scale = 1.0,
        .layer_decay = 1.0,
        .momentum = 0.9,
        .weight_decay = -1.0,
        .schedule = HL_SCHEDULE_COSINE,
        .warmup_epochs = -1.0,
        .augment = HL_AUGMENT_STANDARD,
        .workers = 2,
        .monitor = HL_MONITOR_ACC1,
        .log_every = 20,
        .feature_bytes = (int64_t)4 << 30,
    };
}

static hl_status check_real(const char *option, double value, double least, double most)
{
    return value >= least && value <= most
               ? HL_OK
               : hl_fail(HL_E_ARG, option, NULL, "%g is not between %g and %g", value, least, most);
}

static hl_status check_ranges(const hl_train_options *o)
{
    HL_TRY(check_real("--epochs", o->epochs, 0.0, 1e6));
    HL_TRY(check_real("--max-steps", (double)o->max_steps, 0.0, 1e12));
    if (o->epochs == 0.0 && o->max_steps == 0)
        return hl_fail(HL_E_ARG, "--epochs", "give --epochs or --max-steps", "there is nothing to train");
    HL_TRY(check_real("--batch-size", (double)o->batch_size, 1.0, 1048576.0));
    HL_TRY(check_real("--accumulate", (double)o->accumulate, 0.0, 1e6));
    HL_TRY(check_real("--lr", o->lr, 0.0, 1e6));
    HL_TRY(check_real("head learning rate", o->head_lr_scale, 0.0, 1e6));
    HL_TRY(check_real("--layer-decay", o->layer_decay, 0.0, 1.0));
    HL_TRY(check_real("--momentum", o->momentum, 0.0, 0.9999));
    HL_TRY(check_real("--weight-decay", o->weight_decay, -1e3, 1e3));
    HL_TRY(check_real("--clip-grad", o->clip_grad, 0.0, 1e12));
    HL_TRY(check_real("--mixup", o->mixup, 0.0, 100.0));
    HL_TRY(check_real("--cutmix", o->cutmix, 0.0, 100.0));
    HL_TRY(check_real("--label-smoothing", o->label_smoothing, 0.0, 0.999));
    HL_TRY(check_real("--warmup-epochs", o->warmup_epochs, -1e6, 1e6));
    HL_TRY(check_real("--early-stop", o->early_stop, 0.0, 1e6));
    return check_real("--checkpoint-every", (double)o->checkpoint_every, 0.0, 1e12);
}

static hl_status check_model(const hl_model *model, const hl_dataset *data, const hl_train_options *o)
{
    if (o->out == NULL || *o->out == '\0')
        return hl_fail(HL_E_ARG, "--out", "name the run folder", "none is given");
    if (!model->has_method)
        return hl_fail(HL_E_ARG, "--method", "`heirloom methods` lists them", "the model has no method");
    if (hl_dataset_class_count(data) != model->classes)
        return hl_fail(HL_E_ARG, hl_dataset_name(data), "leave --num-classes out",
                       "it has %d classes where the model has %lld", (int)hl_dataset_class_count(data),
                       (long long)model->classes);
    if (hl_dataset_count(data, HL_SPLIT_TRAIN) == 0)
        return hl_fail(HL_E_INPUT, hl_dataset_name(data), NULL, "there are no training images");
    if (o->batch_size > hl_dataset_count(data, HL_SPLIT_TRAIN))
        return hl_fail(HL_E_ARG, "--batch-size", "choose a smaller one",
                       "a batch of %lld is larger than the data, %lld training images",
                       (long long)o->batch_size, (long long)hl_dataset_count(data, HL_SPLIT_TRAIN));
    if (o->monitor == HL_MONITOR_AUROC && model->classes != 2)
        return hl_fail(HL_E_ARG, "--monitor val_auroc", "choose val_acc1, val_loss or val_acc_class",
                       "AUROC is for two classes, here are %lld", (long long)model->classes);
    return HL_OK;
}

hl_status hl_train_options_resolve(const hl_model *model, const hl_dataset *data, hl_train_options *o)
{
    HL_TRY(check_ranges(o));
    HL_TRY(check_model(model, data, o));
    o->accumulate = o->accumulate > 0 ? o->accumulate : 1;
    o->workers = o->workers > 0 ? o->workers : 2;
    o->log_every = o->log_every > 0 ? o->log_every : 20;
    o->head_lr_scale = o->head_lr_scale > 0.0 ? o->head_lr_scale : 1.0;
    o->layer_decay = o->layer_decay > 0.0 ? o->layer_decay : 1.0;
    o->weight_decay = o->weight_decay >= 0.0 ? o->weight_decay : hl_method_weight_decay(model->method.info);
    if (o->lr == 0.0)
        o->lr = o->optimizer == HL_SGD || o->optimizer == HL_LARS ? model->method.info->lr_sgd
                                                                  : model->method.info->lr_adam;
    return HL_OK;
}

void hl_train_options_fingerprint(const hl_model *model, const hl_dataset *data, const hl_train_options *o,
                                  hl_number_type type, hl_fingerprint *f)
{
    static const char *const optimizers[] = {"sgd", "adam", "adamw", "lars"},
                             *const schedules[] = {"constant", "step", "cosine"},
                             *const augments[] = {"none", "flip", "standard"},
                             *const monitors[] = {"val_acc1", "val_loss", "val_acc_class", "val_auroc"};
    const hl_preprocess *p = &model->preprocess;
    char mean[HL_NUMBERS_SIZE], std[HL_NUMBERS_SIZE];
    f->count = 0;
    hl_fingerprint_add(f, "model", "%s", model->info->name);
    hl_fingerprint_add(f, "method", "%s", model->method_text);
    hl_fingerprint_add(f, "norm", "%s", hl_norm_mode_name(model->norm));
    hl_fingerprint_add(f, "--drop-path", "%.9g", hl_model_drop_path(model));
    hl_fingerprint_add(f, "base weights", "%s", model->base_hash);
    hl_fingerprint_add(f, "classes", "%lld", (long long)model->classes);
    hl_fingerprint_add(f, "preprocessing", "%lld of %lld %s, mean %s, std %s", (long long)p->size,
                       (long long)p->resize, p->bicubic ? "bicubic" : "bilinear",
                       hl_numbers_text(p->mean, p->channels, ' ', mean, sizeof mean),
                       hl_numbers_text(p->std, p->channels, ' ', std, sizeof std));
    hl_fingerprint_add(f, "training images", "%lld", (long long)hl_dataset_count(data, HL_SPLIT_TRAIN));
    hl_fingerprint_add(f, "validation images", "%lld", (long long)hl_dataset_count(data, HL_SPLIT_VAL));
    hl_fingerprint_add(f, "precision", "%s", hl_number_type_name(type));
    hl_fingerprint_add(f, "--projection-exec", "%s",
                       o->compute.projection == HL_EXEC_FOLD    ? "fold"
                       : o->compute.projection == HL_EXEC_CACHE ? "cache"
                                                                : "auto");
    hl_fingerprint_add(f, "--batch-size", "%lld", (long long)o->batch_size);
    hl_fingerprint_add(f, "--accumulate", "%lld", (long long)o->accumulate);
    hl_fingerprint_add(f, "--optimizer", "%s", optimizers[o->optimizer]);
    hl_fingerprint_add(f, "--lr", "%.17g (head %.17g)", o->lr, o->head_lr_scale);
    hl_fingerprint_add(f, "--layer-decay", "%.17g", o->layer_decay);
    hl_fingerprint_add(f, "--momentum", "%.17g", o->momentum);
    hl_fingerprint_add(f, "--weight-decay", "%.17g", o->weight_decay);
    hl_fingerprint_add(f, "--clip-grad", "%.17g", o->clip_grad);
    hl_fingerprint_add(f, "--schedule", "%s (warm-up %.17g)", schedules[o->schedule], o->warmup_epochs);
    hl_fingerprint_add(f, "--label-smoothing", "%.17g", o->label_smoothing);
    hl_fingerprint_add(f, "--mixup", "%.17g (cutmix %.17g)", o->mixup, o->cutmix);
    hl_fingerprint_add(f, "--feature-limit", "%lld bytes", (long long)o->feature_bytes);
    hl_fingerprint_add(f, "device", "%s", model->backend->host_memory ? "cpu" : "cuda");
    hl_fingerprint_add(f, "--augment", "%s%s", augments[o->augment], o->no_shuffle ? ", no shuffling" : "");
    hl_fingerprint_add(f, "--seed", "%llu", (unsigned long long)o->seed);
    hl_fingerprint_add(f, "--monitor", "%s", monitors[o->monitor]);
}

double hl_monitored(hl_monitor monitor, const hl_metrics *m)
{
    switch (monitor) {
    case HL_MONITOR_ACC1:
        return m->acc1;
    case HL_MONITOR_LOSS:
        return -m->loss;
    case HL_MONITOR_ACC_CLASS:
        return m->acc_class;
    case HL_MONITOR_AUROC:
        return m->auroc;
    }
    return NAN;
}
