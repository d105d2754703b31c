/* linear:solver=lbfgs: the head is fitted to kept features for each strength of the penalty, the one that
 * validates best is taken. The protocol of Radford et al. (2021, arXiv 2103.00020, appendix A.3), with a grid
 * instead of their search. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bf16.h"
#include "base/f16.h"
#include "base/log.h"
#include "train/softmax_fit.h"
#include "train/trainer.h"

enum { GRID = 45, MOST_ITERATIONS = 1000 };

/* 1e5 to 1e-6, from the strongest penalty to the weakest: each fit starts where the one before ended. */
static double lambda_at(int i)
{
    return pow(10.0, 5.0 - 11.0 * i / (GRID - 1));
}

typedef struct fit {
    hl_trainer *trainer;
    hl_softmax_data data; /* `count` is set to what is fitted: train, or train and val */
    float *features;
    int32_t *labels;
    double *params, *best; /* [classes, width + 1] */
    hl_param *weight, *bias;
} fit;

static hl_status find_head(fit *f)
{
    const hl_graph *graph = f->trainer->model->graph;
    for (size_t v = 0; v < graph->node_count; v++) {
        const hl_node *node = graph->nodes[v];
        if (node->head && hl_node_has_weight(node) && node->shape.h == 1 && node->shape.w == 1) {
            f->weight = node->expr.weight;
            f->bias = node->expr.bias;
        }
    }
    if (f->weight == NULL || f->bias == NULL)
        return hl_fail(HL_E_ARG, "--method linear:solver=lbfgs", "use solver=steps",
                       "%s ends in no linear layer with a bias", f->trainer->model->info->name);
    f->data.classes = f->weight->shape[0];
    f->data.width = f->weight->count / f->weight->shape[0];
    return HL_OK;
}

static hl_status check(const fit *f)
{
    const hl_trainer *t = f->trainer;
    static const char what[] = "--method linear:solver=lbfgs";
    if (!t->session.features)
        return hl_fail(HL_E_ARG, what, "give --augment none and a --feature-limit that is large enough",
                       "features of all images have to be kept");
    hl_loader_rows rows = hl_trainer_rows(t, HL_SPLIT_TRAIN);
    if (rows.parts != 1 || rows.bytes[0] != (size_t)f->data.width * hl_elem_size(t->type.elem))
        return hl_fail(HL_E_ARG, what, "use --norm frozen, or solver=steps", "more than the head is trained");
    if (t->options.label_smoothing > 0.0)
        return hl_fail(HL_E_ARG, what, "leave --label-smoothing out", "it fits the labels as they are");
    return HL_OK;
}

static void take_row(hl_elem elem, const uint8_t *from, int64_t n, float *to)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = elem == HL_ELEM_F32    ? ((const float *)(const void *)from)[i]
                : elem == HL_ELEM_BF16 ? hl_bf16_to_f32(((const hl_bf16 *)(const void *)from)[i])
                                       : hl_f16_to_f32(((const hl_f16 *)(const void *)from)[i]);
}

static void take_split(fit *f, hl_split split, int64_t first)
{
    const hl_trainer *t = f->trainer;
    hl_loader_rows rows = hl_trainer_rows(t, split);
    for (int64_t i = 0; i < hl_dataset_count(t->data, split); i++) {
        take_row(t->type.elem, rows.get(rows.user, i, 0), f->data.width,
                 f->features + (first + i) * f->data.width);
        f->labels[first + i] = hl_dataset_sample_label(t->data, split, i);
    }
}

static hl_status take_features(fit *f)
{
    const hl_trainer *t = f->trainer;
    int64_t train = hl_dataset_count(t->data, HL_SPLIT_TRAIN),
            val = t->val_split == HL_SPLIT_VAL ? hl_dataset_count(t->data, HL_SPLIT_VAL) : 0;
    size_t row = (size_t)f->data.width * sizeof(float), params = (size_t)f->data.width + 1;
    HL_TRY(hl_alloc_array((size_t)(train + val), row, "features", (void **)&f->features));
    HL_TRY(hl_alloc_array((size_t)(train + val), sizeof(int32_t), "labels", (void **)&f->labels));
    HL_TRY(hl_alloc_array((size_t)f->data.classes, params * sizeof(double), "head", (void **)&f->params));
    HL_TRY(hl_alloc_array((size_t)f->data.classes, params * sizeof(double), "head", (void **)&f->best));
    take_split(f, HL_SPLIT_TRAIN, 0);
    if (val > 0)
        take_split(f, HL_SPLIT_VAL, train);
    f->data.features = f->features;
    f->data.labels = f->labels;
    f->data.count = train;
    return HL_OK;
}

/* The head becomes `params`. */
static hl_status set_head(const fit *f, const double *params)
{
    hl_graph *graph = f->trainer->model->graph;
    HL_TRY(hl_graph_download(graph));
    for (int64_t c = 0; c < f->data.classes; c++) {
        const double *row = params + c * (f->data.width + 1);
        for (int64_t i = 0; i < f->data.width; i++)
            f->weight->host[c * f->data.width + i] = (float)row[i];
        f->bias->host[c] = (float)row[f->data.width];
    }
    HL_TRY(hl_graph_upload(graph));
    hl_session_changed(&f->trainer->session);
    return HL_OK;
}

static bool stop_wanted(void *trainer)
{
    hl_trainer_poll(trainer);
    return ((hl_trainer *)trainer)->stop_asked;
}

/* Fits with one lambda, validates, keeps it if it is the best so far. */
static hl_status try_lambda(fit *f, int number)
{
    hl_trainer *t = f->trainer;
    hl_softmax_outcome outcome;
    hl_metrics metrics;
    bool stopped;
    HL_TRY(hl_softmax_fit(&f->data, lambda_at(number), 1e-6, MOST_ITERATIONS, f->params, &outcome));
    HL_TRY(set_head(f, f->params));
    HL_TRY(hl_evaluation_run(&t->session, t->val, t->val_batch, t->type, t->meter, stop_wanted, t, &stopped));
    if (stopped)
        return HL_OK;
    HL_TRY(hl_meter_read(t->meter, &metrics));
    double now = hl_monitored(t->options.monitor, &metrics),
           then = hl_monitored(t->options.monitor, &t->at.best);
    bool best = t->at.best_epoch < 0 || now > then || (isnan(then) && !isnan(now));
    t->run->step += (uint64_t)outcome.iterations;
    const hl_epoch_record record = {.epoch = number,
                                    .step = (int64_t)t->run->step,
                                    .lr = lambda_at(number),
                                    .train_loss = outcome.cross_entropy,
                                    .train_acc1 = NAN,
                                    .images_per_second = NAN,
                                    .val = metrics,
                                    .best = best};
    HL_TRY(hl_run_folder_log_epoch(t->folder, &record));
    if (best) {
        memcpy(f->best, f->params, (size_t)(f->data.classes * (f->data.width + 1)) * sizeof *f->best);
        t->at.best_epoch = number;
        t->at.best = metrics;
    }
    t->at.last = metrics;
    t->at.epochs_done++;
    hl_trainer_report(t, outcome.cross_entropy, &metrics);
    return HL_OK;
}

/* The best head, fitted to the validation images too where that is asked for. */
static hl_status take_best(fit *f)
{
    hl_trainer *t = f->trainer;
    double lambda = lambda_at((int)t->at.best_epoch);
    hl_softmax_outcome outcome;
    hl_log_info(t->options.compute.log, "lambda %.3g validates best of %d", lambda, (int)GRID);
    if (hl_method_flag(&t->model->method, "refit") && t->val_split == HL_SPLIT_VAL) {
        f->data.count += hl_dataset_count(t->data, HL_SPLIT_VAL);
        HL_TRY(hl_softmax_fit(&f->data, lambda, 1e-6, MOST_ITERATIONS, f->best, &outcome));
    }
    HL_TRY(set_head(f, f->best));
    HL_TRY(hl_model_save_adapter(t->model, hl_run_folder_file(t->folder, "adapter.safetensors")));
    t->at.epoch = t->epochs;
    return hl_trainer_checkpoint(t);
}

static hl_status fit_all(fit *f, bool *interrupted)
{
    hl_trainer *t = f->trainer;
    HL_TRY(find_head(f));
    HL_TRY(check(f));
    HL_TRY(take_features(f));
    for (int i = 0; i < GRID && !t->stop_asked; i++) {
        HL_TRY(try_lambda(f, i));
        hl_trainer_poll(t);
    }
    *interrupted = t->stop_asked;
    return t->stop_asked ? HL_OK : take_best(f);
}

hl_status hl_trainer_fit(hl_trainer *t, bool *interrupted)
{
    fit f = {.trainer = t};
    *interrupted = false;
    if (t->at.epoch >= t->epochs)
        return HL_OK; /* resumed, and done already */
    hl_status status = fit_all(&f, interrupted);
    free(f.features);
    free(f.labels);
    free(f.params);
    free(f.best);
    return status;
}
