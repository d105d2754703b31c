#include "data/loader.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "data/dataset.h"
#include "data/image_cache.h"
#include "data/sampler.h"

enum { DEFAULT_DEPTH = 3, MAX_DEPTH = 1024, MAX_WORKERS = 1024, MESSAGE_SIZE = 2048 };
#define DEFAULT_CACHE_BYTES ((int64_t)1 << 30)

typedef enum slot_state {
    SLOT_FREE,
    SLOT_FILLING, /* workers write to it */
    SLOT_HELD     /* the consumer reads it */
} slot_state;

/* One batch of the ring. Batch b of an epoch is made in slot b % depth. */
typedef struct slot {
    uint8_t *images, *flips, *good;
    int32_t *labels;
    int64_t *indices;
    int64_t batch, first, count; /* first: the place of its first image in the order of the epoch */
    int64_t pending;             /* images that are not finished */
    int64_t failed_at;           /* the first image that could not be decoded, -1 */
    slot_state state;
    hl_status status;
    char message[MESSAGE_SIZE];
} slot;

struct hl_loader {
    const hl_dataset *dataset;
    hl_loader_options options;
    size_t image_bytes;
    int64_t sample_count, batch_count;
    hl_image_cache cache;
    slot *slots;
    pthread_t *threads;
    int thread_count;

    pthread_mutex_t lock;
    pthread_cond_t work, progress; /* for the workers; for the consumer */
    /* All below is under the lock, the order being written only while no worker is busy. */
    int64_t *order;
    int64_t next_batch, next_image; /* what a worker takes next */
    int64_t next_out;               /* the batch the consumer gets next */
    int64_t skipped;
    uint32_t epoch;
    int busy; /* workers outside the lock */
    bool running, stopping;
};

/* The part of a batch that this rank makes: places first .. first + the returned count in the order of the
 * epoch. */
static int64_t part_of_batch(const hl_loader *loader, int64_t batch, int64_t *first)
{
    int64_t rank = loader->options.rank, ranks = loader->options.ranks,
            whole = loader->options.batch_size * ranks;
    int64_t begin = batch * whole, count = loader->sample_count - begin;
    count = count < whole ? count : whole;
    *first = begin + count * rank / ranks;
    return begin + count * (rank + 1) / ranks - *first;
}

/* Under the lock: takes the next image to make, and opens its batch's slot if it is the first there. */
static bool take_image(hl_loader *loader, slot **taken, int64_t *place)
{
    if (!loader->running || loader->next_batch >= loader->batch_count)
        return false;
    slot *s = &loader->slots[loader->next_batch % loader->options.depth];
    if (loader->next_image == 0) {
        if (s->state != SLOT_FREE)
            return false;
        s->state = SLOT_FILLING;
        s->batch = loader->next_batch;
        s->count = s->pending = part_of_batch(loader, s->batch, &s->first);
        s->failed_at = -1;
        s->status = HL_OK;
        if (s->count == 0) {
            loader->next_batch++;
            pthread_cond_broadcast(&loader->progress);
            return false;
        }
    }
    *taken = s;
    *place = loader->next_image++;
    if (loader->next_image == s->count) {
        loader->next_image = 0;
        loader->next_batch++;
    }
    return true;
}

static void copy_row(const hl_loader *loader, slot *s, int64_t index, int64_t place)
{
    const hl_loader_rows *rows = &loader->options.rows;
    uint8_t *part = s->images;
    for (int i = 0; i < rows->parts; i++) {
        memcpy(part + (size_t)place * rows->bytes[i], rows->get(rows->user, index, i), rows->bytes[i]);
        part += (size_t)loader->options.batch_size * rows->bytes[i];
    }
    s->flips[place] = 0;
}

static hl_status make_image(hl_loader *loader, hl_image *image, hl_resizer *resizer, slot *s, int64_t place)
{
    const hl_loader_options *options = &loader->options;
    int64_t index = loader->order[s->first + place];
    uint8_t *pixels = s->images + (size_t)place * loader->image_bytes;
    s->indices[place] = index;
    int32_t label = loader->dataset->splits[options->split].items[index].label;
    s->labels[place] = options->labels != NULL ? options->labels[label] : label;
    if (options->rows.parts > 0) {
        copy_row(loader, s, index, place);
        return HL_OK;
    }
    const uint8_t *kept = hl_image_cache_get(&loader->cache, index);
    if (kept != NULL) {
        memcpy(pixels, kept, loader->image_bytes);
        s->flips[place] = hl_transform_flips(&options->transform, options->seed, loader->epoch, index);
        return HL_OK;
    }
    HL_TRY(hl_dataset_read(loader->dataset, options->split, index, image));
    HL_TRY(hl_transform_apply(&options->transform, resizer, image, options->seed, loader->epoch, index,
                              pixels, &s->flips[place]));
    hl_image_cache_put(&loader->cache, index, pixels);
    return HL_OK;
}

/* Out of memory is not the fault of a file. */
static bool may_skip(const hl_loader *loader, hl_status status)
{
    return loader->options.bad_images == HL_BAD_IMAGES_SKIP &&
           (status == HL_E_INPUT || status == HL_E_NOT_FOUND || status == HL_E_UNSUPPORTED ||
            status == HL_E_IO);
}

/* Under the lock: notes how image `place` ended. */
static void finish_image(hl_loader *loader, slot *s, int64_t place, hl_status status)
{
    s->good[place] = status == HL_OK;
    if (status != HL_OK && may_skip(loader, status)) {
        loader->skipped++;
        hl_log_warn(loader->options.log, "skipped: %s", hl_last_error());
    } else if (status != HL_OK && (s->failed_at < 0 || place < s->failed_at)) {
        /* The first by place and not by time, so that the same one is reported in every run. */
        s->failed_at = place;
        s->status = status;
        strncpy(s->message, hl_last_error(), sizeof s->message - 1);
    }
    if (--s->pending == 0)
        pthread_cond_broadcast(&loader->progress);
}

static void *work(void *argument)
{
    hl_loader *loader = argument;
    hl_image image = {.channels = loader->options.transform.channels};
    hl_resizer resizer = {0};
    pthread_mutex_lock(&loader->lock);
    while (!loader->stopping) {
        slot *s;
        int64_t place;
        if (!take_image(loader, &s, &place)) {
            pthread_cond_wait(&loader->work, &loader->lock);
            continue;
        }
        loader->busy++;
        pthread_mutex_unlock(&loader->lock);
        hl_status status = make_image(loader, &image, &resizer, s, place);
        pthread_mutex_lock(&loader->lock);
        finish_image(loader, s, place, status);
        if (--loader->busy == 0 && !loader->running)
            pthread_cond_broadcast(&loader->progress);
    }
    pthread_mutex_unlock(&loader->lock);
    hl_image_clear(&image);
    hl_resizer_clear(&resizer);
    return NULL;
}

static hl_status take_memory(const hl_loader *loader, size_t bytes, void **buffer)
{
    const hl_loader_memory *memory = &loader->options.memory;
    return memory->take == NULL ? hl_alloc(bytes, "batch of images", buffer)
                                : memory->take(memory->user, bytes, buffer);
}

static void give_memory(const hl_loader *loader, void *buffer)
{
    const hl_loader_memory *memory = &loader->options.memory;
    if (memory->take == NULL)
        free(buffer);
    else
        memory->give(memory->user, buffer);
}

static hl_status take_buffers(hl_loader *loader)
{
    size_t n = (size_t)loader->options.batch_size, bytes;
    if (!hl_size_mul(n, loader->image_bytes, &bytes))
        return hl_fail_nomem("batch of images", loader->image_bytes);
    HL_TRY(hl_alloc_array((size_t)loader->options.depth, sizeof(slot), "loader", (void **)&loader->slots));
    HL_TRY(hl_alloc_array((size_t)loader->sample_count, sizeof(int64_t), "order of images",
                          (void **)&loader->order));
    for (int i = 0; i < loader->options.depth; i++) {
        slot *s = &loader->slots[i];
        HL_TRY(take_memory(loader, bytes, (void **)&s->images));
        HL_TRY(take_memory(loader, n, (void **)&s->flips));
        HL_TRY(take_memory(loader, n * sizeof(int32_t), (void **)&s->labels));
        HL_TRY(hl_alloc_array(n, sizeof(int64_t), "batch of images", (void **)&s->indices));
        HL_TRY(hl_alloc(n, "batch of images", (void **)&s->good));
    }
    if (loader->options.rows.parts == 0 && hl_transform_is_fixed(&loader->options.transform))
        hl_image_cache_init(&loader->cache, loader->sample_count, loader->image_bytes,
                            loader->options.cache_bytes);
    return HL_OK;
}

static hl_status start_threads(hl_loader *loader)
{
    int workers = loader->options.workers;
    HL_TRY(hl_alloc_array((size_t)workers, sizeof *loader->threads, "loader", (void **)&loader->threads));
    /* Signals are for the program's own threads; a new thread begins with the mask of the one that makes it.
     */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (loader->thread_count < workers &&
           pthread_create(&loader->threads[loader->thread_count], NULL, work, loader) == 0)
        loader->thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (loader->thread_count < workers)
        return hl_fail(HL_E_NOMEM, "loader", "use fewer workers", "thread %d of %d could not be started",
                       loader->thread_count + 1, workers);
    return HL_OK;
}

static hl_status check_options(const hl_dataset *dataset, hl_loader_options *options)
{
    HL_TRY(hl_transform_check(&options->transform));
    options->workers = options->workers == 0 ? 1 : options->workers;
    options->ranks = options->ranks == 0 ? 1 : options->ranks;
    options->depth = options->depth == 0 ? DEFAULT_DEPTH : options->depth;
    options->cache_bytes = options->cache_bytes == 0 ? DEFAULT_CACHE_BYTES : options->cache_bytes;
    if (options->workers < 1 || options->workers > MAX_WORKERS)
        return hl_fail(HL_E_ARG, "workers", NULL, "%d is not between 1 and %d", options->workers,
                       MAX_WORKERS);
    if (options->depth < 1 || options->depth > MAX_DEPTH)
        return hl_fail(HL_E_ARG, "loader depth", NULL, "%d is not between 1 and %d", options->depth,
                       MAX_DEPTH);
    if (options->batch_size < 1 || options->batch_size > INT32_MAX)
        return hl_fail(HL_E_ARG, "batch size", NULL, "%lld is not between 1 and %d",
                       (long long)options->batch_size, INT32_MAX);
    if (options->ranks < 1 || options->rank < 0 || options->rank >= options->ranks)
        return hl_fail(HL_E_ARG, "loader", NULL, "rank %d of %d does not exist", options->rank,
                       options->ranks);
    int64_t count = hl_dataset_count(dataset, options->split), whole = options->batch_size * options->ranks;
    if (count == 0)
        return hl_fail(HL_E_INPUT, hl_dataset_name(dataset), "give the data such a split or use another",
                       "has no %s images", hl_split_name(options->split));
    if (count > UINT32_MAX)
        return hl_fail(HL_E_UNSUPPORTED, hl_dataset_name(dataset), NULL, "has more than 2^32 images");
    if (options->drop_last && count < whole)
        return hl_fail(HL_E_ARG, "batch size", "use a smaller one",
                       "%lld is more than the %lld %s images of %s", (long long)options->batch_size,
                       (long long)count, hl_split_name(options->split), hl_dataset_name(dataset));
    return HL_OK;
}

hl_status hl_loader_create(const hl_dataset *dataset, const hl_loader_options *options, hl_loader **out)
{
    *out = NULL;
    hl_loader_options checked = *options;
    HL_TRY(check_options(dataset, &checked));
    hl_loader *loader = calloc(1, sizeof *loader);
    if (loader == NULL)
        return hl_fail_nomem("loader", sizeof *loader);
    int64_t side = checked.transform.crop, batch = checked.batch_size * checked.ranks;
    loader->dataset = dataset;
    loader->options = checked;
    loader->image_bytes = checked.rows.parts > 0 ? 0 : (size_t)(side * side * checked.transform.channels);
    for (int i = 0; i < checked.rows.parts; i++)
        loader->image_bytes += checked.rows.bytes[i];
    loader->sample_count = hl_dataset_count(dataset, checked.split);
    loader->batch_count = (loader->sample_count + (checked.drop_last ? 0 : batch - 1)) / batch;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->work, NULL);
    pthread_cond_init(&loader->progress, NULL);
    hl_status status = take_buffers(loader);
    if (status == HL_OK)
        status = start_threads(loader);
    if (status != HL_OK) {
        hl_loader_destroy(loader);
        return status;
    }
    *out = loader;
    return HL_OK;
}

void hl_loader_destroy(hl_loader *loader)
{
    if (loader == NULL)
        return;
    pthread_mutex_lock(&loader->lock);
    loader->stopping = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    for (int i = 0; i < loader->thread_count; i++)
        pthread_join(loader->threads[i], NULL);
    for (int i = 0; loader->slots != NULL && i < loader->options.depth; i++) {
        give_memory(loader, loader->slots[i].images);
        give_memory(loader, loader->slots[i].flips);
        give_memory(loader, loader->slots[i].labels);
        free(loader->slots[i].indices);
        free(loader->slots[i].good);
    }
    pthread_cond_destroy(&loader->progress);
    pthread_cond_destroy(&loader->work);
    pthread_mutex_destroy(&loader->lock);
    hl_image_cache_clear(&loader->cache);
    free(loader->slots);
    free(loader->order);
    free(loader->threads);
    free(loader);
}

hl_status hl_loader_start_epoch(hl_loader *loader, uint32_t epoch, int64_t first_batch)
{
    if (first_batch < 0 || first_batch > loader->batch_count)
        return hl_fail(HL_E_ARG, "loader", NULL, "batch %lld is not one of the %lld of an epoch",
                       (long long)first_batch, (long long)loader->batch_count);
    pthread_mutex_lock(&loader->lock);
    loader->running = false;
    while (loader->busy > 0)
        pthread_cond_wait(&loader->progress, &loader->lock);
    for (int i = 0; i < loader->options.depth; i++)
        loader->slots[i].state = SLOT_FREE;
    hl_sample_order(loader->order, loader->sample_count, loader->options.shuffle, loader->options.seed,
                    epoch);
    loader->epoch = epoch;
    loader->next_batch = loader->next_out = first_batch;
    loader->next_image = loader->skipped = 0;
    loader->running = true;
    pthread_cond_broadcast(&loader->work);
    pthread_mutex_unlock(&loader->lock);
    return HL_OK;
}

/* Closes the gaps that images left out have made. */
static void close_gaps(const hl_loader *loader, slot *s)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < s->count; i++) {
        if (!s->good[i])
            continue;
        if (kept < i) {
            memcpy(s->images + (size_t)kept * loader->image_bytes,
                   s->images + (size_t)i * loader->image_bytes, loader->image_bytes);
            s->flips[kept] = s->flips[i];
            s->labels[kept] = s->labels[i];
            s->indices[kept] = s->indices[i];
        }
        kept++;
    }
    s->count = kept;
}

/* Under the lock: waits for the next batch that has an image; *ready is NULL at the end of the epoch. */
static hl_status wait_for_batch(hl_loader *loader, slot **ready)
{
    *ready = NULL;
    while (loader->next_out < loader->batch_count) {
        slot *s = &loader->slots[loader->next_out % loader->options.depth];
        if (s->state == SLOT_HELD)
            return hl_fail(HL_E_ARG, "loader", "release a batch first", "all %d batches of the ring are held",
                           loader->options.depth);
        while (s->state != SLOT_FILLING || s->pending > 0)
            pthread_cond_wait(&loader->progress, &loader->lock);
        if (s->status != HL_OK)
            return hl_fail_text(s->status, s->message);
        close_gaps(loader, s);
        loader->next_out++;
        if (s->count > 0 || loader->options.ranks > 1) {
            s->state = SLOT_HELD;
            *ready = s;
            return HL_OK;
        }
        s->state = SLOT_FREE;
        pthread_cond_broadcast(&loader->work);
    }
    return HL_OK;
}

hl_status hl_loader_next(hl_loader *loader, hl_batch *batch)
{
    slot *s = NULL;
    *batch = (hl_batch){.number = -1};
    pthread_mutex_lock(&loader->lock);
    hl_status status = loader->running
                           ? wait_for_batch(loader, &s)
                           : hl_fail(HL_E_ARG, "loader", "start an epoch first", "no epoch is under way");
    if (s != NULL)
        *batch = (hl_batch){.images = s->images,
                            .flips = s->flips,
                            .labels = s->labels,
                            .indices = s->indices,
                            .count = s->count,
                            .room = loader->options.batch_size,
                            .number = s->batch};
    pthread_mutex_unlock(&loader->lock);
    return status;
}

void hl_loader_release(hl_loader *loader, hl_batch *batch)
{
    pthread_mutex_lock(&loader->lock);
    slot *s = &loader->slots[batch->number < 0 ? 0 : batch->number % loader->options.depth];
    if (batch->images != NULL && s->state == SLOT_HELD && s->batch == batch->number) {
        s->state = SLOT_FREE;
        pthread_cond_broadcast(&loader->work);
    }
    pthread_mutex_unlock(&loader->lock);
    *batch = (hl_batch){.number = -1};
}

int64_t hl_loader_batch_count(const hl_loader *loader)
{
    return loader->batch_count;
}

int64_t hl_loader_skipped(hl_loader *loader)
{
    pthread_mutex_lock(&loader->lock);
    int64_t skipped = loader->skipped;
    pthread_mutex_unlock(&loader->lock);
    return skipped;
}
