#include "train/features.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "graph/frontier.h"
#include "train/evaluate.h"
#include "train/feature_file.h"

/* Of the program that makes features. Always the same, so that what a file holds does not depend on the batch
 * size of the run that left it. */
enum { BATCH = 64 };

struct hl_features {
    hl_loader_rows rows;
    const uint8_t *values[HL_LOADER_PARTS]; /* [images, bytes of the part]: in `memory` or in `map` */
    uint8_t *memory;
    hl_tensor_map *map;
    char *found;
    double seconds;
};

/* Where features go while they are made: to a file, or straight to where they are kept. */
typedef struct feature_sink {
    hl_atomic_file *stream;
    uint64_t offset[HL_LOADER_PARTS + 1];
    uint8_t *to[HL_LOADER_PARTS], *buffer; /* buffer: a batch of the largest part */
} feature_sink;

/* layout->parts 0: nothing would be saved, or there are more values than a loader takes. */
static hl_status lay_out(const hl_model *model, hl_number_type type, hl_feature_layout *layout)
{
    hl_arena *arena;
    hl_frontier frontier;
    HL_TRY(hl_arena_create(&arena));
    hl_status status = hl_frontier_find(model->graph, arena, &frontier);
    *layout = (hl_feature_layout){0};
    if (status == HL_OK && frontier.layers > 0 && frontier.count <= HL_LOADER_PARTS) {
        layout->parts = frontier.count;
        for (int i = 0; i < frontier.count; i++) {
            const hl_node *node = model->graph->nodes[frontier.values[i]];
            layout->name[i] = node->name;
            layout->shape[i] = node->shape;
            layout->bytes[i] = (size_t)hl_shape_count(node->shape) * hl_elem_size(type.elem);
        }
    }
    hl_arena_destroy(arena);
    return status;
}

static size_t row_bytes(const hl_feature_layout *layout)
{
    size_t bytes = 0;
    for (int i = 0; i < layout->parts; i++)
        bytes += layout->bytes[i];
    return bytes;
}

hl_status hl_features_row_bytes(const hl_model *model, hl_number_type type, size_t *bytes)
{
    hl_feature_layout layout;
    HL_TRY(lay_out(model, type, &layout));
    *bytes = row_bytes(&layout);
    return HL_OK;
}

static const uint8_t *row_part(const void *user, int64_t index, int part)
{
    const hl_features *f = user;
    return f->values[part] + (size_t)index * f->rows.bytes[part];
}

hl_loader_rows hl_features_rows(const hl_features *f)
{
    return f->rows;
}

double hl_features_seconds(const hl_features *f)
{
    return f->seconds;
}

const char *hl_features_found(const hl_features *f)
{
    return f->found;
}

void hl_features_close(hl_features *f)
{
    if (f == NULL)
        return;
    hl_tensor_map_destroy(f->map);
    free(f->memory);
    free(f->found);
    free(f);
}

static void use_file(hl_features *f, hl_tensor_map *map)
{
    f->map = map;
    f->seconds = hl_feature_file_seconds(map);
    for (int i = 0; i < f->rows.parts; i++)
        f->values[i] = hl_feature_file_values(map, i);
}

hl_status hl_features_program(const hl_session *s, int64_t batch, hl_number_type type, hl_program **program)
{
    hl_compile_options o;
    hl_model_compile_options(s->model, s->projection, type, &o);
    o.batch = batch;
    o.portion = HL_PORTION_FIXED;
    o.run = &s->run;
    return hl_program_compile(s->model->graph, s->backend, &o, program);
}

/* The program's results for images [first, first + count). */
static hl_status put_batch(hl_backend *backend, const hl_program *program, const hl_loader_rows *rows,
                           int64_t first, int64_t count, feature_sink *sink)
{
    for (int i = 0; i < rows->parts; i++) {
        size_t at = (size_t)first * rows->bytes[i], size = (size_t)count * rows->bytes[i];
        uint8_t *to = sink->stream != NULL ? sink->buffer : sink->to[i] + at;
        HL_TRY(backend->ops->download(backend, to, hl_program_feature(program, i)->data, size));
        if (sink->stream != NULL) {
            HL_TRY(hl_atomic_seek(sink->stream, sink->offset[i] + at));
            HL_TRY(hl_atomic_write(sink->stream, to, size));
        }
    }
    return HL_OK;
}

static hl_status run(hl_session *s, const hl_features_options *o, hl_loader *loader, hl_program *program,
                     const hl_loader_rows *rows, feature_sink *sink, bool *stopped)
{
    hl_batch batch;
    int64_t done = 0;
    double start = hl_seconds();
    HL_TRY(hl_loader_start_epoch(loader, 0, 0));
    while (!*stopped) {
        HL_TRY(hl_loader_next(loader, &batch));
        if (batch.number < 0)
            break;
        HL_TRY(hl_session_feed(s, program, &batch, hl_model_image_bytes(s->model), NULL));
        HL_TRY(hl_program_forward(program));
        HL_TRY(s->backend->ops->finish(s->backend));
        HL_TRY(put_batch(s->backend, program, rows, done, batch.count, sink)); /* images come in order */
        done += batch.count;
        hl_loader_release(loader, &batch);
        *stopped = o->progress != NULL && o->progress(o->user, done, hl_seconds() - start);
    }
    return HL_OK;
}

/* Runs the frozen part over the whole split. */
static hl_status make(hl_session *s, const hl_features_options *o, const hl_loader_rows *rows,
                      feature_sink *sink, double *seconds, bool *stopped)
{
    hl_loader *loader = NULL;
    hl_program *program = NULL;
    double start = hl_seconds();
    int64_t count = hl_dataset_count(o->data, o->split), batch = count < BATCH ? count : BATCH;
    bool behind = s->features;
    s->features = false; /* these batches are images */
    *stopped = false;
    hl_status status = hl_evaluation_loader(s->model, o->data, o->split, NULL, batch, o->workers, false,
                                            (hl_loader_rows){0}, NULL, &loader);
    if (status == HL_OK)
        status = hl_features_program(s, batch, o->type, &program);
    if (status == HL_OK)
        status = run(s, o, loader, program, rows, sink, stopped);
    hl_program_destroy(program);
    hl_loader_destroy(loader);
    s->features = behind;
    *seconds = hl_seconds() - start;
    return status;
}

static hl_status make_in_memory(hl_session *s, const hl_features_options *o, hl_features *f, bool *stopped)
{
    feature_sink sink = {0};
    size_t bytes, row = 0, images = (size_t)hl_dataset_count(o->data, o->split);
    for (int i = 0; i < f->rows.parts; i++)
        row += f->rows.bytes[i];
    if (!hl_size_mul(images, row, &bytes))
        return hl_fail_nomem("features", row);
    HL_TRY(hl_alloc(bytes, "features", (void **)&f->memory));
    uint8_t *at = f->memory;
    for (int i = 0; i < f->rows.parts; i++) {
        f->values[i] = sink.to[i] = at;
        at += images * f->rows.bytes[i];
    }
    return make(s, o, &f->rows, &sink, &f->seconds, stopped);
}

static hl_status make_file(hl_session *s, const hl_features_options *o, const hl_feature_file *file,
                           const hl_loader_rows *rows, bool *stopped)
{
    feature_sink sink = {0};
    size_t largest = 0;
    double seconds = 0.0;
    for (int i = 0; i < rows->parts; i++)
        largest = rows->bytes[i] > largest ? rows->bytes[i] : largest;
    HL_TRY(hl_alloc_array(BATCH, largest, "features", (void **)&sink.buffer));
    hl_status status = hl_feature_file_begin(file, &sink.stream, sink.offset);
    if (status == HL_OK)
        status = make(s, o, rows, &sink, &seconds, stopped);
    free(sink.buffer);
    if (status == HL_OK && !*stopped)
        status = hl_atomic_seek(sink.stream, sink.offset[rows->parts]);
    if (status == HL_OK && !*stopped)
        status = hl_atomic_write(sink.stream, &seconds, sizeof seconds);
    if (status == HL_OK && !*stopped)
        return hl_atomic_commit(sink.stream);
    hl_atomic_abort(sink.stream);
    return status;
}

static hl_status from_file(hl_session *s, const hl_features_options *o, const hl_feature_file *file,
                           hl_features *f, bool *stopped)
{
    hl_tensor_map *map;
    HL_TRY(hl_feature_file_read(file, &s->model->log, &map));
    if (map != NULL) {
        use_file(f, map);
        f->found = strdup(file->path);
        return f->found != NULL ? HL_OK : hl_fail_nomem("features", strlen(file->path));
    }
    HL_TRY(make_file(s, o, file, &f->rows, stopped));
    if (*stopped)
        return HL_OK;
    HL_TRY(hl_feature_file_read(file, &s->model->log, &map));
    if (map == NULL)
        return hl_fail(HL_E_IO, file->path, "check the disk", "does not hold what has just been written");
    use_file(f, map);
    return HL_OK;
}

static hl_status open_any(hl_session *s, const hl_features_options *o, hl_features *f, bool *stopped)
{
    hl_feature_layout layout;
    hl_feature_file file;
    HL_TRY(lay_out(s->model, o->type, &layout));
    if (layout.parts == 0)
        return hl_fail(HL_E_INTERNAL, "features", NULL, "nothing in this network is the same in every epoch");
    f->rows = (hl_loader_rows){.get = row_part, .user = f, .parts = layout.parts};
    memcpy(f->rows.bytes, layout.bytes, sizeof layout.bytes);
    if (o->folder == NULL)
        return make_in_memory(s, o, f, stopped);
    hl_status status = hl_feature_file_describe(s, o, &layout, &file);
    if (status == HL_OK)
        status = from_file(s, o, &file, f, stopped);
    hl_feature_file_forget(&file);
    return status;
}

hl_status hl_features_open(hl_session *s, const hl_features_options *o, hl_features **features)
{
    bool stopped = false;
    *features = calloc(1, sizeof **features);
    if (*features == NULL)
        return hl_fail_nomem("features", sizeof **features);
    hl_status status = open_any(s, o, *features, &stopped);
    if (status != HL_OK || stopped) {
        hl_features_close(*features);
        *features = NULL;
    }
    return status;
}
