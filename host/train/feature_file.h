/* Files of features, shared by the runs that use them: FOLDER/MODEL-SPLIT-KEY.safetensors holds for each
 * value of the frontier a tensor [images, h, w, c], or [images, c] where h and w are 1, in the order of the
 * split. The key is a hash of everything that the numbers depend on; the metadata says what that is. */
#ifndef HL_TRAIN_FEATURE_FILE_H
#define HL_TRAIN_FEATURE_FILE_H

#include "io/safetensors.h"
#include "train/features.h"

/* The values of the frontier, for one image each. */
typedef struct hl_feature_layout {
    int parts;
    const char *name[HL_LOADER_PARTS]; /* belong to the graph */
    hl_shape shape[HL_LOADER_PARTS];
    size_t bytes[HL_LOADER_PARTS];
} hl_feature_layout;

typedef struct hl_feature_file {
    char *path;
    hl_tensor_map *content; /* as it must be: tensors without data, metadata */
} hl_feature_file;

/* Where the features would be, and what would be there. The weights are the model's base_hash: what training
 * changes lies behind the frontier. */
hl_status hl_feature_file_describe(const hl_session *session, const hl_features_options *options,
                                   const hl_feature_layout *layout, hl_feature_file *file);
void hl_feature_file_forget(hl_feature_file *file); /* of zeros: nothing to do */

/* Maps the file, if it is there and holds what it must; otherwise *map is NULL, and a damaged file is
 * reported to the log as one that will be replaced. */
hl_status hl_feature_file_read(const hl_feature_file *file, const hl_log *log, hl_tensor_map **map);
/* The features of part i in it, and the seconds it took to make them (0: unknown). */
const uint8_t *hl_feature_file_values(const hl_tensor_map *map, int part);
double hl_feature_file_seconds(const hl_tensor_map *map);

/* A new file; offsets[i] is where part i begins and offsets[parts] where the seconds go, a double. */
hl_status hl_feature_file_begin(const hl_feature_file *file, hl_atomic_file **stream, uint64_t *offsets);

#endif
