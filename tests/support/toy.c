#include "support/toy.h"

#include <criterion/criterion.h>
#include <png.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/philox.h"
#include "support/device.h"

static void write_image(const char *path, int label, uint32_t number)
{
    uint8_t pixels[TOY_SIZE * TOY_SIZE * 3];
    hl_rng rng = hl_rng_make(17, HL_STREAM_TEST, number, 0);
    for (int i = 0; i < TOY_SIZE * TOY_SIZE; i++)
        for (int c = 0; c < 3; c++) {
            float value =
                (c == label % 3 ? 170.0f : 90.0f) + (float)(label / 3) * 40.0f + 25.0f * hl_rng_normal(&rng);
            pixels[3 * i + c] = (uint8_t)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : value);
        }
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = TOY_SIZE, .height = TOY_SIZE, .format = PNG_FORMAT_RGB};
    cr_assert(png_image_write_to_file(&image, path, 0, pixels, 0, NULL), "%s", path);
}

void toy_images(const char *folder, int classes, int train, int val, int test)
{
    static const char *const splits[] = {"train", "val", "test"};
    const int counts[] = {train, val, test};
    char path[512];
    for (int s = 0; s < 3; s++) {
        if (counts[s] == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, splits[s]);
        mkdir(path, 0777);
        for (int c = 0; c < classes; c++) {
            snprintf(path, sizeof path, "%s/%s/class%02d", folder, splits[s], c);
            mkdir(path, 0777);
            for (int i = 0; i < counts[s]; i++) {
                snprintf(path, sizeof path, "%s/%s/class%02d/%03d.png", folder, splits[s], c, i);
                write_image(path, c, (uint32_t)((s * 100 + c) * 1000 + i));
            }
        }
    }
}

void toy_folder(const char *parent, const char *name, int classes, int train, int val, int test)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", parent, name);
    cr_assert_eq(mkdir(path, 0777), 0);
    toy_images(path, classes, train, val, test);
}

hl_dataset *toy_data(const char *folder)
{
    hl_dataset *data;
    cr_assert_eq(hl_dataset_open(folder, NULL, &data), HL_OK, "%s", hl_last_error());
    return data;
}

hl_model *toy_model(const char *name, int64_t classes, const char *method, hl_norm_mode norm)
{
    const hl_model_options options = {
        .name = name, .classes = classes, .image_size = TOY_SIZE, .resize = TOY_SIZE, .seed = 3};
    hl_model *model;
    cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
    if (method != NULL)
        cr_assert_eq(hl_model_apply_method(model, method, norm, 3), HL_OK, "%s", hl_last_error());
    return model;
}

hl_train_options toy_options(const char *out)
{
    hl_train_options options;
    hl_train_defaults(&options);
    options.out = out;
    options.epochs = 2;
    options.batch_size = 4;
    options.seed = 5;
    options.compute = (hl_compute){.precision = HL_PRECISION_FP32, .threads = 1, .device = test_device()};
    return options;
}
