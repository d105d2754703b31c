#include <heirloom/gates.h>

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"
#include "train/model.h"

struct hl_gates {
    hl_tensor_map *map;
    hl_gate_layer *layers;
    char *names;
    int count;
};

static const char suffix[] = ".gate";

static bool is_gate(const hl_named_tensor *t)
{
    size_t length = strlen(t->name), end = sizeof suffix - 1;
    return length > end && strcmp(t->name + length - end, suffix) == 0 && t->ndim == 2 &&
           t->dtype == HL_DTYPE_F32 && t->bytes > 0;
}

/* By the numbers in them where they differ in one. */
static int by_name(const void *a, const void *b)
{
    const char *x = ((const hl_gate_layer *)a)->name, *y = ((const hl_gate_layer *)b)->name;
    for (; *x != '\0' && *y != '\0'; x++, y++) {
        if (isdigit((unsigned char)*x) && isdigit((unsigned char)*y)) {
            char *after_x, *after_y;
            unsigned long long m = strtoull(x, &after_x, 10), n = strtoull(y, &after_y, 10);
            if (m != n)
                return m < n ? -1 : 1;
            x = after_x - 1;
            y = after_y - 1;
        } else if (*x != *y) {
            return (unsigned char)*x < (unsigned char)*y ? -1 : 1;
        }
    }
    return (*x != '\0') - (*y != '\0');
}

static hl_status collect(hl_gates *g, const char *path)
{
    size_t tensors = hl_tensor_map_count(g->map), bytes = 1;
    for (size_t i = 0; i < tensors; i++)
        bytes += strlen(hl_tensor_map_at(g->map, i)->name) + 1;
    HL_TRY(hl_alloc_array(tensors + 1, sizeof *g->layers, path, (void **)&g->layers));
    HL_TRY(hl_alloc(bytes, path, (void **)&g->names));
    char *to = g->names;
    for (size_t i = 0; i < tensors; i++) {
        const hl_named_tensor *t = hl_tensor_map_at(g->map, i);
        if (!is_gate(t))
            continue;
        size_t length = strlen(t->name) - (sizeof suffix - 1);
        memcpy(to, t->name, length);
        g->layers[g->count] = (hl_gate_layer){to, t->shape[0], t->shape[1], t->data};
        for (int64_t k = 0; k < t->shape[0] * t->shape[1]; k++)
            if (!isfinite(((const float *)t->data)[k]))
                return hl_fail(HL_E_INPUT, path, "the file is damaged",
                               "%.120s has a value that is not finite", t->name);
        g->count++;
        to += length + 1;
    }
    if (g->count == 0)
        return hl_fail(HL_E_INPUT, path, "only --method projection has them", "the run has no gates");
    qsort(g->layers, (size_t)g->count, sizeof *g->layers, by_name);
    return HL_OK;
}

hl_status hl_gates_open(const char *run, hl_gates **gates)
{
    char path[4096];
    hl_adapter_info info;
    *gates = NULL;
    if (snprintf(path, sizeof path, "%s/adapter.safetensors", run) >= (int)sizeof path)
        return hl_fail(HL_E_ARG, "--run", NULL, "the path is too long");
    hl_gates *g = calloc(1, sizeof *g);
    if (g == NULL)
        return hl_fail_nomem(run, sizeof *g);
    hl_status status = hl_safetensors_read(path, &g->map);
    if (status == HL_OK)
        status = hl_adapter_describe(path, g->map, &info);
    if (status == HL_OK)
        status = collect(g, path);
    if (status != HL_OK) {
        hl_gates_destroy(g);
        return status;
    }
    *gates = g;
    return HL_OK;
}

void hl_gates_destroy(hl_gates *g)
{
    if (g == NULL)
        return;
    hl_tensor_map_destroy(g->map);
    free(g->layers);
    free(g->names);
    free(g);
}

int hl_gates_layer_count(const hl_gates *g)
{
    return g->count;
}

void hl_gates_layer(const hl_gates *g, int layer, hl_gate_layer *info)
{
    *info = g->layers[layer];
}

/* Layers [*first, *last) are meant. */
static void range_of(const hl_gates *g, int layer, int *first, int *last)
{
    *first = layer < 0 ? 0 : layer;
    *last = layer < 0 ? g->count : layer + 1;
}

static int64_t size_of(const hl_gate_layer *l)
{
    return l->outputs * l->inputs;
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

hl_status hl_gates_measure(const hl_gates *g, int layer, double threshold, hl_gate_stats *s)
{
    static const double shares[HL_GATE_QUANTILES] = {0.05, 0.25, 0.5, 0.75, 0.95};
    int first, last;
    int64_t count = 0, at = 0;
    float *sorted;
    *s = (hl_gate_stats){0};
    range_of(g, layer, &first, &last);
    for (int l = first; l < last; l++)
        count += size_of(&g->layers[l]);
    HL_TRY(hl_alloc_array((size_t)count, sizeof *sorted, "gates", (void **)&sorted));
    double sum = 0.0, squares = 0.0;
    for (int l = first; l < last; l++)
        for (int64_t k = 0; k < size_of(&g->layers[l]); k++) {
            float delta = g->layers[l].delta[k];
            sorted[at++] = delta;
            sum += (double)delta;
            squares += (double)delta * (double)delta;
            s->small += fabs(1.0 + (double)delta) <= threshold;
        }
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    double mean = sum / (double)count;
    s->count = count;
    s->mean = 1.0 + mean;
    s->deviation = sqrt(fmax(squares / (double)count - mean * mean, 0.0));
    s->least = 1.0 + (double)sorted[0];
    s->most = 1.0 + (double)sorted[count - 1];
    for (int q = 0; q < HL_GATE_QUANTILES; q++)
        s->quantiles[q] = 1.0 + (double)sorted[(int64_t)ceil(shares[q] * (double)count) - 1];
    free(sorted);
    return HL_OK;
}

void hl_gates_histogram(const hl_gates *g, int layer, double low, double high, int bins, int64_t *counts)
{
    int first, last;
    range_of(g, layer, &first, &last);
    memset(counts, 0, (size_t)bins * sizeof *counts);
    for (int l = first; l < last; l++)
        for (int64_t k = 0; k < size_of(&g->layers[l]); k++) {
            double place = (1.0 + (double)g->layers[l].delta[k] - low) / (high - low) * bins;
            counts[place < 0.0 ? 0 : place >= bins ? bins - 1 : (int)place]++;
        }
}

int hl_gates_largest(const hl_gates *g, int layer, int count, hl_gate_change *changes)
{
    int first, last, have = 0;
    range_of(g, layer, &first, &last);
    for (int l = first; l < last; l++)
        for (int64_t k = 0; count > 0 && k < size_of(&g->layers[l]); k++) {
            double size = fabs((double)g->layers[l].delta[k]);
            if (have == count && size <= fabs(changes[have - 1].gate - 1.0))
                continue;
            int at = have < count ? have++ : have - 1;
            for (; at > 0 && fabs(changes[at - 1].gate - 1.0) < size; at--)
                changes[at] = changes[at - 1];
            changes[at] = (hl_gate_change){l, k / g->layers[l].inputs, k % g->layers[l].inputs,
                                           1.0 + (double)g->layers[l].delta[k]};
        }
    return have;
}

typedef struct sums {
    double xx, yy, xy, x, y;
    int64_t count, moved, same;
} sums;

static bool add_layer(sums *s, const hl_gate_layer *a, const hl_gates *other)
{
    const hl_gate_layer *b = NULL;
    for (int l = 0; l < other->count && b == NULL; l++)
        if (strcmp(other->layers[l].name, a->name) == 0)
            b = &other->layers[l];
    if (b == NULL || b->outputs != a->outputs || b->inputs != a->inputs)
        return false;
    for (int64_t k = 0; k < size_of(a); k++) {
        double x = (double)a->delta[k], y = (double)b->delta[k];
        s->xx += x * x;
        s->yy += y * y;
        s->xy += x * y;
        s->x += x;
        s->y += y;
        s->moved += x != 0.0 && y != 0.0;
        s->same += x * y > 0.0;
    }
    s->count += size_of(a);
    return true;
}

void hl_gates_compare(const hl_gates *a, const hl_gates *b, int layer, bool *found,
                      hl_gate_similarity *similarity)
{
    sums s = {0};
    int first, last;
    range_of(a, layer, &first, &last);
    *found = false;
    for (int l = first; l < last; l++)
        *found = add_layer(&s, &a->layers[l], b) || *found;
    double n = (double)s.count, cxx = s.xx - s.x * s.x / n, cyy = s.yy - s.y * s.y / n;
    *similarity = (hl_gate_similarity){.count = s.count, .cosine = NAN, .correlation = NAN, .sign = NAN};
    if (s.xx > 0.0 && s.yy > 0.0)
        similarity->cosine = s.xy / sqrt(s.xx * s.yy);
    /* What is left of equal deltas is rounding. */
    if (cxx > 1e-12 * s.xx && cyy > 1e-12 * s.yy)
        similarity->correlation = (s.xy - s.x * s.y / n) / sqrt(cxx * cyy);
    if (s.moved > 0)
        similarity->sign = (double)s.same / (double)s.moved;
}
