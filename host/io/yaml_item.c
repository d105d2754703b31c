#include "io/yaml_item.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

hl_status hl_yaml_create(const char *name, hl_yaml **out)
{
    *out = NULL;
    hl_yaml *yaml = calloc(1, sizeof *yaml);
    if (yaml == NULL)
        return hl_fail_nomem(name, sizeof *yaml);
    hl_status status = hl_arena_create(&yaml->arena);
    if (status == HL_OK && (yaml->name = hl_arena_copy(yaml->arena, name)) == NULL)
        status = HL_E_NOMEM;
    if (status == HL_OK)
        *out = yaml;
    else
        hl_yaml_destroy(yaml);
    return status;
}

void hl_yaml_destroy(hl_yaml *yaml)
{
    if (yaml == NULL)
        return;
    for (size_t i = 0; i < yaml->count; i++)
        free(yaml->items[i].values);
    free(yaml->items);
    hl_arena_destroy(yaml->arena);
    free(yaml);
}

hl_status hl_yaml_append(hl_yaml *yaml, const char *key, int line, hl_yaml_item **item)
{
    void *grown = yaml->items;
    hl_status status = hl_grow(&grown, &yaml->capacity, yaml->count + 1, sizeof *yaml->items, yaml->name);
    yaml->items = grown;
    HL_TRY(status);
    const char *kept = hl_arena_copy(yaml->arena, key);
    if (kept == NULL)
        return HL_E_NOMEM;
    *item = &yaml->items[yaml->count++];
    **item = (hl_yaml_item){.key = kept, .line = line};
    return HL_OK;
}

hl_status hl_yaml_append_value(hl_yaml *yaml, hl_yaml_item *item, size_t *capacity, const char *text,
                               bool quoted)
{
    void *grown = item->values;
    hl_status status = hl_grow(&grown, capacity, item->count + 1, sizeof *item->values, yaml->name);
    item->values = grown;
    HL_TRY(status);
    const char *kept = hl_arena_copy(yaml->arena, text);
    if (kept == NULL)
        return HL_E_NOMEM;
    item->values[item->count++] = (hl_yaml_scalar){kept, quoted};
    return HL_OK;
}

hl_yaml_item *hl_yaml_lookup(const hl_yaml *yaml, const char *key)
{
    for (size_t i = 0; i < yaml->count; i++)
        if (strcmp(yaml->items[i].key, key) == 0)
            return &yaml->items[i];
    return NULL;
}

size_t hl_yaml_count(const hl_yaml *yaml)
{
    return yaml->count;
}

const hl_yaml_item *hl_yaml_at(const hl_yaml *yaml, size_t i)
{
    return &yaml->items[i];
}

const hl_yaml_item *hl_yaml_find(hl_yaml *yaml, const char *key)
{
    hl_yaml_item *item = hl_yaml_lookup(yaml, key);
    if (item != NULL)
        item->used = true;
    return item;
}

const hl_yaml_item *hl_yaml_unused(const hl_yaml *yaml)
{
    for (size_t i = 0; i < yaml->count; i++)
        if (!yaml->items[i].used)
            return &yaml->items[i];
    return NULL;
}

/* --- typed values --- */

static bool is_one_of(const char *text, const char *const *words)
{
    for (; *words != NULL; words++)
        if (strcasecmp(text, *words) == 0)
            return true;
    return false;
}

static const char *const null_words[] = {"", "~", "null", NULL};
static const char *const true_words[] = {"true", "yes", "on", NULL};
static const char *const false_words[] = {"false", "no", "off", NULL};

bool hl_yaml_looks_typed(const char *text)
{
    static const char *const more[] = {"y", "n", "<<", "=", ".inf", ".nan", NULL};
    if (is_one_of(text, null_words) || is_one_of(text, true_words) || is_one_of(text, false_words) ||
        is_one_of(text, more))
        return true;
    /* Numbers, dates, times: anything that begins like one. */
    const char *digit = text + strspn(text, "+-.");
    return (*digit >= '0' && *digit <= '9') || (digit > text && strncasecmp(digit, "inf", 3) == 0);
}

static hl_status mismatch(const hl_yaml *yaml, const hl_yaml_item *item, const char *wanted)
{
    return hl_fail(HL_E_ARG, yaml->name, "correct the value", "line %d: %s is '%s'%s, it must be %s",
                   item->line, item->key, item->is_list ? "[...]" : item->values[0].text,
                   !item->is_list && item->values[0].quoted ? " in quotes" : "", wanted);
}

static bool is_plain(const hl_yaml_item *item)
{
    return !item->is_list && !item->values[0].quoted;
}

bool hl_yaml_is_null(const hl_yaml_item *item)
{
    return is_plain(item) && is_one_of(item->values[0].text, null_words);
}

hl_status hl_yaml_text(const hl_yaml *yaml, const hl_yaml_item *item, const char **value)
{
    if (item->is_list || hl_yaml_is_null(item))
        return mismatch(yaml, item, "a text");
    *value = item->values[0].text;
    return HL_OK;
}

hl_status hl_yaml_bool(const hl_yaml *yaml, const hl_yaml_item *item, bool *value)
{
    if (!is_plain(item) ||
        (!is_one_of(item->values[0].text, true_words) && !is_one_of(item->values[0].text, false_words)))
        return mismatch(yaml, item, "true or false");
    *value = is_one_of(item->values[0].text, true_words);
    return HL_OK;
}

hl_status hl_yaml_int(const hl_yaml *yaml, const hl_yaml_item *item, int64_t *value)
{
    char *end = NULL;
    errno = 0;
    long long integer = is_plain(item) ? strtoll(item->values[0].text, &end, 10) : 0;
    if (end == NULL || end == item->values[0].text || *end != '\0' || errno == ERANGE)
        return mismatch(yaml, item, "a whole number");
    *value = integer;
    return HL_OK;
}

hl_status hl_yaml_real(const hl_yaml *yaml, const hl_yaml_item *item, double *value)
{
    /* strtod alone would take hexadecimal, "nan" and "infinity" as well. */
    const char *text = is_plain(item) ? item->values[0].text : "";
    char *end = NULL;
    double real = strtod(text, &end);
    if (*text == '\0' || text[strspn(text, "0123456789+-.eE")] != '\0' || *end != '\0' || !isfinite(real))
        return mismatch(yaml, item, "a finite number");
    *value = real;
    return HL_OK;
}

/* --- setting --- */

static hl_status set(hl_yaml *yaml, const char *key, const char *text, bool quoted)
{
    hl_yaml_item *item = hl_yaml_lookup(yaml, key);
    if (item == NULL)
        HL_TRY(hl_yaml_append(yaml, key, 0, &item));
    free(item->values);
    item->values = NULL;
    item->count = 0;
    item->is_list = false;
    size_t capacity = 0;
    return hl_yaml_append_value(yaml, item, &capacity, text, quoted);
}

hl_status hl_yaml_set_text(hl_yaml *yaml, const char *key, const char *value)
{
    return set(yaml, key, value, hl_yaml_looks_typed(value));
}

hl_status hl_yaml_set_bool(hl_yaml *yaml, const char *key, bool value)
{
    return set(yaml, key, value ? "true" : "false", false);
}

hl_status hl_yaml_set_int(hl_yaml *yaml, const char *key, int64_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return set(yaml, key, text, false);
}

hl_status hl_yaml_set_real(hl_yaml *yaml, const char *key, double value)
{
    char text[40], fixed[48];
    if (!isfinite(value))
        return set(yaml, key, isnan(value) ? ".nan" : value > 0 ? ".inf" : "-.inf", false);
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    /* Readers of YAML 1.1 take a number without a point for a text ("1e-05") or for a whole number. */
    int mantissa = (int)strcspn(text, "e");
    bool pointed = memchr(text, '.', (size_t)mantissa) != NULL;
    snprintf(fixed, sizeof fixed, "%.*s%s%s", mantissa, text, pointed ? "" : ".0", text + mantissa);
    return set(yaml, key, fixed, false);
}

hl_status hl_yaml_set_null(hl_yaml *yaml, const char *key)
{
    return set(yaml, key, "null", false);
}
