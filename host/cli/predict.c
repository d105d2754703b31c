/* heirloom predict */
#include <math.h>
#include <stdlib.h>

#include "cli/common.h"
#include "io/safetensors.h"

typedef struct ranked {
    int64_t class;
    float logit;
} ranked;

static int larger_logit_first(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return x->class < y->class ? -1 : x->class > y->class;
}

/* All classes of one image, best first, into `order`; returns log(sum exp(logit)). */
static double rank(const float *logits, int64_t classes, ranked *order)
{
    double sum = 0.0;
    for (int64_t c = 0; c < classes; c++)
        order[c] = (ranked){c, logits[c]};
    qsort(order, (size_t)classes, sizeof *order, larger_logit_first);
    for (int64_t c = 0; c < classes; c++)
        sum += exp((double)logits[c] - (double)order[0].logit);
    return (double)order[0].logit + log(sum);
}

static const char *class_name(const hl_model *model, int64_t class, char *buf, size_t size)
{
    const char *name = hl_model_class_name(model, class);
    if (name != NULL)
        return name;
    snprintf(buf, size, "%lld", (long long)class);
    return buf;
}

static json_t *image_json(const hl_model *model, const char *path, const ranked *order, double log_sum,
                          int64_t top)
{
    json_t *list = json_array();
    char number[32];
    for (int64_t k = 0; k < top; k++)
        json_array_append_new(
            list, json_pack("{s:I, s:o, s:o, s:o}", "class", (json_int_t)order[k].class, "name",
                            cli_json_text(class_name(model, order[k].class, number, sizeof number)), "logit",
                            hl_json_real((double)order[k].logit), "prob",
                            hl_json_real(exp((double)order[k].logit - log_sum))));
    return json_pack("{s:o, s:o}", "path", cli_json_text(path), "top", list);
}

static void print_image(FILE *out, const hl_model *model, const char *path, const ranked *order,
                        double log_sum, int64_t top)
{
    char number[32];
    fprintf(out, "%s\n", path);
    for (int64_t k = 0; k < top; k++)
        fprintf(out, "  %6.2f %%  %s\n", 100.0 * exp((double)order[k].logit - log_sum),
                class_name(model, order[k].class, number, sizeof number));
}

/* What the command has from one run to the next. */
typedef struct prediction {
    const cli_values *values;
    hl_compute compute;
    bool several;
    /* What is printed once all is done and written. */
    FILE *out;
    json_t *runs;          /* of each run its images */
    hl_tensor_map *logits; /* with --logits */
} prediction;

static hl_status print_results(prediction *p, const char *run, const hl_model *model, const float *logits,
                               char *const *failed)
{
    const cli_values *values = p->values;
    int64_t classes = hl_model_classes(model),
            top = cli_int(values, "top") < classes ? cli_int(values, "top") : classes;
    bool json = cli_flag(values, "json");
    ranked *order = malloc((size_t)classes * sizeof *order);
    if (order == NULL)
        return hl_fail_nomem("classes", (size_t)classes * sizeof *order);
    json_t *images = json_array();
    if (p->several && !json)
        fprintf(p->out, "== %s\n", run);
    for (int i = 0; i < values->argument_count; i++) {
        const char *path = values->arguments[i];
        if (failed != NULL && failed[i] != NULL) {
            if (json)
                json_array_append_new(images, json_pack("{s:o, s:o}", "path", cli_json_text(path), "error",
                                                        cli_json_text(failed[i])));
            else
                fprintf(stderr, "warning: %s\n", failed[i]);
            continue;
        }
        double log_sum = rank(logits + (int64_t)i * classes, classes, order);
        if (json)
            json_array_append_new(images, image_json(model, path, order, log_sum, top));
        else
            print_image(p->out, model, path, order, log_sum, top);
    }
    free(order);
    json_t *object = json_pack("{s:o}", "images", images);
    if (p->several)
        json_object_set_new(object, "run", cli_json_text(run));
    json_array_append_new(p->runs, object);
    return HL_OK;
}

/* "logits", or one for each run: "logits.0", ... */
static hl_status keep_logits(prediction *p, int index, const float *logits, int64_t count, int64_t classes)
{
    char name[32] = "logits";
    const int64_t shape[2] = {count, classes};
    if (p->logits == NULL)
        return HL_OK;
    if (p->several)
        snprintf(name, sizeof name, "logits.%d", index);
    return hl_tensor_map_add(p->logits, name, HL_DTYPE_F32, 2, shape, logits);
}

static hl_status predict(prediction *p, const char *run, int index, hl_model *model, float *logits,
                         char **failed)
{
    const cli_values *values = p->values;
    int64_t count = values->argument_count;
    HL_TRY(hl_predict(model, (const char *const *)values->arguments, count, cli_int(values, "batch-size"),
                      &p->compute, logits, failed));
    HL_TRY(keep_logits(p, index, logits, count, hl_model_classes(model)));
    return print_results(p, run, model, logits, failed);
}

static hl_status visit(void *user, const char *run, int index, hl_model *model)
{
    prediction *p = user;
    size_t count = (size_t)p->values->argument_count;
    bool skip = cli_flag(p->values, "skip-bad");
    float *logits = calloc(count * (size_t)hl_model_classes(model), sizeof *logits);
    char **failed = skip ? calloc(count, sizeof *failed) : NULL;
    hl_status status = logits != NULL && (failed != NULL || !skip)
                           ? predict(p, run, index, model, logits, failed)
                           : hl_fail_nomem("logits", count * sizeof *logits);
    for (size_t i = 0; failed != NULL && i < count; i++)
        free(failed[i]);
    free(failed);
    free(logits);
    return status;
}

static hl_status predict_all(prediction *p)
{
    const cli_values *values = p->values;
    hl_model *model;
    if (p->several)
        return cli_each_run(values, visit, p);
    HL_TRY(cli_model_or_run(values, 0, &model));
    hl_status status = visit(p, cli_text(values, "run"), 0, model);
    hl_model_destroy(model);
    return status;
}

static hl_status print_all(prediction *p, const char *text)
{
    if (!cli_flag(p->values, "json"))
        return fputs(text, stdout) >= 0 ? HL_OK : hl_fail(HL_E_IO, "stdout", NULL, "writing failed");
    if (p->several)
        return cli_print_json(json_pack("{s:O}", "runs", p->runs));
    return cli_print_json(json_incref(json_array_get(p->runs, 0)));
}

hl_status cli_predict(cli_values *values)
{
    prediction p = {.values = values, .several = values->repeated_count > 1};
    char *text = NULL;
    size_t size;
    HL_TRY(cli_compute(values, &p.compute));
    if (cli_text(values, "logits") != NULL)
        HL_TRY(hl_tensor_map_create(&p.logits));
    p.runs = json_array();
    p.out = open_memstream(&text, &size);
    hl_status status = p.out != NULL ? predict_all(&p) : hl_fail_nomem("output", 0);
    if (p.out != NULL)
        fclose(p.out);
    if (status == HL_OK && p.logits != NULL)
        status = hl_safetensors_write(cli_text(values, "logits"), p.logits);
    if (status == HL_OK)
        status = text != NULL ? print_all(&p, text) : hl_fail_nomem("output", 0);
    free(text);
    json_decref(p.runs);
    hl_tensor_map_destroy(p.logits);
    return status;
}
