/* Folders of CLASS/image, alone or under one folder a split, ordered as torchvision's ImageFolder orders
 * them: classes by name, the images of a class by folder and then by name. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/log.h"
#include "data/dataset.h"

/* A link to a parent folder would otherwise be followed for ever. */
enum { MAX_DEPTH = 16 };

/* Names or paths, in an arena of their own. */
typedef struct name_list {
    hl_arena *arena;
    char **items;
    size_t count, capacity;
} name_list;

static hl_status name_list_init(name_list *list)
{
    *list = (name_list){0};
    return hl_arena_create(&list->arena);
}

static void name_list_clear(name_list *list)
{
    free(list->items);
    hl_arena_destroy(list->arena);
    *list = (name_list){0};
}

static hl_status name_list_add(name_list *list, char *item)
{
    if (item == NULL)
        return HL_E_NOMEM;
    HL_TRY(hl_grow((void **)&list->items, &list->capacity, list->count + 1, sizeof *list->items,
                   "list of files"));
    list->items[list->count++] = item;
    return HL_OK;
}

static bool name_list_has(const name_list *list, const char *name)
{
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i], name) == 0)
            return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_folder_and_name(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    size_t folder_x = (size_t)(strrchr(x, '/') - x), folder_y = (size_t)(strrchr(y, '/') - y);
    size_t shorter = folder_x < folder_y ? folder_x : folder_y;
    int order = memcmp(x, y, shorter);
    if (order == 0 && folder_x != folder_y)
        order = folder_x < folder_y ? -1 : 1;
    return order != 0 ? order : strcmp(x + folder_x, y + folder_y);
}

static bool is_image_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                          ".pgm", ".tif",  ".tiff", ".webp"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot != NULL && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

typedef enum entry_kind { ENTRY_OTHER, ENTRY_FILE, ENTRY_FOLDER } entry_kind;

static entry_kind kind_of(const struct dirent *entry, const char *path)
{
    struct stat about;
    if (entry->d_type == DT_REG)
        return ENTRY_FILE;
    if (entry->d_type == DT_DIR)
        return ENTRY_FOLDER;
    if (stat(path, &about) != 0)
        /* A dangling link to an image is an image that cannot be read: it must not vanish silently. */
        return entry->d_type == DT_LNK && is_image_name(entry->d_name) ? ENTRY_FILE : ENTRY_OTHER;
    return S_ISDIR(about.st_mode) ? ENTRY_FOLDER : S_ISREG(about.st_mode) ? ENTRY_FILE : ENTRY_OTHER;
}

/* Adds the paths of the images below `folder` to `images` (unless NULL) and the names of the folders directly
 * in it to `folders` (unless NULL); goes down where `folders` is NULL. */
static hl_status walk(const char *folder, int depth, name_list *images, name_list *folders)
{
    if (depth > MAX_DEPTH)
        return hl_fail(HL_E_INPUT, folder, "look for a link to a folder above it",
                       "more than %d folders deep", MAX_DEPTH);
    DIR *open_folder = opendir(folder);
    if (open_folder == NULL)
        return hl_fail(errno == ENOENT ? HL_E_NOT_FOUND : HL_E_IO, folder,
                       "check the path and its permissions", "%s", strerror(errno));
    name_list *owner = images != NULL ? images : folders;
    hl_status status = HL_OK;
    while (status == HL_OK) {
        errno = 0;
        struct dirent *entry = readdir(open_folder);
        if (entry == NULL) {
            if (errno != 0)
                status = hl_fail(HL_E_IO, folder, NULL, "%s", strerror(errno));
            break;
        }
        if (entry->d_name[0] == '.')
            continue;
        char *path = hl_arena_format(owner->arena, "%s/%s", folder, entry->d_name);
        if (path == NULL) {
            status = HL_E_NOMEM;
            break;
        }
        entry_kind kind = kind_of(entry, path);
        if (kind == ENTRY_FOLDER && folders != NULL)
            status = name_list_add(folders, hl_arena_copy(folders->arena, entry->d_name));
        else if (kind == ENTRY_FOLDER)
            status = walk(path, depth + 1, images, NULL);
        else if (kind == ENTRY_FILE && images != NULL && is_image_name(entry->d_name))
            status = name_list_add(images, path);
    }
    closedir(open_folder);
    return status;
}

static hl_status list_folders(const char *folder, name_list *folders)
{
    HL_TRY(walk(folder, 0, NULL, folders));
    if (folders->count > 1)
        qsort(folders->items, folders->count, sizeof *folders->items, by_name);
    return HL_OK;
}

static hl_status add_images_of_class(hl_dataset *dataset, hl_split split, const char *folder, int32_t label)
{
    name_list images;
    HL_TRY(name_list_init(&images));
    hl_status status = walk(folder, 0, &images, NULL);
    if (status == HL_OK && images.count > 1)
        qsort(images.items, images.count, sizeof *images.items, by_folder_and_name);
    for (size_t i = 0; i < images.count && status == HL_OK; i++)
        status = hl_dataset_add_sample(dataset, split, images.items[i], label);
    name_list_clear(&images);
    return status;
}

static int32_t find_class(const hl_dataset *dataset, const char *name)
{
    const char **found =
        bsearch(&name, dataset->classes, dataset->class_count, sizeof *dataset->classes, by_name);
    return found == NULL ? -1 : (int32_t)(found - dataset->classes);
}

/* Adds the classes of a split that are not there yet. */
static hl_status add_classes(hl_dataset *dataset, const char *folder)
{
    name_list classes;
    HL_TRY(name_list_init(&classes));
    hl_status status = list_folders(folder, &classes);
    size_t before = dataset->class_count;
    for (size_t i = 0; i < classes.count && status == HL_OK; i++)
        if (before == 0 ||
            bsearch(&classes.items[i], dataset->classes, before, sizeof *dataset->classes, by_name) == NULL)
            status = hl_dataset_add_class(dataset, classes.items[i]);
    name_list_clear(&classes);
    if (before > 0)
        qsort(dataset->classes, dataset->class_count, sizeof *dataset->classes, by_name);
    return status;
}

/* Adds the images of a split, whose classes must be there. */
static hl_status add_split(hl_dataset *dataset, hl_split split, const char *folder)
{
    name_list classes;
    HL_TRY(name_list_init(&classes));
    hl_status status = list_folders(folder, &classes);
    if (status == HL_OK && classes.count == 0)
        status = hl_fail(HL_E_INPUT, folder, "put the images of each class into a folder of its own",
                         "has no class folders");
    for (size_t i = 0; i < classes.count && status == HL_OK; i++) {
        const char *class_folder = hl_arena_format(classes.arena, "%s/%s", folder, classes.items[i]);
        int32_t label = find_class(dataset, classes.items[i]);
        if (class_folder == NULL)
            status = HL_E_NOMEM;
        else if (label < 0)
            status = hl_fail(HL_E_INPUT, class_folder, "add the class to the training images or remove it",
                             "class \"%s\" is not among the training classes", classes.items[i]);
        else
            status = add_images_of_class(dataset, split, class_folder, label);
    }
    name_list_clear(&classes);
    return status;
}

/* The folder of a split among those of the data set: the name asked for, or one of the usual ones. NULL where
 * there is none; more than one is an error. */
static hl_status find_split(const name_list *folders, const char *path, const char *wanted,
                            const char *const usual[], const char **found)
{
    *found = NULL;
    if (wanted != NULL) {
        if (!name_list_has(folders, wanted))
            return hl_fail(HL_E_NOT_FOUND, path, "check the split's name", "has no folder \"%s\"", wanted);
        *found = wanted;
        return HL_OK;
    }
    for (; *usual != NULL; usual++) {
        if (!name_list_has(folders, *usual))
            continue;
        if (*found != NULL)
            return hl_fail(HL_E_INPUT, path, "keep one of them", "has both %s/ and %s/", *found, *usual);
        *found = *usual;
    }
    return HL_OK;
}

static hl_status holds_folders(const char *folder, bool *holds)
{
    name_list inside;
    HL_TRY(name_list_init(&inside));
    hl_status status = list_folders(folder, &inside);
    *holds = inside.count > 0;
    name_list_clear(&inside);
    return status;
}

/* A folder named train may also be the class of pictures of trains (and one named test that of tests): it is
 * a split where there is another split beside it, or where it stands alone and holds folders itself. Images
 * to train on must be there, unless they are for evaluation. `paths` are those of the splits, NULL: not
 * there. */
static hl_status find_layout(const name_list *folders, const hl_dataset_options *options,
                             const char *const paths[HL_SPLIT_COUNT], bool *splits)
{
    size_t count = 0;
    const char *one = NULL;
    for (int s = 0; s < HL_SPLIT_COUNT; s++)
        if (paths[s] != NULL) {
            one = paths[s];
            count++;
        }
    if (paths[HL_SPLIT_TRAIN] == NULL && !options->evaluation)
        count = 0;
    const bool named = options->train_name != NULL || options->val_name != NULL || options->test_name != NULL;
    *splits = count > 1 || (count == 1 && named);
    return count == 1 && folders->count == 1 && !named ? holds_folders(one, splits) : HL_OK;
}

static hl_status read_folders(hl_dataset *dataset, const char *path, const hl_dataset_options *options,
                              const name_list *folders)
{
    static const char *const usual[HL_SPLIT_COUNT][4] = {{"train"}, {"val", "valid", "validation"}, {"test"}};
    const char *const wanted[HL_SPLIT_COUNT] = {options->train_name, options->val_name, options->test_name};
    const char *paths[HL_SPLIT_COUNT] = {NULL};
    for (int s = 0; s < HL_SPLIT_COUNT; s++) {
        const char *found;
        HL_TRY(find_split(folders, path, wanted[s], usual[s], &found));
        if (found != NULL && (paths[s] = hl_arena_format(folders->arena, "%s/%s", path, found)) == NULL)
            return HL_E_NOMEM;
    }
    bool splits;
    HL_TRY(find_layout(folders, options, paths, &splits));
    if (!splits) {
        HL_TRY(add_classes(dataset, path));
        return add_split(dataset, HL_SPLIT_TRAIN, path);
    }
    /* The training images decide the classes where there are any. */
    for (int s = 0; s < HL_SPLIT_COUNT; s++)
        if (paths[s] != NULL && (s == HL_SPLIT_TRAIN || paths[HL_SPLIT_TRAIN] == NULL))
            HL_TRY(add_classes(dataset, paths[s]));
    for (int s = 0; s < HL_SPLIT_COUNT; s++) {
        if (paths[s] == NULL)
            continue;
        HL_TRY(add_split(dataset, (hl_split)s, paths[s]));
        if (dataset->splits[s].count == 0)
            return hl_fail(HL_E_INPUT, paths[s], "add images or remove the folder", "holds no images");
    }
    return HL_OK;
}

hl_status hl_class_folder_read(hl_dataset *dataset, const char *path, const hl_dataset_options *options)
{
    /* Without slashes at the end, so that paths in messages read well. */
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    const char *folder = hl_arena_format(dataset->arena, "%.*s", (int)length, path);
    if (folder == NULL)
        return HL_E_NOMEM;
    name_list folders;
    HL_TRY(name_list_init(&folders));
    hl_status status = list_folders(folder, &folders);
    if (status == HL_OK)
        status = read_folders(dataset, folder, options, &folders);
    name_list_clear(&folders);
    return status;
}
