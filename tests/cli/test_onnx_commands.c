/* Networks from ONNX files in every command. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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

static void stop(void)
{
    scratch_remove(folder);
}

TestSuite(onnx_commands, .init = start, .fini = stop);

#define NET   "tests/fixtures/onnx/tensorflow.onnx"
#define IMAGE "@/data/val/class01/000.png"

static void toy(void)
{
    char *path = scratch_path(folder, "data");
    cr_assert_eq(mkdir(path, 0777), 0);
    toy_images(path, 2, 6, 3, 2);
    free(path);
}

static char *succeeds(const char *line)
{
    program_result r = program_run(folder, 0, line);
    cr_assert_eq(r.status, 0, "heirloom %s: exit status %d: %s", line, r.status, r.err);
    free(r.err);
    return r.out;
}

/* The logits of IMAGE under the options of a predict command; the caller frees them. */
static float *predict(const char *options, int64_t classes)
{
    char line[512];
    hl_tensor_map *map;
    snprintf(line, sizeof line, "predict %s --logits @/l.safetensors --quiet " IMAGE, options);
    free(succeeds(line));
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

Test(onnx_commands, a_run_from_a_file_goes_through_all_of_them)
{
    toy();
    /* The name is relative to where the program runs; the run has to find the file all the same. */
    free(succeeds(
        "train --model " NET " --data @/data --method projection --precision fp32 --augment none "
        "--epochs 1 --batch-size 4 --channel-order bgr --mean 0.4,0.5,0.6 --std 0.004,0.004,0.004 --out "
        "@/run --quiet"));
    float *want = predict("--run @/run", 2);
    free(succeeds("export --run @/run --out @/merged.onnx --quiet"));
    /* What is written takes RGB, and says how images are to be normalised. */
    same_logits(predict("--model @/merged.onnx", 2), want, 2, "merged.onnx");
    free(succeeds("export --run @/run --out @/merged.safetensors --quiet"));
    same_logits(predict("--model " NET
                        " --weights @/merged.safetensors --channel-order bgr --mean 0.4,0.5,0.6 "
                        "--std 0.004,0.004,0.004",
                        2),
                want, 2, "merged.safetensors over the file");
    free(succeeds("eval --run @/run --data @/data --quiet"));
    free(succeeds("train --config @/run/config.yaml --out @/run --resume --epochs 2 --quiet"));
    free(succeeds(
        "train --init-from @/run --data @/data --method full --epochs 1 --batch-size 4 --precision fp32 "
        "--out @/full --quiet"));
    char *out = succeeds("inspect --model " NET " --method projection --json");
    cr_expect(strstr(out, "\"model\":\"tensorflow.onnx\"") != NULL && strstr(out, "model.conv1") != NULL,
              "%s", out);
    free(out);
    free(want);
}

Test(onnx_commands, a_run_finds_its_file_where_it_is_told)
{
    size_t size;
    toy();
    uint8_t *bytes = scratch_read(NET, &size);
    char *first = scratch_path(folder, "first.onnx"), *second = scratch_path(folder, "second.onnx");
    scratch_write(first, bytes, size);
    free(succeeds("train --model @/first.onnx --data @/data --method linear --precision fp32 --epochs 1 "
                  "--batch-size 4 --out @/run --quiet"));
    cr_assert_eq(rename(first, second), 0);
    program_fails(folder, "eval --run @/run --data @/data --quiet", 2, "first.onnx");
    free(succeeds("eval --run @/run --data @/data --weights @/second.onnx --quiet"));
    /* Other weights under that name are noticed. */
    bytes[size / 2] ^= 0x10;
    scratch_write(second, bytes, size);
    program_fails(folder, "eval --run @/run --data @/data --weights @/second.onnx --quiet", 2,
                  "other base weights");
    free(bytes);
    free(first);
    free(second);
}

Test(onnx_commands, convert_takes_the_weights_out)
{
    hl_tensor_map *map;
    free(succeeds("convert tests/fixtures/onnx/pytorch.onnx @/w.safetensors"));
    char *path = scratch_path(folder, "w.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *t = hl_tensor_map_find(map, "stem.conv.weight");
    cr_expect(t != NULL && t->ndim == 4 && t->shape[0] == 8);
    hl_tensor_map_destroy(map);
    free(path);
}
