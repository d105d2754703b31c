/* What the commands print and write when all is well. */
#include <criterion/criterion.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
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

TestSuite(commands, .init = start, .fini = stop);

static json_int_t integer(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    cr_assert(json_is_integer(value), "%s", key);
    return json_integer_value(value);
}

Test(commands, help_names_every_option_the_command_takes)
{
    static const char *const commands[] = {"train", "eval",   "predict", "inspect", "models", "methods",
                                           "bench", "export", "convert", "devices", "embed",  "gates"};
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s --help", commands[i]);
        char *out = program_succeeds(folder, line);
        cr_assert(strstr(out, "usage: heirloom") != NULL && strstr(out, "--json") != NULL, "%s", commands[i]);
        free(out);
    }
    char *out = program_succeeds(folder, "train --help");
    static const char *const options[] = {
        "--model",     "--weights",         "--data",     "--method", "--norm",
        "--out",       "--epochs",          "--lr",       "--resume", "--projection-exec",
        "--init-from", "--label-smoothing", "--precision"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        cr_assert_not_null(strstr(out, options[i]), "%s", options[i]);
    static const char *const unavailable[] = {"--ema", "--class-weights", "onecycle", "trivial"};
    char *completion = program_succeeds(folder, "--bash-completion"),
         *man = program_succeeds(folder, "--man");
    for (size_t i = 0; i < sizeof unavailable / sizeof *unavailable; i++) {
        cr_assert_null(strstr(out, unavailable[i]), "%s is not available, yet in the help", unavailable[i]);
        cr_assert_null(strstr(completion, unavailable[i]), "%s is completed", unavailable[i]);
        cr_assert_null(strstr(man, unavailable[i]), "%s is in the man page", unavailable[i]);
    }
    free(completion);
    free(man);
    free(out);
    out = program_succeeds(folder, "inspect -h");
    cr_assert_not_null(strstr(out, "--model"));
    free(out);
}

Test(commands, inspect_prints_the_published_counts)
{
    static const struct {
        const char *line;
        json_int_t total, conv, head, gates, trainable;
    } cases[] = {
        {"inspect --model resnet50 --method projection --json", 25557032, 23454912, 2049000, 13385920,
         15434920},
        {"inspect --model resnet50 --method projection:scope=spatial --num-classes 102 --json", 23717030,
         23454912, 208998, 1257664, 1466662},
        {"inspect --model resnet50 --method norm --json", 25557032, 23454912, 2049000, 0, 2102120},
        {"inspect --model mobilenet_v2 --method projection --json", 3504872, 2189760, 1281000, 2131904,
         3412904},
        {"inspect --model efficientnet_lite0 --method linear --json", 4652008, 3328968, 1281000, 0, 1281000},
        {"inspect --model resnet18 --method full --json", 11689512, 11166912, 513000, 0, 11689512},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *o = program_json(folder, cases[i].line);
        cr_assert_eq(integer(o, "total_params"), cases[i].total, "%s", cases[i].line);
        cr_assert_eq(integer(o, "head_params"), cases[i].head, "%s", cases[i].line);
        cr_assert_eq(integer(o, "gates"), cases[i].gates, "%s", cases[i].line);
        cr_assert_eq(integer(o, "trainable_params"), cases[i].trainable, "%s", cases[i].line);
        if (i != 4)
            cr_assert_eq(integer(o, "conv_params"), cases[i].conv, "%s", cases[i].line);
        json_int_t gates = 0;
        size_t k;
        json_t *layer;
        json_array_foreach(json_object_get(o, "layers"), k, layer) gates += integer(layer, "gates");
        cr_assert_eq(gates, cases[i].gates);
        json_decref(o);
    }
}

static const char *string(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    cr_assert_not_null(text, "%s", key);
    return text;
}

/* All that a row has; what is published beside it; and that nothing is, for a model without weights. */
static void check_models(const json_t *models)
{
    size_t i;
    json_t *m;
    int seen = 0;
    json_array_foreach(models, i, m)
    {
        cr_assert(json_is_array(json_object_get(m, "mean")) && json_is_array(json_object_get(m, "std")));
        cr_assert(strlen(string(m, "paper")) > 0 && strlen(string(m, "licence")) > 0);
        if (strcmp(string(m, "name"), "resnet50") == 0) {
            json_t *other = json_array_get(json_object_get(m, "others"), 0);
            cr_assert_eq(integer(m, "params"), 25557032);
            cr_assert_eq(integer(m, "gates"), 13385920);
            cr_assert_eq(integer(m, "macs"), 4089184256);
            cr_assert_eq(integer(m, "image_size"), 224);
            cr_assert_eq(integer(m, "crop"), 224);
            cr_assert_eq(integer(m, "resize"), 256);
            cr_assert_eq(program_number(m, "top1"), 76.13);
            cr_assert_str_eq(string(m, "interpolation"), "bilinear");
            cr_assert_str_eq(string(m, "head"), "fc");
            cr_assert_str_eq(string(m, "weights_file"), "resnet50-0676ba61.pth");
            cr_assert_str_eq(string(other, "name"), "resnet50.tv2_in1k");
            cr_assert_eq(integer(other, "resize"), 232);
            seen++;
        } else if (strcmp(string(m, "name"), "seresnet101") == 0) {
            cr_assert(json_is_null(json_object_get(m, "weights_file")) &&
                      json_is_null(json_object_get(m, "top1")));
            seen++;
        }
    }
    cr_assert_eq(seen, 2);
}

Test(commands, lists_and_bench_are_json_objects)
{
    json_t *o = program_json(folder, "models --json");
    check_models(json_object_get(o, "models"));
    json_decref(o);
    o = program_json(folder, "inspect --model resnet50.tv2_in1k --json --quiet");
    cr_assert_str_eq(json_string_value(json_object_get(o, "model")), "resnet50");
    json_decref(o);
    o = program_json(folder, "methods --json");
    cr_assert_gt(json_array_size(json_object_get(o, "methods")), 3);
    json_decref(o);
    json_decref(program_json(folder, "devices --json"));
    o = program_json(folder,
                     "bench --model resnet18 --image-size 32 --batch-size 2 --steps 2 --json --quiet");
    cr_assert_gt(program_number(o, "images_per_second"), 0.0);
    cr_assert_leq(program_number(o, "ms_median"), program_number(o, "ms_p95"));
    cr_assert_gt(integer(o, "peak_memory_bytes"), 0);
    cr_assert_null(json_object_get(o, "floor_ms"));
    json_decref(o);
}

/* Every operation of the step, in order; convolutions have a time alone; the trace has the same operations.
 */
Test(commands, bench_profiles_every_operation)
{
    char line[512];
    snprintf(
        line, sizeof line,
        "bench --model resnet18 --method projection --image-size 32 --batch-size 2 --steps 2 --json --quiet "
        "--floor --profile --trace %s/trace.json",
        folder);
    json_t *o = program_json(folder, line), *row, *rows = json_object_get(o, "profile");
    size_t i;
    int convolutions = 0;
    double floor = 0.0;
    json_array_foreach(rows, i, row)
    {
        bool conv = strncmp(json_string_value(json_object_get(row, "kind")), "conv", 4) == 0;
        cr_assert_gt(program_number(row, "ms"), 0.0);
        cr_assert_eq(program_number(row, "floor_ms") > 0.0, conv);
        cr_assert_eq(program_number(row, "gflops") > 0.0, conv);
        convolutions += conv;
        floor += program_number(row, "floor_ms");
    }
    /* 20 convolutions and the head: forward, weight gradient, and the data gradient of all but the first. */
    cr_assert_eq(convolutions, 21 + 21 + 20, "%d", convolutions);
    cr_assert_float_eq(program_number(o, "floor_ms"), floor, 1e-6 * floor);
    cr_assert_float_eq(program_number(o, "floor_ratio"), program_number(o, "ms_median") / floor, 1e-3);
    snprintf(line, sizeof line, "%s/trace.json", folder);
    json_t *trace = json_load_file(line, 0, NULL);
    size_t events = 0;
    json_array_foreach(json_object_get(trace, "traceEvents"), i, row)
    {
        cr_assert_eq(integer(row, "pid"), 1);
        cr_assert(integer(row, "tid") >= 1 && integer(row, "tid") <= 4);
        events += strcmp(json_string_value(json_object_get(row, "ph")), "X") == 0;
    }
    cr_assert_eq(events, json_array_size(rows));
    json_decref(trace);
    json_decref(o);
}

static void check_train(const char *line)
{
    json_t *o = program_json(folder, line);
    cr_assert_eq(integer(o, "epochs"), 2);
    cr_assert_eq(integer(o, "steps"), 6);
    cr_assert_eq(integer(json_object_get(o, "data"), "train"), 12);
    json_t *best = json_object_get(o, "best");
    cr_assert(program_number(best, "val_acc1") >= 0.0 && program_number(best, "val_acc1") <= 1.0);
    cr_assert(json_is_number(json_object_get(best, "val_auroc")), "two classes have an AUROC");
    cr_assert(json_is_object(json_object_get(o, "test")));
    json_decref(o);
}

/* One run through every command that works with a run folder. */
Test(commands, a_run_is_trained_repeated_evaluated_predicted_with_and_exported)
{
    toy_folder(folder, "data", 2, 6, 3, 2);
    check_train("train --model resnet18 --image-size 32 --method projection --precision fp32 --augment flip "
                "--epochs 2 --batch-size 4 "
                "--data @/data --out @/run --json --quiet");
    /* The run's own configuration repeats it: the same adapter, byte for byte. */
    check_train("train --config @/run/config.yaml --out @/again --json --quiet");
    size_t size, again_size;
    char *path = scratch_path(folder, "run/adapter.safetensors"),
         *again_path = scratch_path(folder, "again/adapter.safetensors");
    uint8_t *bytes = scratch_read(path, &size), *again = scratch_read(again_path, &again_size);
    cr_assert_eq(size, again_size);
    cr_assert_arr_eq(bytes, again, size);
    free(bytes);
    free(again);
    free(path);
    free(again_path);

    json_t *o = program_json(folder, "eval --run @/run --data @/data --split val --json --quiet");
    char *confusion = scratch_path(folder, "run/confusion.csv");
    cr_assert_eq(access(confusion, F_OK), 0);
    free(confusion);
    cr_assert_eq(integer(o, "count"), 6);
    cr_assert(json_is_number(json_object_get(o, "acc1")) && json_is_number(json_object_get(o, "acc_class")));
    json_decref(o);

    /* Images that came later, without any to train on. */
    cr_assert_eq(mkdir((path = scratch_path(folder, "later")), 0777), 0);
    free(path);
    path = scratch_path(folder, "data/test");
    char *later = scratch_path(folder, "later/test");
    cr_assert_eq(rename(path, later), 0);
    o = program_json(folder, "eval --run @/run --data @/later --split test --json --quiet");
    cr_assert_eq(integer(o, "count"), 4);
    json_decref(o);
    cr_assert_eq(rename(later, path), 0);
    free(path);
    free(later);

    o = program_json(
        folder,
        "predict --run @/run --json --quiet --top 1 --logits @/logits.safetensors @/data/val/class01/000.png "
        "@/data/val/class00/000.png");
    json_t *images = json_object_get(o, "images");
    cr_assert_eq(json_array_size(images), 2);
    json_t *top = json_array_get(json_object_get(json_array_get(images, 0), "top"), 0);
    const char *name = json_string_value(json_object_get(top, "name"));
    cr_assert(name != NULL && strncmp(name, "class0", 6) == 0);
    hl_tensor_map *map;
    path = scratch_path(folder, "logits.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK, "%s", hl_last_error());
    const hl_named_tensor *logits = hl_tensor_map_find(map, "logits");
    cr_assert(logits != NULL && logits->ndim == 2 && logits->shape[0] == 2 && logits->shape[1] == 2);
    const float *values = logits->data;
    json_int_t class = integer(top, "class");
    cr_assert_float_eq(program_number(top, "logit"), values[class], 1e-5);
    cr_assert_geq(values[class], values[1 - class]);
    hl_tensor_map_destroy(map);
    json_decref(o);
    free(path);

    free(program_succeeds(folder, "export --run @/run --out @/merged.safetensors --quiet"));
    o = program_json(folder,
                     "predict --model resnet18 --weights @/merged.safetensors --image-size 32 --json --quiet "
                     "--top 1 --logits "
                     "@/merged_logits.safetensors @/data/val/class01/000.png");
    json_decref(o);
    char *merged = scratch_path(folder, "merged_logits.safetensors");
    cr_assert_eq(hl_safetensors_read(merged, &map), HL_OK);
    hl_tensor_map_destroy(map);
    free(merged);

    /* What has the names of timm, and other names there, is read back as well. */
    free(program_succeeds(
        folder, "train --model mobilenet_v2 --image-size 32 --method linear --precision fp32 --augment none "
                "--max-steps 1 --batch-size 4 --data @/data --out @/mobile --quiet"));
    free(program_succeeds(folder, "export --run @/mobile --out @/timm.safetensors --keys timm --quiet"));
    path = scratch_path(folder, "timm.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK);
    cr_assert_not_null(hl_tensor_map_find(map, "blocks.6.0.bn3.num_batches_tracked"));
    hl_tensor_map_destroy(map);
    free(path);
    free(program_succeeds(
        folder, "inspect --model mobilenet_v2 --num-classes 2 --weights @/timm.safetensors --quiet"));
    program_fails(folder, "export --run @/mobile --out @/x.safetensors --keys keras", 2, "torchvision|timm");

    free(program_succeeds(
        folder, "train --init-from @/run --data @/data --method full --epochs 1 --batch-size 4 --out "
                "@/full --quiet"));
    free(program_succeeds(folder, "eval --run @/full --data @/data --quiet"));
}

/* Until the program has made the file. */
static void wait_for(program_started p, const char *name)
{
    char *path = scratch_path(folder, name);
    const struct timespec pause = {0, 10000000};
    while (access(path, F_OK) != 0) {
        cr_assert_eq(waitpid(p.pid, NULL, WNOHANG), 0, "ended without %s", name);
        nanosleep(&pause, NULL);
    }
    free(path);
}

/* With a run that would not end by itself. */
Test(commands, signals_make_checkpoints_and_an_interrupted_run_says_so)
{
    toy_folder(folder, "data", 2, 6, 3, 0);
    program_started p = program_start(
        folder, 0,
        "train --model squeezenet1_1 --image-size 32 --method norm --precision fp32 --epochs 1000000 "
        "--schedule constant --batch-size 4 --data @/data --out @/run --json --quiet");
    wait_for(p, "run/state.safetensors");
    cr_assert_eq(kill(p.pid, SIGUSR1), 0);
    char *state = scratch_path(folder, "run/state.safetensors");
    cr_assert_eq(unlink(state), 0);
    free(state);
    wait_for(p, "run/state.safetensors");
    cr_assert_eq(kill(p.pid, SIGINT), 0);
    program_result r = program_wait(p);
    cr_assert_eq(r.status, 0, "exit status %d: %s", r.status, r.err);
    cr_expect_not_null(strstr(r.err, "interrupted, resume with --resume\n"), "%s", r.err);
    json_t *o = json_loads(r.out, 0, NULL);
    cr_assert(json_is_object(o), "%s", r.out);
    cr_expect(json_is_true(json_object_get(o, "interrupted")));
    json_decref(o);
    program_free(&r);
}

Test(commands, unreadable_images_are_reported_and_passed_over_when_asked)
{
    char *text = scratch_path(folder, "text.png");
    scratch_write(text, "no image", 8);
    free(text);
    json_t *o = program_json(folder, "predict --model resnet18 --image-size 32 --json --quiet --skip-bad "
                                     "tests/fixtures/images/png_rgb_8.png "
                                     "@/text.png tests/fixtures/images/jpeg_420.jpg");
    json_t *images = json_object_get(o, "images");
    cr_assert_eq(json_array_size(images), 3);
    cr_assert_not_null(json_object_get(json_array_get(images, 0), "top"));
    cr_assert(json_is_string(json_object_get(json_array_get(images, 1), "error")));
    cr_assert_not_null(json_object_get(json_array_get(images, 2), "top"));
    json_decref(o);
}

/* File names are bytes; an image must not go missing from the answer because JSON is UTF-8. */
Test(commands, file_names_that_are_not_utf_8_keep_their_place)
{
    static const struct {
        const char *name, *shown;
    } cases[] = {{"caf\xe9.png", "caf\xef\xbf\xbd.png"},
                 {"caf\xc3\xa9.png", "caf\xc3\xa9.png"},
                 {"\xed\xa0\x80.png", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd.png"},
                 {"cut\xf0\x9f\x98", "cut\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}};
    enum { COUNT = sizeof cases / sizeof *cases };
    size_t size, used = 0;
    uint8_t *bytes = scratch_read("tests/fixtures/images/png_rgb_8.png", &size);
    char line[512];
    used = (size_t)snprintf(line, sizeof line, "predict --model resnet18 --image-size 32 --json --quiet");
    for (int i = 0; i < COUNT; i++) {
        char *path = scratch_path(folder, cases[i].name);
        scratch_write(path, bytes, size);
        free(path);
        used += (size_t)snprintf(line + used, sizeof line - used, " @/%s", cases[i].name);
    }
    free(bytes);
    json_t *o = program_json(folder, line), *images = json_object_get(o, "images");
    cr_assert_eq(json_array_size(images), COUNT);
    for (int i = 0; i < COUNT; i++) {
        const char *path = json_string_value(json_object_get(json_array_get(images, (size_t)i), "path"));
        cr_assert_str_eq(strrchr(path, '/') + 1, cases[i].shown);
    }
    json_decref(o);
}

Test(commands, convert_keeps_every_tensor)
{
    json_t *o =
        program_json(folder, "convert tests/fixtures/weights/all_legacy.pth @/out.safetensors --json");
    hl_tensor_map *map, *expected;
    char *path = scratch_path(folder, "out.safetensors");
    cr_assert_eq(hl_safetensors_read(path, &map), HL_OK);
    cr_assert_eq(hl_safetensors_read("tests/fixtures/weights/expected.safetensors", &expected), HL_OK);
    cr_assert_eq(hl_tensor_map_count(map), hl_tensor_map_count(expected));
    cr_assert_eq((size_t)integer(o, "tensors"), hl_tensor_map_count(map));
    hl_tensor_map_destroy(map);
    hl_tensor_map_destroy(expected);
    json_decref(o);
    free(path);
}
