/* Trains a classifier on a folder of images and tries it on one of them:
 *     train DATA RUN IMAGE [WEIGHTS]
 * DATA holds train/ and val/, each with a folder of images for every class. */
#include <stdio.h>
#include <stdlib.h>

#include <heirloom/heirloom.h>

static void show(void *user, const hl_progress *progress)
{
    (void)user;
    if (progress->val != NULL)
        printf("epoch %lld: accuracy %.1f %%\n", (long long)progress->epoch, 100.0 * progress->val->acc1);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: %s DATA RUN IMAGE [WEIGHTS]\n", argv[0]);
        return 2;
    }
    hl_dataset *data = NULL;
    hl_model *model = NULL;
    float *logits = NULL;
    hl_train_result result;
    hl_status status = hl_dataset_open(argv[1], NULL, &data);
    if (status == HL_OK) {
        hl_model_options options = {.name = "mobilenet_v2",
                                    .weights = argc > 4 ? argv[4] : NULL,
                                    .classes = hl_dataset_class_count(data),
                                    .image_size = 64};
        status = hl_model_create(&options, &model);
    }
    if (status == HL_OK)
        status = hl_model_apply_method(model, "projection:scope=all", HL_NORM_DEFAULT, 0);
    if (status == HL_OK) {
        hl_train_options options;
        hl_train_defaults(&options);
        options.out = argv[2];
        options.epochs = 2;
        options.progress = show;
        status = hl_train(model, data, &options, &result);
    }
    if (status == HL_OK && (logits = calloc((size_t)hl_model_classes(model), sizeof *logits)) != NULL)
        status = hl_predict(model, (const char *const *)&argv[3], 1, 1, NULL, logits, NULL);
    for (int64_t c = 0; status == HL_OK && logits != NULL && c < hl_model_classes(model); c++)
        printf("%s: logit %.3f\n", hl_model_class_name(model, c), (double)logits[c]);
    if (status != HL_OK)
        fprintf(stderr, "%s\n", hl_last_error());
    free(logits);
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    return hl_status_exit_code(status);
}
