/* Networks from ONNX files in every command. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "support/program.h"
#include "support/scratch.h"
#include "support/toy.h"

static char *folder;

static void start(void)
{
    folder = scratch_make();
}

static char *printed; /* by the latest predict */

static void stop(void)
{
    free(printed);
    scratch_remove(folder);
}

TestSuite(onnx_commands, .init = start, .fini = stop);

#define NET   "tests/fixtures/onnx/tensorflow.onnx"
#define IMAGE "@/data/val/class01/000.png"
/* A network that is not normalised as others are. */
#define IMAGES "--channel-order bgr --mean 0.4,0.5,0.6 --std 0.004,0.004,0.004"

/* The logits of IMAGE under the options of a predict command; the caller frees them. */
static float *predict(const char *options, int64_t classes)
{
    char line[512];
    hl_tensor_map *map;
    snprintf(line, sizeof line, "predict %s --logits @/l.safetensors --quiet " IMAGE, options);
    free(printed);
    printed = program_succeeds(folder, line);
    char *path = scratch_path(folder, "l.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *logits = hl_tensor_map_find(map, "logits");
    cr_assert_eq(logits->shape[1], classes);
    float *copy = malloc(logits->bytes);
    memcpy(copy, logits->data, logits->bytes);
    hl_tensor_map_destroy(map);
    free(path);
    return copy;
}

/* Few layers in fp32: rounding is below 1e-5 of the largest. */
static void same_logits(float *have, float *want, int count, const char *what)
{
    float largest = 0.0f;
    for (int i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(want[i]));
    for (int i = 0; i < count; i++)
        cr_expect(fabsf(have[i] - want[i]) <= 1e-5f * largest, "%s: logit %d is %g, not %g", what, i,
                  (double)have[i], (double)want[i]);
    free(have);
}

/* One run through every command that works with networks or run folders; each start of the program costs, so
 * this is one test. */
Test(onnx_commands, a_run_from_a_file_goes_through_all_of_them)
{
    size_t size;
    toy_folder(folder, "data", 2, 6, 3, 2);
    uint8_t *bytes = scratch_read(NET, &size);
    char *first = scratch_path(folder, "first.onnx"), *second = scratch_path(folder, "second.onnx");
    scratch_write(first, bytes, size);
    free(program_succeeds(
        folder,
        "train --model @/first.onnx --data @/data --method projection --precision fp32 --augment none "
        "--epochs 1 --batch-size 4 " IMAGES " --out @/run --quiet"));
    float *want = predict("--run @/run", 2);
    free(program_succeeds(folder, "export --run @/run --out @/merged.onnx --quiet"));
    /* What is written takes RGB, and says how images are to be normalised and what classes are called. */
    same_logits(predict("--model @/merged.onnx", 2), want, 2, "merged.onnx");
    cr_expect_not_null(strstr(printed, "class01"), "%s", printed);
    free(program_succeeds(folder, "export --run @/run --out @/merged.safetensors --quiet"));
    same_logits(predict("--model @/first.onnx --weights @/merged.safetensors " IMAGES, 2), want, 2,
                "merged.safetensors over the file");
    free(program_succeeds(
        folder,
        "train --init-from @/run --data @/data --method full --epochs 1 --batch-size 4 --precision fp32 "
        "--out @/full --quiet"));
    char *out = program_succeeds(folder, "inspect --model @/first.onnx --method projection --json");
    cr_expect(strstr(out, "\"model\":\"first.onnx\"") != NULL && strstr(out, "model.conv1") != NULL, "%s",
              out);
    free(out);

    /* The run finds the file where it was, or where it is told. */
    cr_assert_eq(rename(first, second), 0);
    program_fails(folder, "eval --run @/run --data @/data --quiet", 2, "first.onnx");
    same_logits(predict("--run @/run --weights @/second.onnx", 2), want, 2, "the file that has moved");
    /* Other weights under that name are noticed. */
    bytes[size / 2] ^= 0x10;
    scratch_write(second, bytes, size);
    program_fails(folder, "eval --run @/run --data @/data --weights @/second.onnx --quiet", 2,
                  "other base weights");
    bytes[size / 2] ^= 0x10;
    scratch_write(first, bytes, size);
    free(
        program_succeeds(folder, "train --config @/run/config.yaml --out @/run --resume --epochs 2 --quiet"));
    free(bytes);
    free(first);
    free(second);
    free(want);
}

Test(onnx_commands, convert_takes_the_weights_out)
{
    hl_tensor_map *map;
    free(program_succeeds(folder, "convert tests/fixtures/onnx/pytorch.onnx @/w.safetensors"));
    char *path = scratch_path(folder, "w.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *t = hl_tensor_map_find(map, "stem.conv.weight");
    cr_expect(t != NULL && t->ndim == 4 && t->shape[0] == 8);
    hl_tensor_map_destroy(map);
    free(path);
}
