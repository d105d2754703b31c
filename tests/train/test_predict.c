/* Evaluation and prediction of a model that is not trained. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "support/device.h"
#include "support/scratch.h"
#include "support/toy.h"

enum { CLASSES = 2, IMAGES = 5 };

static char *folder;
static hl_model *model;
static hl_compute one = {.threads = 1};

static void start(void)
{
    folder = scratch_make();
    one.device = test_device();
    toy_images(folder, CLASSES, 3, IMAGES, 0);
    model = toy_model("mobilenet_v2", CLASSES, NULL, HL_NORM_DEFAULT);
}

static void stop(void)
{
    hl_model_destroy(model);
    scratch_remove(folder);
}

TestSuite(predict, .init = start, .fini = stop);

static const char **paths(void)
{
    static char text[2 * IMAGES][512];
    static const char *list[2 * IMAGES];
    for (int i = 0; i < 2 * IMAGES; i++) {
        snprintf(text[i], sizeof text[i], "%s/val/class%02d/%03d.png", folder, i / IMAGES, i % IMAGES);
        list[i] = text[i];
    }
    return list;
}

Test(predict, logits_do_not_depend_on_the_batch_size)
{
    float all[2 * IMAGES * CLASSES], single[2 * IMAGES * CLASSES];
    cr_assert_eq(hl_predict(model, paths(), 2 * IMAGES, 4, &one, all, NULL), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_predict(model, paths(), 2 * IMAGES, 1, &one, single, NULL), HL_OK);
    for (int i = 0; i < 2 * IMAGES * CLASSES; i++)
        cr_assert_float_eq(all[i], single[i], 1e-5 * fabs((double)all[i]) + 1e-9);
}

Test(predict, agrees_with_evaluation)
{
    hl_dataset *data = toy_data(folder);
    float logits[2 * IMAGES * CLASSES];
    hl_metrics metrics;
    int64_t confusion[CLASSES * CLASSES], by_hand[CLASSES * CLASSES] = {0};
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_VAL, 3, 2, &one, &metrics, confusion), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(hl_predict(model, paths(), 2 * IMAGES, 0, &one, logits, NULL), HL_OK);
    double loss = 0.0;
    for (int i = 0; i < 2 * IMAGES; i++) {
        const float *row = logits + i * CLASSES;
        int label = i / IMAGES;
        loss += log(exp((double)row[0]) + exp((double)row[1])) - (double)row[label];
        by_hand[label * CLASSES + (row[1] > row[0])]++;
    }
    cr_assert_eq(metrics.count, 2 * IMAGES);
    cr_assert_float_eq(metrics.loss, loss / (2 * IMAGES), 1e-5);
    cr_assert_eq(memcmp(confusion, by_hand, sizeof by_hand), 0);
    cr_assert(metrics.auroc >= 0.0 && metrics.auroc <= 1.0);
    hl_dataset_destroy(data);
}

Test(predict, evaluation_finds_classes_by_their_names)
{
    static const char *const names[CLASSES] = {"class01", "class00"}, *const others[CLASSES] = {"class01",
                                                                                                "cat"};
    int64_t by_place[CLASSES * CLASSES], by_name[CLASSES * CLASSES];
    char *path = scratch_path(folder, "val/class01/000.png");
    cr_assert_eq(remove(path), 0); /* so that one class has fewer */
    free(path);
    hl_dataset *data = toy_data(folder);
    hl_metrics metrics, named;
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_VAL, 3, 2, &one, &metrics, by_place), HL_OK);
    cr_assert_eq(hl_model_set_class_names(model, names, CLASSES), HL_OK);
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_VAL, 3, 2, &one, &named, by_name), HL_OK);
    /* What the model says is the same, what is true is the other class. */
    cr_assert_eq(memcmp(by_name, by_place + CLASSES, CLASSES * sizeof *by_name), 0);
    cr_assert_eq(memcmp(by_name + CLASSES, by_place, CLASSES * sizeof *by_name), 0);
    hl_dataset_destroy(data);

    /* The images of one class alone. */
    path = scratch_path(folder, "val/class01");
    char *away = scratch_path(folder, "class01");
    cr_assert_eq(rename(path, away), 0);
    path[strlen(path) - strlen("/class01")] = '\0';
    const hl_dataset_options options = {.evaluation = true};
    cr_assert_eq(hl_dataset_open(path, &options, &data), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_TRAIN, 3, 2, &one, &named, by_name), HL_OK, "%s",
                 hl_last_error());
    cr_assert_eq(named.count, IMAGES);
    cr_assert_float_eq(named.acc_class, (double)by_name[3] / IMAGES, 1e-12);
    cr_assert_eq(by_name[0] + by_name[1], 0);
    cr_assert_eq(memcmp(by_name + CLASSES, by_place, CLASSES * sizeof *by_name), 0);
    cr_assert_eq(hl_model_set_class_names(model, others, CLASSES), HL_OK);
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_TRAIN, 3, 2, &one, &named, NULL), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "class \"class00\" is none of the 2"), "%s", hl_last_error());
    hl_dataset_destroy(data);
    free(path);
    free(away);
}

Test(predict, an_unreadable_image_is_an_error_or_a_message)
{
    const char *list[3];
    char *failed[3];
    float logits[3 * CLASSES];
    memcpy(list, paths(), sizeof list);
    list[1] = "no/such/image.png";
    cr_assert_eq(hl_predict(model, list, 3, 2, &one, logits, NULL), HL_E_NOT_FOUND);
    cr_assert_not_null(strstr(hl_last_error(), list[1]));
    cr_assert_eq(hl_predict(model, list, 3, 2, &one, logits, failed), HL_OK, "%s", hl_last_error());
    cr_assert_null(failed[0]);
    cr_assert_not_null(strstr(failed[1], list[1]));
    cr_assert_null(failed[2]);
    cr_assert_eq(logits[CLASSES], 0.0f);
    cr_assert_neq(logits[2 * CLASSES], 0.0f);
    free(failed[1]);
}

Test(predict, a_split_that_is_not_there_is_an_error)
{
    hl_dataset *data = toy_data(folder);
    hl_metrics metrics;
    cr_assert_eq(hl_evaluate(model, data, HL_SPLIT_TEST, 0, 1, &one, &metrics, NULL), HL_E_INPUT);
    hl_dataset_destroy(data);
}

Test(bench, counts_what_it_times)
{
    hl_model *small = toy_model("resnet18", 10, "full", HL_NORM_FROZEN);
    const hl_bench_options options = {.batch_size = 2, .steps = 3, .compute = one};
    hl_bench_result result;
    cr_assert_eq(hl_bench(small, &options, &result), HL_OK, "%s", hl_last_error());
    hl_model_counts counts;
    hl_model_count_params(small, &counts);
    /* Forward, data gradient (but for the first convolution) and weight gradient. */
    double per_image = result.gflops / result.images_per_second / 2e-9;
    cr_assert(per_image > 2.7 * (double)counts.macs && per_image <= 3.0 * (double)counts.macs, "%g for %lld",
              per_image, (long long)counts.macs);
    cr_assert(result.ms_median > 0.0 && result.ms_p95 >= result.ms_median);
    hl_model_destroy(small);
}

/* Preprocessing follows the weights that are meant; options win. */
Test(model, other_published_weights_bring_their_preprocessing)
{
    static const struct {
        hl_model_options options;
        int64_t size, resize;
        bool bicubic;
    } rows[] = {{{.name = "efficientnet_b1"}, 240, 256, true},
                {{.name = "efficientnet_b1.tv2_in1k"}, 240, 255, false},
                {{.name = "efficientnet_b1.tv2_in1k", .image_size = 120}, 120, 128, false},
                {{.name = "efficientnet_b1.tv2_in1k", .resize = 300, .interpolation = 2}, 240, 300, true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        hl_model *m;
        cr_assert_eq(hl_model_create(&rows[i].options, &m), HL_OK, "%s", hl_last_error());
        const hl_preprocess *p = hl_model_preprocess(m);
        cr_expect_eq(p->size, rows[i].size);
        cr_expect_eq(p->resize, rows[i].resize, "%lld", (long long)p->resize);
        cr_expect_eq(p->bicubic, rows[i].bicubic);
        cr_expect_str_eq(hl_model_name(m), "efficientnet_b1");
        hl_model_destroy(m);
    }
}
