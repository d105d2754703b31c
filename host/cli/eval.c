/* heirloom eval */
#include <math.h>
#include <stdlib.h>

#include "cli/common.h"
#include "io/atomic_file.h"

/* A CSV field, quoted where it must be. */
static void put_field(FILE *out, const char *text)
{
    fputc('"', out);
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"')
            fputc('"', out);
        fputc(*c, out);
    }
    fputc('"', out);
}

/* The model's classes, by the data's names where the model has none. */
static const char *class_name(const hl_model *model, const hl_dataset *data, int64_t c)
{
    const char *name = hl_model_class_name(model, c);
    return name != NULL ? name : hl_dataset_class_name(data, (int32_t)c);
}

static hl_status write_confusion(const char *path, const hl_model *model, const hl_dataset *data,
                                 const int64_t *confusion)
{
    hl_atomic_file *file;
    int64_t classes = hl_model_classes(model);
    HL_TRY(hl_atomic_begin(path, &file));
    FILE *out = hl_atomic_stream(file);
    fputs("true\\predicted", out);
    for (int64_t c = 0; c < classes; c++) {
        fputc(',', out);
        put_field(out, class_name(model, data, c));
    }
    for (int64_t t = 0; t < classes; t++) {
        fputc('\n', out);
        put_field(out, class_name(model, data, t));
        for (int64_t p = 0; p < classes; p++)
            fprintf(out, ",%lld", (long long)confusion[t * classes + p]);
    }
    fputc('\n', out);
    return hl_atomic_commit(file);
}

/* What the command has from one run to the next. */
typedef struct evaluation {
    const cli_values *values;
    hl_dataset *data;
    hl_compute compute;
    bool several;
    FILE *out;    /* stdout; of several runs a text that is printed when all have been there */
    json_t *runs; /* with several runs and --json */
} evaluation;

static hl_status print_metrics(evaluation *e, const char *run, const hl_model *model, const hl_metrics *m)
{
    const char *split = cli_text(e->values, "split");
    if (cli_flag(e->values, "json")) {
        json_t *object = json_pack(
            "{s:s, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "model", hl_model_name(model), "data",
            cli_json_text(hl_dataset_name(e->data)), "split", split, "count", (json_int_t)m->count, "loss",
            hl_json_real(m->loss), "acc1", hl_json_real(m->acc1), "acc5", hl_json_real(m->acc5), "acc_class",
            hl_json_real(m->acc_class), "auroc", hl_json_real(m->auroc));
        if (!e->several)
            return cli_print_json(object);
        json_object_set_new(object, "run", cli_json_text(run));
        json_array_append_new(e->runs, object);
        return HL_OK;
    }
    if (e->several)
        fprintf(e->out, "== %s\n", run);
    fprintf(e->out, "%s on %s (%s, %lld images)\n", hl_model_name(model), hl_dataset_name(e->data), split,
            (long long)m->count);
    fprintf(e->out, "loss %.4f\ntop-1 %.2f %%\ntop-5 %.2f %%\nmean per class %.2f %%\n", m->loss,
            100.0 * m->acc1, 100.0 * m->acc5, 100.0 * m->acc_class);
    if (!isnan(m->auroc))
        fprintf(e->out, "AUROC %.4f\n", m->auroc);
    return HL_OK;
}

static hl_status visit(void *user, const char *run, int index, hl_model *model)
{
    (void)index;
    evaluation *e = user;
    hl_metrics metrics;
    const char *path = cli_text(e->values, "confusion");
    char in_run[4096];
    /* A run keeps its confusion matrix. */
    if (path == NULL && run != NULL &&
        snprintf(in_run, sizeof in_run, "%s/confusion.csv", run) < (int)sizeof in_run)
        path = in_run;
    size_t classes = (size_t)hl_model_classes(model);
    int64_t *confusion = path != NULL ? calloc(classes * classes, sizeof *confusion) : NULL;
    if (path != NULL && confusion == NULL)
        return hl_fail_nomem("confusion matrix", classes * classes * sizeof *confusion);
    hl_status status = hl_evaluate(model, e->data, (hl_split)cli_choice(e->values, "split"),
                                   cli_int(e->values, "batch-size"), (int)cli_int(e->values, "workers"),
                                   &e->compute, &metrics, confusion);
    if (status == HL_OK && path != NULL)
        status = write_confusion(path, model, e->data, confusion);
    free(confusion);
    return status == HL_OK ? print_metrics(e, run, model, &metrics) : status;
}

static hl_status eval_all(evaluation *e)
{
    hl_model *model;
    if (e->several)
        return cli_each_run(e->values, visit, e);
    HL_TRY(cli_model_or_run(e->values, 0, &model));
    hl_status status = visit(e, cli_text(e->values, "run"), 0, model);
    hl_model_destroy(model);
    return status;
}

hl_status cli_eval(cli_values *values)
{
    evaluation e = {.values = values, .several = values->repeated_count > 1};
    if (e.several && cli_given(values, "confusion"))
        return hl_fail(HL_E_ARG, "--confusion", "leave it out: each run folder gets its own",
                       "one file does not hold the matrices of %d runs", values->repeated_count);
    HL_TRY(cli_compute(values, &e.compute));
    HL_TRY(cli_data(values, &e.data));
    char *text = NULL;
    size_t size;
    e.runs = json_array();
    e.out = e.several ? open_memstream(&text, &size) : stdout;
    hl_status status = e.out != NULL ? eval_all(&e) : hl_fail_nomem("output", 0);
    if (e.several && e.out != NULL)
        fclose(e.out);
    if (status == HL_OK && e.several && cli_flag(values, "json"))
        status = cli_print_json(json_pack("{s:O}", "runs", e.runs));
    else if (status == HL_OK && text != NULL)
        fputs(text, stdout);
    free(text);
    json_decref(e.runs);
    hl_dataset_destroy(e.data);
    return status;
}
