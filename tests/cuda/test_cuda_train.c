/* Training runs on the CUDA backend, on the double of CUDA's libraries: from images to the run folder. */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "backend/backend.h"
#include "cuda_double/double.h"
#include "support/scratch.h"
#include "support/toy.h"

enum { CLASSES = 3 };

static char *folder, *images;
static hl_dataset *data;

static void start(void)
{
    double_reset();
    folder = scratch_make();
    setenv("HEIRLOOM_CACHE_DIR", folder, 1);
    images = scratch_path(folder, "images");
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, CLASSES, 6, 2, 2);
    data = toy_data(images);
}

static void stop(void)
{
    hl_dataset_destroy(data);
    free(images);
    scratch_remove(folder);
}

TestSuite(cuda_train, .init = start, .fini = stop);

typedef struct outcome {
    hl_status status;
    hl_train_result result;
} outcome;

static hl_train_options options_for(const char *run, const char *device)
{
    hl_train_options o = toy_options(run);
    o.compute.device = device;
    o.epochs = 2;
    o.lr = 1e-3;
    o.log_every = 2;
    return o;
}

static outcome train_model(hl_model *model, const char *name, hl_train_options o)
{
    outcome out;
    char *run = scratch_path(folder, name);
    o.out = run;
    out.status = hl_train(model, data, &o, &out.result);
    hl_model_destroy(model);
    free(run);
    return out;
}

static outcome train(const char *name, hl_train_options o)
{
    return train_model(toy_model("resnet18", CLASSES, "projection", HL_NORM_DEFAULT), name, o);
}

static void expect_clean(void)
{
    cr_assert_eq(double_report(), 0, "see stderr");
}

Test(cuda_train, a_run_ends_where_the_cpu_backends_does)
{
    hl_train_options cpu = options_for(NULL, "cpu"), cuda = options_for(NULL, "cuda");
    cpu.mixup = cuda.mixup = 0.2;
    cpu.clip_grad = cuda.clip_grad = 1.0;
    cpu.accumulate = cuda.accumulate = 2;
    outcome a = train("cpu", cpu), b = train("cuda", cuda);
    cr_assert_eq(a.status, HL_OK);
    cr_assert_eq(b.status, HL_OK, "%s", hl_last_error());
    cr_assert_eq(a.result.steps, b.result.steps);
    cr_assert_float_eq(a.result.last.loss, b.result.last.loss, 1e-3, "%g %g", a.result.last.loss,
                       b.result.last.loss);
    cr_assert_float_eq(a.result.test.loss, b.result.test.loss, 1e-3, "%g %g", a.result.test.loss,
                       b.result.test.loss);
    cr_assert_eq(a.result.best_epoch, b.result.best_epoch);
    expect_clean();
}

static int steps_until_stop;

static hl_request stop_soon(void *user)
{
    (void)user;
    return --steps_until_stop == 0 ? HL_STOP : HL_GO_ON;
}

static char *read_file(const char *run, const char *name, size_t *size)
{
    char *dir = scratch_path(folder, run), *path = scratch_path(dir, name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    char *bytes = malloc(1 << 26);
    *size = fread(bytes, 1, 1 << 26, file);
    fclose(file);
    free(path);
    free(dir);
    return bytes;
}

Test(cuda_train, a_resumed_run_ends_bit_for_bit_as_an_unbroken_one)
{
    hl_train_options o = options_for(NULL, "cuda");
    o.augment = HL_AUGMENT_STANDARD;
    cr_assert_eq(train("whole", o).status, HL_OK, "%s", hl_last_error());
    o.poll = stop_soon;
    steps_until_stop = 5;
    outcome part = train("broken", o);
    cr_assert(part.status == HL_OK && part.result.interrupted, "%s", hl_last_error());
    o.poll = NULL;
    o.resume = true;
    cr_assert_eq(train("broken", o).status, HL_OK, "%s", hl_last_error());
    size_t a_size, b_size;
    char *a = read_file("whole", "last.safetensors", &a_size),
         *b = read_file("broken", "last.safetensors", &b_size);
    cr_assert(a_size == b_size && memcmp(a, b, a_size) == 0);
    free(a);
    free(b);
    expect_clean();
}

/* The loss of a step is off by about the rounding of one layer's results (2^-11 of tf32 and fp16, 2^-8 of
 * bf16) times the root of the 20 layers, and the gates' steps follow such losses: taken as 20 roundings. */
Test(cuda_train, every_precision_ends_near_the_cpu_backends_fp32)
{
    static const hl_precision precisions[] = {HL_PRECISION_TF32, HL_PRECISION_BF16, HL_PRECISION_FP16};
    static const char *const names[] = {"tf32", "bf16", "fp16"};
    static const double rounding[] = {0x1p-11, 0x1p-8, 0x1p-11};
#ifdef __SANITIZE_ADDRESS__
    const int first = 2; /* the code is the same, and slow */
#else
    const int first = 0;
#endif
    outcome cpu = train("cpu", options_for(NULL, "cpu"));
    cr_assert_eq(cpu.status, HL_OK, "%s", hl_last_error());
    for (int p = first; p < 3; p++) {
        hl_train_options o = options_for(NULL, "cuda:0");
        o.compute.precision = precisions[p];
        outcome out = train(names[p], o);
        double error = fabs(out.result.last.loss / cpu.result.last.loss - 1.0);
        cr_assert_eq(out.status, HL_OK, "%s: %s", names[p], hl_last_error());
        cr_assert(error <= 20.0 * rounding[p], "%s: loss %g, %g in fp32", names[p], out.result.last.loss,
                  cpu.result.last.loss);
    }
    expect_clean();
}

Test(cuda_train, a_run_that_diverges_stops_at_the_next_reading_with_its_first_bad_step)
{
    hl_train_options o = options_for(NULL, "cuda");
    o.lr = 1e6;
    o.optimizer = HL_SGD;
    o.schedule = HL_SCHEDULE_CONSTANT;
    o.warmup_epochs = 0.0;
    hl_status status = train("wild", o).status;
    cr_assert_eq(status, HL_E_NONFINITE, "%d: %s", (int)status, hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "not finite"), "%s", hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "step"), "%s", hl_last_error());
    expect_clean();
}

/* Images of 112 pixels, so that activations are more than weights. */
static hl_status train_large(const char *name, hl_train_options o, int64_t batch, size_t mebibytes)
{
    const hl_model_options options = {
        .name = "mobilenet_v2", .classes = CLASSES, .image_size = 112, .seed = 3};
    hl_model *model;
    double_set_memory(mebibytes << 20);
    o.batch_size = batch;
    o.max_steps = 1;
    cr_assert_eq(hl_model_create(&options, &model), HL_OK);
    cr_assert_eq(hl_model_apply_method(model, "projection", HL_NORM_DEFAULT, 3), HL_OK);
    return train_model(model, name, o).status;
}

Test(cuda_train, too_little_memory_is_said_with_the_batch_size_that_fits)
{
    const hl_train_options o = options_for(NULL, "cuda");
    int64_t fits = 0;
    cr_assert_eq(train_large("large", o, 18, 150), HL_E_NOMEM, "%s", hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "GiB are left"), "%s", hl_last_error());
    const char *hint = strstr(hl_last_error(), "--batch-size ");
    cr_assert(hint != NULL && sscanf(hint, "--batch-size %" SCNd64, &fits) == 1, "%s", hl_last_error());
    cr_assert(fits > 1 && fits < 18, "%s", hl_last_error());
    cr_assert_eq(train_large("fits", o, fits, 150), HL_OK, "%s", hl_last_error());
    cr_assert_eq(train_large("more", o, fits + 1, 150), HL_E_NOMEM, "%s", hl_last_error());
    /* Not even one. */
    cr_assert_eq(train_large("none", o, 18, 56), HL_E_NOMEM, "%s", hl_last_error());
    cr_assert_not_null(strstr(hl_last_error(), "--image-size"), "%s", hl_last_error());
    expect_clean();
}

Test(cuda_train, without_a_device_asking_for_one_is_an_error_and_not_asking_is_the_cpu)
{
    const hl_backend_options any = {.device = NULL};
    hl_backend *backend;
    double_set_devices(0);
    cr_assert_eq(hl_backend_probe("cuda"), HL_E_DEVICE);
    cr_assert_not_null(strstr(hl_last_error(), "was looked for"), "%s", hl_last_error());
    cr_assert_eq(hl_backend_open(&any, &backend), HL_OK);
    cr_assert_str_eq(backend->ops->name, "cpu");
    hl_backend_close(backend);
    double_set_devices(2);
    cr_assert_eq(hl_backend_probe("cuda:1"), HL_OK);
    cr_assert_eq(hl_backend_probe("cuda:2"), HL_E_DEVICE);
    cr_assert_not_null(strstr(hl_last_error(), "2 CUDA devices"), "%s", hl_last_error());
    cr_assert_eq(hl_backend_open(&any, &backend), HL_OK);
    cr_assert_str_eq(backend->device, "cuda:0");
    hl_backend_close(backend);
    expect_clean();
}

Test(cuda_train, timed_choices_are_kept_for_the_next_run)
{
    hl_train_options o = options_for(NULL, "cuda");
    o.max_steps = 2;
    o.compute.autotune = true;
    cr_assert_eq(train("first", o).status, HL_OK, "%s", hl_last_error());
    cr_assert(double_count("cudaEventElapsedTime") > 0);
    int64_t mark = double_mark();
    cr_assert_eq(train("second", o).status, HL_OK, "%s", hl_last_error());
    cr_assert_eq(double_count_since(mark, "cudaEventElapsedTime"), 0);
    expect_clean();
}
