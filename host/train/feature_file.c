#include "train/feature_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <heirloom/heirloom.h>

#include "base/log.h"
#include "base/numbers.h"
#include "data/dataset.h"
#include "io/folder.h"

static const char seconds_name[] = "seconds_taken", made_from[] = "made_from";

/* Everything that the numbers depend on, as text for people and for comparing. */
static hl_status write_key(const hl_session *s, const hl_features_options *o, const hl_feature_layout *layout,
                           char **key)
{
    char images[HL_SHA256_HEX], mean[HL_NUMBERS_SIZE], std[HL_NUMBERS_SIZE];
    size_t size;
    const hl_preprocess *p = &s->model->preprocess;
    HL_TRY(hl_dataset_hash(o->data, o->split, images));
    FILE *stream = open_memstream(key, &size);
    if (stream == NULL)
        return hl_fail_nomem("features", 256);
    fprintf(stream, "heirloom %s, %s, %s\n", hl_version(), s->backend->host_memory ? "cpu" : "cuda",
            hl_number_type_name(o->type));
    fprintf(stream, "%s, weights %s\n", s->model->info->name, s->model->base_hash);
    fprintf(stream, "%s images %s\n", hl_split_name(o->split), images);
    fprintf(stream, "%lld of %lld %s, mean %s, std %s\n", (long long)p->size, (long long)p->resize,
            p->bicubic ? "bicubic" : "bilinear",
            hl_numbers_text(p->mean, p->channels, ' ', mean, sizeof mean),
            hl_numbers_text(p->std, p->channels, ' ', std, sizeof std));
    for (int i = 0; i < layout->parts; i++)
        fprintf(stream, "%s%s", layout->name[i], i + 1 < layout->parts ? ", " : "\n");
    bool failed = ferror(stream) != 0;
    if (fclose(stream) == 0 && !failed)
        return HL_OK;
    free(*key);
    *key = NULL;
    return hl_fail_nomem("features", size);
}

static hl_status add_tensors(hl_tensor_map *content, const hl_features_options *o,
                             const hl_feature_layout *layout)
{
    static const hl_dtype dtypes[] = {
        [HL_ELEM_F32] = HL_DTYPE_F32, [HL_ELEM_BF16] = HL_DTYPE_BF16, [HL_ELEM_F16] = HL_DTYPE_F16};
    for (int i = 0; i < layout->parts; i++) {
        const hl_shape *s = &layout->shape[i];
        bool flat = s->h == 1 && s->w == 1;
        const int64_t images = hl_dataset_count(o->data, o->split), dims[] = {images, s->h, s->w, s->c},
                      flat_dims[] = {images, s->c};
        HL_TRY(hl_tensor_map_add_ref(content, layout->name[i], dtypes[o->type.elem], flat ? 2 : 4,
                                     flat ? flat_dims : dims, NULL));
    }
    return hl_tensor_map_add_ref(content, seconds_name, HL_DTYPE_F64, 0, NULL, NULL);
}

static hl_status fill(hl_feature_file *file, const hl_session *s, const hl_features_options *o,
                      const hl_feature_layout *layout, const char *key)
{
    char hash[HL_SHA256_HEX];
    HL_TRY(hl_tensor_map_create(&file->content));
    HL_TRY(add_tensors(file->content, o, layout));
    HL_TRY(hl_tensor_map_set_meta(file->content, made_from, key));
    hl_sha256_bytes(key, strlen(key), hash);
    if (asprintf(&file->path, "%s/%s-%s-%.16s.safetensors", o->folder, s->model->info->name,
                 hl_split_name(o->split), hash) >= 0)
        return HL_OK;
    file->path = NULL;
    return hl_fail_nomem("features", strlen(o->folder));
}

hl_status hl_feature_file_describe(const hl_session *s, const hl_features_options *o,
                                   const hl_feature_layout *layout, hl_feature_file *file)
{
    char *key = NULL;
    *file = (hl_feature_file){0};
    HL_TRY(hl_folder_make(o->folder, "choose another --feature-cache"));
    HL_TRY(write_key(s, o, layout, &key));
    hl_status status = fill(file, s, o, layout, key);
    free(key);
    return status;
}

void hl_feature_file_forget(hl_feature_file *file)
{
    hl_tensor_map_destroy(file->content);
    free(file->path);
    *file = (hl_feature_file){0};
}

static bool same_tensor(const hl_named_tensor *a, const hl_named_tensor *b)
{
    return a != NULL && a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

/* The file's tensors come in its own order; the caller's is the order of `content`. */
static hl_status take(const hl_feature_file *file, const hl_tensor_map *found, hl_tensor_map *map)
{
    const char *key = hl_tensor_map_meta(found, made_from);
    if (key == NULL || strcmp(key, hl_tensor_map_meta(file->content, made_from)) != 0)
        return hl_fail(HL_E_INPUT, file->path, NULL, "was made from something else than its name says");
    for (size_t i = 0; i < hl_tensor_map_count(file->content); i++) {
        const hl_named_tensor *want = hl_tensor_map_at(file->content, i),
                              *tensor = hl_tensor_map_find(found, want->name);
        if (!same_tensor(tensor, want))
            return hl_fail(HL_E_INPUT, file->path, NULL, "%s is missing or of another shape", want->name);
        HL_TRY(hl_tensor_map_add_ref(map, want->name, want->dtype, want->ndim, want->shape, tensor->data));
    }
    return HL_OK;
}

static void destroy_map(void *map)
{
    hl_tensor_map_destroy(map);
}

static hl_status open_file(const hl_feature_file *file, hl_tensor_map **map)
{
    hl_tensor_map *found;
    HL_TRY(hl_safetensors_read(file->path, &found));
    hl_status status = hl_tensor_map_create(map);
    if (status != HL_OK) {
        hl_tensor_map_destroy(found);
        return status;
    }
    HL_TRY(hl_tensor_map_adopt(*map, found, destroy_map));
    return take(file, found, *map);
}

hl_status hl_feature_file_read(const hl_feature_file *file, const hl_log *log, hl_tensor_map **map)
{
    *map = NULL;
    hl_status status = open_file(file, map);
    if (status == HL_OK)
        return HL_OK;
    hl_tensor_map_destroy(*map);
    *map = NULL;
    if (status == HL_E_INPUT)
        hl_log_warn(log, "%s; it will be replaced", hl_last_error());
    return status == HL_E_INPUT || status == HL_E_NOT_FOUND ? HL_OK : status;
}

const uint8_t *hl_feature_file_values(const hl_tensor_map *map, int part)
{
    return hl_tensor_map_at(map, (size_t)part)->data;
}

double hl_feature_file_seconds(const hl_tensor_map *map)
{
    double seconds;
    memcpy(&seconds, hl_tensor_map_find(map, seconds_name)->data, sizeof seconds);
    return isfinite(seconds) && seconds > 0.0 ? seconds : 0.0;
}

hl_status hl_feature_file_begin(const hl_feature_file *file, hl_atomic_file **stream, uint64_t *offsets)
{
    return hl_safetensors_begin(file->path, file->content, stream, offsets);
}
