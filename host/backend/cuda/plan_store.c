#include "backend/cuda/plan_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/folder.h"
#include "io/json.h"
#include "io/sha256.h"

enum { LIMIT = 64 << 20 };

struct hl_plan_store {
    char path[1024]; /* "": nowhere to keep it */
    json_t *plans;   /* object: hash of the graph -> [engine, knob, value, knob, value, ...] */
    bool changed;
};

static bool make_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    *slash = '\0';
    bool made = hl_folder_make(path, NULL) == HL_OK;
    *slash = '/';
    return made;
}

static void locate(const char *identity, char *path, size_t size)
{
    char hash[HL_SHA256_HEX];
    const char *own = getenv("HEIRLOOM_CACHE_DIR"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    const char *folder = own != NULL ? own : xdg != NULL ? xdg : home, *rest = "";
    path[0] = '\0';
    if (folder == NULL || folder[0] != '/')
        return;
    if (own == NULL)
        rest = xdg != NULL ? "/heirloom" : "/.cache/heirloom";
    hl_sha256_bytes(identity, strlen(identity), hash);
    int n = snprintf(path, size, "%s%s/cudnn-plans-%.16s.json", folder, rest, hash);
    if (n < 0 || (size_t)n >= size)
        path[0] = '\0';
}

hl_status hl_plan_store_open(const char *identity, hl_plan_store **store)
{
    hl_plan_store *s = *store = calloc(1, sizeof *s);
    if (s == NULL)
        return hl_fail_nomem("plan store", sizeof *s);
    locate(identity, s->path, sizeof s->path);
    json_t *document = NULL;
    if (s->path[0] != '\0' && access(s->path, R_OK) == 0 &&
        hl_json_read(s->path, LIMIT, &document) == HL_OK) {
        const char *whose = json_string_value(json_object_get(document, "identity"));
        json_t *plans = json_object_get(document, "plans");
        if (whose != NULL && strcmp(whose, identity) == 0 && json_is_object(plans))
            s->plans = json_incref(plans);
        json_decref(document);
    }
    if (s->plans == NULL)
        s->plans = json_object();
    json_object_set_new(s->plans, "", json_string(identity));
    return HL_OK;
}

void hl_plan_store_close(hl_plan_store *s)
{
    if (s == NULL)
        return;
    if (s->changed && s->path[0] != '\0' && make_folder_of(s->path)) {
        char identity[512] = "";
        const char *whose = json_string_value(json_object_get(s->plans, ""));
        snprintf(identity, sizeof identity, "%s", whose != NULL ? whose : "");
        json_object_del(s->plans, "");
        json_t *document = json_pack("{s:s, s:O}", "identity", identity, "plans", s->plans);
        /* Choices that are not kept are made again. */
        (void)hl_json_write(s->path, document);
        json_decref(document);
    }
    json_decref(s->plans);
    free(s);
}

bool hl_plan_store_find(const hl_plan_store *s, const char *graph, hl_plan_choice *choice)
{
    char hash[HL_SHA256_HEX];
    hl_sha256_bytes(graph, strlen(graph), hash);
    const json_t *list = json_object_get(s->plans, hash);
    size_t count = json_array_size(list);
    if (count == 0 || count % 2 == 0 || count / 2 > HL_PLAN_KNOBS)
        return false;
    for (size_t i = 0; i < count; i++)
        if (!json_is_integer(json_array_get(list, i)))
            return false;
    *choice = (hl_plan_choice){.engine = json_integer_value(json_array_get(list, 0)),
                               .knob_count = (int)(count / 2)};
    for (int k = 0; k < choice->knob_count; k++) {
        choice->knob[k] = json_integer_value(json_array_get(list, (size_t)(1 + 2 * k)));
        choice->value[k] = json_integer_value(json_array_get(list, (size_t)(2 + 2 * k)));
    }
    return true;
}

void hl_plan_store_add(hl_plan_store *s, const char *graph, const hl_plan_choice *choice)
{
    char hash[HL_SHA256_HEX];
    hl_sha256_bytes(graph, strlen(graph), hash);
    json_t *list = json_array();
    json_array_append_new(list, json_integer(choice->engine));
    for (int k = 0; k < choice->knob_count; k++) {
        json_array_append_new(list, json_integer(choice->knob[k]));
        json_array_append_new(list, json_integer(choice->value[k]));
    }
    s->changed = json_object_set_new(s->plans, hash, list) == 0 || s->changed;
}
