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

static hl_status write_confusion(const char *path, const hl_dataset *data, const int64_t *confusion)
{
    hl_atomic_file *file;
    int32_t classes = hl_dataset_class_count(data);
    HL_TRY(hl_atomic_begin(path, &file));
    FILE *out = hl_atomic_stream(file);
    fputs("true\\predicted", out);
    for (int32_t c = 0; c < classes; c++) {
        fputc(',', out);
        put_field(out, hl_dataset_class_name(data, c));
    }
    for (int32_t t = 0; t < classes; t++) {
        fputc('\n', out);
        put_field(out, hl_dataset_class_name(data, t));
        for (int32_t p = 0; p < classes; p++)
            fprintf(out, ",%lld", (long long)confusion[(int64_t)t * classes + p]);
    }
    fputc('\n', out);
    return hl_atomic_commit(file);
}

static hl_status print_metrics(const cli_values *values, const hl_model *model, const hl_dataset *data,
                               const hl_metrics *m)
{
    const char *split = cli_text(values, "split");
    if (cli_flag(values, "json"))
        return cli_print_json(json_pack(
            "{s:s, s:o, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "model", hl_model_name(model), "data",
            cli_json_text(hl_dataset_name(data)), "split", split, "count", (json_int_t)m->count, "loss",
            hl_json_real(m->loss), "acc1", hl_json_real(m->acc1), "acc5", hl_json_real(m->acc5), "acc_class",
            hl_json_real(m->acc_class), "auroc", hl_json_real(m->auroc)));
    printf("%s on %s (%s, %lld images)\n", hl_model_name(model), hl_dataset_name(data), split,
           (long long)m->count);
    printf("loss %.4f\ntop-1 %.2f %%\ntop-5 %.2f %%\nmean per class %.2f %%\n", m->loss, 100.0 * m->acc1,
           100.0 * m->acc5, 100.0 * m->acc_class);
    if (!isnan(m->auroc))
        printf("AUROC %.4f\n", m->auroc);
    return HL_OK;
}

static hl_status eval(const cli_values *values, hl_dataset *data, hl_model *model)
{
    hl_compute compute;
    hl_metrics metrics;
    const char *path = cli_text(values, "confusion"), *run = cli_text(values, "run");
    char in_run[4096];
    /* A run keeps its confusion matrix. */
    if (path == NULL && run != NULL &&
        snprintf(in_run, sizeof in_run, "%s/confusion.csv", run) < (int)sizeof in_run)
        path = in_run;
    size_t classes = (size_t)hl_model_classes(model);
    HL_TRY(cli_compute(values, &compute));
    int64_t *confusion = path != NULL ? calloc(classes * classes, sizeof *confusion) : NULL;
    if (path != NULL && confusion == NULL)
        return hl_fail_nomem("confusion matrix", classes * classes * sizeof *confusion);
    hl_status status =
        hl_evaluate(model, data, (hl_split)cli_choice(values, "split"), cli_int(values, "batch-size"),
                    (int)cli_int(values, "workers"), &compute, &metrics, confusion);
    if (status == HL_OK && path != NULL)
        status = write_confusion(path, data, confusion);
    free(confusion);
    return status == HL_OK ? print_metrics(values, model, data, &metrics) : status;
}

hl_status cli_eval(cli_values *values)
{
    hl_compute compute;
    hl_dataset *data;
    hl_model *model = NULL;
    HL_TRY(cli_compute(values, &compute));
    HL_TRY(cli_data(values, &data));
    hl_status status = cli_model_or_run(values, 0, &model);
    if (status == HL_OK)
        status = eval(values, data, model);
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    return status;
}
