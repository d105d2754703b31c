#include "models/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/families.h"

static const hl_model_family *const families[] = {
    &hl_family_mobilenet_v2,  &hl_family_resnet,       &hl_family_efficientnet_tf, &hl_family_vgg,
    &hl_family_alexnet,       &hl_family_squeezenet,   &hl_family_densenet,        &hl_family_mobilenet_v3,
    &hl_family_mnasnet,       &hl_family_efficientnet, &hl_family_regnet,          &hl_family_inception,
    &hl_family_shufflenet_v2, &hl_family_convnext,
};

enum { FAMILIES = sizeof families / sizeof *families };

int hl_model_count(void)
{
    int count = 0;
    for (int f = 0; f < FAMILIES; f++)
        count += families[f]->count;
    return count;
}

const hl_model_info *hl_model_at(int index)
{
    for (int f = 0; f < FAMILIES; index -= families[f++]->count)
        if (index < families[f]->count)
            return &families[f]->models[index];
    return NULL;
}

/* HL_E_ARG: nothing has this name; these have almost. */
static hl_status offer_nearest(const char *name)
{
    int count = hl_model_count();
    const char **names;
    HL_TRY(hl_alloc_array((size_t)count, sizeof *names, name, (void **)&names));
    for (int i = 0; i < count; i++)
        names[i] = hl_model_at(i)->name;
    char nearest[256], todo[320] = "`heirloom models` lists them";
    hl_nearest_names(name, names, count, nearest, sizeof nearest);
    free(names);
    if (nearest[0] != '\0')
        snprintf(todo, sizeof todo, "did you mean %s? `heirloom models` lists them all", nearest);
    return hl_fail(HL_E_ARG, name, todo, "no model has this name");
}

/* Is `name` up to its first dot this one? */
static bool is_name(const char *known, const char *name)
{
    size_t length = strcspn(name, ".");
    return known != NULL && strlen(known) == length && strncmp(known, name, length) == 0;
}

static const hl_published *with_tag(const hl_model_info *info, const char *tag)
{
    for (const hl_published *p = info->others; p != NULL && p->tag != NULL; p++)
        if (strcmp(p->tag, tag) == 0)
            return p;
    return NULL;
}

/* HL_E_ARG: the model is there, the tag is not. */
static hl_status offer_tags(const hl_model_info *info, const char *name)
{
    char todo[256] = "";
    size_t used = 0;
    for (const hl_published *p = info->others; p != NULL && p->tag != NULL && used < sizeof todo; p++)
        used += (size_t)snprintf(todo + used, sizeof todo - used, ", or %s.%s", info->name, p->tag);
    char full[320];
    snprintf(full, sizeof full, "use %s%s", info->name, todo);
    return hl_fail(HL_E_ARG, name, full, "%s has no weights of this tag", info->name);
}

const hl_published *hl_model_published(const hl_model_info *info, const char *name, const char *file)
{
    const char *dot = strchr(name, '.');
    if (dot != NULL)
        return with_tag(info, dot + 1);
    const char *slash = file != NULL ? strrchr(file, '/') : NULL, *base = slash != NULL ? slash + 1 : file;
    for (const hl_published *p = info->others; base != NULL && p != NULL && p->tag != NULL; p++)
        if (strcmp(p->weights_file, base) == 0)
            return p;
    return NULL;
}

hl_status hl_model_find(const char *name, const hl_model_info **info)
{
    const char *dot = strchr(name, '.');
    const hl_model_info *without_tag = NULL;
    for (int i = 0; i < hl_model_count(); i++) {
        *info = hl_model_at(i);
        if (!is_name((*info)->name, name) && !is_name((*info)->alias, name))
            continue;
        if (dot == NULL || with_tag(*info, dot + 1) != NULL)
            return HL_OK;
        without_tag = *info;
    }
    *info = NULL;
    return without_tag != NULL ? offer_tags(without_tag, name) : offer_nearest(name);
}

int64_t hl_model_channels(const hl_model_info *info)
{
    return info->channels == 0 ? 3 : info->channels;
}

void hl_model_normalisation(const hl_model_info *info, int64_t channels, float mean[4], float std[4])
{
    int64_t own = hl_model_channels(info);
    for (int64_t c = 0; c < 4; c++) {
        mean[c] = c < own && c < channels ? info->mean[c] : 0.5f;
        std[c] = c < own && c < channels ? info->std[c] : 0.5f;
    }
    if (channels == 1 && own >= 3) {
        mean[0] = (info->mean[0] + info->mean[1] + info->mean[2]) / 3.0f;
        std[0] = (info->std[0] + info->std[1] + info->std[2]) / 3.0f;
    }
}

hl_status hl_model_build(const hl_model_info *info, int64_t image_size, int64_t classes, hl_graph **graph)
{
    return hl_model_build_for(info, image_size, hl_model_channels(info), classes, graph);
}

hl_status hl_model_build_for(const hl_model_info *info, int64_t image_size, int64_t channels, int64_t classes,
                             hl_graph **graph)
{
    HL_TRY(hl_graph_create(graph));
    int64_t size = image_size > 0 ? image_size : info->image_size;
    hl_value x = hl_graph_input(*graph, size, size, channels);
    hl_status status = hl_graph_finish(*graph, info->build(*graph, info, x, classes));
    if (status != HL_OK) {
        hl_graph_destroy(*graph);
        *graph = NULL;
    }
    return status;
}
