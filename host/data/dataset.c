#include "data/dataset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/philox.h"

const char *hl_split_name(hl_split split)
{
    static const char *const names[HL_SPLIT_COUNT] = {"train", "val", "test"};
    return split >= 0 && split < HL_SPLIT_COUNT ? names[split] : "unknown";
}

hl_status hl_dataset_create(hl_dataset **dataset)
{
    *dataset = calloc(1, sizeof **dataset);
    if (*dataset == NULL)
        return hl_fail_nomem("data set", sizeof **dataset);
    hl_status status = hl_arena_create(&(*dataset)->arena);
    if (status != HL_OK) {
        free(*dataset);
        *dataset = NULL;
    }
    return status;
}

void hl_dataset_destroy(hl_dataset *dataset)
{
    if (dataset == NULL)
        return;
    if (dataset->free_source != NULL)
        dataset->free_source(dataset->source);
    for (int s = 0; s < HL_SPLIT_COUNT; s++)
        free(dataset->splits[s].items);
    free(dataset->classes);
    free(dataset->class_counts);
    hl_arena_destroy(dataset->arena);
    free(dataset);
}

hl_status hl_dataset_add_class(hl_dataset *dataset, const char *name)
{
    if (dataset->class_count >= INT32_MAX)
        return hl_fail(HL_E_INPUT, name, NULL, "there are more than %d classes", INT32_MAX);
    HL_TRY(hl_grow((void **)&dataset->classes, &dataset->class_capacity, dataset->class_count + 1,
                   sizeof *dataset->classes, "class names"));
    const char *copy = hl_arena_copy(dataset->arena, name);
    if (copy == NULL)
        return HL_E_NOMEM;
    dataset->classes[dataset->class_count++] = copy;
    return HL_OK;
}

hl_status hl_dataset_add_sample(hl_dataset *dataset, hl_split split, const char *path, int32_t label)
{
    hl_sample_list *list = &dataset->splits[split];
    HL_TRY(hl_grow((void **)&list->items, &list->capacity, list->count + 1, sizeof *list->items,
                   "list of images"));
    const char *copy = hl_arena_copy(dataset->arena, path);
    if (copy == NULL)
        return HL_E_NOMEM;
    list->items[list->count++] = (hl_sample){copy, label};
    return HL_OK;
}

hl_status hl_dataset_read(const hl_dataset *dataset, hl_split split, int64_t index, hl_image *image)
{
    if (dataset->read != NULL)
        return dataset->read(dataset, split, index, image);
    return hl_image_decode_file(image, dataset->splits[split].items[index].path);
}

hl_status hl_dataset_check(const hl_dataset *dataset, const char *path)
{
    const hl_sample_list *train = &dataset->splits[HL_SPLIT_TRAIN];
    if (train->count == 0)
        return hl_fail(HL_E_INPUT, path, "put images into train/CLASS/ or CLASS/",
                       "there are no training images");
    if (dataset->class_count < 2)
        return hl_fail(HL_E_INPUT, path, "give at least two classes", "the only class is \"%s\"",
                       dataset->classes[0]);
    for (size_t c = 0; c < dataset->class_count; c++)
        if (hl_dataset_count_of_class(dataset, HL_SPLIT_TRAIN, (int32_t)c) == 0)
            return hl_fail(HL_E_INPUT, path, "add training images or remove the class",
                           "class \"%s\" has no training image", dataset->classes[c]);
    return HL_OK;
}

hl_status hl_dataset_count_classes(hl_dataset *dataset)
{
    free(dataset->class_counts);
    HL_TRY(hl_alloc_array(dataset->class_count * HL_SPLIT_COUNT, sizeof *dataset->class_counts,
                          "class counts", (void **)&dataset->class_counts));
    for (size_t s = 0; s < HL_SPLIT_COUNT; s++)
        for (size_t i = 0; i < dataset->splits[s].count; i++)
            dataset->class_counts[s * dataset->class_count + (size_t)dataset->splits[s].items[i].label]++;
    return HL_OK;
}

/* Marks the samples of one class that go to validation; `members` are their places in the list. */
static void choose_validation(const size_t *members, size_t count, double fraction, uint64_t seed,
                              uint32_t label, size_t *order, unsigned char *chosen)
{
    size_t wanted = (size_t)((double)count * fraction + 0.5);
    if (wanted == 0 && count > 1)
        wanted = 1;
    if (wanted >= count)
        wanted = count - 1;
    hl_rng rng = hl_rng_make(seed, HL_STREAM_SPLIT, label, 0);
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = 0; i < wanted; i++) {
        size_t j = i + hl_rng_below(&rng, (uint32_t)(count - i)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
        chosen[members[order[i]]] = 1;
    }
}

hl_status hl_dataset_split_validation(hl_dataset *dataset, double fraction, uint64_t seed)
{
    hl_sample_list *train = &dataset->splits[HL_SPLIT_TRAIN], *val = &dataset->splits[HL_SPLIT_VAL];
    size_t n = train->count, *start = NULL, *members = NULL, *order = NULL, kept = 0;
    unsigned char *chosen = NULL;
    hl_status status = HL_OK;
    HL_TRY_GOTO(hl_alloc_array(dataset->class_count + 2, sizeof *start, "validation split", (void **)&start),
                status, done);
    HL_TRY_GOTO(hl_alloc_array(n, sizeof *members, "validation split", (void **)&members), status, done);
    HL_TRY_GOTO(hl_alloc_array(n, sizeof *order, "validation split", (void **)&order), status, done);
    HL_TRY_GOTO(hl_alloc(n, "validation split", (void **)&chosen), status, done);
    /* Counting sort by class: after it, start[c + 1] is where class c ends. */
    for (size_t i = 0; i < n; i++)
        start[train->items[i].label + 2]++;
    for (size_t c = 2; c < dataset->class_count + 2; c++)
        start[c] += start[c - 1];
    for (size_t i = 0; i < n; i++)
        members[start[train->items[i].label + 1]++] = i;
    for (size_t c = 0; c < dataset->class_count; c++)
        if (start[c + 1] > start[c])
            choose_validation(members + start[c], start[c + 1] - start[c], fraction, seed, (uint32_t)c, order,
                              chosen);
    HL_TRY_GOTO(hl_grow((void **)&val->items, &val->capacity, n, sizeof *val->items, "list of images"),
                status, done);
    for (size_t i = 0; i < n; i++) {
        if (chosen[i])
            val->items[val->count++] = train->items[i];
        else
            train->items[kept++] = train->items[i];
    }
    train->count = kept;
    status = hl_dataset_count_classes(dataset);
done:
    free(start);
    free(members);
    free(order);
    free(chosen);
    return status;
}

static bool ends_in_csv(const char *path)
{
    size_t length = strlen(path);
    return length >= 4 && strcasecmp(path + length - 4, ".csv") == 0;
}

/* The last part of the path as the system sees it, so that "." and "data/" have names too. */
static hl_status set_name(hl_dataset *dataset, const char *path)
{
    char *whole = realpath(path, NULL);
    if (whole == NULL)
        return hl_fail(HL_E_NOT_FOUND, path, NULL, "%s", strerror(errno));
    char *last = strrchr(whole, '/'), *name = last == NULL ? whole : last + 1;
    if (ends_in_csv(name))
        name[strlen(name) - 4] = '\0';
    dataset->name = hl_arena_copy(dataset->arena, *name == '\0' ? "data" : name);
    free(whole);
    return dataset->name == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status read_layout(hl_dataset *dataset, const char *path, const hl_dataset_options *options)
{
    struct stat about;
    if (stat(path, &about) != 0)
        return hl_fail(errno == ENOENT || errno == ENOTDIR ? HL_E_NOT_FOUND : HL_E_IO, path, "check --data",
                       "%s", strerror(errno));
    HL_TRY(set_name(dataset, path));
    if (S_ISDIR(about.st_mode))
        return hl_class_folder_read(dataset, path, options);
    if (ends_in_csv(path))
        return hl_csv_manifest_read(dataset, path, options);
    return hl_fail(HL_E_INPUT, path,
                   "give a folder of CLASS/image, or of train/ and val/, or a .csv manifest",
                   "is not a data set");
}

hl_status hl_dataset_open(const char *path, const hl_dataset_options *options, hl_dataset **dataset)
{
    static const hl_dataset_options none = {0};
    options = options == NULL ? &none : options;
    *dataset = NULL;
    if (!(options->val_fraction >= 0 && options->val_fraction < 1))
        return hl_fail(HL_E_ARG, "validation fraction", "give 0 to make no validation split",
                       "%g is not at least 0 and below 1", options->val_fraction);
    hl_dataset *opened;
    HL_TRY(hl_dataset_create(&opened));
    hl_status status = read_layout(opened, path, options);
    if (status == HL_OK)
        status = hl_dataset_count_classes(opened);
    if (status == HL_OK && !options->evaluation)
        status = hl_dataset_check(opened, path);
    if (status == HL_OK && options->val_fraction > 0 && opened->splits[HL_SPLIT_VAL].count == 0)
        status = hl_dataset_split_validation(opened, options->val_fraction, options->seed);
    if (status != HL_OK) {
        hl_dataset_destroy(opened);
        return status;
    }
    *dataset = opened;
    return HL_OK;
}

const char *hl_dataset_name(const hl_dataset *dataset)
{
    return dataset->name;
}

int32_t hl_dataset_class_count(const hl_dataset *dataset)
{
    return (int32_t)dataset->class_count;
}

const char *hl_dataset_class_name(const hl_dataset *dataset, int32_t label)
{
    return label < 0 || (size_t)label >= dataset->class_count ? NULL : dataset->classes[label];
}

int64_t hl_dataset_count(const hl_dataset *dataset, hl_split split)
{
    return (int64_t)dataset->splits[split].count;
}

int64_t hl_dataset_count_of_class(const hl_dataset *dataset, hl_split split, int32_t label)
{
    return dataset->class_counts == NULL
               ? 0
               : dataset->class_counts[(size_t)split * dataset->class_count + (size_t)label];
}

const char *hl_dataset_sample_path(const hl_dataset *dataset, hl_split split, int64_t index)
{
    return dataset->splits[split].items[index].path;
}

int32_t hl_dataset_sample_label(const hl_dataset *dataset, hl_split split, int64_t index)
{
    return dataset->splits[split].items[index].label;
}
