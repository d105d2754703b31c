/* Commands that look into runs, put several over one backbone, or make networks of networks. */
#include <criterion/criterion.h>
#include <jansson.h>
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
    toy_folder(folder, "data", 2, 6, 3, 0);
}

static void stop(void)
{
    scratch_remove(folder);
}

TestSuite(run_commands, .init = start, .fini = stop);

static bool is_there(const char *name, const char *magic)
{
    char *path = scratch_path(folder, name);
    size_t size;
    bool found = access(path, F_OK) == 0;
    uint8_t *bytes = found ? scratch_read(path, &size) : NULL;
    found = found && size >= strlen(magic) && memcmp(bytes, magic, strlen(magic)) == 0;
    free(bytes);
    free(path);
    return found;
}

static bool has_gnuplot(void)
{
    return system("gnuplot --version > /dev/null 2>&1") == 0;
}

#define IMAGES "@/data/val/class00/000.png @/data/val/class01/001.png"
#define TRAIN                                                                                                \
    "train --model squeezenet1_1 --data @/data --image-size 32 --epochs 1 --batch-size 4 --precision fp32 "  \
    "--augment none --seed 1 --quiet --method projection "

static void check_bank(void)
{
    hl_tensor_map *alone[2], *both;
    static const char *const names[] = {"logits.0", "logits.1"};
    json_t *o = program_json(
        folder, "predict --run @/a --run @/b --logits @/both.safetensors --json --quiet --threads 1 " IMAGES);
    cr_assert_eq(json_array_size(json_object_get(o, "runs")), 2);
    cr_expect_eq(json_array_size(json_object_get(json_array_get(json_object_get(o, "runs"), 1), "images")),
                 2);
    json_decref(o);
    char *path = scratch_path(folder, "both.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &both), HL_OK, "%s", hl_last_error());
    free(path);
    for (int i = 0; i < 2; i++) {
        char line[256], file[32];
        snprintf(line, sizeof line,
                 "predict --run @/%c --logits @/%c.safetensors --quiet --threads 1 " IMAGES, 'a' + i,
                 'a' + i);
        free(program_succeeds(folder, line));
        snprintf(file, sizeof file, "%c.safetensors", 'a' + i);
        path = scratch_path(folder, file);
        cr_assert_eq(hl_safetensors_read(path, &alone[i]), HL_OK, "%s", hl_last_error());
        const hl_named_tensor *x = hl_tensor_map_find(alone[i], "logits"),
                              *y = hl_tensor_map_find(both, names[i]);
        cr_assert(x != NULL && y != NULL && x->bytes == y->bytes);
        cr_expect_eq(memcmp(x->data, y->data, x->bytes), 0, "%s", names[i]);
        hl_tensor_map_destroy(alone[i]);
        free(path);
    }
    hl_tensor_map_destroy(both);
    o = program_json(folder, "eval --run @/a --run @/b --data @/data --json --quiet");
    cr_assert_eq(json_array_size(json_object_get(o, "runs")), 2);
    program_number(json_array_get(json_object_get(o, "runs"), 1), "acc1");
    json_decref(o);
    cr_expect(is_there("a/confusion.csv", "true") && is_there("b/confusion.csv", "true"));
    program_fails(folder, "eval --run @/a --run @/b --data @/data --confusion @/c.csv", 2, "--confusion");
    program_fails(folder, "eval --run @/a --run @/other --data @/data --quiet", 2, "base differs");
    program_fails(folder, "predict --run @/a --run @/b --model resnet18 --quiet " IMAGES, 2,
                  "one of the two");
}

static void check_gates(void)
{
    json_t *o = program_json(
        folder,
        "gates --run @/a --with @/b --prune 1,0.95 --data @/data --csv @/t.csv --png @/t.png --json --quiet");
    const json_t *all = json_object_get(o, "all"), *rows = json_object_get(o, "pruning");
    cr_expect(program_number(json_object_get(all, "with"), "cosine") > 0.0);
    cr_assert_eq(json_array_size(rows), 2);
    cr_expect_lt(program_number(json_array_get(rows, 0), "pruned"),
                 program_number(json_array_get(rows, 1), "pruned"));
    program_number(json_array_get(rows, 1), "acc1");
    cr_expect_eq(json_array_size(json_object_get(json_array_get(json_object_get(o, "layers"), 3), "largest")),
                 5);
    json_decref(o);
    cr_expect(is_there("t.csv", "threshold,pruned,total,acc1,acc_class,loss\n0.95,"));
    if (has_gnuplot())
        cr_expect(is_there("t.png", "\x89PNG"));
    char *out = program_succeeds(folder, "gates --run @/a --prune 0.98 --out @/small.onnx --quiet");
    cr_expect(strstr(out, "farthest from one") != NULL && strstr(out, "parameters of") != NULL, "%s", out);
    free(out);
    free(program_succeeds(folder, "predict --model @/small.onnx --quiet " IMAGES));
    program_fails(folder, "gates --run @/a --out @/small.onnx", 2, "give --prune too");
    program_fails(folder, "gates --run @/a --prune 0.1,0.2 --out @/small.onnx", 2, "one threshold");
    program_fails(folder, "gates --run @/a --prune 0.1x", 2, "numbers from 0");
    program_fails(folder, "gates --run @/nowhere", 2, "cannot be opened");
    program_fails(folder, "gates", 2, "--run");
}

/* Each start of the program costs, so this is one test. */
Test(run_commands, runs_are_put_over_one_backbone_and_looked_into)
{
    free(program_succeeds(folder, TRAIN "--lr 0.02 --out @/a"));
    free(program_succeeds(folder, TRAIN "--lr 0.01 --out @/b"));
    free(program_succeeds(folder, TRAIN "--lr 0.01 --seed 2 --out @/other"));
    check_bank();
    check_gates();
}

Test(run_commands, a_feedforward_network_is_embedded)
{
    static const float w[2 * 12] = {0.5f, -1.0f, 2.0f}, b[2] = {1.0f, -1.0f};
    hl_tensor_map *map;
    char *path = scratch_path(folder, "mlp.safetensors");
    cr_assert_eq(hl_tensor_map_create(&map), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "0.weight", HL_DTYPE_F32, 2, (const int64_t[]){2, 12}, w), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "2.weight", HL_DTYPE_F32, 2, (const int64_t[]){2, 2}, w), HL_OK);
    cr_assert_eq(hl_tensor_map_add_ref(map, "2.bias", HL_DTYPE_F32, 1, (const int64_t[]){2}, b), HL_OK);
    cr_assert_eq(hl_safetensors_write(path, map), HL_OK, "%s", hl_last_error());
    hl_tensor_map_destroy(map);
    free(path);
    json_t *o = program_json(
        folder, "embed @/mlp.safetensors --act tanh --spatial 2 --out @/conv.onnx --verify --json");
    cr_expect(json_is_true(json_object_get(json_object_get(o, "verify"), "equal")));
    cr_expect_eq(program_number(o, "channels"), 3);
    json_decref(o);
    free(program_succeeds(folder, "inspect --model @/conv.onnx --method projection --quiet"));
    program_fails(
        folder,
        "embed @/mlp.safetensors --act tanh --spatial 2 --out @/no.onnx --verify --tolerance 1e-12 --seed 1",
        1, "differ from the network");
    cr_expect_not(is_there("no.onnx", ""));
    program_fails(folder, "embed @/mlp.safetensors --out @/no.pth", 2, "no format that can be written");
    program_fails(folder, "embed @/mlp.safetensors --spatial 2y2 --out @/no.onnx", 2, "no window");
    program_fails(folder, "embed @/mlp.safetensors", 2, "--out");
}
