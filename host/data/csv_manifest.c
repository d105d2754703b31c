/* A CSV file with the columns path, label and split (RFC 4180: fields may be quoted and then hold commas,
 * line ends and doubled quotes). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "data/dataset.h"

#define MAX_FILE_BYTES ((off_t)1 << 30)

enum { MAX_FIELDS = 256 };
enum { COLUMN_PATH, COLUMN_LABEL, COLUMN_SPLIT, COLUMN_COUNT };

static const char *const column_names[COLUMN_COUNT] = {"path", "label", "split"};

/* Where reading stands; fields are unquoted in place. */
typedef struct csv_reader {
    char *at, *end;
    size_t line; /* of `at`, from 1 */
    const char *file;
    char *fields[MAX_FIELDS];
    size_t count;
    size_t first_line; /* of the record in `fields` */
} csv_reader;

typedef struct csv_row {
    const char *path, *label;
    hl_split split;
} csv_row;

typedef struct csv_rows {
    csv_row *items;
    size_t count, capacity;
} csv_rows;

/* An error in a line of the file. */
#define FAIL_LINE(reader, line_number, todo, ...)                                                            \
    do {                                                                                                     \
        char where_[4160];                                                                                   \
        snprintf(where_, sizeof where_, "%.4096s, line %zu", (reader)->file, (size_t)(line_number));         \
        return hl_fail(HL_E_INPUT, where_, todo, __VA_ARGS__);                                               \
    } while (0)

static hl_status read_quoted(csv_reader *r)
{
    char *to = r->at++;
    size_t opened = r->line;
    r->fields[r->count++] = to;
    while (true) {
        if (r->at == r->end)
            FAIL_LINE(r, opened, "close the quotes", "a quoted field does not end");
        char c = *r->at++;
        if (c == '"') {
            if (r->at == r->end || *r->at != '"')
                break;
            r->at++;
        }
        r->line += c == '\n';
        *to++ = c;
    }
    if (r->at < r->end && *r->at != ',' && *r->at != '\n' && *r->at != '\r')
        FAIL_LINE(r, r->line, "double quotes that belong to a field", "text follows a closing quote");
    /* The place of the closing quote at the latest. */
    *to = '\0';
    return HL_OK;
}

static hl_status read_plain(csv_reader *r)
{
    r->fields[r->count++] = r->at;
    while (r->at < r->end && *r->at != ',' && *r->at != '\n' && *r->at != '\r') {
        if (*r->at == '"')
            FAIL_LINE(r, r->line, "put the whole field into quotes and double those inside",
                      "a quote within a field that is not quoted");
        r->at++;
    }
    return HL_OK;
}

/* The next record that is not an empty line; *more is false at the end. The text ends in a byte that may be
 * overwritten, so the last field can be terminated too. */
static hl_status read_record(csv_reader *r, bool *more)
{
    while (r->at < r->end && (*r->at == '\n' || *r->at == '\r'))
        r->line += *r->at++ == '\n';
    r->count = 0;
    r->first_line = r->line;
    *more = r->at < r->end;
    while (*more) {
        if (r->count == MAX_FIELDS)
            FAIL_LINE(r, r->line, NULL, "more than %d fields", MAX_FIELDS);
        if (r->at < r->end && *r->at == '"')
            HL_TRY(read_quoted(r));
        else
            HL_TRY(read_plain(r));
        char separator = r->at < r->end ? *r->at : '\n';
        if (separator == '\r' && r->at + 1 < r->end && r->at[1] == '\n')
            *r->at++ = '\0';
        *r->at = '\0';
        if (r->at < r->end)
            r->at++;
        if (separator == ',')
            continue;
        r->line++;
        break;
    }
    return HL_OK;
}

static char *trim(char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == ' ' || text[length - 1] == '\t'))
        text[--length] = '\0';
    return text;
}

static hl_status read_header(csv_reader *r, size_t places[COLUMN_COUNT])
{
    bool more;
    HL_TRY(read_record(r, &more));
    if (!more)
        return hl_fail(HL_E_INPUT, r->file, "begin it with the line path,label,split", "the file is empty");
    for (int c = 0; c < COLUMN_COUNT; c++) {
        places[c] = MAX_FIELDS;
        for (size_t i = 0; i < r->count; i++) {
            if (strcmp(trim(r->fields[i]), column_names[c]) != 0)
                continue;
            if (places[c] != MAX_FIELDS)
                FAIL_LINE(r, r->first_line, "keep one of them", "two columns are called \"%s\"",
                          column_names[c]);
            places[c] = i;
        }
        if (places[c] == MAX_FIELDS)
            FAIL_LINE(r, r->first_line, "the header must be path,label,split", "there is no column \"%s\"",
                      column_names[c]);
    }
    return HL_OK;
}

/* Writes `path` without ".", ".." and doubled slashes to `out` (as long as `path`); false where it leaves the
 * folder. Since no ".." is left for the system to resolve, none can lead through a link to somewhere else. */
static bool normalise(const char *path, char *out)
{
    size_t length = 0;
    while (*path != '\0') {
        size_t part = strcspn(path, "/");
        if (part == 2 && path[0] == '.' && path[1] == '.') {
            if (length == 0)
                return false;
            while (length > 0 && out[--length] != '/')
                continue;
        } else if (part > 0 && !(part == 1 && path[0] == '.')) {
            if (length > 0)
                out[length++] = '/';
            memcpy(out + length, path, part);
            length += part;
        }
        path += part + (path[part] == '/');
    }
    out[length] = '\0';
    return length > 0;
}

static hl_status read_row(csv_reader *r, const size_t places[COLUMN_COUNT], size_t columns,
                          const char *folder, hl_arena *arena, csv_row *row)
{
    if (r->count != columns)
        FAIL_LINE(r, r->first_line, "quote fields that hold commas", "%zu fields where the header has %zu",
                  r->count, columns);
    const char *path = r->fields[places[COLUMN_PATH]], *label = r->fields[places[COLUMN_LABEL]];
    const char *split = trim(r->fields[places[COLUMN_SPLIT]]);
    if (*path == '\0' || *label == '\0')
        FAIL_LINE(r, r->first_line, NULL, "the %s is empty", *path == '\0' ? "path" : "label");
    for (row->split = HL_SPLIT_TRAIN; row->split < HL_SPLIT_COUNT; row->split++)
        if (strcmp(split, hl_split_name(row->split)) == 0)
            break;
    if (row->split == HL_SPLIT_COUNT)
        FAIL_LINE(r, r->first_line, "use train, val or test", "unknown split \"%.64s\"", split);
    if (*path == '/')
        FAIL_LINE(r, r->first_line, "give paths relative to the CSV file", "\"%.512s\" is an absolute path",
                  path);
    char *inside = hl_arena_take(arena, strlen(path) + 1);
    if (inside == NULL)
        return HL_E_NOMEM;
    if (!normalise(path, inside))
        FAIL_LINE(r, r->first_line, "keep the images in the folder of the CSV file",
                  "\"%.512s\" leads out of the folder", path);
    row->path = hl_arena_format(arena, "%s%s", folder, inside);
    row->label = hl_arena_copy(arena, label);
    return row->path == NULL || row->label == NULL ? HL_E_NOMEM : HL_OK;
}

/* An integer that fits 64 bits. */
static bool is_integer(const char *text)
{
    text += *text == '-';
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && digits <= 18 && text[digits] == '\0';
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int by_value(const void *a, const void *b)
{
    long long x = strtoll(*(const char *const *)a, NULL, 10), y = strtoll(*(const char *const *)b, NULL, 10);
    return x != y ? (x < y ? -1 : 1) : by_text(a, b);
}

static hl_status add_rows(hl_dataset *dataset, const csv_rows *rows)
{
    const char **labels;
    HL_TRY(hl_alloc_array(rows->count, sizeof *labels, "labels", (void **)&labels));
    int (*order)(const void *, const void *) = by_value;
    for (size_t i = 0; i < rows->count; i++) {
        labels[i] = rows->items[i].label;
        if (!is_integer(labels[i]))
            order = by_text;
    }
    qsort(labels, rows->count, sizeof *labels, order);
    hl_status status = HL_OK;
    for (size_t i = 0; i < rows->count && status == HL_OK; i++)
        if (i == 0 || strcmp(labels[i], labels[i - 1]) != 0)
            status = hl_dataset_add_class(dataset, labels[i]);
    free(labels);
    for (size_t i = 0; i < rows->count && status == HL_OK; i++) {
        const csv_row *row = &rows->items[i];
        const char **found =
            bsearch(&row->label, dataset->classes, dataset->class_count, sizeof *dataset->classes, order);
        status = hl_dataset_add_sample(dataset, row->split, row->path, (int32_t)(found - dataset->classes));
    }
    return status;
}

static int by_path(const void *a, const void *b)
{
    const csv_row *x = a, *y = b;
    int order = strcmp(x->path, y->path);
    return order != 0 ? order : (int)x->split - (int)y->split;
}

/* A path may occur twice (as in a resampled data set), but the user should know: in two splits it spoils the
 * results. */
static void report_duplicates(csv_rows *rows, const char *file, const hl_log *log)
{
    size_t duplicates = 0, across = 0;
    qsort(rows->items, rows->count, sizeof *rows->items, by_path);
    for (size_t i = 1; i < rows->count; i++) {
        if (strcmp(rows->items[i].path, rows->items[i - 1].path) != 0)
            continue;
        duplicates++;
        across += rows->items[i].split != rows->items[i - 1].split;
    }
    if (across > 0)
        hl_log_warn(log, "%s: %zu images are in more than one split", file, across);
    else if (duplicates > 0)
        hl_log_info(log, "%s: %zu rows repeat the path of another row", file, duplicates);
}

static hl_status parse(hl_dataset *dataset, csv_reader *r, const char *folder, const hl_log *log,
                       csv_rows *rows, hl_arena *arena)
{
    size_t places[COLUMN_COUNT];
    HL_TRY(read_header(r, places));
    size_t columns = r->count;
    while (true) {
        bool more;
        HL_TRY(read_record(r, &more));
        if (!more)
            break;
        HL_TRY(hl_grow((void **)&rows->items, &rows->capacity, rows->count + 1, sizeof *rows->items,
                       "manifest"));
        HL_TRY(read_row(r, places, columns, folder, arena, &rows->items[rows->count]));
        rows->count++;
    }
    if (rows->count == 0)
        return hl_fail(HL_E_INPUT, r->file, "add a line for each image",
                       "there are no rows after the header");
    HL_TRY(add_rows(dataset, rows));
    report_duplicates(rows, r->file, log);
    return HL_OK;
}

hl_status hl_csv_manifest_parse(hl_dataset *dataset, char *text, size_t size, const char *path,
                                const hl_log *log)
{
    if (memchr(text, '\0', size) != NULL)
        return hl_fail(HL_E_INPUT, path, "save it as UTF-8", "holds bytes of value zero and is no text file");
    csv_reader reader = {.at = text, .end = text + size, .line = 1, .file = path};
    if (size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0)
        reader.at += 3;
    hl_arena *arena;
    HL_TRY(hl_arena_create(&arena));
    const char *slash = strrchr(path, '/');
    const char *folder = hl_arena_format(arena, "%.*s", slash == NULL ? 0 : (int)(slash + 1 - path), path);
    csv_rows rows = {0};
    hl_status status = folder == NULL ? HL_E_NOMEM : parse(dataset, &reader, folder, log, &rows, arena);
    free(rows.items);
    hl_arena_destroy(arena);
    return status;
}

static hl_status read_text(const char *path, char **text, size_t *size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat about;
    *text = NULL;
    if (file < 0)
        return hl_fail(HL_E_IO, path, "check the permissions", "%s", strerror(errno));
    hl_status status = HL_OK;
    if (fstat(file, &about) != 0)
        status = hl_fail(HL_E_IO, path, NULL, "%s", strerror(errno));
    else if (!S_ISREG(about.st_mode) || about.st_size > MAX_FILE_BYTES)
        status = hl_fail(HL_E_INPUT, path, NULL, "is not a regular file of at most %lld bytes",
                         (long long)MAX_FILE_BYTES);
    else /* one byte more, to end the last field in */
        status = hl_alloc((size_t)about.st_size + 1, path, (void **)text);
    for (*size = 0; status == HL_OK && *size < (size_t)about.st_size;) {
        ssize_t got = read(file, *text + *size, (size_t)about.st_size - *size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = hl_fail(HL_E_IO, path, NULL, "%s", strerror(errno));
        if (got <= 0)
            break;
        *size += (size_t)got;
    }
    close(file);
    return status;
}

hl_status hl_csv_manifest_read(hl_dataset *dataset, const char *path, const hl_dataset_options *options)
{
    char *text;
    size_t size = 0;
    hl_status status = read_text(path, &text, &size);
    if (status == HL_OK)
        status = hl_csv_manifest_parse(dataset, text, size, path, options->log);
    free(text);
    return status;
}
