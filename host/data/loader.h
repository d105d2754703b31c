/* Batches of decoded and transformed images, made by worker threads ahead of the consumer.
 *
 * Which images a batch holds, their order and their pixels depend on (seed, epoch, index in the split) only,
 * never on the number of workers. Batches are made in a ring of buffers taken once; in the steady state
 * nothing is allocated but what the decoders take. One thread consumes:
 *
 *   hl_loader_start_epoch(loader, epoch, 0);
 *   while ((status = hl_loader_next(loader, &batch)) == HL_OK && batch.number >= 0) {
 *       ... use batch.images ...
 *       hl_loader_release(loader, &batch);
 *   }
 *
 * A batch all of whose images were bad and skipped is passed over, except with several ranks, which all must
 * make the same steps.
 */
#ifndef HL_DATA_LOADER_H
#define HL_DATA_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <heirloom/data.h>

#include "data/transform.h"

typedef enum hl_bad_images {
    HL_BAD_IMAGES_FAIL, /* hl_loader_next fails with the error of the first file that cannot be decoded */
    HL_BAD_IMAGES_SKIP  /* it is logged, counted and left out; its batch is shorter */
} hl_bad_images;

/* Where the buffers of the images come from; a device may want them pinned. */
typedef struct hl_loader_memory {
    hl_status (*take)(void *user, size_t bytes, void **buffer);
    void (*give)(void *user, void *buffer); /* `buffer` may be NULL */
    void *user;
} hl_loader_memory;

/* Something else than images, made beforehand: each sample has a few parts of fixed sizes, and a batch holds
 * the first parts of all its samples (with room for a full batch), then the second ones, and so on. */
enum { HL_LOADER_PARTS = 4 };
typedef struct hl_loader_rows {
    const uint8_t *(*get)(const void *user, int64_t index, int part); /* called from several threads */
    const void *user;
    int parts;
    size_t bytes[HL_LOADER_PARTS];
} hl_loader_rows;

typedef struct hl_loader_options {
    hl_split split;
    hl_loader_rows rows; /* parts 0: images */
    hl_transform transform;
    /* What batches have as label for each class of the data set, for as long as the loader lives; NULL: its
     * number. */
    const int32_t *labels;
    int64_t batch_size; /* of this process */
    /* Of `ranks` processes (0: 1) this is number `rank`. Together they make the batches that one process
     * makes with batch_size * ranks; each takes an equal part of every batch, to within one image of the
     * last. */
    int rank, ranks;
    int workers; /* 0: 1 */
    int depth;   /* buffers in the ring, so at most this many batches unreleased; 0: 3 */
    uint64_t seed;
    bool shuffle;
    bool drop_last; /* leave out a last batch that is not full */
    hl_bad_images bad_images;
    /* Where the transform is the same in every epoch and the whole split takes no more than this, its results
     * are kept and each file is decoded once. 0: 1 GiB; negative: never. */
    int64_t cache_bytes;
    hl_loader_memory memory; /* take NULL: ordinary memory */
    const hl_log *log;       /* may be NULL */
} hl_loader_options;

typedef struct hl_batch {
    const uint8_t *images;  /* [count, crop, crop, channels], or rows */
    const uint8_t *flips;   /* [count], 1 where the image is to be mirrored */
    const int32_t *labels;  /* [count] */
    const int64_t *indices; /* [count], places in the split */
    int64_t count;          /* 0: the epoch is over */
    int64_t room;           /* samples of a full batch: how far the parts of rows lie apart */
    int64_t number; /* of the batch within the epoch, from 0; skips a batch all of whose images were bad */
} hl_batch;

typedef struct hl_loader hl_loader;

/* `dataset` must outlive the loader. The threads wait until an epoch is started. */
hl_status hl_loader_create(const hl_dataset *dataset, const hl_loader_options *options, hl_loader **loader);

/* Stops the threads, at any time; batches not yet released become invalid. */
void hl_loader_destroy(hl_loader *loader);

/* Begins `epoch` at batch `first_batch` (above 0 to go on where a run stopped). Ends an epoch that is under
 * way, and batches not yet released become invalid. */
hl_status hl_loader_start_epoch(hl_loader *loader, uint32_t epoch, int64_t first_batch);

/* Waits for the next batch. After an error only hl_loader_start_epoch and hl_loader_destroy are of use. */
hl_status hl_loader_next(hl_loader *loader, hl_batch *batch);

/* Gives the buffers of a batch back to the ring and empties `batch`; batches may be released in any order. */
void hl_loader_release(hl_loader *loader, hl_batch *batch);

/* Batches in a whole epoch. */
int64_t hl_loader_batch_count(const hl_loader *loader);

/* Images left out since the current epoch began. */
int64_t hl_loader_skipped(hl_loader *loader);

#endif
