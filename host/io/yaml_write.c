#include <string.h>
#include <yaml.h>

#include "io/atomic_file.h"
#include "io/yaml_item.h"

static int put_bytes(void *file, unsigned char *bytes, size_t size)
{
    return hl_atomic_write(file, bytes, size) == HL_OK;
}

/* yaml_emitter_emit takes over the event, also on failure. */
static bool emit_scalar(yaml_emitter_t *emitter, const char *text, bool quoted)
{
    yaml_event_t event;
    return yaml_scalar_event_initialize(&event, NULL, NULL, (const unsigned char *)text, (int)strlen(text), 1,
                                        1,
                                        quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE) &&
           yaml_emitter_emit(emitter, &event);
}

static bool emit_item(yaml_emitter_t *emitter, const hl_yaml_item *item)
{
    yaml_event_t event;
    if (!emit_scalar(emitter, item->key, hl_yaml_looks_typed(item->key)))
        return false;
    if (item->is_list &&
        !(yaml_sequence_start_event_initialize(&event, NULL, NULL, 1, YAML_FLOW_SEQUENCE_STYLE) &&
          yaml_emitter_emit(emitter, &event)))
        return false;
    for (size_t i = 0; i < item->count; i++)
        if (!emit_scalar(emitter, item->values[i].text, item->values[i].quoted))
            return false;
    return !item->is_list ||
           (yaml_sequence_end_event_initialize(&event) && yaml_emitter_emit(emitter, &event));
}

static bool emit_all(yaml_emitter_t *emitter, const hl_yaml *yaml)
{
    yaml_event_t event;
    bool good =
        yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING) &&
        yaml_emitter_emit(emitter, &event) &&
        yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1) &&
        yaml_emitter_emit(emitter, &event) &&
        yaml_mapping_start_event_initialize(
            &event, NULL, NULL, 1, yaml->count == 0 ? YAML_FLOW_MAPPING_STYLE : YAML_BLOCK_MAPPING_STYLE) &&
        yaml_emitter_emit(emitter, &event);
    for (size_t i = 0; good && i < yaml->count; i++)
        good = emit_item(emitter, &yaml->items[i]);
    return good && yaml_mapping_end_event_initialize(&event) && yaml_emitter_emit(emitter, &event) &&
           yaml_document_end_event_initialize(&event, 1) && yaml_emitter_emit(emitter, &event) &&
           yaml_stream_end_event_initialize(&event) && yaml_emitter_emit(emitter, &event) &&
           yaml_emitter_flush(emitter);
}

hl_status hl_yaml_write(const char *path, const hl_yaml *yaml)
{
    hl_atomic_file *file;
    yaml_emitter_t emitter;
    HL_TRY(hl_atomic_begin(path, &file));
    if (!yaml_emitter_initialize(&emitter)) {
        hl_atomic_abort(file);
        return hl_fail_nomem(path, sizeof emitter);
    }
    yaml_emitter_set_output(&emitter, put_bytes, file);
    yaml_emitter_set_unicode(&emitter, 1);
    yaml_emitter_set_width(&emitter, -1);
    hl_status status = HL_OK;
    if (!emit_all(&emitter, yaml))
        status =
            emitter.error == YAML_WRITER_ERROR
                ? HL_E_IO /* recorded by hl_atomic_write */
                : hl_fail(HL_E_ARG, path, "names and values must be UTF-8", "cannot be written as YAML: %s",
                          emitter.problem == NULL ? "out of memory" : emitter.problem);
    yaml_emitter_delete(&emitter);
    if (status != HL_OK) {
        hl_atomic_abort(file);
        return status;
    }
    return hl_atomic_commit(file);
}
