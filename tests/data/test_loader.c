#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/loader.h"
#include "support/tree.h"

enum { IMAGES = 23, SIDE = 16, BYTES = SIDE * SIDE * 3, BATCH = 5, MAX_BATCHES = 8 };

static tree t;
static hl_dataset *dataset;

/* 23 images in two classes, of different sizes, so that a mistaken index shows in the pixels. */
static void setup(void)
{
    static const char *const fixtures[] = {"jpeg_420.jpg",     "source.png",    "png_rgb_8.png",
                                           "jpeg_grey.jpg",    "jpeg_cmyk.jpg", "png_rgba_8.png",
                                           "png_palette_8.png"};
    t = tree_create();
    for (int i = 0; i < IMAGES; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s/%02d%s", i % 2 ? "odd" : "even", i, i % 7 == 0 ? ".jpg" : ".png");
        tree_image(&t, name, fixtures[i % 7]);
    }
    cr_assert_eq(hl_dataset_open(t.root, NULL, &dataset), HL_OK, "%s", hl_last_error());
}

static void teardown(void)
{
    hl_dataset_destroy(dataset);
    tree_remove(&t);
}

TestSuite(loader, .init = setup, .fini = teardown);

static hl_loader_options options_with(hl_augment augment, int workers)
{
    return (hl_loader_options){.transform = {.resize = 18, .crop = SIDE, .augment = augment},
                               .batch_size = BATCH,
                               .workers = workers,
                               .depth = 2,
                               .seed = 11,
                               .shuffle = true};
}

typedef struct epoch_copy {
    int64_t count[MAX_BATCHES], number[MAX_BATCHES], indices[MAX_BATCHES][BATCH], batches;
    int32_t labels[MAX_BATCHES][BATCH];
    uint8_t flips[MAX_BATCHES][BATCH], images[MAX_BATCHES][BATCH][BYTES];
} epoch_copy;

/* Runs an epoch from `first` on and keeps all that it gives. */
static epoch_copy *copy_epoch(hl_loader *loader, uint32_t epoch, int64_t first)
{
    epoch_copy *copy = calloc(1, sizeof *copy);
    hl_batch batch;
    cr_assert_eq(hl_loader_start_epoch(loader, epoch, first), HL_OK);
    while (true) {
        cr_assert_eq(hl_loader_next(loader, &batch), HL_OK, "%s", hl_last_error());
        if (batch.number < 0)
            return copy;
        int64_t b = copy->batches++;
        size_t n = (size_t)batch.count;
        copy->count[b] = batch.count;
        copy->number[b] = batch.number;
        memcpy(copy->indices[b], batch.indices, n * sizeof *batch.indices);
        memcpy(copy->labels[b], batch.labels, n * sizeof *batch.labels);
        memcpy(copy->flips[b], batch.flips, n);
        memcpy(copy->images[b], batch.images, n * BYTES);
        hl_loader_release(loader, &batch);
        cr_assert_eq(batch.count, 0);
        cr_assert_eq(batch.number, -1);
    }
}

static hl_loader *create(const hl_loader_options *options)
{
    hl_loader *loader;
    cr_assert_eq(hl_loader_create(dataset, options, &loader), HL_OK, "%s", hl_last_error());
    return loader;
}

Test(loader, one_two_and_three_workers_give_the_same_with_and_without_the_cache)
{
    for (int augment = HL_AUGMENT_NONE; augment <= HL_AUGMENT_STANDARD; augment++) {
        epoch_copy *expected[2] = {NULL, NULL};
        for (int workers = 1; workers <= 3; workers++)
            for (int64_t cache = -1; cache <= 0; cache++) {
                hl_loader_options options = options_with((hl_augment)augment, workers);
                options.cache_bytes = cache;
                hl_loader *loader = create(&options);
                for (uint32_t epoch = 0; epoch < 2; epoch++) {
                    epoch_copy *got = copy_epoch(loader, epoch, 0);
                    cr_assert_eq(got->batches, 5);
                    if (expected[epoch] == NULL) {
                        expected[epoch] = got;
                        continue;
                    }
                    cr_assert_eq(memcmp(got, expected[epoch], sizeof *got), 0,
                                 "%d workers, cache %d, epoch %u", workers, (int)cache, epoch);
                    free(got);
                }
                hl_loader_destroy(loader);
            }
        cr_assert_neq(memcmp(expected[0]->indices, expected[1]->indices, sizeof expected[0]->indices), 0);
        free(expected[0]);
        free(expected[1]);
    }
}

Test(loader, every_image_comes_once_an_epoch_with_its_label_and_pixels)
{
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    hl_loader *loader = create(&options);
    cr_assert_eq(hl_loader_batch_count(loader), 5);
    epoch_copy *got = copy_epoch(loader, 3, 0);
    bool seen[IMAGES] = {false};
    hl_image image = {0};
    hl_resizer resizer = {0};
    for (int64_t b = 0; b < got->batches; b++)
        for (int64_t i = 0; i < got->count[b]; i++) {
            int64_t index = got->indices[b][i];
            uint8_t pixels[BYTES], flip;
            cr_assert_not(seen[index]);
            seen[index] = true;
            cr_assert_eq(got->labels[b][i], hl_dataset_sample_label(dataset, HL_SPLIT_TRAIN, index));
            hl_image_decode_file(&image, hl_dataset_sample_path(dataset, HL_SPLIT_TRAIN, index));
            hl_transform_apply(&options.transform, &resizer, &image, 11, 3, index, pixels, &flip);
            cr_assert_arr_eq(got->images[b][i], pixels, BYTES);
        }
    for (int i = 0; i < IMAGES; i++)
        cr_assert(seen[i]);
    free(got);
    hl_image_clear(&image);
    hl_resizer_clear(&resizer);
    hl_loader_destroy(loader);
}

Test(loader, going_on_in_the_middle_of_an_epoch_gives_the_rest_of_it)
{
    hl_loader_options options = options_with(HL_AUGMENT_STANDARD, 2);
    hl_loader *loader = create(&options);
    epoch_copy *whole = copy_epoch(loader, 4, 0), *rest = copy_epoch(loader, 4, 2);
    cr_assert_eq(rest->batches, whole->batches - 2);
    for (int64_t b = 0; b < rest->batches; b++) {
        cr_assert_eq(rest->number[b], b + 2);
        cr_assert_eq(rest->count[b], whole->count[b + 2]);
        cr_assert_arr_eq(rest->images[b], whole->images[b + 2], sizeof rest->images[b]);
        cr_assert_arr_eq(rest->indices[b], whole->indices[b + 2], sizeof rest->indices[b]);
    }
    free(rest);
    rest = copy_epoch(loader, 4, 5);
    cr_assert_eq(rest->batches, 0);
    cr_assert_eq(hl_loader_start_epoch(loader, 4, 6), HL_E_ARG);
    free(rest);
    free(whole);
    hl_loader_destroy(loader);
}

Test(loader, without_shuffling_the_order_is_that_of_the_files_and_the_last_batch_may_be_dropped)
{
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    options.shuffle = false;
    options.drop_last = true;
    hl_loader *loader = create(&options);
    epoch_copy *got = copy_epoch(loader, 0, 0);
    cr_assert_eq(got->batches, 4);
    for (int64_t i = 0; i < 20; i++)
        cr_assert_eq(got->indices[i / BATCH][i % BATCH], i);
    free(got);
    hl_loader_destroy(loader);
}

Test(loader, it_can_be_stopped_or_restarted_at_any_time)
{
    for (int taken = 0; taken < 5; taken++) {
        hl_loader_options options = options_with(HL_AUGMENT_STANDARD, 3);
        hl_loader *loader = create(&options);
        hl_batch batch;
        for (int round = 0; round < 2; round++) {
            cr_assert_eq(hl_loader_start_epoch(loader, 0, 0), HL_OK);
            for (int i = 0; i < taken; i++) {
                cr_assert_eq(hl_loader_next(loader, &batch), HL_OK);
                if (i + 1 < taken)
                    hl_loader_release(loader, &batch);
            }
        }
        hl_loader_destroy(loader);
    }
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    hl_loader *loader = create(&options);
    hl_batch batch;
    cr_assert_eq(hl_loader_next(loader, &batch), HL_E_ARG);
    hl_loader_destroy(loader);
    hl_loader_destroy(NULL);
}

Test(loader, holding_every_batch_of_the_ring_is_an_error_and_not_a_deadlock)
{
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    hl_loader *loader = create(&options);
    hl_batch first, second, third;
    hl_loader_start_epoch(loader, 0, 0);
    cr_assert_eq(hl_loader_next(loader, &first), HL_OK);
    cr_assert_eq(hl_loader_next(loader, &second), HL_OK);
    cr_assert_eq(hl_loader_next(loader, &third), HL_E_ARG);
    hl_loader_release(loader, &first);
    cr_assert_eq(hl_loader_next(loader, &third), HL_OK);
    cr_assert_eq(third.number, 2);
    hl_loader_destroy(loader);
}

static void spoil(int64_t index)
{
    const char *path = hl_dataset_sample_path(dataset, HL_SPLIT_TRAIN, index);
    tree_text(&t, path + strlen(t.root) + 1, "\x89PNG\r\n\x1a\nno");
}

Test(loader, a_bad_file_fails_its_batch_with_its_path_and_the_same_one_every_time)
{
    spoil(7);
    spoil(8);
    for (int round = 0; round < 4; round++) {
        hl_loader_options options = options_with(HL_AUGMENT_NONE, 1 + round % 3);
        options.shuffle = false;
        hl_loader *loader = create(&options);
        hl_batch batch;
        hl_loader_start_epoch(loader, 0, 0);
        cr_assert_eq(hl_loader_next(loader, &batch), HL_OK);
        hl_loader_release(loader, &batch);
        for (int again = 0; again < 2; again++) {
            cr_assert_eq(hl_loader_next(loader, &batch), HL_E_INPUT);
            cr_assert_eq(strncmp(hl_last_error(), hl_dataset_sample_path(dataset, HL_SPLIT_TRAIN, 7),
                                 strlen(hl_dataset_sample_path(dataset, HL_SPLIT_TRAIN, 7))),
                         0, "%s", hl_last_error());
        }
        hl_loader_destroy(loader);
    }
}

static void count_line(void *user, hl_log_level level, const char *line)
{
    *(int *)user += level == HL_LOG_WARNING && strncmp(line, "skipped: ", 9) == 0;
}

Test(loader, bad_files_are_skipped_counted_and_logged_where_that_is_asked_for)
{
    /* One in the first batch and all of the second. */
    spoil(3);
    for (int64_t i = 5; i < 10; i++)
        spoil(i);
    for (int workers = 1; workers <= 3; workers++) {
        int lines = 0;
        hl_log log = {count_line, &lines};
        hl_loader_options options = options_with(HL_AUGMENT_FLIP, workers);
        options.shuffle = false;
        options.bad_images = HL_BAD_IMAGES_SKIP;
        options.log = &log;
        hl_loader *loader = create(&options);
        for (uint32_t epoch = 0; epoch < 2; epoch++) {
            epoch_copy *got = copy_epoch(loader, epoch, 0);
            cr_assert_eq(got->batches, 4);
            cr_assert_eq(got->count[0], 4);
            static const int64_t first[] = {0, 1, 2, 4};
            cr_assert_arr_eq(got->indices[0], first, sizeof first);
            cr_assert_eq(got->number[1], 2);
            cr_assert_eq(got->indices[1][0], 10);
            cr_assert_eq(hl_loader_skipped(loader), 6);
            free(got);
        }
        hl_loader_destroy(loader);
        cr_assert_eq(lines, 12);
    }
}

typedef struct ledger {
    int taken, given;
} ledger;

static hl_status take(void *user, size_t bytes, void **buffer)
{
    ledger *l = user;
    /* The third request fails where the test wants it. */
    if (l->given < 0 && l->taken == 2)
        return hl_fail(HL_E_NOMEM, "ledger", NULL, "no");
    l->taken++;
    *buffer = malloc(bytes);
    return HL_OK;
}

static void give(void *user, void *buffer)
{
    ((ledger *)user)->given += buffer != NULL;
    free(buffer);
}

Test(loader, buffers_come_from_and_return_to_the_given_memory)
{
    ledger l = {0, 0};
    hl_loader_memory memory = {take, give, &l};
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    options.memory = memory;
    hl_loader *loader = create(&options);
    free(copy_epoch(loader, 0, 0));
    hl_loader_destroy(loader);
    cr_assert_eq(l.taken, 6);
    cr_assert_eq(l.given, 6);
    l = (ledger){0, -1};
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_NOMEM);
    cr_assert_eq(l.taken, 2);
    cr_assert_eq(l.given, 1);
}

Test(loader, wrong_options_are_refused)
{
    hl_loader *loader;
    hl_loader_options options = options_with(HL_AUGMENT_NONE, 2);
    options.batch_size = 0;
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_ARG);
    options = options_with(HL_AUGMENT_NONE, -1);
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_ARG);
    options = options_with(HL_AUGMENT_NONE, 2);
    options.split = HL_SPLIT_VAL;
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_INPUT);
    cr_assert_not_null(strstr(hl_last_error(), "no val images"), "%s", hl_last_error());
    options = options_with(HL_AUGMENT_NONE, 2);
    options.batch_size = 24;
    options.drop_last = true;
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_ARG);
    cr_assert_null(loader);
}

Test(loader, several_ranks_share_the_batches_that_one_process_makes)
{
    enum { RANKS = 3 };
    hl_loader_options options = options_with(HL_AUGMENT_STANDARD, 2);
    options.batch_size = 3;
    hl_loader *loaders[RANKS];
    epoch_copy *parts[RANKS];
    for (int r = 0; r < RANKS; r++) {
        hl_loader_options of_rank = options;
        of_rank.batch_size = 1;
        of_rank.rank = r;
        of_rank.ranks = RANKS;
        loaders[r] = create(&of_rank);
        parts[r] = copy_epoch(loaders[r], 1, 0);
    }
    hl_loader *loader = create(&options);
    epoch_copy *whole = copy_epoch(loader, 1, 0);
    /* 23 images: seven batches of three, and a last one of two. */
    cr_assert_eq(whole->batches, 8);
    for (int64_t b = 0; b < whole->batches; b++) {
        int64_t at = 0;
        for (int r = 0; r < RANKS; r++) {
            cr_assert_eq(parts[r]->batches, 8);
            for (int64_t i = 0; i < parts[r]->count[b]; i++, at++) {
                cr_assert_eq(parts[r]->indices[b][i], whole->indices[b][at]);
                cr_assert_arr_eq(parts[r]->images[b][i], whole->images[b][at], BYTES);
            }
        }
        cr_assert_eq(at, whole->count[b]);
    }
    for (int r = 0; r < RANKS; r++) {
        free(parts[r]);
        hl_loader_destroy(loaders[r]);
    }
    free(whole);
    hl_loader_destroy(loader);
    options.rank = 1;
    cr_assert_eq(hl_loader_create(dataset, &options, &loader), HL_E_ARG);
}
