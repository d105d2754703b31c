#include "io/yaml.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "io/text_file.h"
#include "io/yaml_item.h"

enum { FILE_LIMIT = 1024 * 1024, ITEM_LIMIT = 4096, DEPTH_LIMIT = 4 };

typedef struct reader {
    yaml_parser_t parser;
    hl_yaml *yaml;
} reader;

static hl_status refuse(const reader *r, size_t line, const char *why)
{
    return hl_fail(HL_E_INPUT, r->yaml->name, "write one \"key: value\" a line", "line %zu: %s", line + 1,
                   why);
}

static hl_status next(reader *r, yaml_event_t *event)
{
    if (yaml_parser_parse(&r->parser, event))
        return HL_OK;
    if (r->parser.error == YAML_MEMORY_ERROR)
        return hl_fail_nomem(r->yaml->name, FILE_LIMIT);
    return refuse(r, r->parser.error == YAML_READER_ERROR ? r->parser.mark.line : r->parser.problem_mark.line,
                  r->parser.problem == NULL ? "not YAML" : r->parser.problem);
}

/* The text of a scalar without anchor and tag, valid as long as the event. */
static hl_status scalar_text(const reader *r, const yaml_event_t *event, const char **text, bool *quoted)
{
    size_t line = event->start_mark.line;
    if (event->type == YAML_ALIAS_EVENT)
        return refuse(r, line, "aliases are not supported");
    if (event->type != YAML_SCALAR_EVENT)
        return refuse(r, line, "a single value is expected here");
    if (event->data.scalar.anchor != NULL || event->data.scalar.tag != NULL)
        return refuse(r, line, "anchors and tags are not supported");
    *text = (const char *)event->data.scalar.value;
    *quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return strlen(*text) == event->data.scalar.length ? HL_OK : refuse(r, line, "a value with a zero byte");
}

static hl_status read_list(reader *r, hl_yaml_item *item)
{
    size_t capacity = 0;
    item->is_list = true;
    for (;;) {
        yaml_event_t event;
        const char *text = NULL;
        bool quoted = false;
        HL_TRY(next(r, &event));
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return HL_OK;
        }
        hl_status status = scalar_text(r, &event, &text, &quoted);
        if (status == HL_OK)
            status = hl_yaml_append_value(r->yaml, item, &capacity, text, quoted);
        yaml_event_delete(&event);
        HL_TRY(status);
    }
}

static hl_status read_mapping(reader *r, const char *prefix, int depth);

/* What follows a key: adds an item, or those of a mapping. */
static hl_status read_value(reader *r, const char *key, size_t line, int depth)
{
    yaml_event_t event;
    HL_TRY(next(r, &event));
    hl_status status = HL_OK;
    const char *text = NULL;
    bool quoted = false, is_list = event.type == YAML_SEQUENCE_START_EVENT,
         is_mapping = event.type == YAML_MAPPING_START_EVENT;
    if ((is_list && (event.data.sequence_start.anchor != NULL || event.data.sequence_start.tag != NULL)) ||
        (is_mapping && (event.data.mapping_start.anchor != NULL || event.data.mapping_start.tag != NULL)))
        status = refuse(r, line, "anchors and tags are not supported");
    else if (is_mapping)
        status = depth == DEPTH_LIMIT ? refuse(r, line, "mappings are nested deeper than 4")
                                      : read_mapping(r, key, depth + 1);
    else if (!is_list)
        status = scalar_text(r, &event, &text, &quoted);
    if (status == HL_OK && !is_mapping) {
        hl_yaml_item *item;
        size_t capacity = 0;
        if (hl_yaml_lookup(r->yaml, key) != NULL)
            status = hl_fail(HL_E_INPUT, r->yaml->name, "remove one", "line %zu: the key '%s' is there twice",
                             line + 1, key);
        else if (r->yaml->count == ITEM_LIMIT)
            status = refuse(r, line, "more than 4096 keys");
        else
            status = hl_yaml_append(r->yaml, key, (int)line + 1, &item);
        if (status == HL_OK)
            status =
                is_list ? read_list(r, item) : hl_yaml_append_value(r->yaml, item, &capacity, text, quoted);
    }
    yaml_event_delete(&event);
    return status;
}

static hl_status read_mapping(reader *r, const char *prefix, int depth)
{
    for (;;) {
        yaml_event_t event;
        const char *text = NULL, *key = NULL;
        bool quoted;
        HL_TRY(next(r, &event));
        if (event.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&event);
            return HL_OK;
        }
        size_t line = event.start_mark.line;
        hl_status status = scalar_text(r, &event, &text, &quoted);
        if (status == HL_OK && (*text == '\0' || strlen(text) > 200))
            status = refuse(r, line, "a key is empty or longer than 200 bytes");
        if (status == HL_OK) {
            key = *prefix == '\0' ? hl_arena_copy(r->yaml->arena, text)
                                  : hl_arena_format(r->yaml->arena, "%s.%s", prefix, text);
            status = key == NULL ? HL_E_NOMEM : HL_OK;
        }
        yaml_event_delete(&event);
        HL_TRY(status);
        HL_TRY(read_value(r, key, line, depth));
    }
}

static hl_status expect(reader *r, yaml_event_type_t type, yaml_event_type_t other, const char *why,
                        yaml_event_type_t *got)
{
    yaml_event_t event;
    HL_TRY(next(r, &event));
    hl_status status =
        event.type == type || event.type == other ? HL_OK : refuse(r, event.start_mark.line, why);
    /* An empty document is an empty plain scalar. */
    if (event.type == YAML_SCALAR_EVENT && event.data.scalar.length > 0)
        status = refuse(r, event.start_mark.line, why);
    *got = event.type;
    yaml_event_delete(&event);
    return status;
}

static hl_status read_stream(reader *r)
{
    static const char not_mapping[] = "the file is not a mapping of keys to values";
    yaml_event_type_t got;
    HL_TRY(expect(r, YAML_STREAM_START_EVENT, YAML_STREAM_START_EVENT, not_mapping, &got));
    HL_TRY(expect(r, YAML_DOCUMENT_START_EVENT, YAML_STREAM_END_EVENT, not_mapping, &got));
    if (got == YAML_STREAM_END_EVENT)
        return HL_OK;
    HL_TRY(expect(r, YAML_MAPPING_START_EVENT, YAML_SCALAR_EVENT, not_mapping, &got));
    if (got == YAML_MAPPING_START_EVENT)
        HL_TRY(read_mapping(r, "", 1));
    HL_TRY(expect(r, YAML_DOCUMENT_END_EVENT, YAML_DOCUMENT_END_EVENT, not_mapping, &got));
    return expect(r, YAML_STREAM_END_EVENT, YAML_STREAM_END_EVENT, "the file has several documents", &got);
}

hl_status hl_yaml_parse(const char *name, const char *text, size_t size, hl_yaml **yaml)
{
    reader r;
    *yaml = NULL;
    HL_TRY(hl_yaml_create(name, &r.yaml));
    if (!yaml_parser_initialize(&r.parser)) {
        hl_yaml_destroy(r.yaml);
        return hl_fail_nomem(name, sizeof r.parser);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, size);
    hl_status status = read_stream(&r);
    yaml_parser_delete(&r.parser);
    if (status == HL_OK)
        *yaml = r.yaml;
    else
        hl_yaml_destroy(r.yaml);
    return status;
}

hl_status hl_yaml_read(const char *path, hl_yaml **yaml)
{
    char *text;
    size_t size;
    *yaml = NULL;
    HL_TRY(hl_text_file_read(path, FILE_LIMIT, &text, &size));
    hl_status status = hl_yaml_parse(path, text, size, yaml);
    free(text);
    return status;
}
