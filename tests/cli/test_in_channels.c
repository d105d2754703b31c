/* Grey and RGBA images in every command. */
#include <criterion/criterion.h>
#include <math.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <heirloom/heirloom.h>

#include "io/safetensors.h"
#include "support/program.h"
#include "support/scratch.h"

enum { SIDE = 40, CLASSES = 2 };

static char *folder;

static void start(void)
{
    folder = scratch_make();
}

static void stop(void)
{
    scratch_remove(folder);
}

TestSuite(in_channels, .init = start, .fini = stop);

#define IMAGES "@/data/val/class0/0.png @/data/val/class1/0.png"

/* RGBA images: noise that is fainter in one class, under an alpha of their own. */
static void write_image(const char *path, int label, uint32_t state)
{
    uint8_t pixels[SIDE * SIDE * 4];
    for (size_t i = 0; i < sizeof pixels; i++) {
        state = state * 1664525u + 1013904223u;
        pixels[i] = (uint8_t)(i % 4 == 3 ? 255 - (i / 16) % 100 : (state >> 24) / (label == 0 ? 1 : 3));
    }
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = SIDE, .height = SIDE, .format = PNG_FORMAT_RGBA};
    cr_assert(png_image_write_to_file(&image, path, 0, pixels, 0, NULL), "%s", path);
}

static void make_data(void)
{
    static const char *const folders[] = {"data",
                                          "data/train",
                                          "data/val",
                                          "data/train/class0",
                                          "data/train/class1",
                                          "data/val/class0",
                                          "data/val/class1"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *path = scratch_path(folder, folders[i]);
        cr_assert_eq(mkdir(path, 0777), 0);
        free(path);
    }
    for (int i = 0; i < 12; i++) {
        char name[64];
        snprintf(name, sizeof name, "data/%s/class%d/%d.png", i < 8 ? "train" : "val", i % 2, i % 8 / 2);
        char *path = scratch_path(folder, name);
        write_image(path, i % 2, (uint32_t)i + 1);
        free(path);
    }
}

static void succeeds(const char *line)
{
    free(program_succeeds(folder, line));
}

static void predict(const char *options, float logits[2 * CLASSES])
{
    hl_tensor_map *map;
    char line[512];
    snprintf(line, sizeof line, "predict %s --logits @/l.safetensors --quiet " IMAGES, options);
    succeeds(line);
    char *path = scratch_path(folder, "l.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *t = hl_tensor_map_find(map, "logits");
    cr_assert(t->shape[0] == 2 && t->shape[1] == CLASSES);
    memcpy(logits, t->data, t->bytes);
    hl_tensor_map_destroy(map);
    free(path);
}

/* 26 convolutions in fp32 whose sums may run in another order: each adds some 2^-24 of its values, here 13
 * each. */
static void expect_logits(const char *options, const float *want)
{
    float have[2 * CLASSES], largest = 0.0f;
    predict(options, have);
    for (int i = 0; i < 2 * CLASSES; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    for (int i = 0; i < 2 * CLASSES; i++)
        cr_expect(fabsf(have[i] - want[i]) <= 2e-5f * largest, "%s: logit %d is %g, not %g", options, i,
                  (double)have[i], (double)want[i]);
}

static void expect_tensor(const char *file, const char *name, int64_t channels)
{
    hl_tensor_map *map;
    char *path = scratch_path(folder, file);
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *t = hl_tensor_map_find(map, name);
    cr_assert(t != NULL && t->ndim == 4);
    cr_expect_eq(t->shape[1], channels);
    hl_tensor_map_destroy(map);
    free(path);
}

static bool mentions(const char *file, const char *words)
{
    size_t size;
    char *path = scratch_path(folder, file), *text = (char *)scratch_read(path, &size);
    bool there = memmem(text, size, words, strlen(words)) != NULL;
    free(text);
    free(path);
    return there;
}

#define NET "--model squeezenet1_1 --image-size 48 --threads 1 --quiet"
#define TRAIN                                                                                                \
    "train " NET " --weights @/rgb.safetensors --data @/data --method projection --lr 1e-4 --precision "     \
    "fp32 "

static void make_rgb_weights(void)
{
    hl_model *model;
    const hl_model_options options = {.name = "squeezenet1_1", .image_size = 48, .classes = CLASSES};
    char *path = scratch_path(folder, "rgb.safetensors");
    cr_assert_eq(hl_model_create(&options, &model), HL_OK, "%s", hl_last_error());
    cr_assert_eq(hl_model_export(model, path), HL_OK, "%s", hl_last_error());
    hl_model_destroy(model);
    free(path);
}

/* What the files of @/run say, and that what is exported from it gives its logits again. */
static void expect_exports(int channels, const char *normalised, float *want)
{
    char text[256];
    snprintf(text, sizeof text, "in-channels: %d\n", channels);
    cr_expect(mentions("run/config.yaml", text));
    snprintf(text, sizeof text, "\"in_channels\":\"%d\"", channels);
    cr_expect(mentions("run/adapter.safetensors", text));
    predict("--run @/run --threads 1", want);
    cr_expect(isfinite(want[0]) && want[0] != want[CLASSES]);
    succeeds("export --run @/run --out @/merged.safetensors --quiet");
    expect_tensor("merged.safetensors", "features.0.weight", channels);
    snprintf(text, sizeof text, NET " --weights @/merged.safetensors --in-channels %d %s", channels,
             normalised);
    expect_logits(text, want);
    /* ONNX says how many channels there are and how they are normalised. */
    succeeds("export --run @/run --out @/merged.onnx --quiet");
    expect_logits("--model @/merged.onnx --threads 1", want);
}

Test(in_channels, grey_images_are_trained_on_from_weights_for_rgb)
{
    float want[2 * CLASSES], features[2 * CLASSES];
    make_data();
    make_rgb_weights();
    succeeds(TRAIN
             "--in-channels 1 --mean 0.3 --std 0.25 --epochs 2 --batch-size 4 --augment standard --mixup 0.2 "
             "--out @/run");
    expect_exports(1, "--mean 0.3 --std 0.25", want);
    program_fails(folder, "predict --model @/merged.onnx --in-channels 3 " IMAGES " --quiet", 2,
                  "--in-channels: the network in");
    program_fails(folder, "predict --model @/merged.onnx --channel-order bgr " IMAGES " --quiet", 2,
                  "have no such order");
    /* Weights for one channel are for one channel. */
    program_fails(folder, "predict " NET " --weights @/merged.safetensors " IMAGES, 2, "features.0.weight");
    program_fails(folder,
                  "train --init-from @/run --in-channels 3 --data @/data --method linear --out @/x --quiet",
                  2, "leave --in-channels out");
    succeeds("train --config @/run/config.yaml --out @/run --resume --quiet");

    /* Kept features, twice: the second run finds the files of the first. */
#define LINEAR                                                                                               \
    "train --init-from @/run --data @/data --method linear --epochs 1 --batch-size 4 --augment none "        \
    "--precision fp32 --threads 1 --feature-cache @/features --quiet --out "
    succeeds(LINEAR "@/linear0");
    succeeds(LINEAR "@/linear1");
    predict("--run @/linear0 --threads 1", features);
    expect_logits("--run @/linear1 --threads 1", features);
}

Test(in_channels, rgba_images_are_trained_on_from_weights_for_rgb)
{
    float want[2 * CLASSES];
    make_data();
    make_rgb_weights();
    succeeds(TRAIN "--in-channels 4 --mean 0.3,0.4,0.5,0.6 --std 0.25 --epochs 1 --batch-size 4 --cutmix 1 "
                   "--out @/run");
    expect_exports(4, "--mean 0.3,0.4,0.5,0.6 --std 0.25", want);
    succeeds("eval --run @/run --data @/data --threads 1 --quiet");
}

Test(in_channels, values_that_fit_no_images_are_refused)
{
    program_fails(folder, "inspect --model resnet18 --in-channels 2", 2, "choices are 1|3|4");
    program_fails(folder, "inspect --model resnet18 --in-channels 1 --mean 0.1,0.2,0.3", 2,
                  "3 values are given for 1 channels");
    program_fails(folder, "inspect --model resnet18 --in-channels 4 --std 0.1,0.2,0.3", 2,
                  "3 values are given for 4 channels");
    program_fails(folder, "inspect --model resnet18 --mean 1,2,3,4,5", 2, "a number for each channel");
    succeeds("inspect --model googlenet --in-channels 4 --json");
    succeeds("bench " NET " --in-channels 1 --batch-size 2 --steps 1");
}
