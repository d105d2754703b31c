/* Whatever is wrong with the command line or an input: one line that says so, and the documented exit status.
 */
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

TestSuite(bad_input, .init = start, .fini = stop);

static void write_text(const char *name, const char *text)
{
    char *path = scratch_path(folder, name);
    scratch_write(path, text, strlen(text));
    free(path);
}

/* A copy of a file's first `size` bytes (0: all). */
static void copy_file(const char *from, const char *name, size_t size)
{
    size_t whole;
    uint8_t *bytes = scratch_read(from, &whole);
    char *path = scratch_path(folder, name);
    scratch_write(path, bytes, size == 0 ? whole : size);
    free(path);
    free(bytes);
}

Test(bad_input, of_command_lines)
{
    static const struct {
        const char *line;
        int status;
        const char *text;
    } cases[] = {
        {"trian", 2, "did you mean train"},
        {"sweep", 2, "not available in this version"},
        {"train --out x --data y", 2, "y"},
        {"inspect", 2, "--model"},
        {"inspect --model resnet5", 2, "resnet50"},
        {"inspect --model net.onnx", 2, "cannot be opened"},
        {"inspect --model resnet18 --channel-order bgr", 2, "takes RGB"},
        {"inspect --model resnet18 --method projektion", 2, "projection"},
        {"inspect --model resnet18 --method projection:skope=all", 2, "scope"},
        {"inspect --model resnet18 --method projection:scope", 2, "key=value"},
        {"inspect --model resnet18 --method projection:init-noise=-1", 2, "init-noise"},
        {"inspect --model resnet18 --method projection:bias=yes", 2, "0 or 1"},
        {"inspect --model resnet18 --method projection:scope=nothing*", 2, "matches no layer"},
        {"inspect --model resnet18 --num-classes 0", 2, "--num-classes"},
        {"inspect --model resnet18 --num-classes 5x", 2, "whole number"},
        {"inspect --model resnet18 --num-classes 1e3", 2, "whole number"},
        {"inspect --model resnet18 --image-size", 2, "needs a value"},
        {"inspect --model resnet18 --norm frozn", 2, "frozen"},
        {"inspect --model resnet18 --image-size 4097", 2, "4096"},
        {"inspect --model resnet18 --colour red", 2, "no such option"},
        {"inspect --model resnet18 --std 0,0,0", 2, "std"},
        {"inspect --model resnet18 --mean 1,2", 2, "2 values are given for 3 channels"},
        {"inspect --model resnet18 surplus", 2, "surplus"},
        {"train --data x --out y --model resnet18 --lr nan", 2, "--lr"},
        {"train --data x --out y --model resnet18 --epochs -1", 2, "--epochs"},
        {"train --data x --out y --model resnet18 --ema 0.9", 2, "not available"},
        {"train --data x --out y --model resnet18 --schedule onecycle", 2, "not available"},
        {"train --data x --out y --model resnet18 --class-weights balanced", 2, "not available"},
        {"bench --model resnet18 --drop-path 0.1", 2, "has no stochastic depth"},
        {"bench --model efficientnet_b0 --drop-path 1", 2, "--drop-path"},
        {"bench --model resnet18 --precision fp16 --device cpu", 2, "does not compute in it"},
        {"bench --model resnet18 --precision tf32 --device cpu", 2, "does not compute in it"},
        {"bench --model resnet18 --precision bf16 --winograd --device cpu", 2,
         "give --device cpu --precision fp32"},
        {"bench --model resnet18 --precision fp8", 2, "choices are fp32|tf32|bf16|fp16"},
        {"inspect --model resnet18 --json=1", 2, "takes no value"},
        {"predict", 2, "IMAGE"},
        {"predict --model resnet18 --run x a.png", 2, "one of the two"},
        {"predict a.png", 2, "one of the two"},
        {"convert one", 2, "IN OUT"},
        {"convert a.pth b.onnx", 2, "ONNX"},
        {"export --run x --out y.pth", 2, "y.pth"},
        {"bench --model resnet18 --device cuda", 1, "CUDA"},
        {"bench --model resnet18 --device gpu", 2, "no such device"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        program_fails(folder, cases[i].line, cases[i].status, cases[i].text);
}

/* The file and the line are named, and what is wrong there. */
Test(bad_input, of_configurations)
{
    write_text("value.yaml", "model: resnet18\nepochs: -3\n");
    write_text("key.yaml", "colour: red\n");
    write_text("planned.yaml", "schedule: onecycle\n");
    program_fails(folder, "train --config @/value.yaml --data x --out @/run", 2,
                  "value.yaml, line 2: --epochs -3");
    program_fails(folder, "train --config @/key.yaml --data x --out @/run", 2, "key.yaml, line 1");
    program_fails(folder, "train --config @/planned.yaml --data x --out @/run", 2, "not available");
    program_fails(folder, "train --config @/none.yaml --data x --out @/run", 2, "none.yaml");
}

Test(bad_input, of_images)
{
    copy_file("tests/fixtures/images/jpeg_420.jpg", "good.jpg", 0);
    copy_file("tests/fixtures/images/jpeg_420.jpg", "cut.jpg", 300);
    write_text("text.png", "no image");
    write_text("empty.png", "");
    program_fails(folder, "predict --model resnet18 --image-size 32 @/missing.png", 2, "missing.png");
    program_fails(folder, "predict --model resnet18 --image-size 32 @/cut.jpg", 2, "cut.jpg");
    program_fails(folder, "predict --model resnet18 --image-size 32 @/good.jpg @/text.png", 2, "text.png");
    program_fails(folder, "predict --model resnet18 --image-size 32 @/empty.png", 2, "empty.png");
    program_fails(folder,
                  "predict --model resnet18 --image-size 32 @/good.jpg --logits @/no/such/l.safetensors", 1,
                  "l.safetensors");
}

Test(bad_input, of_weights)
{
    hl_tensor_map *map;
    const int64_t shape[1] = {2};
    const float values[2] = {1.0f, NAN};
    char *path = scratch_path(folder, "other.safetensors");
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add(map, "fc.bias", HL_DTYPE_F32, 1, shape, values), HL_OK);
    cr_assert_eq(hl_safetensors_write(path, map), HL_OK);
    hl_tensor_map_destroy(map);
    free(path);
    copy_file("tests/fixtures/weights/expected.safetensors", "cut.safetensors", 100);
    copy_file("tests/fixtures/weights/all_legacy.pth", "cut.pth", 200);
    write_text("page.pth", "<!DOCTYPE html><html></html>");
    write_text("empty.pth", "");
    program_fails(folder, "inspect --model resnet18 --weights @/missing.pth", 2, "missing.pth");
    program_fails(folder, "inspect --model resnet18 --weights @/other.safetensors", 2, "conv1.weight");
    program_fails(folder, "inspect --model resnet18 --weights @/cut.safetensors", 2, "cut.safetensors");
    program_fails(folder, "inspect --model resnet18 --weights @/cut.pth", 2, "cut.pth");
    program_fails(folder, "inspect --model resnet18 --weights @/page.pth", 2, "page.pth");
    program_fails(folder, "inspect --model resnet18 --weights @/empty.pth", 2, "empty.pth");
    program_fails(folder, "inspect --model resnet18 --weights tests/fixtures/weights/bad_foreign_zip.pt", 2,
                  "bad_foreign_zip.pt");
    program_fails(folder, "inspect --model resnet18 --weights tests/fixtures/weights/bad_foreign_legacy.pth",
                  2, "executed");
    program_fails(folder, "convert tests/fixtures/weights/bad_huge_size.pt @/out.safetensors", 2,
                  "bad_huge_size.pt");
    path = scratch_path(folder, "out.safetensors");
    cr_assert_neq(access(path, F_OK), 0);
    free(path);
}

/* A weights file of the right names and shapes, one value of which is not a number. */
Test(bad_input, of_weights_that_are_not_numbers)
{
    hl_model *model = toy_model("resnet18", 3, "linear", HL_NORM_DEFAULT);
    hl_tensor_map *map;
    char *path = scratch_path(folder, "weights.safetensors");
    cr_assert_eq(hl_model_export(model, path), HL_OK, "%s", hl_last_error());
    hl_model_destroy(model);
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK);
    hl_tensor_map *broken;
    cr_assert_eq(hl_tensor_map_create(&broken), HL_OK);
    for (size_t i = 0; i < hl_tensor_map_count(map); i++) {
        const hl_named_tensor *t = hl_tensor_map_at(map, i);
        float *copy = malloc(t->bytes);
        memcpy(copy, t->data, t->bytes);
        if (strcmp(t->name, "layer1.0.conv1.weight") == 0)
            copy[7] = INFINITY;
        cr_assert_eq(hl_tensor_map_add(broken, t->name, t->dtype, t->ndim, t->shape, copy), HL_OK);
        free(copy);
    }
    char *broken_path = scratch_path(folder, "broken.safetensors");
    cr_assert_eq(hl_safetensors_write(broken_path, broken), HL_OK);
    hl_tensor_map_destroy(broken);
    hl_tensor_map_destroy(map);
    program_fails(folder, "inspect --model resnet18 --weights @/broken.safetensors", 2,
                  "layer1.0.conv1.weight");
    program_fails(folder, "inspect --model resnet34 --weights @/weights.safetensors", 2, "missing");
    free(broken_path);
    free(path);
}

static const char train[] =
    "train --model resnet18 --image-size 32 --method linear --epochs 1 --quiet --out @/run --data ";

static void train_fails(const char *data, int status, const char *text)
{
    char line[512];
    snprintf(line, sizeof line, "%s%s", train, data);
    program_fails(folder, line, status, text);
    char *run = scratch_path(folder, "run/adapter.safetensors");
    cr_assert_neq(access(run, F_OK), 0);
    free(run);
}

Test(bad_input, of_data_sets)
{
    toy_folder(folder, "data", 2, 3, 1, 0);
    toy_folder(folder, "one_class", 1, 3, 1, 0);
    write_text("columns.csv", "path,class,split\na.png,x,train\n");
    write_text("outside.csv", "path,label,split\n../a.png,x,train\nb.png,y,train\n");
    write_text("absolute.csv", "path,label,split\n/etc/a.png,x,train\nb.png,y,train\n");
    write_text("split.csv", "path,label,split\na.png,x,trian\n");
    write_text("missing.csv", "path,label,split\na.png,x,train\nb.png,y,train\na.png,x,val\n");
    train_fails("@/nothing", 2, "nothing");
    train_fails("@/one_class", 2, "one_class");
    train_fails("@/columns.csv", 2, "label");
    train_fails("@/outside.csv", 2, "../a.png");
    train_fails("@/absolute.csv", 2, "/etc/a.png");
    train_fails("@/split.csv", 2, "trian");
    train_fails("@/data --batch-size 7", 2, "batch");
    train_fails("@/missing.csv --batch-size 2", 2, ".png");
    char *empty = scratch_path(folder, "data/train/no_images");
    cr_assert_eq(mkdir(empty, 0777), 0);
    free(empty);
    train_fails("@/data --batch-size 2", 2, "no_images");
}

Test(bad_input, of_run_folders)
{
    toy_folder(folder, "data", 2, 3, 1, 0);
    write_text("file", "x");
    train_fails("@/data --batch-size 2 --out @/file", 2, "file");
    train_fails("@/data --batch-size 2 --out @/data", 2, "not empty");
    train_fails("@/data --batch-size 2 --out @/none --resume", 2, "none");
    train_fails("@/data --batch-size 2 --augment none --feature-cache @/file", 2, "--feature-cache");
    program_fails(folder, "eval --run @/none --data @/data", 2, "none");
    program_fails(folder, "export --run @/data --out @/x.safetensors", 2, "data");
}

Test(bad_input, a_full_disk_leaves_no_damaged_file)
{
    toy_folder(folder, "data", 2, 3, 1, 0);
    char line[512];
    snprintf(line, sizeof line, "%s@/data --batch-size 2", train);
    program_result r = program_run(folder, 2048, line);
    cr_assert_eq(r.status, 1, "exit status %d: %s", r.status, r.err);
    cr_assert_not_null(strstr(r.err, "heirloom: "), "%s", r.err);
    char *adapter = scratch_path(folder, "run/adapter.safetensors");
    cr_assert_neq(access(adapter, F_OK), 0);
    free(adapter);
    program_free(&r);
    snprintf(line, sizeof line, "%s@/data --batch-size 2 --augment none --feature-cache @/cache", train);
    r = program_run(folder, 2048, line);
    cr_assert_eq(r.status, 1, "exit status %d: %s", r.status, r.err);
    char *cache = scratch_path(folder, "cache");
    cr_assert_eq(scratch_count(cache), 0);
    free(cache);
    program_free(&r);
}
