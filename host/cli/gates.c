/* heirloom gates */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/common.h"
#include "cli/gates_picture.h"
#include "io/atomic_file.h"

enum { THRESHOLDS = 64 };

/* What the command works on. */
typedef struct inquiry {
    const cli_values *values;
    hl_gates *gates, *other; /* other: of --with, or NULL */
    double thresholds[THRESHOLDS];
    int threshold_count;
    cli_pruned rows[THRESHOLDS];
    double small; /* the threshold that tables by layer count by */
    hl_gate_stats all;
} inquiry;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static hl_status parse_thresholds(inquiry *q, const char *text)
{
    for (const char *at = text; text != NULL; at++) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end != ',' && *end != '\0') || !(value >= 0.0 && value <= 100.0) ||
            q->threshold_count == THRESHOLDS) {
            char subject[64];
            snprintf(subject, sizeof subject, "--prune %.40s", text);
            return hl_fail(HL_E_ARG, subject, "write 0.05, or 0.02,0.05,0.1",
                           "the value must be numbers from 0 to 100, at most %d", THRESHOLDS);
        }
        q->thresholds[q->threshold_count++] = value;
        if (*end == '\0')
            break;
        at = end;
    }
    qsort(q->thresholds, (size_t)q->threshold_count, sizeof *q->thresholds, ascending);
    q->small = q->threshold_count > 0 ? q->thresholds[0] : 0.1;
    return HL_OK;
}

/* ---- pruning ---- */

static hl_status open_model(const cli_values *values, hl_model **model)
{
    return hl_model_open_run(cli_text(values, "run"), cli_text(values, "weights"), false, cli_log(values),
                             model);
}

/* Each threshold takes more out of one model. */
static hl_status measure_pruned(inquiry *q, hl_model *model, const hl_dataset *data)
{
    const cli_values *v = q->values;
    hl_compute compute;
    HL_TRY(cli_compute(v, &compute));
    for (int i = 0; i < q->threshold_count; i++) {
        cli_pruned *row = &q->rows[i];
        hl_metrics m;
        HL_TRY(hl_model_prune(model, q->thresholds[i], &row->pruned, &row->total));
        HL_TRY(hl_evaluate(model, data, (hl_split)cli_choice(v, "split"), cli_int(v, "batch-size"),
                           (int)cli_int(v, "workers"), &compute, &m, NULL));
        row->accuracy = m.acc1;
        row->accuracy_class = m.acc_class;
        row->loss = m.loss;
    }
    return HL_OK;
}

static hl_status evaluate(inquiry *q)
{
    hl_dataset *data;
    hl_model *model = NULL;
    HL_TRY(cli_data(q->values, &data));
    hl_status status = open_model(q->values, &model);
    if (status == HL_OK)
        status = measure_pruned(q, model, data);
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    return status;
}

static hl_status count_pruned(inquiry *q)
{
    for (int i = 0; i < q->threshold_count; i++) {
        hl_gate_stats s;
        HL_TRY(hl_gates_measure(q->gates, -1, q->thresholds[i], &s));
        q->rows[i] = (cli_pruned){q->thresholds[i], s.small, s.count, NAN, NAN, NAN};
    }
    return cli_text(q->values, "data") != NULL ? evaluate(q) : HL_OK;
}

static hl_status export_pruned(const inquiry *q, hl_shrink_report *report)
{
    int64_t pruned, total;
    hl_model *model;
    HL_TRY(open_model(q->values, &model));
    hl_status status = hl_model_prune(model, q->thresholds[0], &pruned, &total);
    if (status == HL_OK)
        status = hl_model_export_shrunk(model, cli_text(q->values, "out"), report);
    hl_model_destroy(model);
    return status;
}

/* ---- what is printed ---- */

static json_t *stats_json(const hl_gate_stats *s)
{
    json_t *quantiles = json_array();
    for (int i = 0; i < HL_GATE_QUANTILES; i++)
        json_array_append_new(quantiles, hl_json_real(s->quantiles[i]));
    return json_pack("{s:I, s:o, s:o, s:o, s:o, s:o, s:o}", "count", (json_int_t)s->count, "mean",
                     hl_json_real(s->mean), "std", hl_json_real(s->deviation), "min", hl_json_real(s->least),
                     "max", hl_json_real(s->most), "quantiles", quantiles, "small",
                     hl_json_real((double)s->small / (double)s->count));
}

static json_t *changes_json(const hl_gates *gates, int layer, int64_t top)
{
    int count = (int)(top < 1000 ? top : 1000);
    hl_gate_change *changes = malloc((size_t)count * sizeof *changes);
    json_t *list = json_array();
    int have = changes != NULL ? hl_gates_largest(gates, layer, count, changes) : 0;
    for (int i = 0; i < have; i++)
        json_array_append_new(list,
                              json_pack("{s:I, s:I, s:o}", "out", (json_int_t)changes[i].output, "in",
                                        (json_int_t)changes[i].input, "gate", hl_json_real(changes[i].gate)));
    free(changes);
    return list;
}

static void set_similarity(json_t *object, const hl_gates *a, const hl_gates *b, int layer)
{
    hl_gate_similarity s;
    bool found;
    if (b == NULL)
        return;
    hl_gates_compare(a, b, layer, &found, &s);
    json_object_set_new(object, "with",
                        found ? json_pack("{s:o, s:o, s:o}", "cosine", hl_json_real(s.cosine), "correlation",
                                          hl_json_real(s.correlation), "sign_agreement", hl_json_real(s.sign))
                              : json_null());
}

static hl_status print_json(const inquiry *q, const hl_shrink_report *shrunk)
{
    json_t *layers = json_array(), *all = stats_json(&q->all);
    for (int l = 0; l < hl_gates_layer_count(q->gates); l++) {
        hl_gate_layer layer;
        hl_gate_stats s;
        hl_gates_layer(q->gates, l, &layer);
        HL_TRY(hl_gates_measure(q->gates, l, q->small, &s));
        json_t *object = stats_json(&s);
        json_object_set_new(object, "name", cli_json_text(layer.name));
        json_object_set_new(object, "shape",
                            json_pack("[I,I]", (json_int_t)layer.outputs, (json_int_t)layer.inputs));
        json_object_set_new(object, "largest", changes_json(q->gates, l, cli_int(q->values, "top")));
        set_similarity(object, q->gates, q->other, l);
        json_array_append_new(layers, object);
    }
    set_similarity(all, q->gates, q->other, -1);
    json_t *object = json_pack("{s:o, s:o, s:o, s:o}", "run", cli_json_text(cli_text(q->values, "run")),
                               "threshold", hl_json_real(q->small), "all", all, "layers", layers);
    json_t *rows = json_array();
    for (int i = 0; i < q->threshold_count; i++) {
        const cli_pruned *r = &q->rows[i];
        json_array_append_new(rows,
                              json_pack("{s:o, s:I, s:I, s:o, s:o, s:o}", "threshold",
                                        hl_json_real(r->threshold), "pruned", (json_int_t)r->pruned, "total",
                                        (json_int_t)r->total, "acc1", hl_json_real(r->accuracy), "acc_class",
                                        hl_json_real(r->accuracy_class), "loss", hl_json_real(r->loss)));
    }
    json_object_set_new(object, "pruning", rows);
    if (shrunk != NULL)
        json_object_set_new(
            object, "export",
            json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "out", cli_json_text(cli_text(q->values, "out")),
                      "params_before", (json_int_t)shrunk->params_before, "params_after",
                      (json_int_t)shrunk->params_after, "macs_before", (json_int_t)shrunk->macs_before,
                      "macs_after", (json_int_t)shrunk->macs_after, "channels_removed",
                      (json_int_t)shrunk->removed, "channels_left", (json_int_t)shrunk->left));
    return cli_print_json(object);
}

static hl_status print_layer(const inquiry *q, int l, const char *name, const char *shape)
{
    char spark[CLI_SPARK_SIZE];
    double low, high;
    hl_gate_stats s;
    HL_TRY(hl_gates_measure(q->gates, l, q->small, &s));
    cli_gates_range(&q->all, &low, &high);
    printf("%-34s %11s %7.4f %7.4f %8.4f %8.4f %8.4f %8.4f %7.2f %%  |%s|\n", name, shape, s.mean,
           s.deviation, s.least, s.quantiles[0], s.quantiles[4], s.most,
           100.0 * (double)s.small / (double)s.count, cli_gates_spark(q->gates, l, low, high, spark));
    return HL_OK;
}

static hl_status print_layers(const inquiry *q)
{
    char shape[48];
    printf("%-34s %11s %7s %7s %8s %8s %8s %8s  |a| <= %g\n", "layer", "gates", "mean", "std", "min", "5 %",
           "95 %", "max", q->small);
    for (int l = 0; l < hl_gates_layer_count(q->gates); l++) {
        hl_gate_layer layer;
        hl_gates_layer(q->gates, l, &layer);
        snprintf(shape, sizeof shape, "%lldx%lld", (long long)layer.outputs, (long long)layer.inputs);
        HL_TRY(print_layer(q, l, layer.name, shape));
    }
    return print_layer(q, -1, "all", cli_grouped(q->all.count, shape, sizeof shape));
}

static void print_largest(const inquiry *q)
{
    hl_gate_change changes[1000];
    int64_t top = cli_int(q->values, "top");
    int count = hl_gates_largest(q->gates, -1, (int)(top < 1000 ? top : 1000), changes);
    printf("\nfarthest from one\n");
    for (int i = 0; i < count; i++) {
        hl_gate_layer layer;
        hl_gates_layer(q->gates, changes[i].layer, &layer);
        printf("  %-34s output %5lld, input %5lld: %.4f\n", layer.name, (long long)changes[i].output,
               (long long)changes[i].input, changes[i].gate);
    }
}

static void print_similarity(const inquiry *q)
{
    printf("\nbeside %s\n%-34s %8s %12s %15s\n", cli_text(q->values, "with"), "layer", "cosine",
           "correlation", "sign agreement");
    for (int l = 0; l <= hl_gates_layer_count(q->gates); l++) {
        hl_gate_layer layer = {.name = "all"};
        hl_gate_similarity s;
        bool found, last = l == hl_gates_layer_count(q->gates);
        if (!last)
            hl_gates_layer(q->gates, l, &layer);
        hl_gates_compare(q->gates, q->other, last ? -1 : l, &found, &s);
        if (found)
            printf("%-34s %8.4f %12.4f %14.2f %%\n", layer.name, s.cosine, s.correlation, 100.0 * s.sign);
        else
            printf("%-34s %8s\n", layer.name, "not there");
    }
}

static void print_pruned(const inquiry *q)
{
    char pruned[32];
    printf("\n%9s %14s %9s  %s\n", "threshold", "taken out", "sparsity",
           isnan(q->rows[0].accuracy) ? "" : "top-1    mean per class  loss");
    for (int i = 0; i < q->threshold_count; i++) {
        const cli_pruned *r = &q->rows[i];
        printf("%9g %14s %7.2f %%", r->threshold, cli_grouped(r->pruned, pruned, sizeof pruned),
               100.0 * (double)r->pruned / (double)r->total);
        if (!isnan(r->accuracy))
            printf("  %5.2f %%  %12.2f %%  %.4f", 100.0 * r->accuracy, 100.0 * r->accuracy_class, r->loss);
        putchar('\n');
    }
}

static void print_shrunk(const char *path, const hl_shrink_report *r)
{
    char a[32], b[32];
    printf("\n%s: %s parameters of %s", path, cli_grouped(r->params_after, a, sizeof a),
           cli_grouped(r->params_before, b, sizeof b));
    printf(", %s MACs of %s", cli_grouped(r->macs_after, a, sizeof a),
           cli_grouped(r->macs_before, b, sizeof b));
    printf("; %s channels taken out, %s without input left\n", cli_grouped(r->removed, a, sizeof a),
           cli_grouped(r->left, b, sizeof b));
}

static hl_status print_text(const inquiry *q, const hl_shrink_report *shrunk)
{
    HL_TRY(print_layers(q));
    print_largest(q);
    if (q->other != NULL)
        print_similarity(q);
    if (q->threshold_count > 0)
        print_pruned(q);
    if (shrunk != NULL)
        print_shrunk(cli_text(q->values, "out"), shrunk);
    return HL_OK;
}

static void put_rows(const inquiry *q, FILE *out)
{
    fputs("threshold,pruned,total,acc1,acc_class,loss\n", out);
    for (int i = 0; i < q->threshold_count; i++) {
        const cli_pruned *r = &q->rows[i];
        fprintf(out, "%.9g,%lld,%lld,", r->threshold, (long long)r->pruned, (long long)r->total);
        if (isnan(r->accuracy))
            fputs(",,\n", out);
        else
            fprintf(out, "%.9g,%.9g,%.9g\n", r->accuracy, r->accuracy_class, r->loss);
    }
}

static hl_status put_layers(const inquiry *q, FILE *out)
{
    fprintf(out, "layer,outputs,inputs,mean,std,min,q05,q25,q50,q75,q95,max,small\n");
    for (int l = 0; l < hl_gates_layer_count(q->gates); l++) {
        hl_gate_layer layer;
        hl_gate_stats s;
        hl_gates_layer(q->gates, l, &layer);
        HL_TRY(hl_gates_measure(q->gates, l, q->small, &s));
        for (const char *c = layer.name; *c != '\0'; c++)
            fputc(*c == ',' || *c == '"' || *c == '\n' ? '_' : *c, out);
        fprintf(out, ",%lld,%lld,%.9g,%.9g,%.9g", (long long)layer.outputs, (long long)layer.inputs, s.mean,
                s.deviation, s.least);
        for (int i = 0; i < HL_GATE_QUANTILES; i++)
            fprintf(out, ",%.9g", s.quantiles[i]);
        fprintf(out, ",%.9g,%lld\n", s.most, (long long)s.small);
    }
    return HL_OK;
}

static hl_status write_csv(const inquiry *q, const char *path)
{
    hl_atomic_file *file;
    hl_status status = HL_OK;
    HL_TRY(hl_atomic_begin(path, &file));
    if (q->threshold_count > 0)
        put_rows(q, hl_atomic_stream(file));
    else
        status = put_layers(q, hl_atomic_stream(file));
    if (status == HL_OK)
        return hl_atomic_commit(file);
    hl_atomic_abort(file);
    return status;
}

static hl_status answer(inquiry *q)
{
    const char *png = cli_text(q->values, "png"), *csv = cli_text(q->values, "csv");
    bool out = cli_text(q->values, "out") != NULL;
    hl_shrink_report shrunk = {0};
    hl_status status;
    HL_TRY(hl_gates_measure(q->gates, -1, q->small, &q->all));
    HL_TRY(count_pruned(q));
    if (out)
        HL_TRY(export_pruned(q, &shrunk));
    if (csv != NULL)
        HL_TRY(write_csv(q, csv));
    if (png != NULL && !cli_gates_picture(q->gates, &q->all, q->rows, q->threshold_count, png, &status)) {
        HL_TRY(status);
        hl_log_warn(cli_log(q->values),
                    "%s: not drawn (install gnuplot-nox for pictures, or check that it can be written)", png);
    }
    return cli_flag(q->values, "json") ? print_json(q, out ? &shrunk : NULL)
                                       : print_text(q, out ? &shrunk : NULL);
}

hl_status cli_gates(cli_values *values)
{
    inquiry q = {.values = values};
    HL_TRY(cli_require(values, "run"));
    HL_TRY(parse_thresholds(&q, cli_text(values, "prune")));
    if (q.threshold_count == 0 && (cli_text(values, "data") != NULL || cli_text(values, "out") != NULL))
        return hl_fail(HL_E_ARG, cli_text(values, "out") != NULL ? "--out" : "--data", "give --prune too",
                       "it is for what pruning leaves");
    if (cli_text(values, "out") != NULL) {
        HL_TRY(cli_check_output(cli_text(values, "out"), true));
        if (q.threshold_count > 1)
            return hl_fail(HL_E_ARG, "--out", "give --prune one threshold", "one network is written, not %d",
                           q.threshold_count);
    }
    hl_status status = hl_gates_open(cli_text(values, "run"), &q.gates);
    if (status == HL_OK && cli_text(values, "with") != NULL)
        status = hl_gates_open(cli_text(values, "with"), &q.other);
    if (status == HL_OK)
        status = answer(&q);
    hl_gates_destroy(q.gates);
    hl_gates_destroy(q.other);
    return status;
}
