/* Labelled images on disk: which files there are, their classes, and how they are divided. */
#ifndef HEIRLOOM_DATA_H
#define HEIRLOOM_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include <heirloom/log.h>
#include <heirloom/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hl_split { HL_SPLIT_TRAIN, HL_SPLIT_VAL, HL_SPLIT_TEST, HL_SPLIT_COUNT } hl_split;

/* "train", "val" or "test". */
HL_API const char *hl_split_name(hl_split split);

/* What is done to training images at random: nothing; a horizontal flip; a random resized crop and a flip. */
typedef enum hl_augment { HL_AUGMENT_NONE, HL_AUGMENT_FLIP, HL_AUGMENT_STANDARD } hl_augment;

typedef struct hl_dataset_options {
    /* Part of the training images that becomes the validation split where the data has none; 0: none is made.
     * Drawn class by class, from `seed` alone. */
    double val_fraction;
    uint64_t seed;
    /* Names of the split folders; NULL: train; val, valid or validation; test. */
    const char *train_name, *val_name, *test_name;
    /* The images are for a network that is trained already: any split will do, and one class. */
    bool evaluation;
    const hl_log *log; /* may be NULL */
} hl_dataset_options;

typedef struct hl_dataset hl_dataset;

/* Opens one of
 *   a folder with train/ and any of val/ and test/, each with CLASS/.../image
 *   a folder of val/ or test/ or both, for evaluation
 *   a folder of CLASS/.../image, all for training
 *   a CSV file with the columns path, label and split (train, val or test); paths are relative to the file's
 * folder and must not leave it Images are the files whose names end as an image's do (.png, .jpg, .jpeg,
 * ...); names that begin with a dot are passed over. Classes are sorted by name, and by value where all
 * labels of a CSV file are integers. `options` may be NULL. Only names are read here; a file that cannot be
 * decoded is found when it is loaded. */
HL_API hl_status hl_dataset_open(const char *path, const hl_dataset_options *options, hl_dataset **dataset);
HL_API void hl_dataset_destroy(hl_dataset *dataset);

/* The last part of the path, without an ending. All strings live as long as the data set. */
HL_API const char *hl_dataset_name(const hl_dataset *dataset);
HL_API int32_t hl_dataset_class_count(const hl_dataset *dataset);
HL_API const char *hl_dataset_class_name(const hl_dataset *dataset, int32_t label);

/* Number of images in a split, 0 where it does not exist. */
HL_API int64_t hl_dataset_count(const hl_dataset *dataset, hl_split split);
/* Number of images of one class in a split. */
HL_API int64_t hl_dataset_count_of_class(const hl_dataset *dataset, hl_split split, int32_t label);

/* Image `index` of a split, 0 <= index < hl_dataset_count: its file and its class. */
HL_API const char *hl_dataset_sample_path(const hl_dataset *dataset, hl_split split, int64_t index);
HL_API int32_t hl_dataset_sample_label(const hl_dataset *dataset, hl_split split, int64_t index);

#ifdef __cplusplus
}
#endif
#endif
