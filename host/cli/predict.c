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

static void print_image(const hl_model *model, const char *path, const ranked *order, double log_sum,
                        int64_t top)
{
    char number[32];
    printf("%s\n", path);
    for (int64_t k = 0; k < top; k++)
        printf("  %6.2f %%  %s\n", 100.0 * exp((double)order[k].logit - log_sum),
               class_name(model, order[k].class, number, sizeof number));
}

static hl_status print_results(const cli_values *values, const hl_model *model, const float *logits,
                               char *const *failed)
{
    int64_t classes = hl_model_classes(model),
            top = cli_int(values, "top") < classes ? cli_int(values, "top") : classes;
    bool json = cli_flag(values, "json");
    ranked *order = malloc((size_t)classes * sizeof *order);
    json_t *images = json_array();
    if (order == NULL) {
        json_decref(images);
        return hl_fail_nomem("classes", (size_t)classes * sizeof *order);
    }
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
            print_image(model, path, order, log_sum, top);
    }
    free(order);
    if (json)
        return cli_print_json(json_pack("{s:o}", "images", images));
    json_decref(images);
    return HL_OK;
}

static hl_status write_logits(const char *path, const float *logits, int64_t count, int64_t classes)
{
    hl_tensor_map *map;
    const int64_t shape[2] = {count, classes};
    HL_TRY(hl_tensor_map_create(&map));
    hl_status status = hl_tensor_map_add_ref(map, "logits", HL_DTYPE_F32, 2, shape, logits);
    if (status == HL_OK)
        status = hl_safetensors_write(path, map);
    hl_tensor_map_destroy(map);
    return status;
}

static hl_status predict(const cli_values *values, const hl_compute *compute, hl_model *model, float *logits,
                         char **failed)
{
    int64_t count = values->argument_count;
    HL_TRY(hl_predict(model, (const char *const *)values->arguments, count, cli_int(values, "batch-size"),
                      compute, logits, failed));
    if (cli_text(values, "logits") != NULL)
        HL_TRY(write_logits(cli_text(values, "logits"), logits, count, hl_model_classes(model)));
    return print_results(values, model, logits, failed);
}

hl_status cli_predict(cli_values *values)
{
    hl_compute compute;
    hl_model *model;
    HL_TRY(cli_compute(values, &compute));
    HL_TRY(cli_model_or_run(values, 0, &model));
    size_t count = (size_t)values->argument_count;
    float *logits = calloc(count * (size_t)hl_model_classes(model), sizeof *logits);
    char **failed = cli_flag(values, "skip-bad") ? calloc(count, sizeof *failed) : NULL;
    hl_status status = logits != NULL && (failed != NULL || !cli_flag(values, "skip-bad"))
                           ? predict(values, &compute, model, logits, failed)
                           : hl_fail_nomem("logits", count * sizeof *logits);
    for (size_t i = 0; failed != NULL && i < count; i++)
        free(failed[i]);
    free(failed);
    free(logits);
    hl_model_destroy(model);
    return status;
}
