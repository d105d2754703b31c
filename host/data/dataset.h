/* What the readers of the data set layouts fill in. */
#ifndef HL_DATA_DATASET_H
#define HL_DATA_DATASET_H

#include <stddef.h>
#include <stdint.h>

#include <heirloom/data.h>

#include "base/memory.h"
#include "data/image.h"
#include "io/sha256.h"

typedef struct hl_sample {
    const char *path; /* what errors call the sample; a file unless `read` is set */
    int32_t label;
} hl_sample;

typedef struct hl_sample_list {
    hl_sample *items;
    size_t count, capacity;
} hl_sample_list;

struct hl_dataset {
    hl_arena *arena; /* holds every string */
    const char *name;
    const char **classes;
    size_t class_count, class_capacity;
    hl_sample_list splits[HL_SPLIT_COUNT];
    int64_t *class_counts; /* [HL_SPLIT_COUNT, class_count], NULL until hl_dataset_count_classes */
    /* For layouts that are no image files: gives the pixels of a sample, in the image's channels, from
     * several threads at once; NULL otherwise. */
    hl_status (*read)(const hl_dataset *dataset, hl_split split, int64_t index, hl_image *image);
    void *source; /* for `read`, freed by free_source */
    void (*free_source)(void *source);
};

/* Both copy their strings. */
hl_status hl_dataset_add_class(hl_dataset *dataset, const char *name);
hl_status hl_dataset_add_sample(hl_dataset *dataset, hl_split split, const char *path, int32_t label);

/* Decodes a sample into `image`. */
hl_status hl_dataset_read(const hl_dataset *dataset, hl_split split, int64_t index, hl_image *image);

/* Identifies the images of a split and their order, labels left out: SHA-256 over each file's path, size and
 * time of change, or over the pixels where the layout has no image files. */
hl_status hl_dataset_hash(const hl_dataset *dataset, hl_split split, char hex[HL_SHA256_HEX]);

/* Moves round(fraction * n) of the n training images of each class to the validation split: at least one
 * where the class has two or more, and never all. */
hl_status hl_dataset_split_validation(hl_dataset *dataset, double fraction, uint64_t seed);

/* Counts the images of each class once all are there; hl_dataset_count_of_class gives 0 before. */
hl_status hl_dataset_count_classes(hl_dataset *dataset);

/* Refuses what cannot be trained on: fewer than two classes, a class without a training image, by the counts;
 * `path` is named in the error. */
hl_status hl_dataset_check(const hl_dataset *dataset, const char *path);

/* The readers. They add classes and samples. */
hl_status hl_class_folder_read(hl_dataset *dataset, const char *path, const hl_dataset_options *options);
hl_status hl_csv_manifest_read(hl_dataset *dataset, const char *path, const hl_dataset_options *options);

/* The text of a manifest, `size` bytes that the call overwrites; `path` is the file's, for errors and the
 * folder. */
hl_status hl_csv_manifest_parse(hl_dataset *dataset, char *text, size_t size, const char *path,
                                const hl_log *log);

/* An empty data set, for the readers' tests; free with hl_dataset_destroy. */
hl_status hl_dataset_create(hl_dataset **dataset);

#endif
