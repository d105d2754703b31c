/* The loader with many workers, for the thread sanitizer. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/loader.h"
#include "support/scratch.h"

enum { IMAGES = 40, SIDE = 16 };

static const char *const fixtures[] = {"jpeg_420.jpg", "source.png", "png_palette_8.png", "missing.png"};

static char *root;

static void add_images(void)
{
    char here[2048], name[4096], target[4096];
    cr_assert_not_null(getcwd(here, sizeof here));
    for (int i = 0; i < IMAGES; i++) {
        snprintf(name, sizeof name, "%s/%d/%d.png", root, i % 2, i);
        snprintf(target, sizeof target, "%s/tests/fixtures/images/%s", here, fixtures[i % 4]);
        cr_assert_eq(symlink(target, name), 0);
    }
}

static void on_line(void *user, hl_log_level level, const char *line)
{
    (void)line;
    *(int *)user += level == HL_LOG_WARNING;
}

/* A sum over all that an epoch gives, which notices a change of order. */
static uint64_t run_epoch(hl_loader *loader, uint32_t epoch, int64_t batches)
{
    uint64_t sum = 14695981039346656037u;
    hl_batch batch;
    if (hl_loader_start_epoch(loader, epoch, 0) != HL_OK)
        return 0;
    for (int64_t b = 0; b < batches && hl_loader_next(loader, &batch) == HL_OK && batch.number >= 0; b++) {
        for (int64_t i = 0; i < batch.count; i++)
            sum = (sum ^ (uint64_t)batch.indices[i] ^ batch.flips[i]) * 1099511628211u;
        for (int64_t i = 0; i < batch.count * SIDE * SIDE * 3; i++)
            sum = (sum ^ batch.images[i]) * 1099511628211u;
        hl_loader_release(loader, &batch);
    }
    return sum;
}

static bool same_with_many_workers(const hl_dataset *dataset, hl_augment augment)
{
    uint64_t expected[2] = {0, 0};
    bool same = true;
    for (int workers = 1; workers <= 4; workers++) {
        int warnings = 0;
        hl_log log = {on_line, &warnings};
        hl_loader *loader;
        hl_loader_options options = {.transform = {.resize = 18, .crop = SIDE, .augment = augment},
                                     .batch_size = 7,
                                     .workers = workers,
                                     .seed = 5,
                                     .shuffle = true,
                                     .bad_images = HL_BAD_IMAGES_SKIP,
                                     .log = &log};
        if (hl_loader_create(dataset, &options, &loader) != HL_OK) {
            fprintf(stderr, "%s\n", hl_last_error());
            return false;
        }
        for (uint32_t epoch = 0; epoch < 2; epoch++) {
            uint64_t sum = run_epoch(loader, epoch, 100);
            same =
                same && (workers == 1 || sum == expected[epoch]) && hl_loader_skipped(loader) == IMAGES / 4;
            expected[epoch] = sum;
        }
        same = same && warnings == IMAGES / 2;
        run_epoch(loader, 2, 1); /* leaves an epoch half-way, */
        run_epoch(loader, 3, 2); /* then another, and stops the threads at work */
        hl_loader_destroy(loader);
    }
    return same;
}

static void check(hl_augment augment)
{
    root = scratch_make();
    for (int c = 0; c < 2; c++) {
        char folder[4096];
        snprintf(folder, sizeof folder, "%s/%d", root, c);
        cr_assert_eq(mkdir(folder, 0700), 0);
    }
    add_images();
    hl_dataset *dataset;
    cr_assert_eq(hl_dataset_open(root, NULL, &dataset), HL_OK);
    cr_assert(same_with_many_workers(dataset, augment));
    hl_dataset_destroy(dataset);
    scratch_remove(root);
}

Test(loader_threads, batches_do_not_depend_on_how_many_workers_flip)
{
    check(HL_AUGMENT_FLIP);
}

Test(loader_threads, batches_do_not_depend_on_how_many_workers_crop)
{
    check(HL_AUGMENT_STANDARD);
}
