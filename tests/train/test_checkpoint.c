/* Runs that stop, are killed or run out of disk, and go on. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/safetensors.h"
#include "support/scratch.h"
#include "support/toy.h"

enum { CLASSES = 3, STEPS = 9 }; /* three epochs of five batches, two batches a step */

static char *folder, *images;

static void start(void)
{
    folder = scratch_make();
    images = scratch_path(folder, "images");
    cr_assert_eq(mkdir(images, 0777), 0);
    toy_images(images, CLASSES, 6, 2, 1);
}

static void stop(void)
{
    free(images);
    scratch_remove(folder);
}

TestSuite(checkpoint, .init = start, .fini = stop);

/* How a run ends before its time. */
typedef struct ending {
    int64_t step; /* after this step, or, with `epoch_end`, in the epoch's last moments ... */
    bool epoch_end, killed,
        usr1; /* ... killed by SIGKILL, or asked to stop; usr1: only to write a checkpoint */
} ending;

static const char *method = "projection:l1=0.0001";
static ending wanted;
static int64_t step_now;

static void watch(void *user, const hl_progress *progress)
{
    (void)user;
    step_now = progress->step;
    if (wanted.killed && progress->step == wanted.step && (progress->val != NULL) == wanted.epoch_end)
        raise(SIGKILL);
}

static hl_request answer(void *user)
{
    (void)user;
    if (step_now != wanted.step || wanted.killed)
        return HL_GO_ON;
    return wanted.usr1 ? HL_CHECKPOINT : HL_STOP;
}

/* Everything that has state: dropout, augmentation, moving statistics, two moments, sums over batches. */
static hl_train_options options_of(const char *run)
{
    hl_train_options o = toy_options(run);
    o.epochs = 3;
    o.accumulate = 2;
    o.clip_grad = 1.0;
    o.checkpoint_every = 2;
    o.log_every = 1;
    o.label_smoothing = 0.1;
    o.lr = 1e-3;
    o.progress = watch;
    o.poll = answer;
    return o;
}

static hl_status train(const char *run, bool resume, hl_train_result *result)
{
    hl_dataset *data = toy_data(images);
    hl_model *model = toy_model("mobilenet_v2", CLASSES, method, HL_NORM_FULL);
    hl_train_options o = options_of(run);
    o.layer_decay = 0.9;
    o.resume = resume;
    hl_status status = hl_train(model, data, &o, result);
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    return status;
}

/* Trains in a process of its own; returns how that ended. */
static int train_in_child(const char *run, bool resume, ending end)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        hl_train_result result;
        wanted = end;
        hl_status status = train(run, resume, &result);
        if (status != HL_OK)
            fprintf(stderr, "%s\n", hl_last_error());
        _exit(status != HL_OK ? 3 : result.interrupted ? 4 : 0);
    }
    int how;
    cr_assert_eq(waitpid(child, &how, 0), child);
    return how;
}

static void expect_same_file(const char *run, const char *other, const char *name)
{
    char *a = scratch_path(run, name), *b = scratch_path(other, name);
    size_t a_size, b_size;
    uint8_t *a_bytes = scratch_read(a, &a_size), *b_bytes = scratch_read(b, &b_size);
    cr_assert_eq(a_size, b_size, "%s: %zu and %zu bytes", name, a_size, b_size);
    cr_assert_eq(memcmp(a_bytes, b_bytes, a_size), 0, "%s differs", name);
    free(a_bytes);
    free(b_bytes);
    free(a);
    free(b);
}

/* Tensors of two checkpoints but for the times in run.sums. */
static void expect_same_state(const char *run, const char *other)
{
    char *a = scratch_path(run, "state.safetensors"), *b = scratch_path(other, "state.safetensors");
    hl_tensor_map *x, *y;
    cr_assert_eq(hl_safetensors_read(a, &x), HL_OK);
    cr_assert_eq(hl_safetensors_read(b, &y), HL_OK);
    cr_assert_eq(hl_tensor_map_count(x), hl_tensor_map_count(y));
    for (size_t i = 0; i < hl_tensor_map_count(x); i++) {
        const hl_named_tensor *s = hl_tensor_map_at(x, i), *t = hl_tensor_map_find(y, s->name);
        cr_assert_not_null(t, "%s", s->name);
        cr_assert_eq(s->bytes, t->bytes);
        if (strncmp(s->name, "run.", 4) != 0)
            cr_assert_eq(memcmp(s->data, t->data, s->bytes), 0, "%s differs", s->name);
    }
    hl_tensor_map_destroy(x);
    hl_tensor_map_destroy(y);
    free(a);
    free(b);
}

Test(checkpoint, a_resumed_run_ends_bit_for_bit_as_an_unbroken_one)
{
    static const ending endings[] = {
        {.step = 1, .killed = true},                    /* before the first checkpoint */
        {.step = 2, .killed = true},                    /* before the checkpoint of this step */
        {.step = 3, .killed = true, .epoch_end = true}, /* the best adapter is written, the state is not */
        {.step = 5, .killed = true},                    /* after a checkpoint within an epoch */
        {.step = STEPS, .killed = true, .epoch_end = true},
        {.step = 1}, /* asked to stop within an epoch */
        {.step = 3}, /* asked to stop at the end of one, before it is evaluated */
        {.step = STEPS},
        {.step = 4, .usr1 = true}, /* asked for a checkpoint only */
    };
    char *whole = scratch_path(folder, "whole");
    cr_assert_eq(train_in_child(whole, false, (ending){.step = -1}), 0);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char name[32];
        snprintf(name, sizeof name, "run%zu", i);
        char *run = scratch_path(folder, name);
        int how = train_in_child(run, false, endings[i]);
        if (endings[i].killed)
            cr_assert(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL, "%zu: %d", i, how);
        else
            cr_assert(WIFEXITED(how) && WEXITSTATUS(how) == (endings[i].usr1 ? 0 : 4), "%zu: %d", i, how);
        if (!endings[i].usr1)
            cr_assert_eq(train_in_child(run, true, (ending){.step = -1}), 0, "%zu", i);
        expect_same_file(run, whole, "last.safetensors");
        expect_same_file(run, whole, "adapter.safetensors");
        expect_same_state(run, whole);
        cr_assert_eq(scratch_count_lines(run, "log.jsonl"), scratch_count_lines(whole, "log.jsonl"), "%zu",
                     i);
        cr_assert_eq(scratch_count_lines(run, "metrics.csv"), 4, "%zu", i);
        free(run);
    }
    free(whole);
}

/* What l2sp pulls towards is in no checkpoint: it is where the run began. */
Test(checkpoint, penalties_are_the_same_after_resuming)
{
    static const char *const methods[] = {"l2sp:alpha=0.5,beta=0.1", "bss:k=2,eta=0.1"};
    for (int i = 0; i < 2; i++) {
        char *whole = scratch_path(folder, i ? "whole1" : "whole0"),
             *run = scratch_path(folder, i ? "run1" : "run0");
        method = methods[i];
        cr_assert_eq(train_in_child(whole, false, (ending){.step = -1}), 0);
        int how = train_in_child(run, false, (ending){.step = 4});
        cr_assert(WIFEXITED(how) && WEXITSTATUS(how) == 4, "%s: %d", method, how);
        cr_assert_eq(train_in_child(run, true, (ending){.step = -1}), 0);
        expect_same_file(run, whole, "last.safetensors");
        expect_same_state(run, whole);
        free(whole);
        free(run);
    }
}

Test(checkpoint, a_finished_run_can_be_resumed_and_stays_as_it_is)
{
    char *run = scratch_path(folder, "run");
    cr_assert_eq(train_in_child(run, false, (ending){.step = -1}), 0);
    char *copy = scratch_path(folder, "copy"), command[1024];
    snprintf(command, sizeof command, "cp -r %s %s", run, copy);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(train_in_child(run, true, (ending){.step = -1}), 0);
    expect_same_file(run, copy, "state.safetensors");
    expect_same_file(run, copy, "metrics.csv");
    expect_same_file(run, copy, "adapter.safetensors");
    free(copy);
    free(run);
}

/* A file size limit is what a full disk looks like to one file: the state is the largest. */
Test(checkpoint, a_full_disk_is_an_error_and_leaves_the_checkpoint_before_it)
{
    char *run = scratch_path(folder, "run"), *whole = scratch_path(folder, "whole");
    cr_assert_eq(train_in_child(whole, false, (ending){.step = -1}), 0);
    int how = train_in_child(run, false, (ending){.step = 4});
    cr_assert(WIFEXITED(how) && WEXITSTATUS(how) == 4);
    int files = scratch_count(run);

    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        hl_train_result result;
        signal(SIGXFSZ, SIG_IGN);
        const struct rlimit limit = {1 << 20, 1 << 20};
        setrlimit(RLIMIT_FSIZE, &limit);
        wanted.step = -1;
        _exit(train(run, true, &result) == HL_E_IO && strstr(hl_last_error(), run) != NULL ? 0 : 1);
    }
    cr_assert_eq(waitpid(child, &how, 0), child);
    cr_assert_eq(how, 0);
    cr_assert_eq(scratch_count(run), files, "a temporary file was left behind");
    cr_assert_eq(train_in_child(run, true, (ending){.step = -1}), 0);
    expect_same_state(run, whole);
    expect_same_file(run, whole, "last.safetensors");
    free(run);
    free(whole);
}

Test(checkpoint, other_options_are_refused_on_resume)
{
    char *run = scratch_path(folder, "run");
    hl_train_result result;
    wanted = (ending){.step = 2};
    cr_assert_eq(train(run, false, &result), HL_OK, "%s", hl_last_error());
    cr_assert(result.interrupted);
    hl_dataset *data = toy_data(images);
    hl_model *model = toy_model("mobilenet_v2", CLASSES, "projection:l1=0.0001", HL_NORM_FULL);
    hl_train_options o = options_of(run);
    o.resume = true;
    o.layer_decay = 0.8;
    cr_assert_eq(hl_train(model, data, &o, &result), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "--layer-decay 0.9"), "%s", hl_last_error());
    o.layer_decay = 0.9;
    o.batch_size = 5;
    cr_assert_eq(hl_train(model, data, &o, &result), HL_E_ARG);
    cr_assert_not_null(strstr(hl_last_error(), "--batch-size 4"), "%s", hl_last_error());
    hl_model_destroy(model);
    hl_dataset_destroy(data);
    free(run);
}

Test(checkpoint, a_damaged_one_is_refused)
{
    char *run = scratch_path(folder, "run");
    hl_train_result result;
    wanted = (ending){.step = 2};
    cr_assert_eq(train(run, false, &result), HL_OK, "%s", hl_last_error());
    char *path = scratch_path(run, "state.safetensors");
    size_t size;
    uint8_t *bytes = scratch_read(path, &size);
    for (size_t cut = 0; cut < 4; cut++) {
        scratch_write(path, bytes, cut * size / 4);
        cr_assert_eq(train(run, true, &result), HL_E_INPUT, "%s", hl_last_error());
    }
    free(bytes);
    free(path);
    free(run);
}
